"""Unfinished uploads of killed writers, and the signature of the requests that find them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from teravec.storage import object_uploads
from teravec.storage.object_address import ObjectAddress
from teravec.storage.object_store import ObjectStore
from tests.storage.fault_proxy import FaultProxy, fault_proxy
from tests.storage.object_stand_in import KEYS, make_bucket, new_store, options_of
from tests.storage.store_suite import put, random_bytes

NOW = datetime.now(UTC)


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with fault_proxy(s3_endpoint) as proxy:
        yield proxy


def unfinished(store: ObjectStore, endpoint: str) -> list[str]:
    """Keys of the uploads that the stand-in keeps."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEYS["access_key_id"],
        aws_secret_access_key=KEYS["secret_access_key"],
    )
    found = client.list_multipart_uploads(Bucket=store.address.bucket).get("Uploads", [])
    return sorted(upload["Key"] for upload in found)


def _write_until_killed(store: ObjectStore) -> None:
    put(store, "d/large", random_bytes(20 << 20))


def test_killed_uploads_are_removed_when_they_are_old(s3_endpoint: str, proxy: FaultProxy) -> None:
    """The stand-in says that all began in 2010: the proxy tells another time."""
    store = new_store(s3_endpoint)
    store = ObjectStore(store.address, options_of(proxy.url))
    began = NOW
    proxy.alter = lambda body: body.replace(
        b"2010-11-10T20:48:33.000Z", began.strftime("%Y-%m-%dT%H:%M:%S.000Z").encode()
    )
    process = multiprocessing.get_context("spawn").Process(
        target=_write_until_killed, args=(store,)
    )
    proxy.choose = lambda method, path, number: (
        os.kill(process.pid or 0, signal.SIGKILL) if "partNumber=2" in path else None
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    proxy.choose = None
    assert store.names() == []
    assert unfinished(store, s3_endpoint) == ["some/prefix/d/large"]
    store.remove_unfinished("d")
    assert unfinished(store, s3_endpoint) == ["some/prefix/d/large"]
    store.remove_unfinished("other", timedelta(0))
    began = NOW - timedelta(days=2)
    store.remove_unfinished("other")
    assert unfinished(store, s3_endpoint) == ["some/prefix/d/large"]
    store.remove_unfinished("")
    assert unfinished(store, s3_endpoint) == []
    put(store, "d/large", random_bytes(20 << 20))
    assert unfinished(store, s3_endpoint) == []


def test_a_failed_upload_leaves_none(s3_endpoint: str, proxy: FaultProxy) -> None:
    store = new_store(s3_endpoint)
    store = ObjectStore(store.address, options_of(proxy.url))
    proxy.choose = lambda method, path, number: "403" if "partNumber=3" in path else None
    with pytest.raises(OSError, match="no permission"):
        put(store, "d/large", random_bytes(20 << 20))
    assert unfinished(store, s3_endpoint) == []


def test_the_signature_is_that_of_the_aws_tools(
    s3_endpoint: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    address = ObjectAddress("s3", make_bucket(s3_endpoint), "a b/c+d%")
    sent: list[tuple[str, str, dict[str, str]]] = []

    def keep(method: str, path: str, headers: dict[str, str]) -> None:
        sent.append((method, path, {name.lower(): value for name, value in headers.items()}))

    proxy.seen = keep
    object_uploads.abort_uploads(address, options_of(proxy.url, session_token="T"), timedelta(0))
    [(method, path, headers)] = sent
    request = AWSRequest(method, f"{proxy.url}{path}")
    signer = S3SigV4Auth(
        Credentials(KEYS["access_key_id"], KEYS["secret_access_key"], "T"), "s3", "us-east-1"
    )
    request.context["timestamp"] = headers["x-amz-date"]
    for name in ("host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"):
        request.headers[name] = headers[name]
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert headers["authorization"].endswith(f"Signature={signer.signature(text, request)}")


def test_other_stores_have_no_such_uploads() -> None:
    assert object_uploads.abort_uploads(ObjectAddress("memory", "u", ""), (), timedelta(0)) == 0
