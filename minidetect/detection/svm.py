"""The linear classifiers of R-CNN: one support vector machine a class, on features, with hard negative mining.

Girshick, Donahue, Darrell, Malik, "Rich feature hierarchies for accurate object detection and semantic segmentation"
(R-CNN), CVPR 2014, section 2.3. The paper names the method; its constants are those of the authors' published code:
C = 0.001, an error on a positive counted twice, a bias feature of 10, features of mean norm 20, a new training after
more than 2000 additions. They belong together: C means nothing without the features' norm.

Left out: the published code's two-fold copies of each classifier, which serve other experiments.

Letters: N examples, P positives, M negatives kept, D features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from minidetect.kernels.svm import solve_dual

TARGET_NORM = 20.0


def feature_scale(features: np.ndarray, target_norm: float = TARGET_NORM) -> float:
    """What brings features (N, D) to a mean norm of `target_norm`, multiplied; 1 if there is nothing to measure."""
    mean_norm = float(np.linalg.norm(features, axis=1).mean()) if len(features) else 0.0
    return target_norm / mean_norm if mean_norm > 0 else 1.0


class LinearSVM:
    """score = features . weight + bias, L2-regularised, with the hinge loss max(0, 1 - margin).

    c: price of an error; 0.001 suits the thousand objects of a class that the paper has, with a few dozen take 0.01:
    the errors are added up, not averaged. positive_weight: how many times as much an error on a positive costs.
    bias_multiplier: the value of the bias feature; large: the bias is hardly regularised.
    tolerance, most_passes: when to stop, see `kernels.svm.solve_dual`.

    After `fit`: weight (D,) float32, bias a number, alpha (N,) of the examples (0: could have been left out).
    """

    def __init__(
        self, c: float = 1e-3, positive_weight: float = 2.0, bias_multiplier: float = 10.0, tolerance: float = 0.01,
        most_passes: int = 1000,
    ) -> None:
        if min(c, positive_weight, bias_multiplier) <= 0:
            raise ValueError(
                "LinearSVM needs c, positive_weight and bias_multiplier above 0, got "
                f"{c}, {positive_weight}, {bias_multiplier}"
            )
        self.c, self.positive_weight, self.bias_multiplier = c, positive_weight, bias_multiplier
        self.tolerance, self.most_passes = tolerance, most_passes
        self.weight, self.bias, self.alpha = np.zeros(0, np.float32), 0.0, np.zeros(0)

    def settings(self) -> dict[str, float]:
        """The constructor's arguments, for another one like this: `LinearSVM(**svm.settings())`."""
        names = ("c", "positive_weight", "bias_multiplier", "tolerance", "most_passes")
        return {name: getattr(self, name) for name in names}

    def fit(
        self, features: np.ndarray, is_positive: np.ndarray, rng: np.random.Generator, alpha: np.ndarray | None = None
    ) -> LinearSVM:
        """Train on features (N, D) and is_positive (N,) bool; returns itself.

        alpha: (N,) from an earlier fit, to start from. rng: in what order the examples are gone through; the result
        does not depend on it beyond the tolerance. Raises ValueError for no examples, or misshapen or infinite ones.
        """
        features, is_positive = _as_features(features), np.asarray(is_positive, bool)
        if is_positive.shape != (len(features),) or len(features) == 0:
            raise ValueError(
                "LinearSVM.fit needs features (N, D) and is_positive (N,) with N above 0, got "
                f"{features.shape} and {is_positive.shape}"
            )
        if alpha is not None and np.shape(alpha) != is_positive.shape:
            raise ValueError(f"LinearSVM.fit: {len(features)} examples, alpha has shape {np.shape(alpha)}")
        price = np.where(is_positive, self.c * self.positive_weight, self.c)
        solution = solve_dual(
            features, is_positive, price, float(self.bias_multiplier), rng, alpha, self.tolerance, self.most_passes
        )
        self.weight = solution.weight[:-1].astype(np.float32)
        self.bias = float(solution.weight[-1]) * self.bias_multiplier
        self.alpha = solution.alpha
        return self

    def score(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,) float32; 1 or more: surely an object, -1 or less: surely none."""
        return np.asarray(features, np.float32) @ self.weight + np.float32(self.bias)


class HardNegativeMiner:
    """Trains one classifier on more negatives than fit into memory, keeping those that it finds hard.

    R-CNN, section 2.3 ("the standard hard negative mining method"). Images come one at a time. Of the first, all
    negatives are taken; of the others those that the classifier of the moment scores above `add_above`: on the wrong
    side of their margin, or on it. Once more than `retrain_after` were added, it is trained again, from where it
    stood, and negatives that it then scores below `evict_below` are forgotten. They are beyond their margin, so the
    classifier does not rest on them.

    positives: (P, D), all there are. svm: its settings, and the classifier that comes of it.
    """

    def __init__(
        self, positives: np.ndarray, svm: LinearSVM, rng: np.random.Generator, add_above: float = -1.0001,
        evict_below: float = -1.2, retrain_after: int = 2000,
    ) -> None:
        self.positives, self.svm, self.rng = _as_features(positives), svm, rng
        self.add_above, self.evict_below, self.retrain_after = add_above, evict_below, retrain_after
        self.negatives = np.zeros((0, self.positives.shape[1]), np.float32)
        self.keys = np.zeros((0, 2), np.int64)  # image and row of each negative kept
        self.alpha = np.zeros(len(self.positives))  # of the positives, then of the negatives
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []  # added since the last training: features, keys
        self.num_waiting, self.num_trainings, self.num_added = 0, 0, 0

    def add(self, image: int, features: np.ndarray) -> None:
        """The negatives of one image, (n, D), n may be 0; image: its number, so that a second visit adds no copies."""
        features = _as_features(features)
        if self.num_trainings:
            is_hard = self.svm.score(features) > self.add_above
        else:
            is_hard = np.ones(len(features), bool)
        known = [keys[keys[:, 0] == image, 1] for keys in (self.keys, *(keys for _, keys in self.waiting))]
        is_hard[np.concatenate(known)] = False
        rows = np.flatnonzero(is_hard)
        if len(rows):
            self.waiting.append((features[rows], np.stack([np.full(len(rows), image), rows], axis=1)))
            self.num_waiting += len(rows)
            self.num_added += len(rows)
        if self.num_waiting > self.retrain_after or (self.num_trainings == 0 and self.num_waiting):
            self.train()

    def train(self) -> LinearSVM:
        """Train on what is kept, then forget the easy negatives; call it once more after the last image."""
        if self.waiting:
            self.negatives = np.concatenate([self.negatives, *(features for features, _ in self.waiting)])
            self.keys = np.concatenate([self.keys, *(keys for _, keys in self.waiting)])
            self.alpha = np.append(self.alpha, np.zeros(self.num_waiting))
            self.waiting, self.num_waiting = [], 0
        num = len(self.positives)
        is_positive = np.arange(num + len(self.negatives)) < num
        self.svm.fit(np.concatenate([self.positives, self.negatives]), is_positive, self.rng, self.alpha)
        self.num_trainings += 1
        stays = self.svm.score(self.negatives) >= self.evict_below
        self.negatives, self.keys = self.negatives[stays], self.keys[stays]
        self.alpha = np.append(self.svm.alpha[:num], self.svm.alpha[num:][stays])
        return self.svm


def mine_hard_negatives(
    positives: np.ndarray, negatives: Sequence[np.ndarray] | Iterable[np.ndarray], rng: np.random.Generator,
    svm: LinearSVM | None = None, passes: int = 1, **thresholds: float,
) -> LinearSVM:
    """One class's classifier from positives (P, D) and, image by image, negatives (n, D).

    passes: over all images; the paper's results stop rising after one. negatives: for more than one pass it must be
    possible to go through them again (a list, not a generator). thresholds: of `HardNegativeMiner`.
    """
    miner = HardNegativeMiner(positives, svm or LinearSVM(), rng, **thresholds)
    for _ in range(passes):
        for image, features in enumerate(negatives):
            miner.add(image, features)
    return miner.train()


def _as_features(features: np.ndarray) -> np.ndarray:
    features = np.ascontiguousarray(features, np.float32)
    if features.ndim != 2:
        raise ValueError(f"features must have shape (N, D), got {features.shape}")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise ValueError(f"features[{row}] holds values that are not finite; has the network diverged?")
    return features
