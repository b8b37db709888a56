"""Files, directories and patterns, in the stated order."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from teravec.errors import InvalidArgument, InvalidSource, StorageError
from teravec.sources import open_source

from .writers import random_matrix, write_bin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three one-row files whose only value is their number, written out of order."""
    for number in (2, 1, 3):
        write_bin(tmp_path / f"part-{number}.fbin", np.full((1, 1), number, "f4"))
    return tmp_path


def order(*paths: str | Path) -> list[float]:
    source = open_source(list(paths))
    values: list[float] = source.read(0, source.ntotal).ravel().tolist()
    return values


def test_directory_is_sorted(folder: Path) -> None:
    assert order(folder) == [1, 2, 3]


def test_directory_leaves_out_what_is_no_input(folder: Path) -> None:
    for name in (".hidden.fbin", "_temporary.fbin", "README.md"):
        (folder / name).write_bytes(b"not vectors")
    (folder / "deeper.fbin").mkdir()
    assert order(folder) == [1, 2, 3]


def test_arguments_keep_their_order(folder: Path) -> None:
    assert order(folder / "part-3.fbin", str(folder / "part-1.fbin")) == [3, 1]


def test_pattern_is_sorted(folder: Path) -> None:
    assert order(f"{folder}/part-[23]*") == [2, 3]
    assert order(f"{folder}/part-3*", folder / "part-[12].fbin") == [3, 1, 2]


def test_a_file_of_the_very_name_is_no_pattern(folder: Path) -> None:
    write_bin(folder / "part-[1].fbin", np.full((1, 1), 9, "f4"))
    assert order(folder / "part-[1].fbin") == [9]


def test_no_paths() -> None:
    with pytest.raises(InvalidArgument, match="no source path"):
        open_source([])


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match=r"x\.fbin: .*no such file"):
        open_source(tmp_path / "x.fbin")


def test_null_byte() -> None:
    with pytest.raises(InvalidArgument, match="a path has no null characters"):
        open_source("a\0b.fbin")


def test_pattern_without_match(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match=r"\*\.fbin: no file matches"):
        open_source(f"{tmp_path}/*.fbin")


def test_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match=r"nothing found, expected files ending in \.fvecs"):
        open_source(tmp_path)


def test_directory_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(InvalidSource, match=r"no file of vectors among a\.txt; expected files end"):
        open_source(tmp_path)


def test_unknown_extension(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(InvalidSource, match=r"a\.csv: extension '\.csv' found, expected one of"):
        open_source(tmp_path / "a.csv")


def test_reached_twice(folder: Path) -> None:
    with pytest.raises(InvalidSource, match=r"part-2\.fbin: reached twice"):
        open_source([folder, folder / "part-2.fbin"])
    (folder / "link.fbin").symlink_to(folder / "part-1.fbin")
    with pytest.raises(InvalidSource, match=r"part-1\.fbin: reached twice \(first as .*link"):
        open_source(folder)


def test_dangling_link_in_a_directory(folder: Path) -> None:
    (folder / "gone.fbin").symlink_to(folder / "nowhere.fbin")
    with pytest.raises(InvalidSource, match=r"gone\.fbin: .*no such file"):
        open_source(folder)


def test_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.fbin")
    with pytest.raises(InvalidSource, match="not a regular file"):
        open_source(tmp_path / "pipe.fbin")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bin(tmp_path / "x.fbin", random_matrix(2, 2, "f4"))

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"x\.fbin: cannot open: no permission"):
        open_source(tmp_path / "x.fbin")


def test_an_empty_path_is_not_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for paths in ("", ["part-1.fbin", ""]):
        with pytest.raises(InvalidArgument, match="a source is empty; a path expected"):
            open_source(paths)
    assert order(".") == [1, 2, 3]
