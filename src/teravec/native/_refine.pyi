from typing_extensions import Buffer

def compare(
    level: int,
    codec: int,
    similarity: bool,
    d: int,
    queries: Buffer,
    owners: Buffer,
    places: Buffer,
    centroids: Buffer | None,
    low: Buffer | None,
    step: Buffer,
    rows: Buffer,
    begins: Buffer,
    distances: Buffer,
    ids: Buffer,
    /,
) -> None: ...
def choose(
    k: int,
    capacity: int,
    slack: float,
    room: Buffer,
    counts: Buffer,
    owners: Buffer,
    places: Buffer,
    /,
) -> int: ...
def best(
    similarity: bool,
    k: int,
    owners: Buffer,
    distances: Buffer,
    ids: Buffer,
    best: Buffer,
    best_ids: Buffer,
    /,
) -> None: ...
