"""Files that cannot be imported: one line that names file and reason, and nothing is left."""

from __future__ import annotations

import struct
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import teravec
from teravec.cli.main import app
from tests.interchange.faiss_indexes import D, N, make, vectors

UNSUPPORTED = {
    "Flat": "IndexFlatL2 found",
    "HNSW8": "IndexHNSWFlat found",
    "IVF12,PQ6x4fs": "IndexIVFPQFastScan found",
    "IVF12,PQ6x2": "PQ of 6 x 2 bits found",
    "IVF12,SQbf16": "scalar quantizer 7",
    "IVF12,RQ2x4": "IndexIVFResidualQuantizer found",
    "IVF12,SQ8,RFlat": "IndexRefine found",
    "IMI2x2,Flat": "coarse quantizer MultiIndexQuantizer found",
    "HR32,IVF12,Flat": "HadamardRotation found",
    "PCA12,L2norm,PCA6,IVF12,Flat": "a transform after a normalization",
}


@pytest.mark.parametrize("factory", UNSUPPORTED)
def test_kinds_that_are_not_supported(factory: str, tmp_path: Path) -> None:
    base = vectors()
    index = faiss.index_factory(D, factory)
    index.train(base)
    index.add(base)
    faiss.write_index(index, str(tmp_path / "x.faissindex"))
    with pytest.raises(teravec.InvalidSource, match=r"x\.faissindex") as found:
        teravec.import_faiss(tmp_path / "x.faissindex", tmp_path / "i")
    assert UNSUPPORTED[factory] in str(found.value)
    assert not (tmp_path / "i").exists()


def test_other_metrics_and_negative_ids(tmp_path: Path) -> None:
    index = faiss.index_factory(D, "IVF12,Flat", faiss.METRIC_L1)
    index.train(vectors())
    faiss.write_index(index, str(tmp_path / "x.faissindex"))
    with pytest.raises(teravec.InvalidSource, match="metric 2 of Faiss"):
        teravec.import_faiss(tmp_path / "x.faissindex", tmp_path / "i")
    index = make("IVF12,Flat", faiss.METRIC_L2, np.arange(N) - 1)
    faiss.write_index(index, str(tmp_path / "x.faissindex"))
    with pytest.raises(teravec.InvalidSource, match="id -1 found"):
        teravec.import_faiss(tmp_path / "x.faissindex", tmp_path / "i")
    assert not (tmp_path / "i").exists()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("faiss") / "x.faissindex"
    faiss.write_index(
        make("IDMap2,PCA12,IVF12_HNSW4,SQ8", faiss.METRIC_L2, np.arange(N)), str(path)
    )
    return path.read_bytes()


def test_a_file_cut_anywhere(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.faissindex"
    for length in {0, 3, 10, *range(0, len(written), 997), len(written) - 1}:
        path.write_bytes(written[:length])
        with pytest.raises(teravec.InvalidSource, match=r"x\.faissindex"):
            teravec.import_faiss(path, tmp_path / "i")
    assert not (tmp_path / "i").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, 8000), value=st.sampled_from([0, 1, 255]), width=st.sampled_from([1, 8]))
def test_a_damaged_file_is_an_error_or_other_data(
    written: bytes, tmp_path: Path, at: int, value: int, width: int
) -> None:
    """No damage may end the process, or take memory by what a damaged size says."""
    damaged = bytearray(written)
    damaged[at : at + width] = bytes([value]) * width
    path, out = tmp_path / "x.faissindex", tmp_path / str(len(list(tmp_path.iterdir())))
    path.write_bytes(damaged)
    try:
        teravec.import_faiss(path, out, memory="64MiB", threads=1)
    except teravec.InvalidArgument:
        assert not out.exists()


def test_foreign_files_and_outputs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", vectors(10))
    (tmp_path / "huge").write_bytes(
        b"IwFl" + struct.pack("<iqqqBi", D, N, 0, 0, 1, 1) + b"\xff" * 64
    )
    faiss.write_index(make("IVF12,Flat", faiss.METRIC_L2), str(tmp_path / "y.faissindex"))
    run = CliRunner().invoke
    for name in ("x.npy", "huge", "absent", "."):
        result = run(app, ["import-faiss", str(tmp_path / name), "--out", str(tmp_path / "i")])
        assert result.exit_code == 2, name
        assert not (tmp_path / "i").exists()
    good = ["import-faiss", str(tmp_path / "y.faissindex"), "--out", str(tmp_path / "i")]
    assert "900 vectors in 12 lists" in run(app, good).output
    before = (tmp_path / "i" / "manifest.json").read_bytes()
    assert run(app, [*good, "--json"]).exit_code == 0  # the same import: nothing is left to do
    assert (tmp_path / "i" / "manifest.json").read_bytes() == before
    assert run(app, [*good, "--slices", "2"]).exit_code == 2
    teravec.build(vectors(50), tmp_path / "b", nlist=2, calibrate=False)
    assert run(app, [*good[:-1], str(tmp_path / "b")]).exit_code == 2
    with pytest.raises(teravec.OutputExists, match="was imported"):
        teravec.build(vectors(50), tmp_path / "i", nlist=2)
    teravec.build(vectors(50), tmp_path / "i", nlist=2, overwrite=True, calibrate=False)
    assert teravec.info(tmp_path / "i")["ntotal"] == 50
