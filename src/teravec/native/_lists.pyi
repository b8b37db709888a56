from typing_extensions import Buffer

def pairs(
    nprobe: int,
    list_nos: Buffer,
    distances: Buffer,
    sizes: Buffer | None,
    out_list_nos: Buffer,
    out_starts: Buffer,
    out_queries: Buffer,
    out_distances: Buffer,
    out_nearest: Buffer,
    /,
) -> tuple[int, int]: ...
def runs(
    nlist: int, sizes: Buffer, list_nos: Buffer, out_runs: Buffer, out_list_nos: Buffer, /
) -> int: ...
def repeat_pairs(
    list_nos: Buffer,
    starts: Buffer,
    queries: Buffer,
    distances: Buffer,
    nearest: Buffer,
    wanted: Buffer,
    out_starts: Buffer,
    out_queries: Buffer,
    out_distances: Buffer,
    out_nearest: Buffer,
    /,
) -> int: ...
def pin(keys: Buffer, at: Buffer, wanted: Buffer, pins: Buffer, out_at: Buffer, /) -> None: ...
def unpin(keys: Buffer, pins: Buffer, /) -> None: ...
def ids(
    first_key: int,
    places: Buffer,
    at: Buffer,
    size: Buffer,
    wanted: Buffer,
    buffer: Buffer,
    out_ids: Buffer,
    /,
) -> tuple[int, int]: ...
def longest(d: int, x: Buffer, /) -> float: ...
def worth_visiting(
    prune: float, distances: Buffer, allowed: Buffer, lengths: Buffer | None, out_counts: Buffer, /
) -> int: ...
def clipped(
    d: int,
    x: Buffer,
    lists: Buffer,
    centroids: Buffer,
    middle: Buffer,
    half: Buffer,
    most: float,
    share: float,
    /,
) -> int: ...
def ranks(k: int, m: int, wanted: Buffer, names: Buffer, out_ranks: Buffer, /) -> None: ...
