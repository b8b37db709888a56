"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from teravec.cli.place_options import FILES, PLACE, PlaceText
from teravec.errors import InvalidArgument, shown
from teravec.memory import parse_bytes
from teravec.training.options import TrainOptions

__all__ = [
    "Address",
    "Attributes",
    "BytesType",
    "Candidates",
    "Centroids",
    "Codec",
    "Columns",
    "Data",
    "Device",
    "Engine",
    "Filterable",
    "Format",
    "IdColumn",
    "IndexDir",
    "Json",
    "K",
    "KeepPartitions",
    "KeepShards",
    "MaxListBytes",
    "Memory",
    "Metric",
    "Niter",
    "Nlist",
    "Nprobe",
    "Out",
    "PartitionBy",
    "Queries",
    "Query",
    "QueryColumn",
    "QuerySource",
    "QueryVectors",
    "Quiet",
    "Readers",
    "Recall",
    "Sample",
    "Seed",
    "Shards",
    "SinceColumn",
    "SkipBad",
    "Slices",
    "Threads",
    "Transform",
    "TruthFormat",
    "VectorColumn",
    "Weights",
    "Workers",
    "train_options",
    "unset",
]


def unset(text: str, *names: str) -> Any:
    """Make an option without a shown default; its help text states the default."""
    return typer.Option(*names, help=text, show_default=False)


