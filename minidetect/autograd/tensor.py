"""Reverse-mode automatic differentiation over NumPy arrays, first order only.

A `Tensor` is an array that remembers the `Function` which made it. `Function.forward` and
`Function.backward` see bare arrays, so gradients are never themselves differentiable: second-order
derivatives are left out, since no paper of this library needs them and every backward stays a few lines
of NumPy.

`Tensor.backward` walks the graph from the last function to the first. A tensor that feeds several
functions receives the sum of their gradients (the multivariate chain rule), which is why a function may
run its backward only after every function that uses its output: a topological order. The order is found
without recursion, so a chain of 100,000 operations is no deeper for Python than one of ten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from minidetect.kernels.device import DeviceArray, is_on_gpu, to_device, to_numpy

# Each thread has its own value of a ContextVar: one that only detects does not switch off another's training.
_grad_enabled = ContextVar("grad_enabled", default=True)
_nan_check_step: ContextVar[object] = ContextVar("nan_check_step", default=None)  # None: off; else the step's name
FLOATS = (np.float32, np.float64)


class Tensor:
    """An array in a computation graph.

    data: float32 or float64 array of any shape (integers and Python numbers become float32), NumPy's or one on the GPU
        (kernels/device.py): operations on it run there, and its gradient is left there.
    requires_grad: ask `backward` to leave d(loss)/d(data) in `grad`.
    grad: array of the shape and dtype of `data`, or None before the first backward. Gradients accumulate
        over calls of `backward`; an optimiser's `zero_grad` clears them.
    creator: the Function that computed this tensor, None for a leaf.
    """

    __slots__ = ("data", "grad", "requires_grad", "creator", "name")
    __array_ufunc__ = None  # `array * tensor` calls Tensor.__rmul__, not NumPy's loop over elements

    def __init__(self, data: Any, requires_grad: bool = False, name: str = "") -> None:
        if isinstance(data, Tensor):
            raise TypeError("Tensor(tensor) would cut the graph silently: use tensor.detach()")
        data = data if is_on_gpu(data) else np.asarray(data)
        if data.dtype not in FLOATS:
            if data.dtype.kind not in "biuf":
                raise TypeError(f"a Tensor holds numbers, got an array of dtype {data.dtype}")
            data = data.astype(np.float32)
        self.data = data
        self.grad: np.ndarray | DeviceArray | None = None
        self.requires_grad = requires_grad
        self.creator: Function | None = None
        self.name = name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        raise TypeError("the truth of a tensor is ambiguous: compare its `data`, or test `is None`")

    def __repr__(self) -> str:
        made_by = f", from {self.creator.name}" if self.creator else ""
        return f"Tensor({np.array2string(to_numpy(self.data), precision=4, threshold=20)}, {self.dtype}{made_by})"

    def item(self) -> float:
        """The value of a tensor with one element, as a Python float."""
        return float(self.data.reshape(-1)[0]) if self.size == 1 else self._not_scalar("item()")

    def detach(self) -> Tensor:
        """The same data as a leaf: no gradient flows through it."""
        return Tensor(self.data)

    def _not_scalar(self, what: str) -> Any:
        raise ValueError(f"{what} needs a tensor with one element, this one has shape {self.shape}")

    def backward(self, gradient: np.ndarray | None = None, retain_all: bool = False) -> None:
        """Add d(self)/d(leaf) to the `grad` of every leaf that requires it.

        gradient: d(loss)/d(self), of this tensor's shape; may be omitted for a single element (then 1).
        retain_all: leave a gradient in every tensor in between as well (for looking at, as the drawing of
            a graph does); otherwise each is released as soon as it has been used.

        The graph is used up: its saved arrays are released, and a second call is an error.
        Raises RuntimeError without a graph or with a used one, ValueError for a missing or misshapen
        gradient, FloatingPointError under `nan_check`.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: no tensor that this one was computed from requires a gradient")
        if gradient is None:
            if self.size != 1:
                raise ValueError(
                    f"backward from a tensor of shape {self.shape}: reduce it to one number first, "
                    "or pass d(loss)/d(this tensor) as `gradient`"
                )
            gradient = np.ones_like(self.data)
        gradient = np.asarray(gradient, self.dtype, like=self.data)
        if gradient.shape != self.shape:
            raise ValueError(f"backward: gradient has shape {gradient.shape}, the tensor {self.shape}")

        pending = {id(self): gradient}  # of tensors whose creator has not run its backward yet
        for tensor in reversed(topological_order(self)):
            gy = pending.pop(id(tensor), None)
            if gy is None:  # nothing depended on it through a differentiable path
                continue
            function = tensor.creator
            if function is None or retain_all:
                g = to_device(gy) if is_on_gpu(tensor.data) else to_numpy(gy)  # where the leaf is
                tensor.grad = g.copy() if tensor.grad is None else tensor.grad + g
            if function is None:
                continue
            for x, gx in zip(function.inputs, function.run_backward(gy), strict=True):
                if gx is not None and x.requires_grad:
                    seen = pending.get(id(x))
                    pending[id(x)] = gx if seen is None else seen + gx  # accumulate, never assign
            function.release()


