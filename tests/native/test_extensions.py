"""Installations without compiled kernels say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import teravec
from teravec.native import extensions as native


@pytest.mark.parametrize("name", native.EXTENSIONS)
@pytest.mark.parametrize("switched_off", [False, True])
def test_missing_kernels_are_told_once_unless_switched_off(
    name: str, switched_off: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, name, None)
    native.warn_of_missing.cache_clear()
    native.warn_if_missing(switched_off)
    native.warn_if_missing(switched_off)
    assert caplog.text.count("compiled kernels are missing") == (not switched_off)
    assert (name in caplog.text) is not switched_off


@pytest.mark.skipif(native.SWITCHED_OFF, reason="switched off: nothing is told")
def test_opening_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "x.npy", np.eye(9, 4, dtype=np.float32))
    teravec.build(tmp_path / "x.npy", tmp_path / "i", nlist=2, codec="flat", calibrate=False)
    caplog.clear()
    monkeypatch.setattr(native, "listing", None)
    native.warn_of_missing.cache_clear()
    with teravec.open(tmp_path / "i"):
        assert "compiled kernels are missing" in caplog.text


def test_either_is_chosen_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    half = native.either("paging", lambda x: x / 2, lambda x: x // 2)
    monkeypatch.setattr(native, "paging", object())
    assert half(3) == 1.5
    monkeypatch.setattr(native, "paging", None)
    assert half(3) == 1
