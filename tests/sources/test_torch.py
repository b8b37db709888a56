"""PyTorch's tensors as data, where PyTorch is installed (`make test-gpu`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teravec.errors import InvalidSource
from teravec.sources import open_data

from .writers import random_matrix

torch: Any = pytest.importorskip("torch")

X = random_matrix(300, 8, "f4")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def kinds(device: str) -> dict[str, Any]:
    tensor = torch.from_numpy(X.copy()).to(device)
    return {
        "tensor": tensor,
        "requires grad": tensor.clone().requires_grad_(),
        "parameter": torch.nn.Parameter(tensor.clone()),
        "strided": tensor.t().contiguous().t(),
        "list of vectors": list(tensor.clone().requires_grad_()),
        "list of matrices": list(tensor.split(70)),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", kinds("cpu"))
def test_tensors(kind: str, device: str) -> None:
    source = open_data(kinds(device)[kind])
    assert np.array_equal(source.read(0, 300), X)
    assert np.array_equal(source.take(np.array([3, 299])), X[[3, 299]])
    assert source.describe() == open_data(X).describe()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["bfloat16", "float16", "float64", "int32", "bool", "uint8"])
def test_types(name: str, device: str) -> None:
    tensor = (torch.from_numpy(np.abs(X) * 9)).to(getattr(torch, name))
    source = open_data(tensor.to(device), ids=torch.arange(300) * 2)
    assert np.array_equal(source.read(0, 300), tensor.float().numpy())
    assert np.array_equal(source.read_ids(0, 300), np.arange(300) * 2)


def test_loaders_and_generators(tmp_path: Path) -> None:
    tensor = torch.from_numpy(X)
    loaders = (
        torch.utils.data.DataLoader(tensor, batch_size=70),
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tensor), batch_size=70),
        (part for part in tensor.clone().requires_grad_().split(70)),
        iter(tensor),
    )
    for number, loader in enumerate(loaders):
        source = open_data(loader, spool_path=tmp_path / f"{number}.spool")
        assert np.array_equal(source.read(0, 300), X)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda t: t[0], r"shape \(8,\) found"),
        (lambda t: t.to(torch.complex64), "complex64 found, real numbers expected"),
        (lambda t: t.to_sparse(), "Tensor that NumPy cannot read"),
        (lambda t: t.to("meta"), "Tensor that NumPy cannot read"),
    ],
)
def test_what_is_refused(make: Any, match: str) -> None:
    with pytest.raises(InvalidSource, match=match) as caught:
        open_data(make(torch.from_numpy(X)))
    assert len(str(caught.value)) < 250
