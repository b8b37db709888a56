"""Tokens and certificates that are replaced while servers run: no restart, no outage."""

from __future__ import annotations

import logging
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyarrow import flight

import teravec
from teravec.errors import AccessDenied, InvalidArgument, TeravecError
from teravec.serving.deploy.program import Server
from teravec.serving.wire.security import Address, ClientSecurity, ServerSecurity
from tests.serving.certificates import Authority, Pem
from tests.serving.conftest import QUERIES, Launch, addresses, url
from tests.serving.test_faults import assert_exact, state_of, until

OLD, NEW, ADMIN = "an-old-token-0123456789", "a-new-token-9876543210", "an-admins-token-123456"


def write(path: Path, *tokens: str) -> Path:
    """Replace a file as a whole, as tools that rotate secrets do."""
    following = path.with_suffix(".next")
    following.write_text("".join(f"{token}\n" for token in tokens))
    return following.replace(path)


def asked(server: Server, token: str | None, scheme: str = "grpc") -> bool:
    """Whether the server answers one that shows this token."""
    try:
        with teravec.connect(f"{scheme}://{server.address}", token=token, timeout_s=3) as remote:
            remote.search(QUERIES[:1], 1, 1)
    except AccessDenied:
        return False
    return True


def reloaded(server: Server, token: str | None) -> dict[str, object]:
    headers = [] if token is None else [(b"authorization", b"Bearer " + token.encode())]
    options = flight.FlightCallOptions(headers=headers, timeout=60)
    with flight.FlightClient(url(server)) as client:
        result = next(iter(client.do_action(flight.Action("reload", b""), options)))
    from teravec.serving.wire.protocol import Answer

    data = result.body.to_pybytes()
    if data[:4] == b"TVFR":
        Answer.decode(data)  # raises what it holds
    return {"data": data}


def test_tokens_are_followed(
    index: Path, serve: Launch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "tokens", OLD)
    server = serve(index, security=ServerSecurity(token_file=path))
    with teravec.connect(url(server), token=OLD, timeout_s=2) as remote:
        remote.search(QUERIES[:1], 1, 1)
        write(path, OLD, NEW)
        until(lambda: asked(server, NEW))
        assert asked(server, OLD)
        write(path, NEW)
        until(lambda: not asked(server, OLD))
        with pytest.raises(AccessDenied):  # on a connection that is open
            remote.search(QUERIES[:1], 1, 1)
    write(path)  # no token is a mistake
    until(lambda: "no token found" in caplog.text)
    path.unlink()
    until(lambda: "stay as they were" in caplog.records[-1].getMessage())
    assert asked(server, NEW)
    assert not asked(server, OLD)
    assert OLD not in caplog.text
    assert NEW not in caplog.text


def test_reload_is_an_administrators_right(index: Path, serve: Launch, tmp_path: Path) -> None:
    path, admins = write(tmp_path / "tokens", OLD), write(tmp_path / "admins", ADMIN)
    server = serve(index, security=ServerSecurity(token_file=path, admin_token_file=admins))
    with pytest.raises(AccessDenied, match="SIGHUP"):
        reloaded(server, OLD)
    assert b"version" in reloaded(server, ADMIN)["data"]  # type: ignore[operator]
    assert asked(server, ADMIN)
    without = serve(index, security=ServerSecurity(token_file=path))
    with pytest.raises(AccessDenied, match="admin-token-file"):
        reloaded(without, OLD)
    assert b"version" in reloaded(serve(index), None)["data"]  # type: ignore[operator]
    with pytest.raises(InvalidArgument, match="--token-file"):
        ServerSecurity(admin_token_file=admins)


