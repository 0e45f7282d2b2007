"""The blocks of EXTD-32, for measuring: in minidetect, and the same weights in PyTorch and ONNX Runtime.

Yoo, Han, Yoon: "EXTD: Extremely Tiny Face Detector via Iterative Filter Reuse" (2019), sections 3.1 and 3.2.

    image 640 -> stem 3x3 s2 -> 320 -> block 1 -> F -> 160 -> F -> 80 -> F -> 40 -> F -> 20 -> F -> 10 -> F -> 5

F is one set of six inverted residuals (expansions 2, 2, 4, 4, 2, 2, the last of stride 2), used six times.
Left out: the upsampling path and the heads, which are the smaller part of the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minidetect.autograd import Tensor, no_grad
from minidetect.benchmark.peers import Peers
from minidetect.nn.blocks import InvertedResidual, one_slope
from minidetect.nn.layers import Conv2d, PReLU, Sequential
from minidetect.nn.module import Module
from minidetect.nn.normalize import BatchNorm2d

WIDTH, PASSES = 32, 6
EXPANSIONS = ((2, 1), (2, 1), (4, 1), (4, 1), (2, 1), (2, 2))  # of F's blocks: factor, stride


class ExtdStack(Module):
    """x (N, 3, H, W) -> the six maps (N, 32, H/4, W/4) to (N, 32, H/128, W/128)."""

    def __init__(self, rng: np.random.Generator) -> None:
        stem = (Conv2d(3, 64, 3, rng, stride=2, padding=1, bias=False), BatchNorm2d(64), one_slope())
        self.start = Sequential(*stem, InvertedResidual(64, WIDTH, 1, rng, last=one_slope))
        self.shared = Sequential(
            *(InvertedResidual(WIDTH, WIDTH, t, rng, stride, last=one_slope) for t, stride in EXPANSIONS)
        )

    def __call__(self, x: Tensor, passes: int = PASSES) -> list[Tensor]:
        x, maps = self.start(x), []
        for _ in range(passes):
            x = self.shared(x)
            maps.append(x)
        return maps


def calibrated_stack(rng: np.random.Generator) -> ExtdStack:
    """Random weights, and batch norms whose statistics come from one pass over noise.

    Each pass then starts from values of about unit size; with arbitrary statistics the shared weights would
    blow them up, or shrink them to denormals, which processors are slow with.
    """
    model = ExtdStack(rng)
    for unit in units_of(model.start) + units_of(model.shared):
        unit.norm.momentum = 1.0
    model.train()
    with no_grad():
        model(Tensor(rng.standard_normal((1, 3, 128, 128), np.float32)), passes=1)
    model.train(False)
    return model


# ---------------------------------------------------------------------- the same as a list, for the peers


class Unit(NamedTuple):
    """A convolution with its batch norm and PReLU; adds_input_of: whose input is added to its result,
    so many units back and itself counted; 0 for none."""

    conv: Conv2d
    norm: BatchNorm2d
    act: PReLU
    adds_input_of: int

    def slopes(self) -> np.ndarray:
        """One a channel."""
        return np.full(self.conv.weight.shape[0], self.act.slope.data, np.float32)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias of the one convolution that equals convolution and batch norm."""
        norm = self.norm
        scale = norm.weight.data / np.sqrt(norm.running_var + norm.eps)
        bias = 0 if self.conv.bias is None else self.conv.bias.data
        weight = self.conv.weight.data * scale[:, None, None, None]
        return weight, ((bias - norm.running_mean) * scale + norm.bias.data).astype(np.float32)


def units_of(chain: Sequential) -> list[Unit]:
    units: list[Unit] = []
    layers = iter(chain.layers)
    for layer in layers:
        if isinstance(layer, InvertedResidual):
            inner = units_of(layer.body)
            units += [*inner[:-1], inner[-1]._replace(adds_input_of=len(inner) * layer.skip)]
        else:
            units.append(Unit(layer, next(layers), next(layers), 0))
    return units


def in_torch(model: ExtdStack, x: np.ndarray, peers: Peers, fold: bool) -> Callable[[], list]:
    """The same in PyTorch, eagerly: batch norm as a layer of its own, or folded into the convolution."""
    torch, tensor, functional = peers.torch, peers.tensor, peers.torch.nn.functional

    def prepared(unit: Unit) -> tuple:
        norm, bias = unit.norm, unit.conv.bias
        weights = unit.folded() if fold else (unit.conv.weight.data, None if bias is None else bias.data)
        statistics = (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data)
        both = (*weights, *statistics, unit.slopes())
        return [None if a is None else tensor(a) for a in both], unit.conv.settings, norm.eps, unit.adds_input_of

    def run(units: list[tuple], y):
        inputs = []
        for (weight, bias, *statistics, slopes), settings, eps, back in units:
            inputs.append(y)
            y = functional.conv2d(y, weight, bias, *settings)
            if not fold:
                y = functional.batch_norm(y, *statistics, False, 0.0, eps)
            y = torch.prelu(y, slopes)
            if back:
                y = y + inputs[-back]
        return y

    start, shared = ([prepared(unit) for unit in units_of(chain)] for chain in (model.start, model.shared))
    image = tensor(x)

    def call() -> list:
        with torch.inference_mode():
            y, maps = run(start, image), []
            for _ in range(PASSES):
                y = run(shared, y)
                maps.append(y)
            return maps

    return call


def in_onnxruntime(model: ExtdStack, x: np.ndarray, peers: Peers) -> Callable[[], list]:
    """The same as an ONNX model, batch norm folded; the shared weights stand in it once."""
    helper, nodes, constants = peers.onnx.helper, [], {}

    def run(units: list[Unit], part: str, y: str) -> str:
        inputs = []
        for k, unit in enumerate(units):
            inputs.append(y)
            weight, bias, slope, stride = f"{part}{k}w", f"{part}{k}b", f"{part}{k}s", unit.conv.settings[0]
            constants[weight], constants[bias] = unit.folded()
            constants[slope] = unit.slopes().reshape(-1, 1, 1)
            name, size = f"t{len(nodes)}", unit.conv.weight.shape[2]
            settings = {"group": unit.conv.settings[3], "strides": [stride] * 2, "pads": [size // 2] * 4}
            nodes.append(helper.make_node("Conv", [y, weight, bias], [f"{name}c"], **settings))
            nodes.append(helper.make_node("PRelu", [f"{name}c", slope], [y := name]))
            if unit.adds_input_of:
                nodes.append(helper.make_node("Add", [name, inputs[-unit.adds_input_of]], [y := f"{name}a"]))
        return y

    y, maps = run(units_of(model.start), "start", "x"), []
    for _ in range(PASSES):
        y = run(units_of(model.shared), "shared", y)
        maps.append(y)
    graph = helper.make_graph(
        nodes, "extd", [helper.make_tensor_value_info("x", peers.onnx.TensorProto.FLOAT, list(x.shape))],
        [helper.make_empty_tensor_value_info(name) for name in maps],
        [peers.onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()],
    )
    return peers.bound(peers.model(graph), {"x": x}, maps)
