"""What a filter may ask of a column, by the column's type, and constants as that type holds them.

A value of a discrete type is an integer of *ticks*: an integer itself, days of a date, units of a
timestamp, units of a decimal's last digit. So constants are compared exactly: ``n < 2.5`` of an
integer is ``n <= 2``.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from teravec.errors import InvalidArgument, shown
from teravec.filters.literals import (
    Literal,
    Moment,
    describe_literal,
    moment_of_date,
    parse_date,
    parse_moment,
)

__all__ = ["NS_OF_UNIT", "ColumnKind", "Kind", "Value", "check_filterable", "kind_of"]

Value = int | float | str
"""Ticks, a float or a string."""

NS_OF_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Nanoseconds in a timestamp's unit."""

_NS_A_DAY = 86_400 * 10**9
_EXACT = Context(prec=100)  # digits of any decimal


class Kind(Enum):
    """How values of a column compare."""

    BOOLEAN = "boolean"
    NUMBER = "number"
    FLOAT = "float"
    DATE = "date"
    TIMESTAMP = "timestamp"
    STRING = "string"
    OTHER = "other"


@dataclass(frozen=True)
class ColumnKind:
    """How a column's values compare; of a list, its elements'.

    Parameters
    ----------
    kind : Kind
    type : pyarrow.DataType
        Of a value or an element; a dictionary's type of values.
    is_list : bool
    bounds : tuple of int, optional
        Least and largest ticks of a discrete type.
    ticks_a_unit : Fraction
        Ticks in 1, in a nanosecond (timestamps) or in a day (dates).
    """

    kind: Kind
    type: pa.DataType
    is_list: bool = False
    bounds: tuple[int, int] | None = None
    ticks_a_unit: Fraction = Fraction(1)

    def exact(self, value: Literal) -> Fraction | float | str:
        """Return a constant on the column's scale: ticks and parts of them, a float or a string.

        Raises
        ------
        InvalidArgument
            The constant is of another kind.
        """
        kind = self.kind
        if kind is Kind.BOOLEAN and isinstance(value, bool):
            return Fraction(int(value))
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            if kind is Kind.NUMBER:
                return Fraction(value) * self.ticks_a_unit
            if kind is Kind.FLOAT:
                return self._rounded(value)
        if kind is Kind.STRING and isinstance(value, str):
            return value
        if kind in (Kind.DATE, Kind.TIMESTAMP) and (moment := self._moment(value)) is not None:
            if moment.zoned and (kind is Kind.DATE or self.type.tz is None):
                raise InvalidArgument(f"a column of {self.type} has no time zone, the constant has")
            return moment.ns * self.ticks_a_unit
        raise InvalidArgument(f"a column of {self.type} found, but {describe_literal(value)}")

    def _moment(self, value: Literal) -> Moment | None:
        if isinstance(value, str):
            value = parse_date(value) if self.kind is Kind.DATE else parse_moment(value)
        if isinstance(value, datetime.date):
            return moment_of_date(value)
        return value if isinstance(value, Moment) else None

    def _rounded(self, value: int | Decimal) -> float:
        with np.errstate(over="ignore"):
            try:
                wide = float(value)
            except OverflowError:
                wide = math.copysign(math.inf, value)
            return float(np.dtype(self.type.to_pandas_dtype()).type(wide))

    def scalar(self, value: Value) -> pa.Scalar:
        """Return a value as a scalar of the type."""
        return self.array([value])[0]

    def ticks(self, array: pa.Array) -> np.ndarray[Any, Any]:
        """Return an array's values as ``Value``s that compare as they do, (n,), of NumPy.

        Parameters
        ----------
        array : pyarrow.Array
            Of the type, or elements of lists; without nulls.
        """
        types = pa.types
        if self.kind is Kind.STRING:
            return np.array(array.to_pylist(), object)
        if types.is_decimal(self.type):
            scale = self.type.scale
            found = [int(value.scaleb(scale, _EXACT)) for value in array.to_pylist()]
            return np.array(found, object)
        if self.kind in (Kind.DATE, Kind.TIMESTAMP):
            array = array.cast(pa.int32() if types.is_date32(self.type) else pa.int64())
        found = array.to_numpy(zero_copy_only=False)
        if self.kind is Kind.FLOAT:
            return np.asarray(found, np.float64) + 0.0
        return np.asarray(found, np.uint64 if types.is_uint64(self.type) else np.int64)

    def array(self, values: Sequence[Value]) -> pa.Array:
        """Return values as an array of the type."""
        if pa.types.is_decimal(self.type):
            scaled = [_decimal(int(value), self.type.scale) for value in values]
            return pa.array(scaled, self.type)
        if self.kind in (Kind.DATE, Kind.TIMESTAMP):
            days = pa.types.is_date32(self.type)
            return pa.array(values, pa.int32() if days else pa.int64()).cast(self.type)
        if self.kind is Kind.BOOLEAN:
            return pa.array([bool(value) for value in values], self.type)
        if pa.types.is_float16(self.type):
            return pa.array(np.array(values, np.float16))
        return pa.array(values, self.type)


