"""Strangers are refused on every port and every method."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from pyarrow import flight

import teravec
from teravec.errors import AccessDenied, InvalidArgument, TeravecError, Unavailable
from teravec.serving.deploy.launch import ServeOptions, launch
from teravec.serving.deploy.program import Server
from teravec.serving.wire.security import Address, ClientSecurity, ServerSecurity, Tokens
from tests.serving.certificates import Authority, Pem
from tests.serving.conftest import QUERIES, Launch

TOKEN, OTHER = "a-token-of-tests-1234", "another-token-of-tests"
LOCAL = Address("127.0.0.1", 0)
PATHS = [
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/info",
    "/statistics",
    "/openapi.json",
    "/console/console.js",
    "/nothing",
]


def exchange(client: flight.FlightClient, options: flight.FlightCallOptions, name: str) -> object:
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(name), options)
    try:
        writer.done_writing()
        return reader.read_chunk()
    finally:
        reader.cancel()


def action(client: flight.FlightClient, options: flight.FlightCallOptions, name: str) -> object:
    return list(client.do_action(flight.Action(name, b""), options))


ACTIONS = ("info", "statistics", "list-sizes", "reload", "nothing")
METHODS: dict[str, Callable[[flight.FlightClient, flight.FlightCallOptions], object]] = {
    "search": lambda c, o: exchange(c, o, "search"),
    "search-lists": lambda c, o: exchange(c, o, "search-lists"),
    **{a: partial(action, name=a) for a in ACTIONS},
    "list_actions": lambda c, o: list(c.list_actions(o)),
    "do_get": lambda c, o: c.do_get(flight.Ticket(b"x"), o).read_all(),
    "list_flights": lambda c, o: list(c.list_flights(options=o)),
    "get_flight_info": lambda c, o: c.get_flight_info(flight.FlightDescriptor.for_command(b"x"), o),
    "get_schema": lambda c, o: c.get_schema(flight.FlightDescriptor.for_command(b"x"), o),
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server_pem(authority: Authority) -> Pem:
    return authority.sign("server")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# of tests\n{TOKEN}\n\n{OTHER}\n")
    return path


def secured(serve: Launch, index: Path, **security: object) -> Server:
    return serve(index, http=LOCAL, security=ServerSecurity(**security))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [None, "wrong-token-wrong-token", TOKEN[:-1], "Bearer"])
def test_no_or_wrong_tokens_on_every_method(
    given: str | None,
    index: Path,
    serve: Launch,
    token_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = secured(serve, index, token_file=token_file)
    headers = [] if given is None else [(b"authorization", f"Bearer {given}".encode())]
    options = flight.FlightCallOptions(timeout=60, headers=headers)
    with flight.FlightClient(f"grpc://{server.address}") as client:
        for name, call in METHODS.items():
            with pytest.raises((flight.FlightUnauthenticatedError, OSError), match="token"):
                call(client, options)
            assert name
    http_headers = {} if given is None else {"authorization": f"Bearer {given}"}
    with httpx.Client(base_url=f"http://{server.http_address}", headers=http_headers) as web:
        for path in PATHS:
            assert web.get(path).status_code == 401, path
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"):
            assert web.request(method, "/search", content=b"x" * 99).status_code == 401
        assert "Basic" in web.get("/").headers["www-authenticate"]
    assert TOKEN not in caplog.text
    with pytest.raises(AccessDenied):
        teravec.connect(f"grpc://{server.address}", token=given, timeout_s=2)


def test_right_tokens(index: Path, serve: Launch, token_file: Path, tmp_path: Path) -> None:
    server = secured(serve, index, token_file=token_file, open_probes=True)
    mine = tmp_path / "mine"
    mine.write_text(OTHER + "\n")
    for options in ({"token": TOKEN}, {"token_file": str(mine)}):
        with teravec.connect(f"grpc://{server.address}", **options) as remote:  # type: ignore[arg-type]
            assert remote.search(QUERIES, 5, 3)[1].shape == (40, 5)
    kept = teravec.connect(f"grpc://{server.address}", token=TOKEN)
    other = teravec.connect(f"grpc://{server.address}", token=OTHER)
    for remote in (kept, other):  # their exchanges stay open
        assert remote.search(QUERIES, 5, 3)[1].shape == (40, 5)
    base = f"http://{server.http_address}"
    assert httpx.get(f"{base}/info", auth=("anybody", TOKEN)).status_code == 200
    assert httpx.get(f"{base}/readyz").status_code == 200
    assert httpx.get(f"{base}/metrics").status_code == 401
    token_file.write_text(OTHER + "\n")  # the other is withdrawn
    server.reload()
    assert httpx.get(f"{base}/info", auth=("anybody", TOKEN)).status_code == 401
    with kept, pytest.raises(AccessDenied):
        kept.search(QUERIES, 5, 3)
    with other:
        assert other.search(QUERIES, 5, 3)[1].shape == (40, 5)


def test_tls(
    index: Path, serve: Launch, authority: Authority, server_pem: Pem, tmp_path: Path
) -> None:
    server = secured(serve, index, certificate=server_pem.certificate, key=server_pem.key)
    with teravec.connect(f"grpc+tls://{server.address}", ca=authority.path) as remote:
        assert remote.search(QUERIES, 5, 3)[1].shape == (40, 5)
    context = ssl.create_default_context(cafile=str(authority.path))
    assert httpx.get(f"https://{server.http_address}/info", verify=context).status_code == 200
    stranger = Authority(tmp_path, "stranger")
    for options in (
        {"url": f"grpc://{server.address}"},  # plain text
        {"url": f"grpc+tls://{server.address}", "ca": stranger.path},
    ):
        with pytest.raises(TeravecError):
            teravec.connect(timeout_s=1, **options)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{server.http_address}/info")


def test_an_expired_server_is_not_believed(
    index: Path, serve: Launch, authority: Authority
) -> None:
    expired = authority.sign("expired-server", days=-1)
    server = secured(serve, index, certificate=expired.certificate, key=expired.key)
    with pytest.raises(Unavailable):
        teravec.connect(f"grpc+tls://{server.address}", ca=authority.path, timeout_s=1)


@pytest.mark.parametrize("shown", ["none", "expired", "of a stranger"])
def test_client_certificates(
    shown: str, index: Path, serve: Launch, authority: Authority, server_pem: Pem, tmp_path: Path
) -> None:
    server = secured(
        serve,
        index,
        certificate=server_pem.certificate,
        key=server_pem.key,
        client_ca=authority.path,
    )
    right = authority.sign("client")
    with teravec.connect(
        f"grpc+tls://{server.address}",
        ca=authority.path,
        certificate=right.certificate,
        key=right.key,
    ) as remote:
        assert remote.search(QUERIES, 5, 3)[1].shape == (40, 5)
    wrong: Pem | None = None
    if shown == "expired":
        wrong = authority.sign("expired-client", days=-1)
    elif shown == "of a stranger":
        wrong = Authority(tmp_path, "stranger").sign("client")
    with pytest.raises(TeravecError):
        teravec.connect(
            f"grpc+tls://{server.address}",
            ca=authority.path,
            timeout_s=1,
            certificate=wrong.certificate if wrong else None,
            key=wrong.key if wrong else None,
        )
    context = ssl.create_default_context(cafile=str(authority.path))
    if wrong:
        context.load_cert_chain(wrong.certificate, wrong.key)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"https://{server.http_address}/info", verify=context)


def test_a_secured_cluster(
    index: Path, serve: Launch, authority: Authority, server_pem: Pem, token_file: Path
) -> None:
    security = ServerSecurity(server_pem.certificate, server_pem.key, token_file=token_file)
    servers = [serve(index, lists=lists, security=security) for lists in ("0:30", "30:60")]
    shown = ClientSecurity.read(token_file=token_file, ca=authority.path)
    coordinator = serve(
        index,
        servers=",".join(str(s.address) for s in servers),
        servers_tls=True,
        servers_security=shown,
        security=security,
    )
    with (
        teravec.open(index) as local,
        teravec.connect(
            f"grpc+tls://{coordinator.address}", ca=authority.path, token=TOKEN
        ) as remote,
    ):
        np.testing.assert_array_equal(
            remote.search(QUERIES, 9, 60)[1], local.search(QUERIES, 9, 60)[1]
        )


def test_strangers_cannot_reach_what_is_not_secured(
    index: Path, token_file: Path, server_pem: Pem
) -> None:
    everywhere = Address("0.0.0.0", 0)
    tls: dict[str, object] = {"certificate": server_pem.certificate, "key": server_pem.key}
    refused: list[dict[str, object]] = [{}, {"token_file": token_file}, tls]
    accepted: list[dict[str, object]] = [{"insecure": True}, {**tls, "token_file": token_file}]
    for security in refused:
        with pytest.raises(InvalidArgument, match="other machines"):
            ServerSecurity(**security).check_address(everywhere)  # type: ignore[arg-type]
    for security in accepted:
        ServerSecurity(**security).check_address(everywhere)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="other machines"):
        launch(ServeOptions(index, listen=everywhere))
    with pytest.raises(InvalidArgument, match="plain text"):
        teravec.connect("grpc://192.0.2.1:7400", token=TOKEN, timeout_s=1)


def test_tokens(tmp_path: Path) -> None:
    assert not Tokens()
    with pytest.raises(InvalidArgument, match="16") as found:
        Tokens(("short",))
    assert "short" not in str(found.value).replace("shorter", "")
    empty = tmp_path / "empty"
    empty.write_text("# nothing\n")
    with pytest.raises(InvalidArgument, match="no token"):
        Tokens.read(empty)
    assert TOKEN not in repr(ClientSecurity(TOKEN))
    assert Tokens((TOKEN,)).accept(TOKEN)
    assert not Tokens((TOKEN,)).accept(TOKEN + " ")


@pytest.mark.parametrize("text", ["", "host", "host:x", "host:99999", "a@b:1", "h:1/x", ":7"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="host:port"):
        Address.parse(text)


def test_addresses() -> None:
    assert Address.parse("[::1]:70").is_loopback
    assert str(Address.parse("[::1]:70")) == "[::1]:70"
    assert Address.parse("localhost:1").is_loopback
    assert not Address.parse("0.0.0.0:1").is_loopback
    assert not Address.parse("example.org:1").is_loopback


def test_a_coordinator_warns_of_secrets_for_its_servers(
    index: Path, serve: Launch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens, pem = tmp_path / "tokens", Authority(tmp_path).sign("coordinator", days=-1)
    tokens.write_text(f"{TOKEN}\n")
    server = serve(index)
    for mode, count in ((0o600, 0), (0o644, 2)):
        tokens.chmod(mode)
        pem.key.chmod(mode)
        caplog.clear()
        shown = ClientSecurity.read(token_file=tokens, certificate=pem.certificate, key=pem.key)
        serve(index, servers=str(server.address), servers_security=shown)
        told = [r.getMessage() for r in caplog.records if "every user" in r.getMessage()]
        assert len(told) == count
        assert any("expired on" in record.getMessage() for record in caplog.records)
