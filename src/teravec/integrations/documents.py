"""Documents as rows of an index: id, text, metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from teravec.errors import InvalidArgument
from teravec.filters.filter import FilterArgument
from teravec.integrations.metadata import parse_conditions, terms_of, to_json

__all__ = ["VECTOR", "DocumentColumns"]

VECTOR = "__vector__"
"""The column of vectors, in tables of rows to be added."""

_METADATA, _TERMS = "metadata", "terms"


@dataclass(frozen=True)
class DocumentColumns:
    """Which columns of an index hold documents.

    Parameters
    ----------
    text : str
        The column of texts.
    schema : pyarrow.Schema
        All columns but that of the ids. Where there is a column ``metadata`` of strings, it has
        the metadata as JSON; else metadata are all columns but the text.
    id : str
        The column of ids, in tables of rows to be added.
    """

    text: str
    schema: Any
    id: str = "id"

    @classmethod
    def of_new(cls, text: str, declared: Mapping[str, Any] | None) -> DocumentColumns:
        """Return the columns of an index to be made.

        Parameters
        ----------
        text : str
        declared : mapping of str to pyarrow.DataType or str, optional
            Keys of metadata that become columns, and their types.
        """
        own = {text: pa.string(), _METADATA: pa.string(), _TERMS: pa.list_(pa.string())}
        types = {}
        for name, kind in (declared or {}).items():
            if name in (*own, cls.id):
                raise InvalidArgument(f"metadata_columns: {name!r} is a column of the store itself")
            try:
                types[name] = pa.type_for_alias(kind) if isinstance(kind, str) else kind
            except ValueError:
                raise InvalidArgument(f"metadata_columns: {name!r} of type {kind!r}") from None
        return cls(text, pa.schema(list({**own, **types}.items())))

    @classmethod
    def of_index(cls, text: str, index: Any) -> DocumentColumns:
        """Return the columns of an open index, or raise InvalidArgument if there is no text."""
        text_ids = index.manifest.text_ids
        fields = [field for field in index.columns if field.name != text_ids]
        if text not in {field.name for field in fields}:
            named = ", ".join(field.name for field in fields) or "none"
            raise InvalidArgument(
                f"{index.where}: no column {text!r}; text_column names one of its columns: {named}"
            )
        return cls(text, pa.schema(fields), text_ids or cls.id)

    @property
    def _has_json(self) -> bool:
        names = self.schema.names
        return _METADATA in names and pa.types.is_string(self.schema.field(_METADATA).type)

    @property
    def _of_keys(self) -> Any:
        """The columns whose names are keys of metadata."""
        own = (self.text, _METADATA, _TERMS) if self._has_json else (self.text,)
        return pa.schema([field for field in self.schema if field.name not in own])

    def table(
        self, ids: Any, texts: Sequence[str], metadatas: Sequence[Mapping[str, Any]], vectors: Any
    ) -> Any:
        """Return documents as a table of ids, vectors (n, d) and the columns."""
        values: Any = pa.array(vectors.ravel())
        listed = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
        found = {self.id: ids, VECTOR: listed}
        for field in self.schema:
            if field.name == self.text:
                values = list(texts)
            elif self._has_json and field.name == _METADATA:
                values = [to_json(metadata, n) for n, metadata in enumerate(metadatas)]
            elif self._has_json and field.name == _TERMS:
                values = [terms_of(metadata) for metadata in metadatas]
            else:
                values = [metadata.get(field.name) for metadata in metadatas]
            found[field.name] = _array(field, values)
        return pa.table(found)

    @property
    def names(self) -> list[str]:
        """Columns that ``metadata_of`` needs, and the text."""
        return [self.text, _METADATA] if self._has_json else list(self.schema.names)

    def metadata_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a document's metadata from its row."""
        if self._has_json:
            found: dict[str, Any] = json.loads(row[_METADATA] or "{}")
            return found
        # A column named as one of a result's own has an underscore behind its name there.
        labels = ((key, f"{key}_" if f"{key}_" in row else key) for key in self._of_keys.names)
        values = {key: row[label] for key, label in labels}
        return {key: value for key, value in values.items() if value is not None}

    def filter(self, given: Any) -> FilterArgument | None:
        """Return a filter as ``Index.search`` takes it; dictionaries are conditions on metadata."""
        if not isinstance(given, Mapping):
            return given
        if not given:
            return None
        has_terms = self._has_json and _TERMS in self.schema.names
        return parse_conditions(given, self._of_keys, _TERMS if has_terms else None)


def _array(field: Any, values: list[Any]) -> Any:
    try:
        try:
            return pa.array(values, field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return pa.array(values).cast(field.type)  # dates that are written as text
    except (pa.ArrowException, TypeError) as error:
        raise InvalidArgument(f"metadata {field.name!r} of type {field.type}: {error}") from None
