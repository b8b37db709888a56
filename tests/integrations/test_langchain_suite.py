"""LangChain's own suite of vector stores; run by ``make test-integrations``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("langchain_tests")

from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests

from teravec.integrations.langchain import TeravecVectorStore


class TestTeravecVectorStore(VectorStoreIntegrationTests):  # type: ignore[misc]
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[TeravecVectorStore]:
        store = TeravecVectorStore(self.get_embeddings(), tmp_path / "index", memory="256MiB")
        yield store
        store.close()
