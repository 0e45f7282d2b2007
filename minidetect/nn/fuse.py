"""A network for inference: the same numbers, with fewer passes over memory.

A trained network runs convolution, batch norm, activation and the addition of a block's input one after the
other, and each reads and writes a whole map. Large maps don't fit into the caches that are fast, so that these
passes take longer than the arithmetic. `fuse` makes a copy of a model in which a convolution does all four:

    batch norm   with fixed statistics is a scale and a shift for each channel, which the filters take over:
                     gamma * (w @ x + b - mean) / std + beta  =  (s * w) @ x + s * (b - mean) + beta
                 with s = gamma / std
    activation   ReLU, LeakyReLU and PReLU keep v > 0 and multiply the others by a slope, before v is stored
    residual     is added before v is stored

A layer that can't be merged into the convolution before it runs as it was. The maps between the layers lie in
buffers that are used again, by later layers and by later calls: see `Workspace`.
"""

from __future__ import annotations

import copy
import itertools
import math
import threading

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.kernels.conv import conv2d_forward, output_size
from minidetect.kernels.device import is_on_gpu, to_device
from minidetect.kernels.inverted_residual import Block, block_forward, pack_block, scratch_shape, suits
from minidetect.nn.blocks import InvertedResidual
from minidetect.nn.layers import Conv2d, LeakyReLU, PReLU, ReLU, Sequential
from minidetect.nn.module import Module, require_on_host
from minidetect.nn.normalize import BatchNorm2d


