"""Devices that find the centroids of vectors: the processor, or a GPU through PyTorch."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from teravec.arguments import install, text
from teravec.engines.options import CPU
from teravec.errors import InvalidArgument

__all__ = ["CPU", "found_gpus", "open_torch", "parse_device"]

_TORCH_CPU = "torch-cpu"  # the GPU code on the processor: slower, for testing without a GPU


@cache
def _torch() -> Any:
    # Imported here, because it takes seconds and some 200 MB, and few need it.
    return import_module("torch")


def parse_device(name: str) -> str:
    """Check a device's name.

    Parameters
    ----------
    name : str
        ``cpu``, ``cuda``, ``cuda:N``; or ``torch-cpu``, which runs the GPU code on the processor.

    Raises
    ------
    InvalidArgument
    """
    if text(name, "device") in (CPU, _TORCH_CPU) or re.fullmatch(
        r"cuda(:\d{1,4})?", name, re.ASCII
    ):
        return name
    raise InvalidArgument(f"device is {name!r}; cpu, cuda or cuda:N expected")


def open_torch(name: str) -> tuple[Any, Any]:
    """Import PyTorch and open one of its devices.

    Parameters
    ----------
    name : str
        As `parse_device` takes it, not ``cpu``.

    Returns
    -------
    torch : module
    device : torch.device

    Raises
    ------
    InvalidArgument
        PyTorch is not installed, or finds no such GPU.
    """
    if find_spec("torch") is None:
        raise InvalidArgument(f"device {name} needs PyTorch, which is not here: {install('gpu')}")
    torch = _torch()
    device = torch.device("cpu" if name == _TORCH_CPU else name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        built = torch.version.cuda or getattr(torch.version, "hip", None)
        found = f"{count} GPUs" if count else "no GPU"
        advice = "" if built else "; this build of PyTorch is for processors only"
        raise InvalidArgument(f"device {name}: PyTorch {torch.__version__} finds {found}{advice}")
    return torch, device


def found_gpus() -> tuple[list[str], str]:
    """Return the names of PyTorch's GPUs, ``cuda:0`` and so on; if there are none, the reason."""
    try:
        torch, _ = open_torch("cuda")
    except InvalidArgument as error:
        return [], str(error)
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())], ""
