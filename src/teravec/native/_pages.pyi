from typing_extensions import Buffer

def find(
    ways: int, unit_bytes: int, tags: Buffer, wanted: Buffer, units: Buffer, begins: Buffer, /
) -> None: ...
def keep(
    ways: int,
    unit_bytes: int,
    tags: Buffer,
    wanted: Buffer,
    units: Buffer,
    kept: Buffer,
    read: Buffer,
    begins: Buffer,
    /,
) -> None: ...
def wrong(page_bytes: int, seed: int, numbers: Buffer, read: Buffer, begins: Buffer, /) -> int: ...
