"""EXTD in PyTorch and in ONNX Runtime, with our weights, for end_to_end.py and extd_resolution.py.

Both get the whole network, from the image to the logits and deltas of every anchor, for one image of a fixed size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minidetect.autograd import Tensor, no_grad
from minidetect.benchmark.peers import Peers
from minidetect.models.extd import EXTD
from minidetect.models.single_shot import BACKGROUNDS
from minidetect.nn.blocks import InvertedResidual
from minidetect.nn.fuse import fixed_slope
from minidetect.nn.layers import Conv2d, Sequential
from minidetect.nn.module import Module
from minidetect.nn.normalize import BatchNorm2d


def calibrated(rng: np.random.Generator, width: int = 32) -> EXTD:
    """Random weights, and batch norms whose statistics come from one pass over noise.

    Each pass then starts from values of about unit size; with arbitrary statistics the shared weights would
    blow them up, or shrink them to denormals, which processors are slow with.
    """
    model = EXTD(rng, width=width)
    for norm in norms_of(model):
        norm.momentum = 1.0
    model.train()
    with no_grad():
        model.backbones[0](model.start(Tensor(rng.standard_normal((1, 3, 128, 128), np.float32))))
    model.train(False)
    return model


def norms_of(module: Module) -> list[BatchNorm2d]:
    own = [module] if isinstance(module, BatchNorm2d) else []
    return own + [norm for _, part in module.children() for norm in norms_of(part)]


# ---------------------------------------------------------------------- the same as a list, for the peers


class Unit(NamedTuple):
    """A convolution with the batch norm and activation after it, if there are any; adds_input_of: whose input is added
    to its result, so many units back and itself counted; 0 for none."""

    conv: Conv2d
    norm: BatchNorm2d | None
    act: Module | None
    adds_input_of: int = 0

    def slopes(self) -> np.ndarray | None:
        """Of negative values, one a channel."""
        return None if self.act is None else np.full(len(self.conv.weight), fixed_slope(self.act), np.float32)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias of the one convolution that equals convolution and batch norm."""
        weight, norm = self.conv.weight.data, self.norm
        bias = np.zeros(len(weight), np.float32) if self.conv.bias is None else self.conv.bias.data
        if norm is None:
            return weight, bias
        scale = norm.weight.data / np.sqrt(norm.running_var + norm.eps)
        shifted = (bias - norm.running_mean) * scale + norm.bias.data
        return weight * scale[:, None, None, None], shifted.astype(np.float32)


def units_of(chain: Sequential) -> list[Unit]:
    units: list[Unit] = []
    for layer in chain.layers:
        if isinstance(layer, InvertedResidual):
            inner = units_of(layer.body)
            units += [*inner[:-1], inner[-1]._replace(adds_input_of=len(inner) * layer.skip)]
        elif isinstance(layer, Conv2d):
            units.append(Unit(layer, None, None))
        elif isinstance(layer, BatchNorm2d):
            units[-1] = units[-1]._replace(norm=layer)
        else:
            units[-1] = units[-1]._replace(act=layer)
    return units


class Parts(NamedTuple):
    """The network as lists: E and block 1, F, the U's, the heads (logits, deltas) of each map."""

    start: list
    shared: list
    up: list[list]
    heads: list[tuple[list, list]]


def parts_of(model: EXTD, prepare: Callable[[list[Unit]], list]) -> Parts:
    heads = zip(model.heads.logits, model.heads.deltas, strict=True)
    return Parts(
        prepare(units_of(model.start)), prepare(units_of(model.backbones[0])),
        [prepare(units_of(up)) for up in model.up],
        [tuple(prepare([Unit(conv, None, None)]) for conv in pair) for pair in heads],
    )  # fmt: skip


