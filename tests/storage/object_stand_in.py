"""A stand-in for S3 on the loopback: moto's server, one for the whole run of tests."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from teravec.storage.object_address import ObjectAddress, StoreOptions, store_options
from teravec.storage.object_store import ObjectStore

_numbers = itertools.count()

KEYS = {"access_key_id": "stand-in", "secret_access_key": "not-a-secret"}


@contextmanager
def s3_server() -> Iterator[str]:
    """Run the server; yield its endpoint, such as ``http://127.0.0.1:40000``."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


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
