"""Object stores against the shared suite, and what only they do."""

from __future__ import annotations

import secrets

import pytest

from teravec.storage.object_address import ObjectAddress
from teravec.storage.object_store import ObjectStore
from teravec.storage.store import Store
from tests.storage.object_stand_in import new_store
from tests.storage.store_suite import StoreSuite, get, put


class TestS3(StoreSuite):
    @pytest.fixture
    def store(self, s3_endpoint: str) -> Store:
        return new_store(s3_endpoint)

    def cut(self, store: Store, name: str, size: int) -> None:
        put(store, name, get(store, name)[:size])


class TestObjectsInMemory(StoreSuite):
    shared = False

    @pytest.fixture
    def store(self) -> Store:
        return ObjectStore(ObjectAddress("memory", secrets.token_hex(8), "p"))

    def cut(self, store: Store, name: str, size: int) -> None:
        put(store, name, get(store, name)[:size])
