from typing_extensions import Buffer

def scan(
    level: int,
    codec: int,
    similarity: bool,
    d: int,
    k: int,
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
