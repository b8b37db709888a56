"""Each reason why an address cannot be listened on is told apart."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from teravec.errors import InvalidArgument
from teravec.serving.deploy.launch import ServeOptions, launch
from teravec.serving.server.listening import bound_socket, check_free
from teravec.serving.wire.security import Address, ServerSecurity
from tests.serving.conftest import Launch


def test_a_free_port_is_bound_for_small_answers() -> None:
    with bound_socket(Address("localhost", 0)) as bound:
        assert bound.getsockname()[1] > 0
        assert bound.proto == socket.IPPROTO_TCP  # else asyncio sets no TCP_NODELAY


@pytest.mark.parametrize(
    ("host", "part"),
    [
        ("192.0.2.77", "no address of this machine"),
        ("no-such-name.invalid", "neither an address nor a name"),
        ("300.1.2.3", "neither an address nor a name"),
        ("a" * 70 + ".org", "neither an address nor a name"),
        ("a\0b", "neither an address nor a name"),
    ],
)
def test_hosts_that_are_not_ours(host: str, part: str) -> None:
    with pytest.raises(InvalidArgument, match=part):
        check_free(Address(host, 0))


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidArgument, match=f"port {port} is in use by another program"):
            check_free(Address("127.0.0.1", port))
    check_free(Address("127.0.0.1", port))


@pytest.mark.parametrize(
    ("number", "part"),
    [
        (errno.EACCES, "CAP_NET_BIND_SERVICE"),
        (errno.EPERM, "ports below"),
        (errno.EAFNOSUPPORT, "no IPv6"),
        (errno.ENOBUFS, "buffer"),
    ],
)
def test_what_the_system_refuses(number: int, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(number, "no buffer space" if number == errno.ENOBUFS else "refused")

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(InvalidArgument, match=part):
        check_free(Address("127.0.0.1", 80))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("*:7400", "0.0.0.0:7400"),
        ("7400", "as 127.0.0.1:7400"),
        (":7400", "127.0.0.1:7400 is this machine"),
        ("localhost", "the port is missing, as localhost:7400"),
        ("::1:7400", "in brackets"),
        ("fe80::1", "in brackets"),
        ("http://127.0.0.1:7480", "leave http:// out"),
        ("grpc+tls://db:7400", "leave grpc\\+tls:// out"),
        ("localhost:70000", "0 to 65535"),
        ("localhost:-1", "0 to 65535"),
        ("localhost:http", "0 to 65535"),
        ("", "port is missing"),
    ],
)
def test_texts_that_are_no_address(text: str, part: str) -> None:
    with pytest.raises(InvalidArgument, match=f"host:port expected.*{part}"):
        Address.parse(text)


def test_both_ports_tell(index: Path, serve: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        there = Address("127.0.0.1", taken.getsockname()[1])
        for options in ({"listen": there}, {"http": there}):
            with pytest.raises(InvalidArgument, match="in use by another program"):
                launch(ServeOptions(index, **options))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="given for both ports"):
        ServeOptions(index, listen=there, http=there)
    with pytest.raises(InvalidArgument, match="neither an address"):
        launch(
            ServeOptions(
                index,
                listen=Address("no-such-name.invalid", 0),
                security=ServerSecurity(insecure=True),
            )
        )
