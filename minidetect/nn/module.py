"""The base of layers and models: it finds parameters, and saves and restores them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.kernels.device import DeviceArray, check_device, host_copy, is_on_gpu, to_device, to_numpy


class Module:
    """Something with parameters. Attributes that count, in the order in which they were set:

    Tensor that requires a gradient  ->  a parameter
    np.ndarray                       ->  a buffer: saved with the parameters, but not trained
    Module, or a list of them        ->  a part, whose names are prefixed with the attribute's
    """

    moving_buffers: tuple[str, ...] = ()  # names of the buffers that `to` takes along
    training = False  # read by layers that behave differently in training (batch norm); never changes a type

    def children(self) -> Iterator[tuple[str, Module]]:
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, (list, tuple)):
                yield from ((f"{name}.{i}", part) for i, part in enumerate(value) if isinstance(part, Module))

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.requires_grad:
                yield prefix + name, value
        for name, part in self.children():
            yield from part.named_parameters(f"{prefix}{name}.")

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
        for name, value in vars(self).items():
            if isinstance(value, (np.ndarray, DeviceArray)):
                yield prefix + name, value
        for name, part in self.children():
            yield from part.named_buffers(f"{prefix}{name}.")

    def parameters(self) -> list[Tensor]:
        return [p for _, p in self.named_parameters()]

    def num_parameters(self) -> int:
        return sum(p.size for p in self.parameters())

    def train(self, training: bool = True) -> None:
        """Switch layers that need it between batch statistics (training) and stored ones."""
        self.training = training
        for _, part in self.children():
            part.train(training)

    def to(self, device: str) -> Module:
        """Bring all parameters and their gradients to the GPU ("cuda") or back ("cpu"), in place; returns itself.

        What the model computes from then on stays there (kernels/device.py). Buffers go along where a layer computes
        with them (`moving_buffers`); others, such as the mean colour of images, are the processor's. Make an optimiser
        afterwards: it keeps momenta beside the parameters.

        Raises ValueError for another name, RuntimeError where there is no GPU to use.
        """
        check_device(device)
        move = to_device if device == "cuda" else to_numpy
        for p in self.parameters():
            p.data = move(p.data)
            p.grad = None if p.grad is None else move(p.grad)
        self._move_buffers(move)
        return self

    def _move_buffers(self, move: Callable) -> None:
        for name in self.moving_buffers:
            if getattr(self, name) is not None:
                setattr(self, name, move(getattr(self, name)))
        for _, part in self.children():
            part._move_buffers(move)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers in the machine's memory, by name."""
        state = {name: p.data for name, p in self.named_parameters()} | dict(self.named_buffers())
        return {name: host_copy(array) for name, array in state.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray], source: str = "state") -> None:
        """Copy `state` into the parameters and buffers. Nothing is changed unless everything fits.

        source: what to call the state in an error (a file's name).
        Raises ValueError that lists missing and unknown names, or shapes that differ.
        """
        own = {name: p.data for name, p in self.named_parameters()} | dict(self.named_buffers())
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise ValueError(
                f"{source}: not weights of {type(self).__name__}: "
                f"missing {shortened(missing)}; unknown {shortened(unknown)}"
            )
        fitting = {}
        for name, array in own.items():
            given = np.asarray(state[name])
            if given.shape != array.shape:
                raise ValueError(
                    f"{source}: {name} has shape {given.shape}, {type(self).__name__} needs {array.shape}"
                )
            if given.dtype.kind not in "biuf":
                raise ValueError(f"{source}: {name} holds {given.dtype}, not numbers")
            with np.errstate(over="ignore"):  # to infinity, which is refused
                fitting[name] = given.astype(array.dtype)
            if not np.isfinite(fitting[name]).all():
                raise ValueError(f"{source}: {name} holds values that are not finite as {array.dtype}")
        for name, array in own.items():
            array[...] = fitting[name]


def require_on_host(model: Module) -> None:
    """Raise ValueError for a model on the GPU: what merges weights does so in the machine's memory."""
    if any(is_on_gpu(p.data) for p in model.parameters()):
        raise ValueError(f"{type(model).__name__} is on the GPU: fuse a copy, copy.deepcopy(model).to('cpu')")


def shortened(names: list[str], most: int = 3) -> str:
    """'none', 'a, b', or 'a, b, c and 4 more'."""
    shown = ", ".join(names[:most]) or "none"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
