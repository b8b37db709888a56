"""Starting a private Ray without the helper processes that it does not need.

A local Ray starts a dashboard, an autoscaler and a log monitor, each a Python process. Without
its pages the dashboard only reports usage, which is switched off. On two processors the three
took 2 s of processor time and delayed ``ray.init`` by 2 s. Ray works without them
(``ray start --no-monitor``, Ray's own test clusters), but ``ray.init`` has no option for it.
This module therefore patches the place where ``ray.init`` makes its parameters. A Ray release
that makes them elsewhere starts all its processes.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["leave_out_extras"]

log = logging.getLogger(__name__)

_PARAMETERS = {"no_monitor": True, "include_log_monitor": False}


@contextmanager
def leave_out_extras() -> Iterator[None]:
    """Start no dashboard, autoscaler or log monitor if the body starts a Ray."""
    with ExitStack() as restoring:
        _replace(restoring, "ray._private.parameter", "RayParams", _fix_parameters)
        _replace(restoring, "ray._private.services", "start_api_server", _start_nothing)
        yield


def _replace(restoring: ExitStack, module_name: str, name: str, replacement_of: Any) -> None:
    try:
        module = importlib.import_module(module_name)
        original = getattr(module, name)
    except (ImportError, AttributeError):
        log.info("this Ray has no %s.%s; it starts all of its processes", module_name, name)
        return
    setattr(module, name, replacement_of(original))
    restoring.callback(setattr, module, name, original)


def _fix_parameters(original: Any) -> Any:
    def parameters(*arguments: Any, **options: Any) -> Any:
        made = original(*arguments, **options)
        for name, value in _PARAMETERS.items():
            if hasattr(made, name):
                setattr(made, name, value)
        return made

    return parameters


def _start_nothing(_: Any) -> Any:
    def start(*_: Any, **__: Any) -> tuple[None, None]:
        return None, None  # Ray reads this as "could not be started" and goes on

    return start