Data = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="Files, folders or globs of .fvecs .bvecs .ivecs .fbin .f16bin .u8bin .i8bin .npy "
        ".parquet .arrow .feather. Rows come in this order, members of a folder in natural "
        "order of name. PATH:FORMAT gives one file's format. Or a database: postgresql://..., "
        "sqlite:///FILE or duckdb:///FILE, with --query.",
        show_default=False,
    ),
    FILES,
]
IndexDir = Annotated[
    PlaceText,
    typer.Argument(
        metavar="INDEX",
        help="Index directory, or its URL in an object store: s3://, gs://, az://.",
        show_default=False,
    ),
    PLACE,
]
Queries = Annotated[
    str, typer.Argument(metavar="QUERIES", help="File of query vectors.", show_default=False), FILES
]
QuerySource = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUERIES...",
        help="Query vectors: files, directories or globs, in the formats that build reads. "
        "With --server, give no INDEX before them.",
        show_default=False,
    ),
    FILES,
]
Out = Annotated[
    PlaceText, unset("Index directory, or its URL in an object store.", "--out", "-o"), PLACE
]
Nlist = Annotated[
    str, typer.Option(help="Inverted lists, or auto: the power of two nearest 4 sqrt(ntotal).")
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
    str | None, unset("none, rotation or pcaM.  [default: rotation for rabitq, else none]")
]
Sample = Annotated[
    int | None, unset("Training vectors, drawn uniformly.  [default: 64 for each list]")
]
Niter = Annotated[int, typer.Option(help="Iterations of k-means.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice; same seed, same bytes.")]
MaxListBytes = Annotated[
    str | None,
    unset(
        "Split lists that would take more, as 64MiB; the index then has more than nlist "
        "lists.  [default: no limit]"
    ),
]
Shards = Annotated[int | None, unset("Shards to encode.  [default: as few as the memory allows]")]
Slices = Annotated[int | None, unset("Slices to cut the index into.  [default: of about 1 GiB]")]
KeepShards = Annotated[bool, typer.Option("--keep-shards", help="Keep the shards afterwards.")]
Memory = Annotated[
    str | None,
    unset(
        "Limit, as 512MiB or 4GB, beside about 300 MiB for the interpreter and its "
        "libraries.  [default: 4GiB, or half of what the machine or its container has]"
    ),
]
Threads = Annotated[int | None, unset("Threads.  [default: all processors]")]
Engine = Annotated[
    str, typer.Option(help="Where tasks run: local, this process; or ray, a cluster.")
]
Workers = Annotated[
    int | None,
    unset(
        "Ray's worker processes. --threads then applies to each, and --memory to all on one "
        "machine.  [default: one per machine]"
    ),
]
Address = Annotated[
    str | None, unset("Address of a Ray cluster.  [default: start Ray on this machine]")
]
Device = Annotated[
    str,
    typer.Option(help="Device that finds vectors' lists: cpu, or cuda, cuda:N (needs PyTorch)."),
]
IdColumn = Annotated[
    str | None, unset("Column with the ids (Parquet, Arrow).  [default: ids are row numbers]")
]
VectorColumn = Annotated[
    str | None,
    unset(
        "Column with the vectors (Parquet, Arrow), or a field of it as COLUMN.FIELD.  [default: "
        "the only one]"
    ),
]
Format = Annotated[
    str | None,
    unset(
        "Format of all files of vectors, whatever their names: fbin, npy, parquet and so on.  "
        "[default: by extension]"
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Leave out rows that are null, hold nulls, are of another length, or hold NaN or "
        "infinity; the others keep their ids.",
    ),
]
Query = Annotated[
    str | None,
    unset("For a database: a SELECT of vectors and ids, as 'select id, embedding from items'."),
]
PartitionBy = Annotated[
    str | None,
    unset(
        "For a database: column of whole numbers, dates or times whose ranges are read in "
        "parallel. Whole numbers are the ids, unless --id-column names others."
    ),
]
Readers = Annotated[
    int | None, unset("For a database: connections.  [default: 4 with --partition-by]")
]
BytesType = Annotated[
    str | None,
    unset("For a database: type of vectors kept as bytes, float32 or float16.  [default: float32]"),
]
SinceColumn = Annotated[
    str | None,
    unset(
        "For a database: column that grows when a row changes, as updated_at. A later add of the "
        "same query reads only rows from its largest value on."
    ),
]
KeepPartitions = Annotated[
    bool,
    typer.Option(
        "--keep-partitions",
        help="For a database: go on with ranges that a killed run read, even if the database has "
        "changed since.",
    ),
]
QueryColumn = Annotated[
    str | None, unset("Column with the queries, if it differs from --vector-column's.")
]
QueryVectors = Annotated[
    str | None,
    unset("Column with the queries (Parquet, Arrow).  [default: the only one]", "--vector-column"),
]
Columns = Annotated[
    str | None,
    unset(
        "Columns of the data that the index keeps for each vector, as url,title; or all.  "
        "[default: none, or those of --attributes]"
    ),
]
Filterable = Annotated[
    str | None,
    unset(
        "Columns that filters will test often, as lang,tags: an inverted file is made of each.  "
        "[default: none]"
    ),
]
Attributes = Annotated[
    Path | None,
    unset(
        "A table beside the vectors that has the columns: .parquet, .arrow, .feather or .csv, with "
        "a row for each vector, in the same order."
    ),
]
Weights = Annotated[
    Path | None,
    unset(
        "A .npy array with a weight for each vector, 0 or more: how much it counts in "
        "k-means.  [default: all equal]"
    ),
]
Centroids = Annotated[
    str | None,
    unset(
        "File of centroids to take instead of k-means, in the space of the vectors, before the "
        "transform.  [default: k-means]",
        "--centroids",
    ),
]
K = Annotated[int, typer.Option("-k", "--k", help="Results per query.")]
Nprobe = Annotated[
    int | None, unset("Lists to visit per query; bytes read are about proportional to it.")
]
Recall = Annotated[
    float | None,
    unset(
        "Instead of --nprobe: share of the true neighbours to find, as calibrated.  "
        "[default: 0.9, or --nprobe 16 if that is not calibrated or out of reach]"
    ),
]
Candidates = Annotated[
    int | None,
    unset(
        "For codes in two stages: most vectors per query whose finer codes are read.  "
        "[default: 30 k with sketches of 1 bit, 15 k with 2]"
    ),
]
TruthFormat = Annotated[
    str | None,
    unset(
        "Format of the file of exact neighbours: ibin, bin, ivecs, npy, npz or parquet.  "
        "[default: by extension, else by content]",
        "--truth-format",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def train_options(
    nlist: str,
    metric: str,
    transform: str | None,
    codec: str,
    sample: int | None,
    niter: int,
    seed: int = 1234,
    max_list_bytes: str | None = None,
) -> TrainOptions:
    """Parse the training options of the command line."""
    try:
        lists = None if nlist.lower() == "auto" else int(nlist)
    except ValueError:
        raise InvalidArgument(f"nlist is {shown(nlist)}; a whole number or auto expected") from None
    return TrainOptions(
        lists,
        metric,
        transform,
        codec,
        sample,
        niter,
        seed,
        None if max_list_bytes is None else parse_bytes(max_list_bytes, "max-list-bytes"),
    )
