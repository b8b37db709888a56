from typing_extensions import Buffer

def best_level() -> int: ...
def estimates(
    level: int,
    d: int,
    bits: int,
    similarity: bool,
    epsilon: float,
    coarse: float,
    query: Buffer,
    centroid: Buffer,
    codes: Buffer,
    out_estimate: Buffer,
    out_error: Buffer,
    /,
) -> None: ...
def scan(
    level: int,
    d: int,
    bits: int,
    similarity: bool,
    epsilon: float,
    capacity: int,
    row_start: int,
    queries: Buffer,
    centroids: Buffer,
    pair_query: Buffer,
    pair_list: Buffer,
    coarse: Buffer,
    list_nos: Buffer,
    sizes: Buffer,
    offsets: Buffer,
    codes: Buffer,
    candidates: Buffer,
    counts: Buffer,
    /,
) -> None: ...
