"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from teravec.errors import InvalidArgument

__all__ = [
    "Address",
    "Candidates",
    "Codec",
    "Data",
    "Device",
    "Engine",
    "IdColumn",
    "IndexDir",
    "Json",
    "K",
    "KeepShards",
    "MaxListBytes",
    "Memory",
    "Metric",
    "Niter",
    "Nlist",
    "Nprobe",
    "Out",
    "Queries",
    "QuerySource",
    "Quiet",
    "Recall",
    "Sample",
    "Seed",
    "Shards",
    "Slices",
    "Threads",
    "Transform",
    "VectorColumn",
    "Weights",
    "Workers",
    "nlist_of",
]  # fmt: skip

Data = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="Files, directories or globs of .fvecs .bvecs .ivecs .fbin .u8bin .i8bin .npy "
        ".parquet .arrow .feather; their rows in this order.",
        show_default=False,
    ),
]
IndexDir = Annotated[
    Path, typer.Argument(metavar="INDEX", help="Index directory.", show_default=False)
]
Queries = Annotated[
    str, typer.Argument(metavar="QUERIES", help="File of query vectors.", show_default=False)
]
QuerySource = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUERIES...",
        help="Query vectors: files, directories or globs, in the formats that build reads. "
        "With --server there is no INDEX before them.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Index directory.", show_default=False)]
Nlist = Annotated[
    str,
    typer.Option(help="Inverted lists, or auto: the power of two nearest 4 sqrt(ntotal)."),
]
Codec = Annotated[
    str,
    typer.Option(
        help="flat, fp16, sq8, sq6, sq4, pqM, pqMxB, rabitq1 to rabitq8; in two stages rabitq1+ "
        "or rabitq2+ and one of the others, as rabitq1+sq8."
    ),
]
Metric = Annotated[str, typer.Option(help="l2, ip or cosine.")]
Transform = Annotated[
    str | None,
    typer.Option(help="none, rotation or pcaM.  [default: rotation for rabitq, else none]",
                 show_default=False),
]  # fmt: skip
Sample = Annotated[
    int | None,
    typer.Option(help="Training vectors, drawn uniformly.  [default: 64 for each list]",
                 show_default=False),
]  # fmt: skip
Niter = Annotated[int, typer.Option(help="Iterations of k-means.")]
Seed = Annotated[int, typer.Option(help="Of every random choice; same seed, same bytes.")]
MaxListBytes = Annotated[
    str | None,
    typer.Option(help="Split lists that would take more, as 64MiB; there are then more lists than "
                 "nlist.  [default: no limit]", show_default=False),
]  # fmt: skip
Shards = Annotated[
    int | None,
    typer.Option(help="Shards to encode.  [default: as few as the memory allows]",
                 show_default=False),
]  # fmt: skip
Slices = Annotated[
    int | None,
    typer.Option(help="Slices to cut the index into.  [default: of about 1 GiB]",
                 show_default=False),
]  # fmt: skip
KeepShards = Annotated[bool, typer.Option("--keep-shards", help="Keep the shards afterwards.")]
Memory = Annotated[
    str | None,
    typer.Option(help="Limit, as 512MiB or 4GB, beside about 300 MiB for the interpreter and "
                 "its libraries.  [default: 4GiB, or half of the machine's memory]",
                 show_default=False),
]  # fmt: skip
Threads = Annotated[
    int | None, typer.Option(help="Threads.  [default: all processors]", show_default=False)
]
Engine = Annotated[
    str, typer.Option(help="Where tasks run: local, this process; or ray, a cluster.")
]
Workers = Annotated[
    int | None,
    typer.Option(help="Ray's worker processes; --threads is then of each, and --memory of all on "
                 "one machine.  [default: one a machine]", show_default=False),
]  # fmt: skip
Address = Annotated[
    str | None,
    typer.Option(help="Of a Ray cluster.  [default: a Ray of our own on this machine]",
                 show_default=False),
]  # fmt: skip
Device = Annotated[
    str,
    typer.Option(help="What finds vectors' lists: cpu; or cuda, cuda:N, a GPU (needs PyTorch)."),
]
IdColumn = Annotated[
    str | None,
    typer.Option(help="Column with the ids (Parquet, Arrow).  [default: ids are row numbers]",
                 show_default=False),
]  # fmt: skip
VectorColumn = Annotated[
    str | None,
    typer.Option(help="Column with the vectors (Parquet, Arrow).  [default: the only one]",
                 show_default=False),
]  # fmt: skip
Weights = Annotated[
    Path | None,
    typer.Option(help="A .npy array with a weight for each vector, 0 or more: how much it counts "
                 "in k-means.  [default: all the same]", show_default=False),
]  # fmt: skip
K = Annotated[int, typer.Option("-k", "--k", help="Results a query.")]
Nprobe = Annotated[
    int | None,
    typer.Option(help="Lists to read a query; disk bytes are about proportional to it.",
                 show_default=False),
]  # fmt: skip
Recall = Annotated[
    float | None,
    typer.Option(help="Instead of --nprobe: share of the true neighbours to find, as calibrated.  "
                 "[default: 0.9, or --nprobe 16 where that is not calibrated or out of reach]",
                 show_default=False),
]  # fmt: skip
Candidates = Annotated[
    int | None,
    typer.Option(help="Most vectors a query whose finer codes are read, where codes have two "
                 "stages.  [default: 30 k with sketches of 1 bit, 15 k of 2]", show_default=False),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def nlist_of(text: str) -> int | None:
    """The value of ``--nlist``: None for auto, or InvalidArgument."""
    if text == "auto":
        return None
    if not text.lstrip("-").isdigit():
        raise InvalidArgument(f"nlist is {text!r}; a whole number or auto expected")
    return int(text)
