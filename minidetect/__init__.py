"""minidetect: object and face detection from scratch, on NumPy and Numba.

The rooms of the house, from the ground up (imports only go downwards):

    kernels, reference   arrays in, arrays out: the fast loops, and their slow and obvious twins
    autograd             Tensor, Function, backward, gradient check
    ops                  one differentiable operation a class
    nn, detection        layers and optimisers; boxes, anchors, matching, losses
    models, data         one file per paper; datasets, drawn and real
    train, evaluate      one visible loop; the field's measures
    checks, teach        what the lessons stand on
    api, recipes, cli    load a detector; named experiments; the command line

    >>> import minidetect
    >>> faces = minidetect.load("facecraft").detect(["photo.jpg"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from minidetect.api import Detector
    from minidetect.api_objects import ObjectDetector

__version__ = "0.1.0"
__all__ = ["load"]


def load(name_or_path: str | Path = "facecraft", thorough: bool = False) -> Detector | ObjectDetector:
    """A trained detector: see `minidetect.api.load`. The import is late so that `import minidetect` is quick."""
    from minidetect import api

    return api.load(name_or_path, thorough)
