from typing_extensions import Buffer

def scan(
    level: int,
    codec: int,
    similarity: bool,
    d: int,
    k: int,
    first: int,
    codes: Buffer,
    entries: Buffer,
    pair_starts: Buffer,
    pair_queries: Buffer,
    pair_coarse: Buffer | None,
    queries: Buffer,
    centroids: Buffer | None,
    low: Buffer | None,
    step: Buffer,
    best: Buffer,
    places: Buffer,
    counts: Buffer,
    limits: Buffer,
    /,
) -> None: ...
def lowest(
    k: int,
    similarity: bool,
    best: Buffer,
    places: Buffer,
    counts: Buffer,
    out_distances: Buffer,
    out_places: Buffer,
    /,
) -> None: ...
