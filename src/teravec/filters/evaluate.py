"""Bound filters over Arrow arrays, by SQL's logic of three values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from teravec.filters.bind import Among, Bound, Every, Holds, Missing, Opposite, Range, Some
from teravec.filters.kinds import ColumnKind, Kind, kind_of

__all__ = ["bound_columns", "evaluate", "passing_rows"]

Columns = Mapping[str, pa.Array]
Bools = npt.NDArray[np.bool_]


def passing_rows(bound: Bound, columns: Columns) -> Bools:
    """Return which rows (n,) pass: for which the filter is true, neither false nor unknown."""
    found = pc.fill_null(evaluate(bound, columns), False)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def evaluate(bound: Bound, columns: Columns) -> pa.BooleanArray:
    """Return true, false or null (unknown) for each row.

    Parameters
    ----------
    bound : Bound
    columns : mapping
        An array of n rows for each column of the filter; none of its arrays is chunked.
    """
    if isinstance(bound, Opposite):
        return pc.invert(evaluate(bound.part, columns))
    if isinstance(bound, Every):
        return reduce(pc.and_kleene, (evaluate(part, columns) for part in bound.parts))
    if isinstance(bound, Some):
        return reduce(pc.or_kleene, (evaluate(part, columns) for part in bound.parts))
    array = columns[bound.column]
    if isinstance(bound, Missing):
        return pc.is_null(array)
    kind = kind_of(array.type)
    if isinstance(bound, Holds):
        return _holds(array, kind, bound)
    if pa.types.is_dictionary(array.type):  # each value once
        return _tested(array.dictionary, kind, bound).take(array.indices)
    return _tested(array, kind, bound)


def bound_columns(bound: Bound) -> frozenset[str]:
    """Return the names of columns that a bound filter tests."""
    if isinstance(bound, Opposite):
        return bound_columns(bound.part)
    if isinstance(bound, Every | Some):
        return frozenset().union(*map(bound_columns, bound.parts))
    return frozenset((bound.column,))


def _tested(array: pa.Array, kind: ColumnKind, test: Range | Among) -> pa.BooleanArray:
    if kind.kind is Kind.FLOAT and pa.types.is_float16(array.type):
        array, kind = array.cast(pa.float32()), kind_of(pa.float32())
    if isinstance(test, Among):
        return _among(array, kind, test)
    parts = []
    if test.low is not None:
        above = pc.greater if test.low_open else pc.greater_equal
        parts.append(above(array, kind.scalar(test.low)))
    if test.high is not None:
        below = pc.less if test.high_open else pc.less_equal
        parts.append(below(array, kind.scalar(test.high)))
    return reduce(pc.and_kleene, parts)


def _among(array: pa.Array, kind: ColumnKind, test: Among) -> pa.BooleanArray:
    if len(test.values) == 1:
        return pc.equal(array, kind.scalar(test.values[0]))
    if kind.kind is Kind.FLOAT:
        array = pc.add(array, pa.scalar(0.0, array.type))  # -0.0 becomes 0.0
    found = pc.is_in(array, value_set=kind.array(test.values))
    return pc.if_else(pc.is_valid(array), found, pa.scalar(None, pa.bool_()))


def _holds(array: pa.Array, kind: ColumnKind, test: Holds) -> pa.BooleanArray:
    """Whether each list has the element; nulls within a list are no element."""
    elements = pc.list_flatten(array)
    equal = evaluate(Among("element", (test.value,)), {"element": elements})
    rows = pc.list_parent_indices(array).filter(equal)
    found = np.zeros(len(array), np.bool_)
    found[np.asarray(rows)] = True
    return pc.if_else(pc.is_valid(array), pa.array(found), pa.scalar(None, pa.bool_()))
