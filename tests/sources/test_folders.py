"""Folders and patterns: natural order, folders inside, what is left out and said."""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePath

import numpy as np
import pytest

from teravec.errors import InvalidArgument, InvalidSource
from teravec.sources import open_source, reopen, same_vectors
from teravec.sources.natural import natural_key

from .writers import random_matrix, write_bin, write_npy, write_parquet


def number(path: Path, value: int) -> None:
    """Write a file of one row that is its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npy(path, np.full((1, 1), value, "f4"))


def order(*paths: str | Path) -> list[int]:
    source = open_source(list(paths))
    return [int(value) for value in source.read(0, source.ntotal).ravel()]


@pytest.mark.parametrize(
    "names",
    [
        ["chunk-0", "chunk-1", "chunk-2", "chunk-10", "chunk-11", "chunk-100"],
        ["2", "9", "10", "0010", "11"],
        ["a", "a-1", "a-1-b", "a-1-b-2", "a-2", "a1"],
        ["train-00000-of-00002", "train-00001-of-00002", "train-2"],
        ["v1.9", "v1.10", "v2.0"],
        ["x1a9", "x1a10", "x2a1"],
        ["x", "x-1", "x1", "x10", "xy"],
    ],
)
def test_natural_order_of_names(names: list[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(len(names))
    expected = sorted(map(PurePath, names), key=natural_key)
    if names[0] != "2":
        assert [path.name for path in expected] == names
    for place in rng.permutation(len(expected)):
        number(tmp_path / f"{expected[place].name}.npy", int(place))
    assert order(tmp_path) == list(range(len(names)))
    assert order(f"{tmp_path}/*.npy") == list(range(len(names)))


def test_folders_are_entered_in_natural_order(tmp_path: Path) -> None:
    for value, name in enumerate(
        [
            "lang=de/part-2",
            "lang=de/part-10",
            "lang=en/part-1",
            "lang=en/s/1",
            "step-3/x",
            "step-20/x",
        ]
    ):
        number(tmp_path / f"{name}.npy", value)
    assert order(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert order(f"{tmp_path}/**/*.npy") == [0, 1, 2, 3, 4, 5]
    assert order(f"{tmp_path}/**") == [0, 1, 2, 3, 4, 5]
    assert order(f"{tmp_path}/*/*.npy") == [0, 1, 2, 4, 5]
    assert order(f"{tmp_path}/step-*") == [4, 5]  # as the shell would have named the folders
    assert order(tmp_path / "step-20", tmp_path / "lang=en") == [5, 2, 3]
    names = [file.get("folder") for file in open_source(tmp_path).describe()["files"]]
    assert names == ["lang=de", "lang=de", "lang=en", "lang=en/s", "step-3", "step-20"]


def test_what_is_left_out_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    number(tmp_path / "a" / "x.npy", 1)
    for name in (
        "README.md",
        "a/_SUCCESS",
        ".DS_Store",
        "a/dataset_info.json",
        "b/notes.csv",
        "_delta_log/0.json",
        "a/.x.npy.crc",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no vectors")
    with caplog.at_level(logging.WARNING):
        assert order(tmp_path) == [1]
    (record,) = caplog.records
    said = record.getMessage()
    assert f"{tmp_path}: left out, as no files of vectors: README.md, a/dataset_info.json" in said
    assert "b/notes.csv and 4 more" in said
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert order(f"{tmp_path}/**/*.*") == [1]
    assert "README.md" in caplog.text
    caplog.clear()
    assert order(tmp_path / "a" / "x.npy") == [1]
    assert not caplog.records


def test_a_folder_of_several_formats_is_read_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    number(tmp_path / "a.npy", 0)
    write_parquet(tmp_path / "b.parquet", np.full((1, 1), 1, "f4"))
    assert order(tmp_path) == [0, 1]
    assert "files of several formats are read: npy, parquet" in caplog.text


def test_neighbours_beside_the_vectors_are_no_vectors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A .bin is both a truth file's name and DiskANN's for vectors: alone it is read."""
    write_bin(tmp_path / "base.bin", random_matrix(3, 2, "f4"))
    assert open_source(tmp_path).ntotal == 3
    write_bin(tmp_path / "vectors.fbin", random_matrix(5, 2, "f4"))
    assert open_source(tmp_path).ntotal == 5
    assert "left out, as no files of vectors: base.bin" in caplog.text


def test_files_without_extension_are_known_by_their_magic(tmp_path: Path) -> None:
    number(tmp_path / "x.npy", 4)
    (tmp_path / "x.npy").rename(tmp_path / "000000_0")
    (tmp_path / "LICENSE").write_text("MIT")
    assert order(tmp_path) == [4]


def test_links_that_lead_back_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    number(tmp_path / "a" / "b" / "x.npy", 1)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "me").symlink_to(tmp_path)
    assert order(tmp_path) == [1]
    assert "a/b/up/ (a link back)" in caplog.text
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(tmp_path / "a" / "b")
    assert order(tmp_path / "elsewhere") == [1]
    with pytest.raises(InvalidSource, match="reached twice"):
        order(tmp_path)