class Workspace:
    """Memory for maps that are needed only for a while. Threads may share one: nobody gets a lent buffer.

    The buffer that was given back last is lent first: it is the one that is still in cache. If no free one is
    large enough, a new one takes the place of the largest: there are never more than were lent at one time.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []  # flat float32
        self._lock = threading.Lock()

    def take(self, size: int) -> np.ndarray:
        """A flat float32 array of at least `size` numbers, with anything in them."""
        with self._lock:
            for k in reversed(range(len(self._free))):
                if self._free[k].size >= size:
                    return self._free.pop(k)
            if self._free:
                del self._free[int(np.argmax([buffer.size for buffer in self._free]))]
        return np.empty(size, np.float32)

    def give_back(self, buffer: np.ndarray) -> None:
        with self._lock:
            self._free.append(buffer)


# ---------------------------------------------------------------------------------------------- steps

# Values are numbered, 0 is the input of the chain. Every step makes the value `value` from the value `source`
# and, if it is not None, the value `residual`.


class FusedConv(Module):
    """A convolution with what was merged into it; see kernels.conv.conv2d_forward."""

    moving_buffers = ("weight", "bias", "slope")

    def __init__(self, conv: Conv2d, source: int, value: int) -> None:
        self.weight = conv.weight.data.copy()
        self.bias = None if conv.bias is None else conv.bias.data.copy()
        self.settings = conv.settings
        self.slope: np.ndarray | None = None
        self.activate_last = False
        self.source, self.residual, self.value = source, None, value
        self.is_open = True  # nothing reads the output yet, so a layer that follows may change it

    def take_norm(self, norm: BatchNorm2d) -> None:
        """Batch norm with its running statistics, in float64 until it is in the weights."""
        scale = norm.weight.data / np.sqrt(norm.running_var.astype(np.float64) + norm.eps)
        bias = 0 if self.bias is None else self.bias
        self.bias = (scale * (bias - norm.running_mean) + norm.bias.data).astype(np.float32)
        self.weight = (scale[:, None, None, None] * self.weight).astype(np.float32)

    def take_activation(self, slope: np.ndarray | float) -> None:
        """slope: a number, or an array (1,) or (O,)"""
        self.slope = np.full(len(self.weight), slope, np.float32)
        self.activate_last = self.residual is not None

    def output_shape(self, x: tuple[int, ...]) -> tuple[int, ...]:
        stride, padding, dilation, _ = self.settings
        size = (output_size(n, k, stride, padding, dilation) for n, k in zip(x[2:], self.weight.shape[2:], strict=True))
        return x[0], len(self.weight), *size

    def is_pointwise(self) -> bool:
        return self.weight.shape[2:] == (1, 1) and self.settings == (1, 0, 1, 1)

    def is_depthwise(self) -> bool:
        """Whether it is the middle of an inverted residual."""
        channels = len(self.weight)
        return self.weight.shape[1:] == (1, 3, 3) and self.settings in ((1, 1, 1, channels), (2, 1, 1, channels))

    def run(
        self, x: np.ndarray, residual: np.ndarray | None, out: np.ndarray | None, workspace: Workspace
    ) -> np.ndarray:
        return conv2d_forward(
            x, self.weight, self.bias, *self.settings,
            slope=self.slope, residual=residual, activate_last=self.activate_last, out=out,
        )  # fmt: skip


class FusedBlock(Module):
    """1x1, depthwise 3x3 and 1x1 convolution, or the last two alone, in one pass: see kernels/inverted_residual.py."""

    def __init__(self, convs: list[FusedConv]) -> None:
        self.convs = convs
        self.source, self.residual, self.value = convs[0].source, convs[-1].residual, convs[-1].value
        self._packed: Block | None = None

    def output_shape(self, x: tuple[int, ...]) -> tuple[int, ...]:
        for conv in self.convs:
            x = conv.output_shape(x)
        return x

    def run(
        self, x: np.ndarray, residual: np.ndarray | None, out: np.ndarray | None, workspace: Workspace
    ) -> np.ndarray:
        *_, depthwise, _ = self.convs
        if is_on_gpu(x) or not suits(x.shape, depthwise.settings[0]):  # or a map smaller than a vector, or no vectors
            for conv in self.convs[:-1]:
                x = conv.run(x, None, None, workspace)
            return self.convs[-1].run(x, residual, out, workspace)
        if self._packed is None:
            parts = [(conv.weight, conv.bias, conv.slope) for conv in self.convs]
            self._packed = pack_block(parts[0] if len(parts) == 3 else None, *parts[-2:], depthwise.settings[0])
        out = np.empty(self.output_shape(x.shape), np.float32) if out is None else out
        _, tasks, floats = scratch_shape(x.shape, self._packed)
        scratch = workspace.take(tasks * floats)
        block_forward(x, self._packed, residual, out, scratch)
        workspace.give_back(scratch)
        return out


class Unfused(Module):
    """A layer on its own; None only adds the residual."""

    def __init__(self, layer: Module | None, source: int, residual: int | None, value: int) -> None:
        self.layer, self.source, self.residual, self.value = layer, source, residual, value

    def run(self, x: np.ndarray, residual: np.ndarray | None) -> np.ndarray:
        y = x if self.layer is None else self.layer(Tensor(x)).data  # a graph, if there is one, is dropped here
        if residual is not None:
            y = y + residual
        is_lent = not is_on_gpu(x) and np.may_share_memory(x, y)
        return y.copy() if is_lent else y  # x may lie in a buffer that is used again


Step = FusedConv | FusedBlock | Unfused


def join_blocks(steps: list[Step]) -> list[Step]:
    """`steps` with each chain of 1x1, depthwise 3x3, 1x1 whose inner maps nobody else reads as one step."""
    reads = [value for step in steps for value in (step.source, step.residual)]

    def feeds(a: Step, b: Step) -> bool:
        """Whether `a` is a convolution with nothing added that only `b` reads."""
        return isinstance(a, FusedConv) and a.residual is None and b.source == a.value and reads.count(a.value) == 1

    joined: list[Step] = []
    for last in steps:
        joined.append(last)
        if len(joined) < 2 or not (isinstance(last, FusedConv) and last.is_pointwise()) or last.activate_last:
            continue
        *others, depthwise, last = joined
        if feeds(depthwise, last) and depthwise.is_depthwise():
            widens = others and feeds(others[-1], depthwise) and others[-1].is_pointwise()
            convs = joined[-3:] if widens else joined[-2:]
            joined[-len(convs) :] = [FusedBlock(convs)]
    return joined


def fixed_slope(layer: Module) -> np.ndarray | float | None:
    """By what an activation multiplies negative numbers; None if `layer` is no such activation."""
    if is_plain(layer, ReLU):
        return 0.0
    if is_plain(layer, LeakyReLU):
        return layer.slope
    return layer.slope.data if is_plain(layer, PReLU) else None


def is_plain(layer: Module, kind: type) -> bool:
    """Whether `layer` is of a kind and computes what that kind does: a subclass may do something else."""
    return isinstance(layer, kind) and type(layer).__call__ is kind.__call__


class Fused(Module):
    """A chain of layers as steps. x (N, C, H, W), Tensor or array -> Tensor without a graph, float32.

    The result is an array of its own; only what lies between is in the workspace.
    """

    def __init__(self, layers: list[Module], workspace: Workspace, done: dict[int, Module]) -> None:
        self.steps: list[Step] = []
        self.workspace = workspace
        self._append(layers, 0, done)
        self.steps = join_blocks(self.steps)
        last_reader = {value: k for k, step in enumerate(self.steps) for value in (step.source, step.residual)}
        self.last_values = [[v for v, last in last_reader.items() if last == k] for k in range(len(self.steps))]

    def _append(self, layers: list[Module], value: int, done: dict[int, Module]) -> int:
        """Add steps that apply `layers` to `value`; the value that they result in."""
        for layer in layers:
            step = self.steps[value - 1] if value else None
            can_merge = isinstance(step, FusedConv) and step.is_open
            slope = fixed_slope(layer)
            if is_plain(layer, Sequential):
                value = self._append(layer.layers, value, done)
            elif is_plain(layer, InvertedResidual):
                value = self._append_block(layer, value, done)
            elif is_plain(layer, Conv2d):
                value = self._add(FusedConv(layer, value, self._next()))
            elif can_merge and is_plain(layer, BatchNorm2d) and step.slope is None and step.residual is None:
                step.take_norm(layer)
            elif can_merge and slope is not None and step.slope is None:
                step.take_activation(slope)
            else:
                value = self._add(Unfused(_fuse(layer, self.workspace, done), value, None, self._next()))
        return value

    def _append_block(self, block: InvertedResidual, value: int, done: dict[int, Module]) -> int:
        if not block.skip:
            return self._append([block.body], value, done)
        if value and isinstance(self.steps[value - 1], FusedConv):
            self.steps[value - 1].is_open = False  # the end of the block reads it too
        result = self._append([block.body], value, done)
        step = self.steps[result - 1] if result else None
        if isinstance(step, FusedConv) and step.is_open and step.residual is None:
            step.residual = value
            return result
        return self._add(Unfused(None, result, value, self._next()))

    def _next(self) -> int:
        return len(self.steps) + 1

    def _add(self, step: FusedConv | Unfused) -> int:
        self.steps.append(step)
        return step.value

    def __call__(self, x: Tensor | np.ndarray) -> Tensor:
        x = x.data if isinstance(x, Tensor) else x
        x = x.astype(np.float32, copy=False) if is_on_gpu(x) else np.ascontiguousarray(x, np.float32)
        values = {0: to_device(x) if self._is_on_gpu() else x}
        lent: dict[int, np.ndarray] = {}
        for k, step in enumerate(self.steps):
            source, residual = values[step.source], values.get(step.residual)
            if isinstance(step, Unfused):
                values[step.value] = step.run(source, residual)
            else:
                is_lent = k < len(self.steps) - 1 and not is_on_gpu(source)  # on the GPU, gpu.Memory keeps buffers
                out = self._lend(step.output_shape(source.shape), lent, step) if is_lent else None
                values[step.value] = step.run(source, residual, out, self.workspace)
            for value in self.last_values[k]:
                values.pop(value, None)
                if value in lent:
                    self.workspace.give_back(lent.pop(value))
        return Tensor(values[self.steps[-1].value if self.steps else 0])

    def _is_on_gpu(self) -> bool:
        steps = (step for step in self.steps if not isinstance(step, Unfused))
        convs = (step if isinstance(step, FusedConv) else step.convs[0] for step in steps)
        return any(is_on_gpu(conv.weight) for conv in itertools.islice(convs, 1))

    def _lend(self, shape: tuple[int, ...], lent: dict[int, np.ndarray], step: Step) -> np.ndarray:
        size = math.prod(shape)
        lent[step.value] = self.workspace.take(size)
        return lent[step.value][:size].reshape(shape)


def fuse(model: Module) -> Module:
    """A copy of `model` for inference: the same call, the same numbers but for rounding, faster.

    Every `Sequential` and `InvertedResidual` in it, at any depth, becomes one chain of fused convolutions.
    Batch norm counts with its running statistics, whatever mode `model` is in. Other modules keep their own
    __call__, with the parts that they hold replaced. Weights are copied where something was merged, and may be
    shared with `model` where nothing was: fuse again after training on. The copy cannot be trained.
    To detect on the GPU, fuse in the machine's memory, and bring the copy there: `fuse(model).to("cuda")`.
    """
    require_on_host(model)
    return _fuse(model, Workspace(), {})


def _fuse(module: Module, workspace: Workspace, done: dict[int, Module]) -> Module:
    """done: what was fused already, by id: a part that a model uses at two places stays one part."""
    if id(module) not in done:
        if is_plain(module, Sequential) or is_plain(module, InvertedResidual):
            done[id(module)] = Fused([module], workspace, done)
        else:
            twin = done[id(module)] = copy.copy(module)
            twin.training = False
            for name, value in vars(module).items():
                if isinstance(value, Module):
                    setattr(twin, name, _fuse(value, workspace, done))
                elif isinstance(value, Tensor):  # the same numbers, but the copy may go to the GPU alone
                    setattr(twin, name, Tensor(value.data, value.requires_grad))
                elif isinstance(value, (list, tuple)):
                    parts = (_fuse(v, workspace, done) if isinstance(v, Module) else v for v in value)
                    setattr(twin, name, type(value)(parts))
    return done[id(module)]