def in_torch(model: EXTD, x: np.ndarray, peers: Peers, fold: bool) -> Callable[[], list]:
    """The same in PyTorch, eagerly: batch norm as a layer of its own, or folded into the convolution."""
    torch, tensor, functional = peers.torch, peers.tensor, peers.torch.nn.functional

    def prepared(units: list[Unit]) -> list[tuple]:
        rows = []
        for unit in units:
            norm, bias = None if fold else unit.norm, unit.conv.bias
            own = (unit.conv.weight.data, None if bias is None else bias.data)
            weights = unit.folded() if fold else own
            after = () if norm is None else (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data)
            both = [None if a is None else tensor(a) for a in (*weights, unit.slopes(), *after)]
            rows.append((both, unit.conv.settings, None if norm is None else norm.eps, unit.adds_input_of))
        return rows

    def run(units: list[tuple], y):
        inputs = []
        for (weight, bias, slopes, *statistics), settings, eps, back in units:
            inputs.append(y)
            y = functional.conv2d(y, weight, bias, *settings)
            if statistics:
                y = functional.batch_norm(y, *statistics, False, 0.0, eps)
            if slopes is not None:
                y = torch.prelu(y, slopes)
            if back:
                y = y + inputs[-back]
        return y

    def joined(outputs: list):
        return torch.cat([y.permute(0, 2, 3, 1).reshape(len(y), -1, y.shape[1]) for y in outputs], 1)

    parts, image = parts_of(model, prepared), tensor(x)

    def call() -> list:
        with torch.inference_mode():
            f, g = [run(parts.start, image)], []
            for _ in model.sides:
                f.append(run(parts.shared, f[-1]))
            for up, target in zip([None, *parts.up], f[:0:-1], strict=True):
                if up is not None:
                    larger = functional.interpolate(g[-1], target.shape[2:], mode="bilinear", align_corners=False)
                    target = run(up, larger) + target
                g.append(target)
            logits, deltas = ([run(head[k], y) for head, y in zip(parts.heads, g[::-1], strict=True)] for k in (0, 1))
            first = logits[0]
            logits[0] = torch.cat([first[:, :BACKGROUNDS].amax(1, keepdim=True), first[:, BACKGROUNDS:]], 1)
            return [joined(logits), joined(deltas)]

    return call


def in_onnxruntime(model: EXTD, x: np.ndarray, peers: Peers) -> Callable[[], list]:
    """The same as an ONNX model, batch norm folded; the shared weights stand in it once."""
    helper, nodes, constants, numbers = peers.onnx.helper, [], {}, iter(range(10**6))

    def node(kind: str, inputs: list[str], **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [name := f"t{next(numbers)}"], **attributes))
        return name

    def constant(array: np.ndarray) -> str:
        constants[name := f"c{next(numbers)}"] = array
        return name

    def prepared(units: list[Unit]) -> list[tuple]:
        rows = []
        for unit in units:
            names, slopes = [constant(a) for a in unit.folded()], unit.slopes()
            size, (stride, _, _, groups) = unit.conv.weight.shape[2], unit.conv.settings
            settings = {"group": groups, "strides": [stride] * 2, "pads": [size // 2] * 4}
            slope = None if slopes is None else constant(slopes.reshape(-1, 1, 1))
            rows.append((names, settings, slope, unit.adds_input_of))
        return rows

    def run(units: list[tuple], y: str) -> str:
        inputs = []
        for names, settings, slope, back in units:
            inputs.append(y)
            y = node("Conv", [y, *names], **settings)
            y = y if slope is None else node("PRelu", [y, slope])
            y = node("Add", [y, inputs[-back]]) if back else y
        return y

    def joined(outputs: list[str]) -> str:
        channels = constant(np.array([1, -1, 4 if outputs is deltas else 2]))
        flat = [node("Reshape", [node("Transpose", [y], perm=[0, 2, 3, 1]), channels]) for y in outputs]
        return node("Concat", flat, axis=1)

    def channels_of(y: str, first: int, end: int) -> str:
        return node("Slice", [y, *(constant(np.array([v])) for v in (first, end, 1))])

    parts, f, g = parts_of(model, prepared), ["x"], []
    f[0] = run(parts.start, "x")
    sizes = [np.array([1, model.width, *(-(-n // (side // 4)) for n in x.shape[2:])]) for side in model.sides]
    for _ in model.sides:
        f.append(run(parts.shared, f[-1]))
    for up, target, size in zip([None, *parts.up], f[:0:-1], sizes[::-1], strict=True):
        if up is not None:
            target = node("Add", [run(up, node("Resize", [g[-1], "", "", constant(size)], mode="linear")), target])
        g.append(target)
    logits, deltas = ([run(head[k], y) for head, y in zip(parts.heads, g[::-1], strict=True)] for k in (0, 1))
    background = node("ReduceMax", [channels_of(logits[0], 0, BACKGROUNDS)], axes=[1], keepdims=1)
    logits[0] = node("Concat", [background, channels_of(logits[0], BACKGROUNDS, BACKGROUNDS + 1)], axis=1)
    outputs = [joined(logits), joined(deltas)]
    graph = helper.make_graph(
        nodes, "extd", [helper.make_tensor_value_info("x", peers.onnx.TensorProto.FLOAT, list(x.shape))],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [peers.onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return peers.bound(peers.model(graph), {"x": x}, outputs)
