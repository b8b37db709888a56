from typing_extensions import Buffer

def best_level() -> int: ...
def panel_places(level: int, /) -> int: ...
def assign_exact(
    level: int,
    d: int,
    x: Buffer,
    packed: Buffer,
    half: Buffer,
    out_list: Buffer,
    out_distance: Buffer,
    /,
) -> None: ...
def assign_grouped(
    level: int,
    d: int,
    x: Buffer,
    packed: Buffer,
    half: Buffer,
    ids: Buffer,
    starts: Buffer,
    centers: Buffer,
    center_half: Buffer,
    margin: float,
    out_list: Buffer,
    out_distance: Buffer,
    /,
) -> None: ...
def accumulate(
    level: int,
    d: int,
    x: Buffer,
    weights: Buffer | None,
    list_no: Buffer,
    sums: Buffer,
    counts: Buffer | None,
    col_start: int,
    col_stop: int,
    /,
) -> None: ...
def smallest_k(
    level: int, m: int, k: int, scores: Buffer, out_index: Buffer, out_value: Buffer, /
) -> None: ...
def nearest(
    level: int,
    d: int,
    k: int,
    similarity: bool,
    threads: int,
    x: Buffer,
    packed: Buffer,
    half: Buffer,
    centroids: Buffer | None,
    bytes: Buffer | None,
    bounds: Buffer | None,
    out_list: Buffer,
    out_distance: Buffer,
    /,
) -> None: ...
def scores(level: int, d: int, x: Buffer, packed: Buffer, half: Buffer, out: Buffer, /) -> None: ...
