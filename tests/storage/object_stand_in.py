"""A stand-in for S3 on the loopback: moto's server, one for the whole run of tests."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from teravec.storage.object_address import ObjectAddress, StoreOptions, store_options
from teravec.storage.object_store import ObjectStore

_numbers = itertools.count()

KEYS = {"access_key_id": "stand-in", "secret_access_key": "not-a-secret"}


class _OneAtATime:
    """moto looks whether a key is free and writes in two steps; S3 and its like do so in one."""

    def __init__(self, application: Any) -> None:
        self._application, self._lock = application, threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if "HTTP_IF_NONE_MATCH" not in environ:
            return self._application(environ, start_response)
        with self._lock:
            return list(self._application(environ, start_response))


@contextmanager
def s3_server() -> Iterator[str]:
    """Run the server; yield its endpoint, such as ``http://127.0.0.1:40000``."""
    from moto.moto_server import werkzeug_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = _OneAtATime(
        werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)
    )
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def options_of(endpoint: str, **more: object) -> StoreOptions:
    """Options that reach the stand-in."""
    return store_options(
        {"endpoint": endpoint, "region": "us-east-1", "allow_http": True, **KEYS, **more}
    )


def make_bucket(endpoint: str) -> str:
    """Make a bucket with a name of its own."""
    import urllib.request

    name = f"bucket-{next(_numbers)}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")).read()
    return name


def new_store(endpoint: str, **more: object) -> ObjectStore:
    """An empty store in a bucket of its own."""
    address = ObjectAddress("s3", make_bucket(endpoint), "some/prefix")
    return ObjectStore(address, options_of(endpoint, **more))
