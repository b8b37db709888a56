"""Listening sockets, and clear errors where one cannot be opened."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from teravec.errors import InvalidArgument
from teravec.serving.wire.security import Address

__all__ = ["bound_socket", "check_free"]

_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def bound_socket(address: Address) -> socket.socket:
    """Bind a socket to an address, for a server to listen on.

    Raises
    ------
    InvalidArgument
        The host is unknown or not this machine's, or the port is in use or reserved. The message
        says which, with a remedy.
    """
    family, where = _resolve(address)
    try:
        # asyncio sets TCP_NODELAY only on sockets whose protocol is given as TCP.
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
    """Raise InvalidArgument, as ``bound_socket`` does, if the address cannot be bound."""
    bound_socket(address).close()


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    """Resolve a host and port; of several addresses, take the first IPv4 one."""
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
