from typing_extensions import Buffer

_Spread = tuple[float, float, float, int, Buffer | None, Buffer, Buffer | None]
_Lists = tuple[Buffer, Buffer, Buffer, Buffer, float]

def first(
    k: float, most_missing: float, least: int, spread: _Spread, lists: _Lists, out_wanted: Buffer, /
) -> None: ...
def further(
    k: float,
    most_missing: float,
    spread: _Spread,
    lists: _Lists,
    thresholds: Buffer,
    visited: Buffer,
    out_wanted: Buffer,
    out_beyond: Buffer,
    /,
) -> None: ...
