"""The HTTP application: health, metrics, JSON search, and the console's page."""

from __future__ import annotations

import time
from importlib.resources import files
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from teravec.errors import InvalidArgument, TeravecError
from teravec.serving.lookup import VectorLookup
from teravec.serving.protocol import Answer, SearchRequest, Wanted, error_code, error_message
from teravec.serving.service import SearchService

__all__ = ["http_app"]

_STATUS = {
    "invalid-argument": 422, "protocol": 422, "limit-exceeded": 413, "access-denied": 401,
    "busy": 503, "unavailable": 503, "other-index": 503, "deadline-exceeded": 504,
}  # fmt: skip
_PAGE = {
    "index.html": "text/html; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
}

Number = Annotated[float, Field(allow_inf_nan=False)]
_I64 = (1 << 63) - 1


class SearchBody(BaseModel):
    """Queries, as vectors or as ids of stored ones; k or radius; nprobe, recall or neither."""

    model_config = ConfigDict(extra="forbid", strict=True)

    queries: Annotated[
        list[Annotated[list[Number], Field(min_length=1)]] | None,
        Field(min_length=1, description="Vectors, each of d numbers."),
    ] = None
    ids: Annotated[
        list[Annotated[int, Field(ge=0, le=_I64)]] | None,
        Field(min_length=1, description="Instead: ids of vectors, if the server has these."),
    ] = None
    k: Annotated[int | None, Field(ge=1, le=_I64, description="Results a query.")] = None
    radius: Annotated[Number | None, Field(description="Instead: all within it.")] = None
    nprobe: Annotated[int | None, Field(ge=1, le=_I64, description="Lists visited a query.")] = None
    recall: Annotated[Number | None, Field(gt=0, le=1, description="Instead: to aim at.")] = None
    candidates: Annotated[
        int | None,
        Field(ge=1, le=_I64, description="Vectors refined a query, with codes in two stages."),
    ] = None
    timeout_s: Annotated[Number, Field(gt=0, description="Deadline in seconds.")] = 10.0
    allow_partial: Annotated[bool, Field(description="Go without lists that nobody has.")] = False


class Result(BaseModel):
    """Results of one query, best first."""

    ids: list[int]
    distances: list[float]


class SearchAnswer(BaseModel):
    """Results of every query."""

    results: list[Result]
    version: str = Field(description="Version of the index.")
    missing: float = Field(description="Share of the bytes to scan that was left out.")
    seconds: float = Field(description="Time taken here.")


class Refusal(BaseModel):
    """Why there is no answer."""

    error: str
    message: str


_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "A body that cannot be read."},
    401: {"model": Refusal, "description": "No valid token."},
    408: {"model": Refusal, "description": "The body took too long to come."},
    413: {"model": Refusal, "description": "Over a bound of the server; it says which."},
    422: {"model": Refusal, "description": "Not what the index, or this page, expects."},
    500: {"model": Refusal, "description": "The server failed."},
    503: {"model": Refusal, "description": "Busy, or lists without a live owner: try again."},
    504: {"model": Refusal, "description": "Past the deadline."},
}


def http_app(service: SearchService, lookup: VectorLookup | None = None) -> FastAPI:
    """Make the application for one service.

    Parameters
    ----------
    service : SearchService
    lookup : VectorLookup, optional
        Lets queries be given by id.
    """
    app = FastAPI(
        title="teravec", version="1", docs_url=None, redoc_url=None,
        description="Search an inverted-file vector index.",
    )  # fmt: skip
    _add_refusals(app)
    _add_probes(app, service)
    _add_page(app)

    @app.post("/search", responses=_REFUSALS, summary="Find nearest vectors")
    def search(body: SearchBody) -> SearchAnswer:
        started = time.perf_counter()
        request = SearchRequest(
            _queries(body, lookup), Wanted(body.k, body.radius), body.nprobe, body.recall,
            float(body.timeout_s), body.allow_partial, body.candidates,
        )  # fmt: skip
        return _answered(service.search(request), time.perf_counter() - started)

    @app.get("/info", responses={401: _REFUSALS[401]}, summary="What is served, and the bounds")
    def info() -> dict[str, Any]:
        content = service.info()
        return {**content, "histogram": service.histogram(), "ids": lookup is not None}

    @app.get("/statistics", responses={401: _REFUSALS[401]}, summary="State, load and latencies")
    def statistics() -> dict[str, Any]:
        return service.statistics()

    return app


def _queries(body: SearchBody, lookup: VectorLookup | None) -> np.ndarray:
    if (body.queries is None) == (body.ids is None):
        raise InvalidArgument("queries or ids expected, and not both")
    if body.ids is not None:
        if lookup is None:
            raise InvalidArgument("this server has no vectors to look ids up in (--vectors)")
        return lookup.vectors(body.ids)
    rows = body.queries or []
    if len({len(row) for row in rows}) != 1:
        raise InvalidArgument("queries of one length expected")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return np.array(rows, np.float32)


def _answered(answer: Answer, seconds: float) -> SearchAnswer:
    lims = answer.lims.tolist()
    ids, distances = answer.ids.tolist(), answer.distances.tolist()
    results = [Result(ids=ids[a:b], distances=distances[a:b]) for a, b in pairwise(lims)]
    return SearchAnswer(
        results=results, version=answer.version, missing=answer.missing, seconds=seconds
    )


def _add_probes(app: FastAPI, service: SearchService) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, summary="Whether the process lives")
    def healthz() -> str:
        return "ok\n"

    @app.get(
        "/readyz", response_class=PlainTextResponse, summary="Whether requests are answered",
        responses={503: {"description": "Not now; says why."}},
    )  # fmt: skip
    def readyz() -> Response:
        why = service.why_not_ready()
        return PlainTextResponse(f"{why or 'ready'}\n", 503 if why else 200)

    @app.get("/metrics", response_class=PlainTextResponse, summary="Counters for Prometheus")
    def metrics() -> Response:
        return Response(
            service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


def _add_page(app: FastAPI) -> None:
    folder = files("teravec.serving") / "console"
    pages = {name: (folder / name).read_bytes() for name in _PAGE}

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return Response(pages["index.html"], media_type=_PAGE["index.html"])

    @app.get("/console/{name}", include_in_schema=False)
    def page(name: str) -> Response:
        if name not in pages:
            raise HTTPException(404)
        return Response(pages[name], media_type=_PAGE[name])


def _add_refusals(app: FastAPI) -> None:
    def refused(status: int, code: str, message: str) -> JSONResponse:
        headers = {"Retry-After": "1"} if status == 503 else None
        return JSONResponse({"error": code, "message": message}, status, headers)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return refused(422, "invalid-argument", f"{place}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def http_error(_: Request, error: HTTPException) -> JSONResponse:
        answer = refused(error.status_code, "invalid-argument", str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(TeravecError)
    def typed(_: Request, error: TeravecError) -> JSONResponse:
        code = error_code(error)
        return refused(_STATUS.get(code, 500), code, error_message(error))

    @app.exception_handler(Exception)
    def other(_: Request, error: Exception) -> JSONResponse:
        return refused(503 if isinstance(error, MemoryError) else 500, error_code(error),
                       error_message(error))  # fmt: skip
