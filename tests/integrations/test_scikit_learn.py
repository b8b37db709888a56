"""The transformer in pipelines of scikit-learn; run where scikit-learn is installed."""

from __future__ import annotations

import copy

import numpy as np
import pytest

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)


def test_scikit_learns_own_checks() -> None:
    from sklearn.utils.estimator_checks import check_estimator

    from teravec.integrations.scikit_learn import TeravecTransformer

    results = check_estimator(TeravecTransformer(), on_skip=None)
    assert {result["status"] for result in results} <= {"passed", "skipped"}


@pytest.mark.parametrize("mode", ["distance", "connectivity"])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_the_graph_is_that_of_exact_neighbours(x: np.ndarray, mode: str, metric: str) -> None:
    from sklearn.neighbors import KNeighborsTransformer

    from teravec.integrations.scikit_learn import TeravecTransformer

    ours = TeravecTransformer(6, mode=mode, metric=metric).fit_transform(x)
    exact = KNeighborsTransformer(mode=mode, n_neighbors=6, metric=metric).fit_transform(x)
    assert ours.shape == exact.shape
    assert ours.nnz == exact.nnz
    assert abs(ours - exact).max() < 1e-3


def test_a_copy_has_an_index_of_its_own(x: np.ndarray) -> None:
    from teravec.integrations.scikit_learn import TeravecTransformer

    fitted = TeravecTransformer(3).fit(x)
    copied = copy.deepcopy(fitted)
    expected = fitted.transform(x[:5])
    del fitted
    assert abs(copied.transform(x[:5]) - expected).max() == 0


@pytest.mark.parametrize("wrong", [{"metric": "jaccard"}, {"mode": "graph"}])
def test_wrong_options(x: np.ndarray, wrong: dict) -> None:
    from teravec.integrations.scikit_learn import TeravecTransformer

    with pytest.raises(ValueError, match="expected"):
        TeravecTransformer(**wrong).fit(x)
