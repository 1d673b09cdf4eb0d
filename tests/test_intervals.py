import numpy as np
import pytest
from scipy import stats

from randomz.intervals import interval, summarise


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [0.5, 0.7], [3.0, 3.0, 3.0, 3.5, 2.0]])
def test_intervals_are_scipys(values):
    found = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found == {
        "mean": pytest.approx(np.mean(values)),
        "low": pytest.approx(low),
        "high": pytest.approx(high),
        "per_seed": values,
    }


def test_one_seed_has_no_interval():
    assert interval([2.5]) == {"mean": 2.5, "low": None, "high": None, "per_seed": [2.5]}


def test_equal_seeds_have_an_interval_of_no_width():
    assert interval([2.0, 2.0]) == {"mean": 2.0, "low": 2.0, "high": 2.0, "per_seed": [2.0, 2.0]}


def test_a_tree_over_seeds_has_an_interval_at_each_leaf():
    trees = [{"a": float(seed), "b": {"c": {"d": 10.0 * seed}}} for seed in range(3)]
    assert summarise(trees) == {"a": interval([0.0, 1.0, 2.0]), "b": {"c": {"d": interval([0.0, 10.0, 20.0])}}}
