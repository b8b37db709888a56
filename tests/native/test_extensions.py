"""Installations without compiled kernels say so."""

from __future__ import annotations

import pytest

from teravec.native import extensions as native


@pytest.mark.parametrize("switched_off", [False, True])
def test_missing_kernels_are_told_unless_switched_off(
    switched_off: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "native", None)
    monkeypatch.setattr(native, "_SWITCHED_OFF", switched_off)
    native.warn_if_missing()
    assert ("compiled kernels are missing" in caplog.text) is not switched_off
