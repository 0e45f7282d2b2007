"""Losses of a detector, each one fused function with its derivative beneath it.

N: samples (rois, anchors, proposals), K: classes with 0 = background, D: regression outputs a sample.
All return one number, a sum over the samples divided by a `normaliser` (default N). Which normaliser a paper
means is easy to get wrong:

- Fast R-CNN and FaceCraft divide both losses by the number of samples, positives or not;
- Faster R-CNN divides the regression by the number of anchor positions, times lambda = 10: nearly the same;
- the SSD family divides both by the number of positives.

No samples (or no positives) is a loss of 0 with gradient 0, whatever the normaliser, and never 0 / 0.

Left out: a version of the classification loss on probabilities. From logits it is exact for any logit,
while log(softmax(x)) in two steps is -inf from a difference of about 104 on in float32.
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.iou import as_boxes
from minidetect.ops import elementwise

# Below this IoU -ln(IoU) is held constant: its slope 1 / IoU would let one nearly disjoint pair of boxes
# outweigh a whole batch.
SMALLEST_IOU = 1e-6


class CrossEntropy(Function):
    """Sum over samples of -log softmax(logits)[label], over the normaliser."""

    def __init__(self, labels: np.ndarray, normaliser: float) -> None:
        self.labels = labels
        self.normaliser = normaliser

    def forward(self, logits):
        self.rows = np.arange(len(logits))
        shifted = logits - logits.max(axis=1, keepdims=True)  # exp of at most 0: cannot overflow
        total = np.exp(shifted).sum(axis=1, keepdims=True)
        log_probs = shifted - np.log(total)
        self.probs = np.exp(log_probs)
        return _scalar(-log_probs[self.rows, self.labels].sum() / self.normaliser, logits)

    def backward(self, gy):
        """d(-log p_u)/d(logit_k) = p_k - [k = u]."""
        gx = self.probs
        gx[self.rows, self.labels] -= 1
        return (gx * _scalar(gy / self.normaliser, gx),)


def cross_entropy(logits: Tensor, labels: np.ndarray, normaliser: float | None = None) -> Tensor:
    """Classification loss -log p_u of softmax probabilities, summed over samples. Fast R-CNN, section 2.3.

    logits: (N, K); labels: integers (N,) in 0..K-1; normaliser: what the sum is divided by, default N.
    Returns a scalar. Raises ValueError for labels of another length or out of range.
    """
    if logits.ndim != 2:
        raise ValueError(f"cross_entropy: logits must have shape (N, K), got {logits.shape}")
    labels = _check_labels(labels, len(logits), "cross_entropy")
    if labels.size and labels.max() >= logits.shape[1]:
        raise ValueError(f"cross_entropy: label {labels.max()} needs more than {logits.shape[1]} classes")
    return CrossEntropy(labels, _normaliser(normaliser, len(logits), "cross_entropy"))(logits)


class SmoothL1(Function):
    """Sum of the smooth L1 distance over the rows in `is_counted`, over the normaliser."""

    def __init__(self, target: np.ndarray, normaliser: float, beta: float, is_counted: np.ndarray) -> None:
        self.target = target
        self.normaliser = normaliser
        self.beta = beta
        self.is_counted = is_counted

    def forward(self, pred):
        self.shape = pred.shape
        # Only counted rows are read: the targets of background rows may be anything, NaN included.
        error = pred[self.is_counted] - self.target[self.is_counted].astype(pred.dtype)
        size = np.abs(error)
        loss = np.where(size < self.beta, error * error / (2 * self.beta), size - self.beta / 2)
        self.slope = np.clip(error / self.beta, -1, 1)
        return _scalar(loss.sum() / self.normaliser, pred)

    def backward(self, gy):
        """d(loss)/d(error) = error / beta inside [-beta, beta], its sign outside."""
        gx = np.zeros_like(self.slope, shape=self.shape)
        gx[self.is_counted] = self.slope * _scalar(gy / self.normaliser, gx)
        return (gx,)


def smooth_l1(
    pred: Tensor, target: np.ndarray, normaliser: float | None = None, beta: float = 1.0
) -> Tensor:
    """Smooth L1 distance, summed over samples and coordinates. Fast R-CNN, Eq. (3).

        0.5 error**2 / beta  where |error| < beta,   |error| - 0.5 beta  elsewhere

    Quadratic near 0 and linear far away, so that one wild target cannot give a wild gradient. beta = 1 is the
    paper's; the published Faster R-CNN uses 1/9 in its proposal network (there "sigma = 3").

    pred, target: (N, D); normaliser: what the sum is divided by, default N (not N * D). Returns a scalar.
    """
    return _smooth_l1(pred, target, normaliser, beta, np.ones(len(pred), bool))


def _smooth_l1(
    pred: Tensor, target: np.ndarray, normaliser: float | None, beta: float, is_counted: np.ndarray
) -> Tensor:
    target = np.asarray(target)
    if pred.ndim != 2 or target.shape != pred.shape:
        raise ValueError(f"smooth_l1: pred and target must both be (N, D), got {pred.shape}, {target.shape}")
    if not beta > 0:
        raise ValueError(f"smooth_l1: beta must be positive, got {beta}")
    normaliser = _normaliser(normaliser, len(pred), "smooth_l1")
    return SmoothL1(target, normaliser, beta, is_counted)(pred)


def multi_task_loss(
    logits: Tensor,
    deltas: Tensor,
    labels: np.ndarray,
    target_deltas: np.ndarray,
    weight: float = 1.0,
    normaliser: float | None = None,
) -> Tensor:
    """FaceCraft, Eq. (1): L = L_cls + weight * [label >= 1] * L_loc, over all samples.

    L_cls is the cross entropy of the class, L_loc the smooth L1 distance of the deltas. Both are divided by
    the same normaliser, default the number N of samples (as in Fast R-CNN), so that a batch with few
    positives has a small regression loss.

    logits: (N, K); deltas: (N, 4); labels: (N,) in 0..K-1; target_deltas: (N, 4), of which background rows
    are not read; weight: the paper's lambda. Returns a scalar.
    """
    if len(deltas) != len(logits):
        raise ValueError(f"multi_task_loss: {len(logits)} rows of logits, {len(deltas)} rows of deltas")
    classification = cross_entropy(logits, labels, normaliser)
    is_object = np.asarray(labels) >= 1
    regression = _smooth_l1(deltas, target_deltas, normaliser, 1.0, is_object)
    return elementwise.add(classification, elementwise.mul(regression, weight))


def iou_gradient(pred: np.ndarray, gt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group Sampling, Eq. (8)-(12): the IoU of pairs of boxes, and its derivative by the first box.

    pred, gt: (N, 4), row by row a pair. Returns IoU (N,) and d(IoU)/d(x1, y1, x2, y2) (N, 4).

    Eq. (10) as printed multiplies two negative sides of disjoint boxes to a positive intersection; here it
    is 0 whenever a side is not positive, and so is the gradient (so it is for boxes turned inside out).
    Where two edges coincide the IoU has a kink; like Eq. (12) this takes the slope of the smaller box, that
    is, of moving the edge inwards. Below Eq. (12) the paper lets x1 of the box go to 0, where it means to x1
    of the ground truth.
    """
    sides = np.minimum(pred[:, 2:], gt[:, 2:]) - np.maximum(pred[:, :2], gt[:, :2])  # Eq. (8), (9): w*, h*
    is_overlapping = ~(sides <= 0).any(axis=1)  # true for NaN: a diverged network must show in its loss
    shared = np.where(is_overlapping, sides[:, 0] * sides[:, 1], 0)  # Eq. (10)
    pred_sides, gt_sides = pred[:, 2:] - pred[:, :2], gt[:, 2:] - gt[:, :2]
    union = pred_sides.prod(axis=1) + gt_sides.prod(axis=1) - shared  # Eq. (11)
    union = np.where(is_overlapping, union, 1)[:, None]

    # Moving an edge outwards adds `pred_edge` to the box's own area, and `shared_edge` to the intersection
    # where this edge is the inner one of the two. The length of a vertical edge is the height.
    is_inner = np.concatenate([pred[:, :2] >= gt[:, :2], pred[:, 2:] <= gt[:, 2:]], axis=1)
    pred_edge = pred_sides[:, [1, 0, 1, 0]]
    shared_edge = np.where(is_inner, sides[:, [1, 0, 1, 0]], 0)
    outwards = ((union + shared[:, None]) * shared_edge - shared[:, None] * pred_edge) / union**2  # Eq. (12)
    gradient = outwards * np.array([-1, -1, 1, 1], pred.dtype)  # outwards is left and up for x1, y1
    return shared / union[:, 0], np.where(is_overlapping[:, None], gradient, 0).astype(pred.dtype, copy=False)