def test_an_index_in_the_folder_is_no_input(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    number(tmp_path / "x.npy", 1)
    number(tmp_path / "index" / "model" / "centroids.npy", 2)
    number(tmp_path / "out.npz.partial" / "part.npy", 3)
    (tmp_path / "index" / "build.json").write_text('{\n "format": "teravec-build"\n}')
    assert order(tmp_path) == [1]
    assert "index/" in caplog.text
    assert order(f"{tmp_path}/**/*.npy") == [1]
    with pytest.raises(InvalidSource, match="a teravec index found, expected files of vectors"):
        order(tmp_path / "index")
    (tmp_path / "index" / "build.json").write_text("{}")  # of another tool
    assert order(tmp_path) == [2, 1]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["train.h5", "README.md"], r"no file of vectors among README.md, train.h5; .*h5py.File"),
        (["x.pt"], r"among x.pt; .*convert it: np.save\('x.npy', torch.load\('x.pt'"),
        (["a.txt", "b.txt", "c.txt", "d.txt", "e.txt"], "a.txt, b.txt, c.txt and 2 more"),
        (["data"], "among data; expected files .*or add --format"),
        (["deep/er/x.csv.gz"], "deep/er/x.csv.gz; .*unpack it first: gunzip x.csv.gz"),
    ],
)
def test_folder_without_vectors(names: list[str], match: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(InvalidSource, match=match):
        open_source(tmp_path)
    with pytest.raises(InvalidSource, match=match):
        open_source(f"{tmp_path}/**")


def test_data_sets_that_are_folders(tmp_path: Path) -> None:
    for name, match in (("x.lance", "lance.dataset"), ("x.zarr", r"zarr.open\('x.zarr'\)")):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "0.bytes").touch()
        with pytest.raises(InvalidSource, match=match):
            open_source(tmp_path / name)


def test_format_overrides_names_in_a_folder(tmp_path: Path) -> None:
    x = random_matrix(4, 3, "u1")
    for place in range(11):
        write_bin(tmp_path / f"part{place}.data", x + place)
    (tmp_path / "README.md").touch()
    expected = np.concatenate([x + place for place in range(11)])
    np.testing.assert_array_equal(open_source(tmp_path, format="u8bin").read(0, 44), expected)
    np.testing.assert_array_equal(open_source(f"{tmp_path}:u8bin").read(0, 44), expected)
    source = open_source([f"{tmp_path}/part1*:u8bin", tmp_path / "part0.data:U8BIN"])
    np.testing.assert_array_equal(source.read(0, 12), np.concatenate([x + 1, x + 10, x]))
    np.testing.assert_array_equal(reopen(source.opened_by).read(0, 12), source.read(0, 12))
    with pytest.raises(InvalidArgument, match=r"format 'bin' found.*fbin, u8bin and i8bin"):
        open_source(tmp_path, format="bin")
    (tmp_path / "x:fbin").write_bytes(b"not fbin")  # the very name comes first
    with pytest.raises(InvalidSource, match="extension '' found"):
        open_source(tmp_path / "x:fbin")


def chunks(folder: Path) -> Path:
    for place in range(12):
        write_bin(folder / f"chunk-{place}.fbin", np.full((place + 1, 2), place, "f4"))
    return folder


def test_order_of_an_older_release_is_kept(tmp_path: Path) -> None:
    chunks(tmp_path)
    now = open_source(tmp_path)
    older = open_source(sorted(tmp_path.iterdir())).describe()
    assert not same_vectors(now.describe(), older)
    found = now.match_order(older)
    assert found.describe() == older
    assert found.read(0, found.ntotal)[:, 0].tolist()[:14] == [0, 1, 1] + [10] * 11
    assert now.match_order(now.describe()) is now
    other = {**older, "files": older["files"][::-1]}  # in no order that a release made
    assert now.match_order(other) is now
    write_bin(tmp_path / "chunk-3.fbin", np.full((4, 2), 9, "f4"))
    changed = open_source(tmp_path)
    assert changed.match_order(older) is changed


def test_order_that_was_asked_for_is_not_changed(tmp_path: Path) -> None:
    chunks(tmp_path)
    asked = open_source([tmp_path / "chunk-2.fbin", tmp_path / "chunk-10.fbin"])
    other = open_source([tmp_path / "chunk-10.fbin", tmp_path / "chunk-2.fbin"])
    assert asked.match_order(other.describe()) is asked


def test_folders_are_described_but_do_not_matter(tmp_path: Path) -> None:
    for folder in ("a=1", "a=2"):
        (tmp_path / folder).mkdir()
        write_bin(tmp_path / folder / "x.fbin", random_matrix(3, 2, "f4"))
    whole = open_source(tmp_path).describe()
    each = open_source(sorted(tmp_path.glob("*/*"))).describe()
    assert whole != each
    assert same_vectors(whole, each)
    assert not same_vectors(whole, {**each, "files": each["files"][::-1]})


def test_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from teravec.errors import StorageError

    number(tmp_path / "a" / "x.npy", 1)
    listed = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name == "a":
            raise PermissionError(13, os.strerror(13))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(StorageError, match="a: cannot list: no permission"):
        open_source(tmp_path)