def _decimal(ticks: int, scale: int) -> Decimal:
    digits = tuple(map(int, str(abs(ticks))))
    return Decimal((int(ticks < 0), digits, -scale))  # exact, whatever the context's precision


def kind_of(data_type: pa.DataType) -> ColumnKind:
    """Return how values of an Arrow type compare; OTHER where a filter knows only nulls."""
    types = pa.types
    if types.is_list(data_type) or types.is_large_list(data_type):
        element = kind_of(data_type.value_type)
        if element.is_list:
            return ColumnKind(Kind.OTHER, data_type)
        return ColumnKind(element.kind, element.type, True, element.bounds, element.ticks_a_unit)
    if types.is_dictionary(data_type):
        return kind_of(data_type.value_type)
    if types.is_boolean(data_type):
        return ColumnKind(Kind.BOOLEAN, data_type, bounds=(0, 1))
    if types.is_integer(data_type):
        info = np.iinfo(data_type.to_pandas_dtype())
        return ColumnKind(Kind.NUMBER, data_type, bounds=(int(info.min), int(info.max)))
    if types.is_decimal(data_type):
        most = 10**data_type.precision - 1
        scale = Fraction(10) ** data_type.scale
        return ColumnKind(Kind.NUMBER, data_type, bounds=(-most, most), ticks_a_unit=scale)
    if types.is_floating(data_type):
        return ColumnKind(Kind.FLOAT, data_type)
    if types.is_date(data_type):
        bits, ns = (32, _NS_A_DAY) if types.is_date32(data_type) else (64, 10**6)
        return ColumnKind(Kind.DATE, data_type, bounds=_signed(bits), ticks_a_unit=Fraction(1, ns))
    if types.is_timestamp(data_type):
        scale = Fraction(1, NS_OF_UNIT[data_type.unit])
        return ColumnKind(Kind.TIMESTAMP, data_type, bounds=_signed(64), ticks_a_unit=scale)
    if types.is_string(data_type) or types.is_large_string(data_type):
        return ColumnKind(Kind.STRING, data_type)
    return ColumnKind(Kind.OTHER, data_type)


def _signed(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def check_filterable(names: Sequence[str], schema: Any) -> None:
    """Raise InvalidArgument unless these are columns of a schema, of types that filters test."""
    known = [] if schema is None else schema.names
    for name in names:
        if name not in known:
            kept = f"the columns kept are {', '.join(known)}" if known else "no columns are kept"
            raise InvalidArgument(f"filterable: no column {shown(name)}; {kept}")
        kind = kind_of(schema.field(name).type)
        if kind.kind is Kind.OTHER:
            raise InvalidArgument(
                f"filterable: column {shown(name)} is of {kind.type}, which filters do not compare"
            )
