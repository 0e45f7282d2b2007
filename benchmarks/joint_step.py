"""A training step of FaceCraft's joint network, and the same step in PyTorch with the same weights.

A step is what training does with a batch of patches: normalise, forward through the three branches and their
gates, Eq. (6), backward, clip the gradients, SGD with momentum and weight decay. Dropout is off in both, so
that the losses can be compared. The weights are random, and so every patch passes every gate: the step with
the most work. The learning rate is too small to change that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minidetect.autograd import Tensor
from minidetect.benchmark.peers import Peers
from minidetect.models.cascade import ConvStack
from minidetect.models.cascade_pipeline import SIZES
from minidetect.models.facecraft import JointCascade
from minidetect.nn.optim import SGD, clip_gradients

BATCH, RATE, MOMENTUM, DECAY, MAX_NORM = 128, 1e-5, 0.9, 5e-4, 5.0


class Batch:
    """Patches (128, 48, 48, 3) uint8, labels (128,) with a fifth of faces, targets (128, 4) for each branch."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.patches = rng.integers(0, 256, (BATCH, SIZES[2], SIZES[2], 3), np.uint8)
        self.labels = (np.arange(BATCH) % 5 == 0).astype(np.int64)
        self.deltas = [rng.standard_normal((BATCH, 4), np.float32) for _ in SIZES]


def our_step(model: JointCascade, batch: Batch) -> Callable[[], dict[str, float]]:
    optimiser = SGD(model, RATE, MOMENTUM, DECAY)

    def step() -> dict[str, float]:
        optimiser.zero_grad()
        terms = model.losses(model.normalise(batch.patches), batch.labels, batch.deltas, None)
        sum(terms.values(), start=Tensor(np.float32(0))).backward()
        clip_gradients(model.parameters(), MAX_NORM)
        optimiser.step()
        return {name: term.item() for name, term in terms.items()}

    return step


class TorchJointNet:
    """`JointCascade.losses` written with PyTorch's functions, on copies of a cascade's parameters, by name."""

    def __init__(self, model: JointCascade, peers: Peers) -> None:
        self.torch, self.functional, self.model = peers.torch, peers.torch.nn.functional, model
        self.parameters = {
            name: peers.tensor(p.data.copy()).requires_grad_() for name, p in model.named_parameters()
        }

    def affine(self, name: str, x, kind: str = "linear"):
        weight, bias = (self.parameters[f"{name}.{part}"] for part in ("weight", "bias"))
        return (self.functional.linear if kind == "linear" else self.functional.conv2d)(x, weight, bias)

    def stack(self, name: str, stack: ConvStack, x):
        for i, pool in enumerate(stack.pools):
            x = self.affine(f"{name}.stack.convs.{i}", x, "conv")
            if pool:
                x = self.functional.max_pool2d(x, pool, 2, ceil_mode=pool == 3)
            x = self.functional.relu(x)
        return x

    def branch(self, name: str, stack: ConvStack, x, shared):
        own = self.functional.relu(self.affine(f"{name}.fc", self.stack(name, stack, x).flatten(1)))
        return self.torch.cat([own, shared], 1)

    def predict(self, name: str, features, kind: str = "linear"):
        logits, deltas = (self.affine(f"{name}.{part}", features, kind) for part in ("logits", "deltas"))
        return logits.flatten(1), deltas.flatten(1)

    def rows(self, logits, gate: float):
        probs = self.torch.softmax(logits.detach(), 1)[:, 1]
        return (probs > gate).nonzero()[:, 0]

    def loss(self, prediction, labels, targets):
        """Cross entropy and smooth L1, both divided by the number of rows: FaceCraft, Eq. (1)."""
        logits, deltas = prediction
        faces = labels == 1
        distance = self.functional.smooth_l1_loss(deltas[faces], targets[faces], reduction="sum")
        return self.functional.cross_entropy(logits, labels) + distance / len(labels)

    def losses(self, x, labels, deltas) -> dict:
        pool, model = self.functional.avg_pool2d, self.model
        deep12 = self.stack("x12", model.x12.stack, pool(x, 4))
        first = self.predict("x12", deep12, "conv")
        rows24 = self.rows(first[0], model.gates[0])
        deep24 = self.branch("x24", model.x24.stack, pool(x[rows24], 2), deep12.flatten(1)[rows24])
        second = self.predict("x24", deep24)
        passed = self.rows(second[0], model.gates[1])
        rows48 = rows24[passed]
        deep48 = self.branch("x48", model.x48.stack, x[rows48], deep24[passed])
        third = self.predict("x48", deep48)
        return {
            "x12": self.loss(first, labels, deltas[0]),
            "x24": self.loss(second, labels[rows24], deltas[1][rows24]),
            "x48": self.loss(third, labels[rows48], deltas[2][rows48]),
        }


def torch_step(net: TorchJointNet, batch: Batch, peers: Peers) -> Callable[[], dict[str, float]]:
    torch, parameters = peers.torch, list(net.parameters.values())
    optimiser = torch.optim.SGD(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=RATE, momentum=MOMENTUM,
    )
    patches, labels = peers.tensor(batch.patches), peers.tensor(batch.labels)
    deltas, mean = [peers.tensor(d) for d in batch.deltas], peers.tensor(net.model.mean_colour)

    def step() -> dict[str, float]:
        optimiser.zero_grad()
        x = ((patches.float() - mean) * (1 / 128)).permute(0, 3, 1, 2).contiguous()
        terms = net.losses(x, labels, deltas)
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimiser.step()
        return {name: float(term.detach()) for name, term in terms.items()}

    return step