def test_a_coordinator_follows_its_token(index: Path, serve: Launch, tmp_path: Path) -> None:
    tokens, shown = write(tmp_path / "tokens", OLD), write(tmp_path / "shown", OLD)
    servers = [serve(index, security=ServerSecurity(token_file=tokens)) for _ in range(2)]
    coordinator = serve(
        index, servers=addresses(servers), servers_security=ClientSecurity.read(token_file=shown)
    )
    with teravec.connect(url(coordinator), timeout_s=5) as remote:
        assert_exact(remote, index)
        write(tokens, OLD, NEW)
        until(lambda: all(asked(server, NEW) for server in servers))
        write(shown, NEW)
        assert_exact(remote, index, rounds=5)
        until(lambda: coordinator.service.backend.fleet.security.token == NEW)  # type: ignore[attr-defined]
        write(tokens, NEW)
        until(lambda: not any(asked(server, OLD) for server in servers))
        assert_exact(remote, index, rounds=5)
        # All at once, as where a token has leaked: it is back by itself.
        write(tokens, ADMIN)
        write(shown, ADMIN)
        until(lambda: not any(asked(server, NEW) for server in servers))
        until(lambda: all(state_of(remote, server)["state"] == "live" for server in servers))
        assert_exact(remote, index)


def served_certificate(address: Address) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((address.host, address.port)))


def der(pem: Pem) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.certificate.read_text())


def test_certificates_are_followed(
    index: Path, serve: Launch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    first, second = authority.sign("first"), authority.sign("second")
    live = Pem(tmp_path / "live.crt", tmp_path / "live.key")

    def use(pem: Pem, *parts: str) -> None:
        for part in parts or ("certificate", "key"):
            following = Path(shutil.copy(getattr(pem, part), tmp_path / "next"))
            following.replace(getattr(live, part))

    use(first)
    security = ServerSecurity(certificate=live.certificate, key=live.key)
    server = serve(index, http=Address("127.0.0.1", 0), security=security)
    ports = [server.address, server.http_address]
    assert None not in ports
    with teravec.connect(f"grpc+tls://{server.address}", ca=authority.path) as remote:
        use(second, "certificate")  # its key is not there yet
        until(lambda: "do not belong together" in caplog.text)
        assert [served_certificate(port) for port in ports if port] == [der(first)] * 2
        assert caplog.records[-1].levelno == logging.ERROR
        use(second, "key")
        for port in ports:
            assert port is not None
            until(lambda port=port: served_certificate(port) == der(second))  # type: ignore[misc]
        remote.search(QUERIES[:1], 1, 1)  # connections that are open go on
    with teravec.connect(f"grpc+tls://{server.address}", ca=authority.path) as remote:
        np.testing.assert_array_equal(remote.search(QUERIES, 1, 1)[1].shape, (40, 1))


def test_a_coordinator_follows_the_servers_authority(
    index: Path, serve: Launch, tmp_path: Path
) -> None:
    authorities = [Authority(tmp_path, name) for name in ("one", "two")]
    pems = [authority.sign(f"by-{n}") for n, authority in enumerate(authorities)]
    security = [ServerSecurity(certificate=pem.certificate, key=pem.key) for pem in pems]
    server = serve(index, security=security[1])
    trusted = tmp_path / "trusted.pem"
    shutil.copy(authorities[0].path, trusted)
    coordinator = serve(
        index,
        servers=addresses([server]),
        servers_tls=True,
        servers_security=ClientSecurity.read(ca=trusted),
    )
    with teravec.connect(url(coordinator), timeout_s=5) as remote:
        assert state_of(remote, server)["state"] == "down"
        write(trusted, *(authority.path.read_text().strip() for authority in authorities))
        until(lambda: state_of(remote, server)["state"] == "live")
        assert_exact(remote, index)


@pytest.mark.parametrize("kind", ["token", "admin"])
def test_files_that_cannot_be_read_at_start(
    kind: str, index: Path, serve: Callable[..., Server], tmp_path: Path
) -> None:
    good, bad = write(tmp_path / "good", OLD), tmp_path / "none"
    with pytest.raises(TeravecError, match="none"):
        serve(
            index,
            security=ServerSecurity(
                token_file=bad if kind == "token" else good, admin_token_file=bad
            ),
        )
