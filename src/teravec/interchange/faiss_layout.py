"""What a Faiss index file holds, and where: everything but the inverted lists' codes and ids.

The layout is that of ``faiss/impl/index_write.cpp``. Each object begins with four characters that
name its class; its parent's fields come first. Classes that teravec cannot represent are refused
by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from teravec.errors import InvalidArgument, InvalidSource
from teravec.interchange.faiss_fields import Fields, Section
from teravec.interchange.faiss_names import CLASSES, SCALAR_QUANTIZERS
from teravec.interchange.faiss_steps import Step, read_steps
from teravec.kernels.codec import Codec, code_bytes
from teravec.storage.listfile import ID_BYTES
from teravec.storage.store import OpenFile

__all__ = ["FaissLayout", "ListsLayout", "QuantizerLayout", "read_layout"]

Float32 = npt.NDArray[np.float32]

_METRICS = {0: "ip", 1: "l2"}
_MOST_DIMENSIONS = 1 << 20  # as Faiss
_MOST_LISTS = 1 << 30  # a place packs its list's number in 31 bits
_TABLE_VALUES = 1 << 16  # read at a time
_DEEPEST = 8  # indexes within indexes
_HASH_TABLE = 2  # kind of direct map
_SUPPORTED = "an IndexIVF of flat, fp16, scalar, PQ or RaBitQ codes expected"


@dataclass(frozen=True)
class QuantizerLayout:
    """The coarse quantizer.

    Parameters
    ----------
    centroids : Section
        (nlist, d) float32; empty if the file was written without them.
    graph : tuple of int, optional
        Bytes [start, stop) of an ``IndexHNSWFlat`` up to its vectors.
    """

    centroids: Section
    graph: tuple[int, int] | None = None


@dataclass(frozen=True)
class ListsLayout:
    """The inverted lists: where their tables are.

    Parameters
    ----------
    kind : {"full", "sprs", "ilod", "il00"}
        In the file, with the sizes of all lists or of those that are not empty; on the disk, in a
        file of their own; or none.
    nlist, code_size : int
    table : Section
        Sizes; numbers and sizes; or size, capacity and offset of each list.
    data_offset : int
        Byte at which the lists begin; 0 in a file of their own.
    data_name : str
        Path of a file of their own, as it was when the index was written.
    data_size : int
        Bytes of that file.
    """

    kind: str
    nlist: int
    code_size: int
    table: Section
    data_offset: int = 0
    data_name: str = ""
    data_size: int = 0


@dataclass(frozen=True)
class FaissLayout:
    """A Faiss file's IVF index with what lies around it.

    Parameters
    ----------
    path : str
    d, d_index : int
        Dimensions of the user's vectors, and of centroids and codes.
    metric : {"l2", "ip"}
    nlist : int
        As the IVF index states it: in a slice of some lists, their number.
    codec : Codec
    parameters : ndarray of float32
        As ``kernels.codec.train_codec`` returns them.
    quantizer : QuantizerLayout
    lists : ListsLayout
    steps : tuple of Step
        What is done with a vector before it is compared with centroids.
    id_map : Section, optional
        Ids (int64) by the numbers that the lists hold instead.
    """

    path: str
    d: int
    d_index: int
    metric: str
    nlist: int
    codec: Codec
    parameters: Float32
    quantizer: QuantizerLayout
    lists: ListsLayout
    steps: tuple[Step, ...] = ()
    id_map: Section | None = None


@dataclass(frozen=True)
class _Header:
    d: int
    ntotal: int
    metric: str


def read_layout(file: OpenFile) -> FaissLayout:
    """Read what an index file holds.

    Raises
    ------
    InvalidSource
        The file is cut off, damaged, no Faiss index, or of a kind that is not supported.
    """
    return _read_index(Fields(file), 0)


def _read_index(fields: Fields, depth: int) -> FaissLayout:
    name = fields.name()
    if depth < _DEEPEST:
        if name == "IxPT":
            return _read_pretransform(fields, depth)
        if name in ("IxMp", "IxM2"):
            return _read_id_map(fields, depth)
    if name in ("IwFl", "IwSq", "IwSQ", "IwPQ", "Iwrq", "Iwrr"):
        return _read_ivf(fields, name)
    if name in CLASSES:
        raise InvalidSource(f"{fields.path}: {CLASSES[name]} found, {_SUPPORTED}")
    raise InvalidSource(f"{fields.path}: not a Faiss index: it begins with {name!r}; {_SUPPORTED}")


def _read_header(fields: Fields) -> _Header:
    d, ntotal = fields.take("i"), fields.take("q")
    fields.skip(16)
    trained, metric = fields.flag("is_trained"), fields.take("i")
    if not 0 < d <= _MOST_DIMENSIONS or ntotal < 0:
        raise InvalidSource(f"{fields.path}: {ntotal:,} vectors of {d:,} dimensions found")
    if metric not in _METRICS:
        raise InvalidSource(f"{fields.path}: metric {metric} of Faiss found, L2 or IP expected")
    if not trained:
        raise InvalidSource(f"{fields.path}: the index is not trained")
    return _Header(d, ntotal, _METRICS[metric])


def _read_pretransform(fields: Fields, depth: int) -> FaissLayout:
    header = _read_header(fields)
    steps = read_steps(fields, header.d)
    inner = _read_index(fields, depth + 1)
    given = steps[-1].d_out if steps else header.d
    if given != inner.d:
        raise InvalidSource(
            f"{fields.path}: transforms to {given} dimensions found, {inner.d} expected"
        )
    return replace(inner, d=header.d, steps=(*steps, *inner.steps))


def _read_id_map(fields: Fields, depth: int) -> FaissLayout:
    _read_header(fields)
    inner = _read_index(fields, depth + 1)
    if inner.id_map is not None:
        raise InvalidSource(f"{fields.path}: an IndexIDMap within another found, one expected")
    _skip_lists(fields, inner.lists)
    return replace(inner, id_map=fields.section("<i8"))


def _skip_lists(fields: Fields, lists: ListsLayout) -> None:
    """Go past codes and ids of the lists, if they are in this file."""
    if lists.kind not in ("full", "sprs"):
        return
    step = 1 if lists.kind == "full" else 2
    rows = 0
    for start in range(0, lists.table.count, _TABLE_VALUES):
        stop = min(start + _TABLE_VALUES, lists.table.count)
        sizes = lists.table.read(fields.file, start, stop)[step - 1 :: step]
        rows += sum(sizes.tolist())  # of any size: they are not checked yet
    fields.skip(rows * (lists.code_size + ID_BYTES))


def _read_ivf(fields: Fields, name: str) -> FaissLayout:
    header = _read_header(fields)
    nlist = fields.take("Q")
    fields.skip(8)  # nprobe
    if not 0 < nlist <= _MOST_LISTS:
        raise InvalidSource(f"{fields.path}: {nlist:,} lists found, 1 to {_MOST_LISTS:,} expected")
    quantizer = _read_quantizer(fields, header)
    _skip_direct_map(fields)
    codec, parameters = _read_codec(fields, name, header.d)
    lists = _read_lists(fields)
    expected = code_bytes(codec, header.d)
    if lists.kind != "il00" and (lists.nlist, lists.code_size) != (nlist, expected):
        raise InvalidSource(
            f"{fields.path}: {lists.nlist:,} lists of {lists.code_size} bytes a code found, "
            f"{nlist:,} of {expected} expected"
        )
    return FaissLayout(
        fields.path, header.d, header.d, header.metric, nlist, codec, parameters, quantizer, lists
    )


def _read_quantizer(fields: Fields, ivf: _Header) -> QuantizerLayout:
    """Read a flat quantizer, or HNSW over one; its vectors may be missing."""
    start, name = fields.at, fields.name()
    graph = None
    if name == "IHNf":
        header = _read_header(fields)
        _skip_graph(fields)
        graph = (start, fields.at) if header.ntotal else None
        name = fields.name()
    if name == "null":
        return QuantizerLayout(Section(fields.at, 0, "<f4"))
    if name not in ("IxF2", "IxFI", "IxFl"):
        found = CLASSES.get(name, repr(name))
        raise InvalidSource(
            f"{fields.path}: coarse quantizer {found} found, IndexFlat or IndexHNSWFlat expected"
        )
    header = _read_header(fields)
    centroids = fields.section("<f4")
    if header.d != ivf.d or centroids.count != header.ntotal * header.d:
        raise InvalidSource(
            f"{fields.path}: {centroids.count:,} values in centroids of {header.d} dimensions "
            f"found, {header.ntotal * ivf.d:,} expected"
        )
    if header.metric != ivf.metric:
        raise InvalidSource(
            f"{fields.path}: a coarse quantizer of metric {header.metric} found, "
            f"{ivf.metric} as the index expected"
        )
    return QuantizerLayout(centroids, graph)


def _skip_graph(fields: Fields) -> None:
    for dtype in ("<f8", "<i4", "<i4", "<u8", "<i4"):
        fields.section(dtype)  # probabilities, neighbours of a level, levels, offsets, neighbours
    fields.skip(20)  # entry point, highest level, two efforts, and one that is out of use


def _skip_direct_map(fields: Fields) -> None:
    kind = fields.take("B")
    fields.section("<i8")
    if kind == _HASH_TABLE:
        fields.skip(16 * fields.take("Q"))


def _read_codec(fields: Fields, name: str, d: int) -> tuple[Codec, Float32]:
    if name == "IwFl":
        return Codec.parse("flat"), np.empty(0, np.float32)
    if name in ("IwSq", "IwSQ"):
        return _read_scalar(fields, d, has_flag=name == "IwSq")
    if name == "IwPQ":
        return _read_product(fields, d)
    return _read_rabitq(fields, d, multi_bit=name == "Iwrr")


def _read_scalar(fields: Fields, d: int, *, has_flag: bool) -> tuple[Codec, Float32]:
    kind = fields.take("i")
    fields.skip(8)  # how the range was chosen
    d_codec = fields.take("Q")
    fields.skip(8)  # code size
    trained = fields.array("<f4")
    fields.skip(8)  # code size, again
    residual = fields.flag("by_residual") if has_flag else True
    if kind not in SCALAR_QUANTIZERS:
        raise InvalidSource(
            f"{fields.path}: scalar quantizer {kind} of Faiss found, one of "
            f"{', '.join(name for _, name, _ in SCALAR_QUANTIZERS.values())} expected"
        )
    codec_name, faiss_name, fixed = SCALAR_QUANTIZERS[kind]
    codec = Codec.of(codec_name, residual=residual)
    if fixed is not None:
        low, size = fixed
        trained = np.array([low, size], np.float32)
    if len(trained) == 2 and d != 1 and (fixed is not None or faiss_name.endswith("uniform")):
        trained = np.repeat(trained, d)
    expected = 2 * d if codec_name != "fp16" else 0
    if d_codec != d or len(trained) != expected:
        raise InvalidSource(
            f"{fields.path}: {faiss_name} of {d_codec} dimensions with {len(trained)} values "
            f"found, {d} dimensions with {expected} expected"
        )
    return codec, np.ascontiguousarray(trained, np.float32)


def _read_product(fields: Fields, d: int) -> tuple[Codec, Float32]:
    residual = fields.flag("by_residual")
    fields.skip(8)  # code size
    d_codec, m, bits = (fields.take("Q") for _ in range(3))
    centroids = fields.section("<f4")
    try:
        codec = Codec.of(f"pq{m}x{bits}", residual=residual)
        codec.check_dimension(d)
    except InvalidArgument as error:
        raise InvalidSource(
            f"{fields.path}: PQ of {m} x {bits} bits found, 4 to 12 bits and a divisor of {d} "
            "expected"
        ) from error
    if d_codec != d or centroids.count != d << bits:
        raise InvalidSource(
            f"{fields.path}: {centroids.count:,} values of a PQ of {d_codec} dimensions found, "
            f"{d << bits:,} expected"
        )
    return codec, np.ascontiguousarray(centroids.read(fields.file), np.float32)


def _read_rabitq(fields: Fields, d: int, *, multi_bit: bool) -> tuple[Codec, Float32]:
    d_codec = fields.take("Q")
    fields.skip(12)  # code size and metric, as in the header
    bits = fields.take("Q") if multi_bit else 1
    fields.skip(8)  # code size, again
    residual = fields.flag("by_residual")
    fields.skip(1)  # bits of a quantized query
    if not 1 <= bits <= 8 or d_codec != d or not residual:
        raise InvalidSource(
            f"{fields.path}: RaBitQ of {bits} bits and {d_codec} dimensions found, 1 to 8 bits of "
            f"residuals and {d} dimensions expected"
        )
    return Codec.parse(f"rabitq{bits}"), np.empty(0, np.float32)


def _read_lists(fields: Fields) -> ListsLayout:
    name = fields.name()
    if name == "il00":
        return ListsLayout(name, 0, 0, Section(fields.at, 0, "<u8"))
    if name not in ("ilar", "ilod"):
        raise InvalidSource(
            f"{fields.path}: inverted lists {CLASSES.get(name, repr(name))} found, "
            "ArrayInvertedLists or OnDiskInvertedLists expected"
        )
    nlist, code_size = fields.take("Q"), fields.take("Q")
    if name == "ilod":
        return _read_on_disk(fields, nlist, code_size)
    kind = fields.name()
    if kind not in ("full", "sprs"):
        raise InvalidSource(f"{fields.path}: table of lists {kind!r} found, full or sprs expected")
    table = fields.section("<u8")
    if (kind == "full" and table.count != nlist) or (kind == "sprs" and table.count % 2):
        raise InvalidSource(
            f"{fields.path}: {table.count:,} values in a table of {nlist:,} lists found"
        )
    return ListsLayout(kind, nlist, code_size, table, fields.at)


def _read_on_disk(fields: Fields, nlist: int, code_size: int) -> ListsLayout:
    count = fields.take("Q")
    if count != nlist:
        raise InvalidSource(f"{fields.path}: {count:,} lists on disk found, {nlist:,} expected")
    table = Section(fields.skip(24 * count), 3 * count, "<u8")
    fields.skip(16 * fields.take("Q"))  # free slots
    name = fields.text()
    return ListsLayout("ilod", nlist, code_size, table, 0, name, fields.take("Q"))