class Function:
    """One differentiable operation; an instance is one use of it.

    A subclass takes its settings in `__init__` and defines
        forward(*arrays) -> array              may keep what backward needs on `self`
        backward(gy) -> tuple of arrays        d(loss)/d(input) per input, None where there is none
    `self.needs[i]` says in both whether input i wants a gradient. Calling the instance applies it.
    """

    inputs: tuple[Tensor, ...] = ()
    needs: tuple[bool, ...] = ()
    used_up = False

    def forward(self, *arrays: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def backward(self, gy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        raise NotImplementedError

    @property
    def name(self) -> str:
        return type(self).__name__

    def __call__(self, *inputs: Any) -> Tensor:
        tensors = tuple(x if isinstance(x, Tensor) else Tensor(x) for x in inputs)
        self.needs = tuple(_grad_enabled.get() and x.requires_grad for x in tensors)
        output = Tensor(self.forward(*(x.data for x in tensors)))
        if _nan_check_step.get() is not None:
            check_finite(output.data, f"the output of {self.name}", tensors)
        if any(self.needs):
            output.requires_grad = True
            output.creator = self
            self.inputs = tensors
        return output

    def run_backward(self, gy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        """`backward` with its contract checked: one gradient an input, each of its input's shape."""
        if self.used_up:
            raise RuntimeError(
                f"backward through {self.name} a second time: its graph was released by the first call. "
                "Add the losses and call backward once, or run the forward pass again"
            )
        gradients = self.backward(gy)
        if not isinstance(gradients, tuple) or len(gradients) != len(self.inputs):
            raise TypeError(f"{self.name}.backward must return a tuple of {len(self.inputs)} gradients")
        for i, (x, gx) in enumerate(zip(self.inputs, gradients, strict=True)):
            if gx is None:
                continue
            if gx.shape != x.shape:
                raise ValueError(
                    f"{self.name}.backward: gradient {i} has shape {gx.shape}, its input has {x.shape}"
                )
            if _nan_check_step.get() is not None and x.requires_grad:
                check_finite(gx, f"gradient {i} of {self.name}", self.inputs)
        return gradients

    def release(self) -> None:
        """Forget the saved arrays and the inputs, so that memory is freed while backward still runs."""
        self.__dict__.clear()
        self.used_up = True


def topological_order(root: Tensor) -> list[Tensor]:
    """The tensors that `root` depends on and that take part in its gradient, inputs before outputs."""
    order: list[Tensor] = []
    seen: set[int] = set()
    stack: list[tuple[Tensor, bool]] = [(root, False)]
    while stack:
        tensor, inputs_done = stack.pop()
        if inputs_done:
            order.append(tensor)
        elif id(tensor) not in seen:
            seen.add(id(tensor))
            stack.append((tensor, True))
            if tensor.creator is not None:
                stack.extend((x, False) for x in tensor.creator.inputs if x.requires_grad)
    return order


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside, operations record no graph: for inference, and for updating parameters."""
    token = _grad_enabled.set(False)
    try:
        yield
    finally:
        _grad_enabled.reset(token)


@contextmanager
def nan_check(step: object = "?") -> Iterator[None]:
    """Inside, every output and gradient is searched for NaN and infinity (about a tenth slower).

    step: what to call this moment in the error, such as the number of the training step.
    Raises FloatingPointError that names the operation in which the first bad value appeared.
    """
    token = _nan_check_step.set(step)
    try:
        yield
    finally:
        _nan_check_step.reset(token)


def check_finite(array: np.ndarray, what: str, inputs: tuple[Tensor, ...] = ()) -> None:
    """Raise FloatingPointError when `array` holds a NaN or an infinity, naming where it is."""
    array = to_numpy(array)
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    shapes = ", ".join(f"{x.name or 'input'} {x.shape}" for x in inputs)
    raise FloatingPointError(
        f"step {_nan_check_step.get()}: {what} is {array[where]} at index {where} "
        f"({int(bad.sum())} of {array.size} values are not finite); inputs: {shapes or 'none'}"
    )
