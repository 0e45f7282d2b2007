"""RoI align: a region at a fixed size, its bins averaged from points between the cells.

He et al., "Mask R-CNN" (2017); Group Sampling uses it in its second stage (section 4.2). RoI pooling rounds a region's
edges to whole cells, which costs a small region much of its place; here nothing is rounded. Each bin is the mean of
S x S points, each of which is blended from the four cells around it: RoI warping (roi_warp.py) to S times the size,
then averages.

Letters: N images, C channels, H W of the map; R regions; PH PW bins; S points a bin's side.
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.ops.pool import avg_pool2d
from minidetect.ops.roi_warp import roi_warp


def roi_align(
    x: Tensor, boxes: np.ndarray, image: np.ndarray, size: tuple[int, int] = (7, 7), spatial_scale: float = 1.0,
    samples: int = 2,
) -> Tensor:
    """x (N, C, H, W), boxes (R, 4) in image pixels, image (R,) whole numbers -> (R, C, PH, PW).

    Cell k of the map has its centre at k + 0.5 ("aligned"). Boxes are constants. samples: S.
    Raises ValueError as `roi_warp`, or for S below 1.
    """
    if samples < 1:
        raise ValueError(f"roi_align: samples must be at least 1, got {samples}")
    points = roi_warp(x, Tensor(boxes), image, (samples * size[0], samples * size[1]), spatial_scale)
    return points if samples == 1 else avg_pool2d(points, samples)
