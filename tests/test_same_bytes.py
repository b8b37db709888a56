"""An index has the same bytes whatever BLAS, Faiss, NumPy and the compiled kernels run on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from teravec.native import extensions as compiled
from tests.same_bytes import BUILDS

_LEVEL = 0 if compiled.native is None else compiled.native.best_level()
_X86 = platform.machine() == "x86_64"
_NARROW = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 6,000 vectors of 44 dimensions, most of their variance in 12."""
    rng = np.random.default_rng(3)
    near = rng.standard_normal((6000, 12)) @ rng.standard_normal((12, 44))
    path = tmp_path_factory.mktemp("source") / "vectors.npy"
    np.save(path, (near + 0.3 * rng.standard_normal((6000, 44))).astype(np.float32))
    return path


def seals(
    source: Path, out: Path, names: list[str], level: str, faiss_level: str, **variables: str
) -> dict[str, dict[str, str]]:
    """Build in another process; return the checksum of each file of each index."""
    arguments = [str(source), str(out), level, faiss_level, *names]
    done = subprocess.run(
        [sys.executable, "-m", "tests.same_bytes", *arguments],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == names
    return found


def core(name: str, level: int = 0) -> dict[str, str]:
    """Ask OpenBLAS for a processor's kernels, if this processor runs them."""
    return {"OPENBLAS_CORETYPE": name} if _X86 and level <= _LEVEL else {}


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The indexes of this machine with all its own choices."""
    return seals(source, tmp_path_factory.mktemp("indexes"), list(BUILDS), "best", "best")


@pytest.mark.skipif(compiled.native is None, reason="needs the compiled kernels")
@pytest.mark.parametrize(
    ("level", "faiss_level", "variables"),
    [
        ("best", "NONE", {"OMP_NUM_THREADS": "1", **core("Haswell", 1)}),
        ("best", "best", {"OMP_NUM_THREADS": "2", **core("Haswell", 1)}),
        (
            str(min(_LEVEL, 1)),
            "AVX2" if _X86 and _LEVEL else "NONE",
            {"OMP_NUM_THREADS": "4", "NPY_DISABLE_CPU_FEATURES": _NARROW, **core("Nehalem")},
        ),
        ("best", "best", {"OPENBLAS_NUM_THREADS": "1", **core("SkylakeX", 2)}),
    ],
    ids=["one-thread", "two-threads", "narrow", "wide"],
)
def test_the_index_is_the_same(
    source: Path,
    expected: dict[str, dict[str, str]],
    level: str,
    faiss_level: str,
    variables: dict[str, str],
    tmp_path: Path,
) -> None:
    assert seals(source, tmp_path, list(BUILDS), level, faiss_level, **variables) == expected


def test_without_compiled_kernels_it_depends_on_no_blas_either(
    source: Path, tmp_path: Path
) -> None:
    names = ["groups", "small"]
    one, other = (
        seals(source, tmp_path / number, names, "best", "best", TERAVEC_NATIVE="0", **variables)
        for number, variables in (
            ("1", {"OMP_NUM_THREADS": "1", **core("Haswell", 1)}),
            ("2", {"OMP_NUM_THREADS": "2", **core("Prescott")}),
        )
    )
    assert one == other
