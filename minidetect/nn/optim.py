"""Gradient descent with momentum, the schedule of its learning rate, and gradient clipping."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.nn.module import Module


class SGD:
    """Stochastic gradient descent with momentum and weight decay.

        v <- momentum * v + (g + weight_decay * p)
        p <- p - lr * v

    Weight decay is left out for biases and other vectors: shrinking them does not make a model simpler.
    (FaceCraft's text, section 4.2, only names one factor, 5e-4.) decay_vectors: shrink them too.
    bias_lr: what the rate of biases is multiplied by. Fast R-CNN, section 2.3, has 2, and decays biases as well.
    """

    def __init__(
        self, model: Module, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4, bias_lr: float = 1.0,
        decay_vectors: bool = False,
    ) -> None:
        self.parameters = dict(model.named_parameters())
        self.velocity = {name: np.zeros_like(p.data) for name, p in self.parameters.items()}
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.bias_lr, self.decay_vectors = bias_lr, decay_vectors

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            g = p.grad + self.weight_decay * p.data if p.ndim > 1 or self.decay_vectors else p.grad
            v = self.velocity[name]
            v *= self.momentum
            v += g
            p.data -= self.lr * (self.bias_lr if is_bias(name) else 1.0) * v

    def zero_grad(self) -> None:
        for p in self.parameters.values():
            p.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        return {name: v.copy() for name, v in self.velocity.items()}

    def load_state_dict(self, state: dict[str, np.ndarray], source: str = "state") -> None:
        """Raises ValueError where the names or shapes are not those of this optimiser's model."""
        if state.keys() != self.velocity.keys():
            raise ValueError(f"{source}: the optimiser's state belongs to another model")
        for name, v in self.velocity.items():
            if state[name].shape != v.shape:
                raise ValueError(f"{source}: momentum of {name} has shape {state[name].shape}, not {v.shape}")
            v[...] = state[name]


def is_bias(name: str) -> bool:
    """Whether a parameter of this name is a layer's bias: "head.fc6.bias"."""
    return name.rpartition(".")[2] == "bias"


def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> float:
    """Scale all gradients down together so that their joint norm is at most `max_norm`; returns the norm.

    One wild batch then changes the weights no more than a large ordinary one. A norm that is not finite
    raises FloatingPointError: scaling cannot mend it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(np.sqrt(sum(float(np.vdot(g, g)) for g in gradients)))
    if not np.isfinite(norm):
        raise FloatingPointError(f"the gradients' norm is {norm}: run the step under nan_check to find the operation")
    if norm > max_norm:
        for g in gradients:
            g *= max_norm / norm
    return norm


def scheduled_lr(step: int, total: int, base: float, warm_up: int = 0, drops: Sequence[float] = (0.6, 0.85)) -> float:
    """The learning rate at `step` of `total`: a linear rise over `warm_up` steps, then a tenth at each drop.

    drops: fractions of `total`. FaceCraft (section 4.2) lowers its rate once, to a tenth.
    """
    lr = base * 0.1 ** sum(step >= fraction * total for fraction in drops)
    return lr * (step + 1) / warm_up if step < warm_up else lr
