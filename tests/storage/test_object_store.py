"""Object stores against the shared suite, and what only they do."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from teravec.storage.object_address import ObjectAddress
from teravec.storage.object_store import ObjectStore
from teravec.storage.store import Store
from tests.storage.object_stand_in import new_store, s3_server
from tests.storage.store_suite import StoreSuite, get, put


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


class TestS3(StoreSuite):
    @pytest.fixture
    def store(self, endpoint: str) -> Store:
        return new_store(endpoint)

    def cut(self, store: Store, name: str, size: int) -> None:
        put(store, name, get(store, name)[:size])


class TestObjectsInMemory(StoreSuite):
    shared = False

    @pytest.fixture
    def store(self) -> Store:
        return ObjectStore(ObjectAddress("memory", secrets.token_hex(8), "p"))

    def cut(self, store: Store, name: str, size: int) -> None:
        put(store, name, get(store, name)[:size])
