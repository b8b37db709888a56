"""How long the ports wait for a peer."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PortTimes"]


@dataclass(frozen=True)
class PortTimes:
    """Seconds after which a port disconnects a peer.

    Parameters
    ----------
    greeting_s : float
        From a connection's start to its HTTP/2 preface; over HTTP, from a connection's start or a
        header's first byte to the header's end.
    handshake_s : float
        For a TLS handshake.
    progress_s : float
        In which a peer must send or read 256 KiB of a message or an answer.
    ending_s : float
        For the last written bytes to go out when a connection ends.
    idle_call_s, idle_s : float
        For a gRPC call without a message, and for a gRPC connection without a call.
    keep_alive_s : int
        For an HTTP connection without a request.
    """

    greeting_s: float = 10.0
    handshake_s: float = 10.0
    progress_s: float = 30.0
    ending_s: float = 5.0
    idle_call_s: float = 120.0
    idle_s: float = 300.0
    keep_alive_s: int = 15