class IoULoss(Function):
    """A loss that depends on the boxes only through their IoU; subclasses say how."""

    def __init__(self, gt: np.ndarray, normaliser: float) -> None:
        self.gt = gt
        self.normaliser = normaliser

    def loss_and_slope(self, iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def forward(self, pred):
        iou, iou_slope = iou_gradient(pred, self.gt.astype(pred.dtype, copy=False))
        loss, slope = self.loss_and_slope(iou)
        self.gradient = slope[:, None] * iou_slope
        return _scalar(loss.sum() / self.normaliser, pred)

    def backward(self, gy):
        return (self.gradient * _scalar(gy / self.normaliser, self.gradient),)


class NegLogIoU(IoULoss):
    def loss_and_slope(self, iou):
        """Group Sampling, Eq. (7): d(-ln IoU) = -1 / IoU d(IoU)."""
        held = np.maximum(iou, SMALLEST_IOU)
        return -np.log(held), np.where(iou > SMALLEST_IOU, -1 / held, 0)


class LeastSquaresIoU(IoULoss):
    def loss_and_slope(self, iou):
        """Group Sampling, Eq. (6): d((1 - IoU)**2) = -2 (1 - IoU) d(IoU)."""
        return (1 - iou) ** 2, -2 * (1 - iou)


def neg_log_iou_loss(pred: Tensor, gt: np.ndarray, normaliser: float | None = None) -> Tensor:
    """The loss -ln(IoU) of pairs of boxes, which Group Sampling, section 5, compares with its own.

    pred, gt: (N, 4) x1, y1, x2, y2; normaliser: what the sum is divided by, default N. Returns a scalar.

    Even at IoU = 1 the gradient is not zero, so that boxes keep trembling about their goal. Disjoint boxes
    have gradient 0, and the loss stops at -ln(1e-6) = 13.8.
    """
    return _iou_loss(NegLogIoU, pred, gt, normaliser)


def least_squares_iou_loss(pred: Tensor, gt: np.ndarray, normaliser: float | None = None) -> Tensor:
    """Group Sampling, Eq. (5): the mean of (1 - IoU)**2 over pairs of boxes.

    pred, gt: (N, 4) x1, y1, x2, y2; normaliser: what the sum is divided by, default N. Returns a scalar.

    The gradient vanishes as the IoU goes to 1. Disjoint boxes have loss 1 and gradient 0: they cannot be
    drawn together by this loss, so matched pairs must overlap from the start.
    """
    return _iou_loss(LeastSquaresIoU, pred, gt, normaliser)


def _iou_loss(loss: type[IoULoss], pred: Tensor, gt: np.ndarray, normaliser: float | None) -> Tensor:
    gt = as_boxes(gt, "gt")
    if pred.shape != gt.shape:
        raise ValueError(f"{loss.__name__}: pred and gt must both be (N, 4), got {pred.shape}, {gt.shape}")
    if not (gt[:, 2:] > gt[:, :2]).all():
        row = int(np.argmin((gt[:, 2:] > gt[:, :2]).all(axis=1)))
        raise ValueError(f"{loss.__name__}: gt[{row}] {gt[row].tolist()} has no width or no height")
    return loss(gt, _normaliser(normaliser, len(gt), loss.__name__))(pred)


def _check_labels(labels: np.ndarray, count: int, who: str) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise ValueError(f"{who}: {count} samples need labels of shape ({count},), got {labels.shape}")
    if labels.size and labels.dtype.kind not in "iub":
        raise ValueError(f"{who}: labels must be integers, got dtype {labels.dtype}")
    if labels.size and labels.min() < 0:
        raise ValueError(f"{who}: labels count from 0 (background), got {labels.min()}; drop ignored samples")
    return labels.astype(np.int64)


def _normaliser(normaliser: float | None, count: int, who: str) -> float:
    """What to divide a sum over `count` samples by; 1 for an empty sum, which is 0 in any case."""
    if count == 0:
        return 1.0
    normaliser = float(count) if normaliser is None else float(normaliser)
    if not normaliser > 0:
        raise ValueError(f"{who}: normaliser must be positive, got {normaliser} for {count} samples")
    return normaliser


def _scalar(value: float, like: np.ndarray) -> np.ndarray:
    """A number as a 0-d array of another array's dtype, so that float32 stays float32, and where that one is."""
    return np.asarray(value, like.dtype, like=like)
