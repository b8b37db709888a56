"""Sockets that listen, and why one cannot."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from teravec.errors import InvalidArgument
from teravec.serving.wire.security import Address

__all__ = ["bound_socket", "check_free"]

_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def bound_socket(address: Address) -> socket.socket:
    """A socket that has the address, for a server to listen on.

    Raises
    ------
    InvalidArgument
        The host is no name or no address of this machine, the port is taken or reserved; it says
        which of these, and what to do.
    """
    family, where = _resolve(address)
    try:
        # asyncio sends small answers at once (TCP_NODELAY) only where it sees that it is TCP.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise InvalidArgument(f"cannot listen on {address}: {_reason(address, error)}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
    except OSError as error:
        bound.close()
        raise InvalidArgument(f"cannot listen on {address}: {_reason(address, error)}") from error
    return bound


def check_free(address: Address) -> None:
    """Raise InvalidArgument, as ``bound_socket``, where a server could not have the address."""
    bound_socket(address).close()


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    """The family and the socket address of a host and a port; of several, the first IPv4 one."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a name that a machine can have"
        raise InvalidArgument(
            f"cannot listen on {address}: {address.host!r} is neither an address nor a name that "
            f"is known here ({why}); 127.0.0.1 is this machine, 0.0.0.0 all of its addresses"
        ) from error
    family, _, _, _, where = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, where


def _reason(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} is in use by another program (ss -ltnp shows which); choose "
            "another port, or 0 for any that is free"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"no permission: ports below {_first_unprivileged()} are for root and for programs "
            "with CAP_NET_BIND_SERVICE; choose a higher port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"{address.host} is no address of this machine (ip addr lists them); 127.0.0.1 is "
            "this machine, 0.0.0.0 all of its addresses"
        )
    if error.errno == errno.EAFNOSUPPORT:
        return "this machine has no IPv6; choose an IPv4 address"
    return error.strerror or str(error)


def _first_unprivileged() -> int:
    try:
        return int(_UNPRIVILEGED.read_text())
    except (OSError, ValueError):
        return 1024
