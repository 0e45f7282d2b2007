"""Gradient descent with momentum, Adam, the schedule of their learning rate, and gradient clipping."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.kernels.device import host_copy
from minidetect.kernels.updates import adam_update, sgd_update, sum_of_squares
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
            weight_decay = self.weight_decay if p.ndim > 1 or self.decay_vectors else 0.0
            rate = self.lr * (self.bias_lr if is_bias(name) else 1.0)
            sgd_update(p.data, p.grad, self.velocity[name], rate, self.momentum, weight_decay)

    def zero_grad(self) -> None:
        for p in self.parameters.values():
            p.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        return {name: host_copy(v) for name, v in self.velocity.items()}

    def load_state_dict(self, state: dict[str, np.ndarray], source: str = "state") -> None:
        """Raises ValueError where the names or shapes are not those of this optimiser's model."""
        if state.keys() != self.velocity.keys():
            raise ValueError(f"{source}: the optimiser's state belongs to another model")
        for name, v in self.velocity.items():
            if state[name].shape != v.shape:
                raise ValueError(f"{source}: momentum of {name} has shape {state[name].shape}, not {v.shape}")
            v[...] = state[name]


class Adam:
    """Kingma and Ba, "Adam" (2015), Algorithm 1, with the weight decay of Loshchilov and Hutter (2019, "AdamW").

        m <- beta1 m + (1 - beta1) g           v <- beta2 v + (1 - beta2) g**2
        p <- p - lr * (m' / (sqrt(v') + eps) + weight_decay * p),   m' = m / (1 - beta1**t),  v' = v / (1 - beta2**t)

    Every weight moves by about lr a step, whatever the size of its gradient. No paper of this library uses it; a
    network that starts from random weights, and has a few thousand steps instead of the papers' hundred thousands, gets
    further with it. As in SGD, biases and other vectors don't decay.
    """

    def __init__(
        self, model: Module, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 5e-4,
    ) -> None:
        self.parameters = dict(model.named_parameters())
        self.first = {name: np.zeros_like(p.data) for name, p in self.parameters.items()}
        self.second = {name: np.zeros_like(p.data) for name, p in self.parameters.items()}
        self.steps = np.zeros((), np.int64)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        self.steps += 1
        fades = tuple(1 - beta ** int(self.steps) for beta in self.betas)
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            moments, weight_decay = (self.first[name], self.second[name]), self.weight_decay if p.ndim > 1 else 0.0
            adam_update(p.data, p.grad, *moments, self.lr, self.betas, fades, self.eps, weight_decay)

    def zero_grad(self) -> None:
        for p in self.parameters.values():
            p.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        moments = {"first": self.first, "second": self.second}
        state = {f"{kind}/{name}": host_copy(a) for kind, arrays in moments.items() for name, a in arrays.items()}
        return state | {"steps": self.steps.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray], source: str = "state") -> None:
        """Raises ValueError where the names or shapes are not those of this optimiser's model."""
        own = {f"first/{name}": a for name, a in self.first.items()} | {"steps": self.steps}
        own |= {f"second/{name}": a for name, a in self.second.items()}
        if state.keys() != own.keys() or any(np.shape(state[name]) != a.shape for name, a in own.items()):
            raise ValueError(f"{source}: the optimiser's state belongs to another model, or to another optimiser")
        for name, array in own.items():
            array[...] = state[name]


def is_bias(name: str) -> bool:
    """Whether a parameter of this name is a layer's bias: "head.fc6.bias"."""
    return name.rpartition(".")[2] == "bias"


def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> float:
    """Scale all gradients down together so that their joint norm is at most `max_norm`; returns the norm.

    One wild batch then changes the weights no more than a large ordinary one. A norm that is not finite
    raises FloatingPointError: scaling cannot mend it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(np.sqrt(sum_of_squares(gradients)))
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
