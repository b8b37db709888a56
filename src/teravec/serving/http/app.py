"""The HTTP application: health, metrics, JSON search, and the console."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from teravec.errors import TeravecError
from teravec.serving.http.answer import Refusal, SearchAnswer
from teravec.serving.http.body import SearchBody
from teravec.serving.http.rows import GetBody, RowsAnswer
from teravec.serving.http.search import CODE, ORIGIN, HttpSearches
from teravec.serving.loop.statuses import status_of
from teravec.serving.server.lookup import VectorLookup
from teravec.serving.server.origin import HERE
from teravec.serving.server.service import SearchService
from teravec.serving.wire.protocol import error_code, error_message

__all__ = ["SearchFirst", "http_app"]

_HTTP = {404: "not-found", 405: "method-not-allowed", 408: "deadline-exceeded"}
_PAGE = {
    "index.html": "text/html; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
}

_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "An unreadable body, or a wrong filter; says where."},
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
        For queries by id.
    """
    app = FastAPI(
        title="teravec",
        version="1",
        docs_url=None,
        redoc_url=None,
        description="Search an inverted-file vector index.",
    )
    _add_refusals(app)
    _add_probes(app, service)
    _add_page(app)

    app.state.searches = searches = HttpSearches(service, lookup)

    @app.post(
        "/search",
        responses=_REFUSALS,
        response_model=SearchAnswer,
        openapi_extra=_described(SearchBody),
        summary="Find nearest vectors",
    )
    async def search() -> Response:
        return searches

    @app.post(
        "/get",
        responses=_REFUSALS,
        response_model=RowsAnswer,
        openapi_extra=_described(GetBody),
        summary="Return rows by id",
    )
    async def get() -> Response:
        return searches

    @app.get("/info", responses={401: _REFUSALS[401]}, summary="What is served, and the bounds")
    async def info() -> dict[str, Any]:
        content = await searches.run(lambda: service.info() | service.histogram_and_columns())
        return {**content, "ids": lookup is not None}

    @app.get("/statistics", responses={401: _REFUSALS[401]}, summary="State, load and latencies")
    async def statistics() -> dict[str, Any]:
        return await searches.run(service.statistics)

    return app


class SearchFirst:
    """An application that answers searches without the framework's layers.

    They take longer than a small search. Errors are answered by the same handlers.

    Parameters
    ----------
    app : FastAPI
        For all other requests, and for searches that are traced.
    service : SearchService
    """

    def __init__(self, app: FastAPI, service: SearchService) -> None:
        self._app, self._service = app, service
        self._searches: HttpSearches = app.state.searches
        handlers = app.exception_handlers
        self._handlers = [(kind, handlers[kind]) for kind in (HTTPException, TeravecError)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        is_search = scope["type"] == "http" and scope["path"] == "/search"
        if not is_search or scope["method"] != "POST" or self._service.traces:
            await self._app(scope, receive, send)
            return
        begun = False

        async def note_and_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._searches(scope, receive, note_and_send)
        except (HTTPException, TeravecError) as error:
            if begun:
                raise
            await self._refuse(error, scope, receive, send)
        except Exception as error:
            if not begun:
                await self._refuse(error, scope, receive, send)
            raise

    async def _refuse(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        handle: Any = next((h for kind, h in self._handlers if isinstance(error, kind)), None)
        handle = handle or self._app.exception_handlers[Exception]
        answer = await handle(Request(scope, receive), error)
        await answer(scope, receive, send)


def _described(body: type[BaseModel]) -> dict[str, Any]:
    """Describe a body for OpenAPI; ``HttpSearches`` parses it."""
    content = {"application/json": {"schema": body.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def _add_probes(app: FastAPI, service: SearchService) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, summary="Whether the process lives")
    async def healthz() -> str:
        return "ok\n"

    @app.get(
        "/readyz",
        response_class=PlainTextResponse,
        summary="Whether requests are answered",
        responses={503: {"description": "Not now; says why."}},
    )
    async def readyz(partial: bool = False) -> Response:
        why = service.why_not_ready(partial=partial)
        return PlainTextResponse(f"{why or 'ready'}\n", 503 if why else 200)

    @app.get("/metrics", response_class=PlainTextResponse, summary="Counters for Prometheus")
    async def metrics() -> Response:
        return Response(
            service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


def _add_page(app: FastAPI) -> None:
    folder = files("teravec.serving.http") / "console"
    pages = {name: (folder / name).read_bytes() for name in _PAGE}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(pages["index.html"], media_type=_PAGE["index.html"])

    @app.get("/console/{name}", include_in_schema=False)
    async def page(name: str) -> Response:
        if name not in pages:
            raise HTTPException(404)
        return Response(pages[name], media_type=_PAGE[name])


def _add_refusals(app: FastAPI) -> None:
    def refused(request: Request, status: int, code: str, message: str) -> JSONResponse:
        headers = {"Retry-After": "1"} if status == 503 else None
        request.scope[CODE] = code
        content = {"error": code, "message": message}
        origin = request.scope.get(ORIGIN, HERE)
        if origin.context is not None and status not in (404, 405):  # nothing was begun
            content["request_id"] = origin.context.request_id
        return JSONResponse(content, status, headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code, message = _HTTP.get(error.status_code, "invalid-argument"), str(error.detail)
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            message = f"{request.method} found; {request.url.path} takes {allowed}"
        answer = refused(request, error.status_code, code, message)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(TeravecError)
    async def typed(request: Request, error: TeravecError) -> JSONResponse:
        code = error_code(error)
        return refused(request, status_of(code), code, error_message(error))

    @app.exception_handler(Exception)
    async def other(request: Request, error: Exception) -> JSONResponse:
        status = 503 if isinstance(error, MemoryError) else 500
        return refused(request, status, error_code(error), error_message(error))
