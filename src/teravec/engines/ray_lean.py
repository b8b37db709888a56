"""Starting a Ray of our own without the processes that serve nobody here.

A local Ray starts a dashboard (without its pages, where none are wanted, it only reports
usage, which is off), an autoscaler and a monitor of log files, each a Python process. On two
processors they took 2 s of processor time and held up ``ray.init`` by 2 s. Ray can do without
each, as ``ray start --no-monitor`` and its own test clusters show, but ``ray.init`` has no option
for it. So its parameters are set where it makes them; a Ray that is made otherwise starts all.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["without_extras"]

log = logging.getLogger(__name__)

_LEFT_OUT = {"no_monitor": True, "include_log_monitor": False}


@contextmanager
def without_extras() -> Iterator[None]:
    """Leave out dashboard, autoscaler and log monitor of a Ray that the body starts."""
    with ExitStack() as restoring:
        _replace(restoring, "ray._private.parameter", "RayParams", _with_parameters)
        _replace(restoring, "ray._private.services", "start_api_server", _without_process)
        yield


def _replace(restoring: ExitStack, module_name: str, name: str, other_of: Any) -> None:
    try:
        module = importlib.import_module(module_name)
        original = getattr(module, name)
    except (ImportError, AttributeError):
        log.info("this Ray has no %s.%s; it starts all of its processes", module_name, name)
        return
    setattr(module, name, other_of(original))
    restoring.callback(setattr, module, name, original)


def _with_parameters(original: Any) -> Any:
    def parameters(*arguments: Any, **options: Any) -> Any:
        made = original(*arguments, **options)
        for name, value in _LEFT_OUT.items():
            if hasattr(made, name):
                setattr(made, name, value)
        return made

    return parameters


def _without_process(_: Any) -> Any:
    def start(*_: Any, **__: Any) -> tuple[None, None]:
        return None, None  # as where it could not be started: Ray goes on

    return start
