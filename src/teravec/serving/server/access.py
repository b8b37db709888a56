"""The access log: one line for each request, if an operator asks for it.

Neither tokens nor vectors are in it. Method and outcome come from fixed sets; a caller chooses
only its request's id, whose characters are checked.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

from teravec.serving.server.origin import Origin

__all__ = ["ACCESS_LOGGER", "Access", "is_on", "log_access"]

ACCESS_LOGGER = "teravec.access"

_log = logging.getLogger(ACCESS_LOGGER)


@dataclass
class Access:
    """What the access log says of a request, beside its caller.

    Parameters
    ----------
    port : {"flight", "http"}
    method : str
        ``search``, an action's name, or an HTTP path.
    request_id : str
    outcome : str
        ``ok``, or an error's code.
    seconds : float
    queries : int
    k : int, optional
    status : int, optional
        Of HTTP.
    batch : str
        Id of the request that it was joined to, under which other servers know it.
    trace_id : str
        Of the caller's trace.
    """

    port: str
    method: str
    request_id: str = ""
    outcome: str = "ok"
    seconds: float = 0.0
    queries: int = 0
    k: int | None = None
    status: int | None = None
    batch: str = ""
    trace_id: str = ""


def is_on() -> bool:
    """Whether requests are logged."""
    return _log.isEnabledFor(logging.INFO)


def log_access(access: Access, origin: Origin) -> None:
    """Log a request."""
    content = {**asdict(access), "peer": origin.peer, "token": origin.name}
    content["seconds"] = round(access.seconds, 6)
    fields = {name: value for name, value in content.items() if value not in (None, "")}
    words = " ".join(f"{name}={value}" for name, value in fields.items() if name != "request_id")
    _log.info("%s", words, extra={"fields": fields, "request_id": access.request_id})
