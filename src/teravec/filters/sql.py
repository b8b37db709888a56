"""SQL text as a tree.

sqlglot cuts the text into tokens; the grammar is ours, and takes time linear in the text. sqlglot's
own parser tries alternatives: 20 times ``date(`` inside each other took it 78 seconds, and a filter
may come from the network (docs/filters.md has the grammar).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from teravec.errors import InvalidArgument, InvalidFilter, shown
from teravec.filters.literals import Literal, parse_date, parse_moment, parse_number
from teravec.filters.tree import (
    FLIPPED,
    MOST_CHARACTERS,
    MOST_DEPTH,
    And,
    Compare,
    Contains,
    In,
    IsNull,
    IsTrue,
    Not,
    Or,
    StartsWith,
    Tree,
    check_bounds,
    wrong,
)

__all__ = ["parse_sql"]

_COMPARISONS = {"EQ": "=", "NEQ": "<>", "LT": "<", "LTE": "<=", "GT": ">", "GTE": ">="}
_CONTAINS = ("array_contains", "list_contains", "array_has", "list_has")
_TYPED: dict[str, Callable[[str], Literal]] = {
    "DATE": parse_date,
    "TIMESTAMP": parse_moment,
    "TIMESTAMPTZ": parse_moment,
}
# Words that begin or join conditions: never a column's name unless it is quoted.
_RESERVED = {"AND", "OR", "NOT", "IN", "LIKE", "BETWEEN", "IS", "NULL", "TRUE", "FALSE", "ILIKE"}


def parse_sql(text: str) -> Tree:
    """Make a tree of a filter in SQL.

    Raises
    ------
    InvalidFilter
        Names the character at which the text stops being a filter.
    """
    if len(text) > MOST_CHARACTERS:
        raise wrong(None, f"{len(text):,} characters found, at most {MOST_CHARACTERS:,} expected")
    parser = _Parser(text)
    tree = parser.condition()
    parser.end()
    return check_bounds(tree)


def _tokenize(text: str) -> list[Any]:
    from sqlglot.errors import TokenError
    from sqlglot.tokens import Tokenizer

    try:
        return list(Tokenizer().tokenize(text))
    except TokenError:
        quote = max(text.rfind("'"), text.rfind('"'))
        raise wrong(
            max(quote, 0), "a quotation or a comment that begins here does not end"
        ) from None


class _Parser:
    """Recursive descent over tokens; each method takes what it names."""

    def __init__(self, text: str) -> None:
        self._text, self._tokens = text, _tokenize(text)
        self._next = self._depth = 0

    def condition(self) -> Tree:
        """``a OR b``, where a and b are of AND, and these of NOT."""
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise self._wrong(f"more than {MOST_DEPTH} conditions inside each other")
        parts = [self._conjunction()]
        while self._takes("OR"):
            parts.append(self._conjunction())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def end(self) -> None:
        """Refuse what is left."""
        if self._kind:
            raise self._wrong(f"{self._found} found, AND, OR or the end expected")

    def _conjunction(self) -> Tree:
        parts = [self._negation()]
        while self._takes("AND"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self) -> Tree:
        odd = False
        while self._takes("NOT"):
            odd = not odd
        tree = self._atom()
        return Not(tree) if odd else tree

    def _atom(self) -> Tree:
        if self._takes("L_PAREN"):
            tree = self.condition()
            self._expect("R_PAREN", ")")
            return tree
        at = self._at
        if self._is_column():
            if self._token.text.lower() in _CONTAINS and self._kind_after == "L_PAREN":
                return self._contains(at)
            if self._token.text.lower() == "starts_with" and self._kind_after == "L_PAREN":
                return self._starts_with(at)
            return self._about(self._column(), at)
        value = self._literal()
        if self._takes("IN"):
            return Contains(self._column(), value, at)
        op = self._comparison()
        if op is None:
            raise self._wrong(f"{self._found} found, a comparison or IN expected")
        return Compare(self._column(), FLIPPED[op], value, at)

    def _contains(self, at: int) -> Tree:
        self._next += 2
        column = self._column()
        self._expect("COMMA", ",")
        value = self._literal()
        self._expect("R_PAREN", ")")
        return Contains(column, value, at)

    def _starts_with(self, at: int) -> Tree:
        self._next += 2
        column = self._column()
        self._expect("COMMA", ",")
        prefix = self._string()
        self._expect("R_PAREN", ")")
        return StartsWith(column, prefix, at)

    def _about(self, column: str, at: int) -> Tree:
        """What follows a column's name."""
        op = self._comparison()
        if op is not None:
            return Compare(column, op, self._literal(), at)
        if self._takes("IS"):
            negated = self._takes("NOT")
            self._expect("NULL", "NULL")
            return _negated(IsNull(column, at), negated)
        negated = self._takes("NOT")
        if self._takes("IN"):
            return _negated(In(column, self._literals(), at), negated)
        if self._takes("BETWEEN"):
            low = self._literal()
            self._expect("AND", "AND")
            bounds = Compare(column, ">=", low, at), Compare(column, "<=", self._literal(), at)
            return _negated(And(bounds), negated)
        if self._takes("LIKE"):
            return _negated(self._like(column, at), negated)
        if negated:
            raise self._wrong(f"{self._found} found after NOT, IN, BETWEEN or LIKE expected")
        return IsTrue(column, at)

    def _like(self, column: str, at: int) -> Tree:
        where = self._at
        pattern = self._string()
        prefix = pattern.removesuffix("%")
        if "%" in prefix or "_" in prefix:
            raise wrong(
                where, "LIKE takes a prefix, as 'news%'; starts_with(column, 'a_b') also with _"
            )
        if prefix == pattern:
            return Compare(column, "=", pattern, at)
        return StartsWith(column, prefix, at)

    def _literals(self) -> tuple[Literal, ...]:
        self._expect("L_PAREN", "(")
        values = [self._literal()]
        while self._takes("COMMA"):
            values.append(self._literal())
        self._expect("R_PAREN", ")")
        return tuple(values)

    def _literal(self) -> Literal:
        at, kind, text = self._at, self._kind, self._token.text if self._kind else ""
        if kind in ("TRUE", "FALSE"):
            self._next += 1
            return kind == "TRUE"
        if kind == "NULL":
            raise self._wrong("no comparison with NULL is true; IS NULL or IS NOT NULL expected")
        if kind == "STRING":
            self._next += 1
            return str(text)
        if kind in _TYPED and self._kind_after == "STRING":
            self._next += 2
            return _parsed(_TYPED[kind], self._tokens[self._next - 1].text, at)
        sign = "-" if self._takes("DASH") else ""
        if self._kind == "NUMBER":
            self._next += 1
            return _parsed(parse_number, sign + self._tokens[self._next - 1].text, at)
        if self._is_column():
            raise self._wrong(
                f"{self._found} found, a constant expected; strings take single quotes"
            )
        raise self._wrong(f"{self._found} found, a constant expected")

    def _string(self) -> str:
        if self._kind != "STRING":
            raise self._wrong(f"{self._found} found, a string in single quotes expected")
        self._next += 1
        return str(self._tokens[self._next - 1].text)

    def _comparison(self) -> str | None:
        op = _COMPARISONS.get(self._kind)
        self._next += op is not None
        return op

    def _column(self) -> str:
        if not self._is_column():
            raise self._wrong(f"{self._found} found, a column's name expected")
        self._next += 1
        name = str(self._tokens[self._next - 1].text)
        if self._kind == "DOT":
            raise self._wrong('a dot after a name; a name with a dot is written "a.b"')
        if self._kind == "L_PAREN":
            self._next -= 1
            raise self._wrong(f"{shown(name)} is no function of filters")
        return name

    def _is_column(self) -> bool:
        """Whether a name comes next: quoted, or a word that is none of the grammar's."""
        if not self._kind or self._kind in ("STRING", "NUMBER"):
            return False
        if self._kind == "IDENTIFIER":
            return True
        if self._kind in _TYPED and self._kind_after == "STRING":
            return False
        text = self._token.text
        return bool(text.isidentifier()) and text.upper() not in _RESERVED

    @property
    def _token(self) -> Any:
        return self._tokens[self._next]

    @property
    def _kind(self) -> str:
        """Kind of the next token; empty at the end."""
        return self._token.token_type.name if self._next < len(self._tokens) else ""

    @property
    def _kind_after(self) -> str:
        after = self._next + 1
        return self._tokens[after].token_type.name if after < len(self._tokens) else ""

    @property
    def _at(self) -> int:
        return int(self._token.start) if self._kind else len(self._text)

    @property
    def _found(self) -> str:
        if not self._kind:
            return "the end"
        return shown(self._text[self._token.start : self._token.end + 1])

    def _takes(self, kind: str) -> bool:
        """Take the next token if it is of this kind."""
        found = self._kind == kind
        self._next += found
        return found

    def _expect(self, kind: str, text: str) -> None:
        if not self._takes(kind):
            raise self._wrong(f"{self._found} found, {text} expected")

    def _wrong(self, message: str) -> InvalidFilter:
        return wrong(self._at, message)


def _negated(tree: Tree, negated: bool) -> Tree:
    return Not(tree) if negated else tree


def _parsed(parse: Callable[[str], Literal], text: str, at: int) -> Literal:
    try:
        return parse(text)
    except InvalidArgument as error:
        raise wrong(at, str(error)) from None
