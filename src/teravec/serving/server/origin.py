"""Where a request comes from, for logs, traces and fairness."""

from __future__ import annotations

from dataclasses import dataclass

from teravec.serving.wire.tokens import Token, Tokens

__all__ = ["HERE", "Origin"]


@dataclass(frozen=True)
class Origin:
    """The caller of a request.

    Parameters
    ----------
    peer : str
        Its address.
    name : str
        Name of its token; empty if callers show none.
    share : str
        Its name for fairness; empty if it has no share of its own.
    """

    peer: str
    name: str = ""
    share: str = ""

    @classmethod
    def of(cls, peer: str, token: Token | None, tokens: Tokens) -> Origin:
        """Make the origin of a caller that showed ``token``, one of ``tokens``.

        If all tokens have one name, their caller has no share: there is nobody to share with.
        """
        if token is None:
            return cls(peer)
        return cls(peer, token.name, token.name if tokens.count_of_names > 1 else "")


HERE = Origin("here")  # of a request that this process makes itself
