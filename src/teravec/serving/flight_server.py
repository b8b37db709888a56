"""The Flight port: frames in, frames out.

``do_exchange`` with the command ``search``, ``search-lists`` or ``refine`` answers each frame with
one, as long as its caller keeps it open; ``do_action`` tells ``info``, ``statistics``,
``list-sizes``, and does ``reload``.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import flight

from teravec.errors import InvalidArgument, ProtocolError
from teravec.serving.frames import decode, encode
from teravec.serving.protocol import encode_error, error_code
from teravec.serving.security import Address, ServerSecurity, Tokens
from teravec.serving.service import SearchService

__all__ = ["FlightPort"]

log = logging.getLogger(__name__)

_LARGEST_ACTION = 64 << 10


class _Bearer(flight.ServerMiddleware):  # type: ignore[misc]
    """The token that came with a call, and the tokens that it was found among."""

    def __init__(self, token: str, tokens: Tokens) -> None:
        super().__init__()
        self.token, self.tokens = token, tokens


class _TokenCheck(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Refuses a call before any of its data is read."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self.tokens = tokens

    def start_call(self, _info: Any, headers: dict[str, list[str]]) -> _Bearer:
        given = [value for name, values in headers.items() if name.lower() == "authorization"
                 for value in values]  # fmt: skip
        bearer = given[0].removeprefix("Bearer ") if len(given) == 1 else ""
        return self.accept(bearer)

    def accept(self, bearer: object) -> _Bearer:
        """The bearer of a valid token; FlightUnauthenticatedError if it is none."""
        tokens = self.tokens
        if not isinstance(bearer, str) or not tokens.accept(bearer):
            raise flight.FlightUnauthenticatedError("a valid token is needed")
        return _Bearer(bearer, tokens)


class FlightPort(flight.FlightServerBase):  # type: ignore[misc]
    """Serves one service on one address, from its making until ``close``.

    Parameters
    ----------
    service : SearchService
    address : Address
    security : ServerSecurity

    Raises
    ------
    InvalidArgument
        The address is taken, or not this machine's; or a certificate is none.
    """

    def __init__(self, service: SearchService, address: Address, security: ServerSecurity) -> None:
        self._service = service
        self._check = _TokenCheck(security.tokens())
        options: dict[str, Any] = {}
        if self._check.tokens:
            options["middleware"] = {"token": self._check}
        pems, scheme = security.pems(), "grpc"
        if pems is not None:
            scheme, options["tls_certificates"] = "grpc+tls", [pems]
        if (client_ca := security.client_ca_pem()) is not None:
            options |= {"verify_client": True, "root_certificates": client_ca}
        try:
            super().__init__(f"{scheme}://{address}", **options)
        except (pa.ArrowException, OSError) as error:
            raise InvalidArgument(
                f"cannot listen on {address}: address taken or not ours, or not a certificate"
            ) from error
        self.address = Address(address.host, self.port)
        self._actions: dict[str, Callable[[bytes], bytes]] = {
            "info": lambda _: _json(service.info()),
            "statistics": lambda _: _json(service.statistics()),
            "list-sizes": self._list_sizes,
            "reload": lambda _: _json({"version": service.reload()}),
        }

    def use_tokens(self, tokens: Tokens) -> None:
        """Ask for these tokens from now on."""
        self._check.tokens = tokens

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Answer each frame by a frame, until the caller ends the call, or this server."""
        bearer, method = context.get_middleware("token"), None
        while (data := _frame(reader)) is not None and not context.is_cancelled():
            if bearer is not None and bearer.tokens is not self._check.tokens:
                bearer = self._check.accept(bearer.token)  # it may have been withdrawn
            if method is None:
                method = (descriptor.command or b"").decode("utf-8", "replace")[:40]
            written = _write(writer, self._service.answer_frame(method, memoryview(data)))
            if not written or self._service.draining:
                return
        if method is None and not context.is_cancelled():
            _write(writer, encode_error(ProtocolError("no frame found in the call")))

    def do_action(self, context: Any, action: Any) -> Iterator[bytes]:
        """Do one of the listed actions; its result is a frame with the error if it fails."""
        try:
            body = action.body.to_pybytes()
            act = self._actions.get(action.type)
            if act is None:
                names = ", ".join(self._actions)
                raise InvalidArgument(f"no action {action.type[:40]!r}; one of {names} expected")
            if len(body) > _LARGEST_ACTION:
                raise InvalidArgument(f"an action of {len(body):,} bytes")
            result = act(body)
        except Exception as error:
            if error_code(error) == "internal":
                log.exception("an action failed")
            result = encode_error(error)
        return iter([result])

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """Names of the actions."""
        return [(name, f"see docs/serving.md, {name}") for name in self._actions]

    def _list_sizes(self, body: bytes) -> bytes:
        version = decode(body)[0].get("version") if body else None
        if version is not None and not isinstance(version, str):
            raise ProtocolError("version is not a text")
        named, sizes = self._service.list_sizes(version)
        return encode({"version": named}, {"sizes": sizes})

    def _refuse(self, *_: Any) -> Any:
        raise flight.FlightServerError("not served here; see docs/serving.md")

    do_get = do_put = get_flight_info = get_schema = list_flights = _refuse

    def close(self, timeout_s: float) -> bool:
        """Stop listening and finish calls; False if a caller keeps one open too long."""
        stopping = threading.Thread(target=self.shutdown, daemon=True)
        stopping.start()
        stopping.join(timeout_s)
        return not stopping.is_alive()


def _frame(reader: Any) -> Any:
    """The next frame of a call; None where it ends, or holds none."""
    try:
        return reader.read_chunk().app_metadata
    except StopIteration:
        return None
    except pa.ArrowException as error:
        log.info("a call broke off: %s", error)
        return None


def _write(writer: Any, frame: bytes) -> bool:
    """Write a frame; False if nobody waits for it."""
    try:
        writer.write_metadata(pa.py_buffer(frame))
    except pa.ArrowException as error:
        log.info("a caller did not wait for its answer: %s", error)
        return False
    return True


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode()
