"""A web server on the loopback that answers ranges, and describes data sets as the Hub does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Web:
    """The server.

    Attributes
    ----------
    url : str
    root : Path
        Its files.
    asked : list of (str, str, int)
        Method, path, and bytes sent, of each request.
    headers : list of dict
        Of each request.
    """

    url: str
    root: Path
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def web_server(root: Path) -> Iterator[Web]:
    """Serve the files below a folder; data sets lie in ``OWNER/NAME/``."""
    from flask import Flask, Response, abort, redirect, request, send_file
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = Flask("web")

    @app.get("/files/<path:name>")
    def files(name: str) -> Any:
        path = root / name
        return send_file(path.resolve(), conditional=True) if path.is_file() else abort(404)

    @app.get("/api/datasets/<owner>/<name>/revision/main")
    def describe(owner: str, name: str) -> Any:
        folder = root / owner / name
        if not folder.is_dir():
            abort(404)
        paths = sorted(p for p in folder.rglob("*") if p.is_file())
        return {"siblings": [{"rfilename": str(p.relative_to(folder))} for p in paths]}

    @app.get("/datasets/<owner>/<name>/resolve/main/<path:file>")
    def resolve(owner: str, name: str, file: str) -> Any:
        return redirect(f"/files/{owner}/{name}/{file}")  # as the Hub does, to its stores

    server = make_server("127.0.0.1", 0, app, threaded=True)
    web = Web(f"http://127.0.0.1:{server.server_port}", root)

    @app.after_request
    def note(response: Response) -> Response:
        length = int(response.headers.get("Content-Length", 0))
        web.asked.append((request.method, request.path, length))
        web.headers.append(dict(request.headers))
        return response

    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
