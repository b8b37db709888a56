"""Where a request comes from, for logs, traces and fairness."""

from __future__ import annotations

from dataclasses import dataclass

from teravec.serving.wire.context import RequestContext
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
    context : RequestContext, optional
        What it said outside of the request's frame.
    """

    peer: str
    name: str = ""
    share: str = ""
    context: RequestContext | None = None

    @classmethod
    def of(
        cls, peer: str, token: Token | None, tokens: Tokens, context: RequestContext | None = None
    ) -> Origin:
        """Make the origin of a caller that showed ``token``, one of ``tokens``.

        If all tokens have one name, their caller has no share: there is nobody to share with.
        """
        if token is None:
            return cls(peer, context=context)
        share = token.name if tokens.count_of_names > 1 else ""
        return cls(peer, token.name, share, context)


HERE = Origin("here")  # of a request that this process makes itself
