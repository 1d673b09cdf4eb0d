"""Figures of several seeds -> their mean and its 95 % interval."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

Tree = dict[str, Any]


def summarise(trees: Sequence[Tree]) -> Tree:
    """One tree a seed -> one tree whose leaves are {mean, low, high, per_seed}."""
    first = trees[0]
    return {
        key: summarise([tree[key] for tree in trees])
        if isinstance(value, Mapping)
        else interval([tree[key] for tree in trees])
        for key, value in first.items()
    }


def interval(values: Sequence[float]) -> Tree:
    """The mean with its 95 % interval by Student's t; without an interval where there is a single value."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return {"mean": mean, "low": None, "high": None, "per_seed": list(values)}
    half = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "low": mean - half, "high": mean + half, "per_seed": list(values)}
