"""Addresses, options and credentials of object stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from teravec.errors import InvalidArgument
from teravec.storage.object_address import ObjectAddress, is_address, store_options
from teravec.storage.object_connection import connect
from teravec.storage.object_store import ObjectStore

SECRET = "t0p-secret"


@pytest.mark.parametrize(
    ("url", "kind", "bucket", "key"),
    [
        ("s3://bucket/a/b", "s3", "bucket", "a/b"),
        ("s3a://bucket/a/", "s3", "bucket", "a"),
        ("GS://bucket", "gs", "bucket", ""),
        ("az://container/a b%20c", "az", "container", "a b%20c"),
        ("memory://x/y", "memory", "x", "y"),
    ],
)
def test_addresses(url: str, kind: str, bucket: str, key: str) -> None:
    address = ObjectAddress.parse(url)
    assert address == ObjectAddress(kind, bucket, key)
    assert is_address(url)
    assert str(address / "c") == "/".join(part for part in (f"{kind}:/", bucket, key, "c") if part)
    assert ObjectAddress.parse(str(address)) == address


@pytest.mark.parametrize("path", ["a/b", "/a", "c:x", "https://x/y", "~/s3:/", "x.npy"])
def test_paths_are_no_addresses(path: str) -> None:
    assert not is_address(path)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ftp://bucket/a", "unknown scheme"),
        ("s3://", "no bucket found"),
        ("s3:///a", "no bucket found"),
        ("s3://bucket/a/../b", "without empty parts"),
        ("s3://bucket//a//b", "without empty parts"),
        (f"s3://me:{SECRET}@bucket/a", "without user"),
        (f"az://container/a?sig={SECRET}", "without user, query"),
        (f"az://container?sig={SECRET}", "without user, query"),
    ],
)
def test_wrong_addresses(url: str, expected: str) -> None:
    with pytest.raises(InvalidArgument, match=expected) as error:
        ObjectAddress.parse(url)
    assert SECRET not in str(error.value)


def test_options() -> None:
    expected = (("allow_http", "true"), ("region", "a=b"))
    assert store_options(["Region=a=b", "allow-http=true"]) == expected
    assert store_options({"region": "a=b", "allow_http": True}) == expected
    assert store_options(None) == store_options({}) == ()
    for wrong in (["region"], ["=x"], ["a=1", "A=2"], "region=x"):
        with pytest.raises(InvalidArgument, match="store option"):
            store_options(wrong)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"no_such_option": SECRET}, "no_such_option is unknown|unknown for this kind"),
        ({"depth": "many"}, "depth is 'many'; a number above 0"),
        ({"allow_http": "maybe"}, "allow_http is 'maybe'; true or false"),
        ({"timeout": SECRET}, "store options were refused"),
    ],
)
def test_wrong_options(options: dict[str, str], expected: str) -> None:
    with pytest.raises(InvalidArgument, match=expected) as error:
        connect(ObjectAddress("s3", "bucket", ""), store_options(options))
    assert SECRET not in str(error.value)


def test_options_of_ours() -> None:
    options = store_options({"depth": 7, "gap_bytes": "64KiB", "retry_timeout": "2.5s"})
    connection = connect(ObjectAddress("memory", "options", ""), options)
    assert (connection.depth, connection.gap_bytes) == (7, 64 << 10)
    assert connection.retry_timeout == 2.5


def test_a_store_is_a_value_that_shows_no_option() -> None:
    address, options = ObjectAddress.parse("s3://b/p"), store_options({"secret_access_key": SECRET})
    store = ObjectStore(address, options)
    assert store == ObjectStore(address, options)
    assert len({store, ObjectStore(address, options), ObjectStore(address)}) == 2
    assert SECRET not in repr(store)


def test_profiles_of_the_aws_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text(
        f"[work]\naws_access_key_id = K\naws_secret_access_key = {SECRET}%\n"
    )
    (tmp_path / "config").write_text("[profile work]\nregion = eu-west-3\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    config = connect(ObjectAddress("s3", "profiles", ""), ()).client.config
    assert config["access_key_id"] == "K"
    assert config["secret_access_key"] == f"{SECRET}%"
    assert config["region"] == "eu-west-3"
