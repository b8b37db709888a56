"""Plots of evaluations: drawn where matplotlib is, refused in one line where it is not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from teravec.errors import InvalidArgument
from teravec.evaluation.evaluation import Evaluation
from teravec.evaluation.plotting import check_plot, draw

RESULTS = [
    Evaluation(nprobe, 10, recall, 3e4 / nprobe, 1e-3, 3e-3, 5e4 * nprobe, 1e3, nprobe, 1e3)
    for nprobe, recall in ((64, 0.98), (1, 0.34), (8, 0.78))
]


@pytest.mark.parametrize(
    ("extension", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_draws(extension: str, begins: bytes, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"e{extension}"
    check_plot(path)
    draw(RESULTS, "an index", path)
    assert path.read_bytes().startswith(begins)
    if extension == ".png":
        import matplotlib.image

        pixels = matplotlib.image.imread(path)
        assert pixels.shape[:2] == (720, 1650)
        curve = (np.abs(pixels[..., :3] - np.array([0x1F, 0x5F, 0xA8]) / 255) < 0.05).all(axis=2)
        # A curve in either half, from the bottom to the top of its panel.
        for half in (curve[:, :825], curve[:, 825:]):
            assert np.ptp(np.flatnonzero(half.any(axis=1))) > 300
            assert np.ptp(np.flatnonzero(half.any(axis=0))) > 300


def test_draws_a_single_point(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(RESULTS[:1], "an index", tmp_path / "one.svg")
    assert (tmp_path / "one.svg").stat().st_size > 1000  # one point is a plot as well


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidArgument, match=r"pip install 'teravec\[plot\]'"):
        check_plot(tmp_path / "e.png")


def test_other_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"'\.jpeg' found"):
        check_plot(tmp_path / "e.jpeg")
    with pytest.raises(InvalidArgument, match="no directory"):
        check_plot(tmp_path / "none" / "e.png")
