"""For the tests of trainings: whether two runs ended with the same bits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minidetect.nn.module import Module


def states(cascades: Mapping[str, Module]) -> dict[str, np.ndarray]:
    """Every array of every cascade, as CASCADE/NAME."""
    return {f"{c}/{name}": array for c in cascades for name, array in cascades[c].state_dict().items()}


def assert_equal_states(a: Mapping[str, Module], b: Mapping[str, Module]) -> None:
    a, b = states(a), states(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
