"""MobileNet: a small trunk that has seen ImageNet, where the papers have AlexNet and VGG-16.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017, Table 1.

    conv 3 x 3, 32 channels, stride 2
    13 blocks:  depthwise 3 x 3, batch norm, ReLU6   (the stride, if there is one)
                1 x 1 convolution, batch norm, ReLU6   (the channels)

The first 11 blocks end at a map of stride 16, as VGG-16's convolutions do; all 13 at stride 32. With `width` 0.25 it
has a quarter of the channels. `load_mobilenet` reads the weights that Keras publishes, without the classifier on top;
with them one can do what the papers begin with: R-CNN's fine-tuning (section 2.3) and Fast R-CNN's surgery (section
2.2, surgery.py).

How the network sees an image:

    colours     RGB, x / 127.5 - 1. The trunk here takes what `normalise(image, MEAN_COLOUR)` makes, (x - 127.5) / 64;
                the first filters are multiplied by 64 / 127.5 when they are loaded, so that all maps are the same. Use
                MEAN_COLOUR in training too: a dataset's own mean would be as if every image had a tint.
    borders     here "SAME": ceil(n / stride) outputs along an axis of n, so that a map is as large as the detectors
                expect. With a kernel of 3 and stride 2: (0, 1) zeros for an even n, (1, 1) for an odd one. Keras' own
                later networks pad (0, 1) always, and so have one cell less where n is odd; at 224 both are the same.
    batch norm  divides by sqrt(variance + 0.001)

Left out: the classifier (Keras' file has none), and with it the training on ImageNet; versions 2 and 3.

Letters: N images, C channels, H W: size of an image, FH FW: size of the map, H / stride rounded up.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.models.backbones import Backbone
from minidetect.nn.layers import Conv2d, Sequential
from minidetect.nn.module import Module, shortened
from minidetect.nn.normalize import BatchNorm2d
from minidetect.ops.activation import relu
from minidetect.ops.conv import conv2d
from minidetect.ops.elementwise import sub
from minidetect.ops.shape import concat

STEM = (32, 2)
# channels and stride of each block
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
EPS = 1e-3
MEAN_COLOUR = np.full(3, 127.5, np.float32)
INPUT_SCALE = 64 / 127.5  # what the first filters are multiplied by: `normalise` divides by 64, Keras by 127.5


class ReLU6(Module):
    """min(max(x, 0), 6)"""

    def __call__(self, x: Tensor) -> Tensor:
        return sub(relu(x), relu(sub(x, 6.0)))


class SameConv2d(Conv2d):
    """A convolution with a stride and Keras' border "SAME"; x (N, C, H, W) -> (N, O, H / stride, W / stride), up."""

    def __call__(self, x: Tensor) -> Tensor:
        stride, _, dilation, groups = self.settings
        for axis, kernel in ((2, self.weight.shape[2]), (3, self.weight.shape[3])):
            x = pad(x, axis, *same_padding(x.shape[axis], kernel, stride))
        return conv2d(x, self.weight, self.bias, stride, 0, dilation, groups)


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of `length`, so that there are ceil(length / stride) outputs; the odd one last."""
    missing = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return missing // 2, missing - missing // 2


def pad(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Zeros around an axis."""
    zeros = [np.zeros((*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype) for n in (before, after)]
    parts = [Tensor(zeros[0]), x, Tensor(zeros[1])]
    return concat([part for part in parts if part.shape[axis]], axis) if before + after else x


class MobileNet(Backbone):
    """x (N, 3, H, W) -> (N, C, FH, FW). width: share of the channels; blocks: how many, 11 for a stride of 16.

    `table`, `channels`, `stride`, `layers` and `taps` are as those of `Backbone`, with a row for each of the
    1 + 2 * blocks convolutions; three layers each, so that `trunk_maps` can freeze the first of them.
    """

    def __init__(self, rng: np.random.Generator, width: float = 0.25, blocks: int = 11) -> None:
        if not 1 <= blocks <= len(BLOCKS) or width * STEM[0] < 1:
            raise ValueError(f"MobileNet has 1 to {len(BLOCKS)} blocks, got {blocks} and the width {width}")
        self.width, self.blocks = width, blocks
        inputs = int(STEM[0] * width)
        table, layers = [(inputs, STEM[1])], convolution(3, inputs, 3, STEM[1], rng)
        for full, step in BLOCKS[:blocks]:
            outputs = int(full * width)
            layers += convolution(inputs, inputs, 3, step, rng, groups=inputs)
            layers += convolution(inputs, outputs, 1, 1, rng)
            table += [(inputs, step), (outputs, 1)]
            inputs = outputs
        Sequential.__init__(self, *layers)
        self.table, self.channels = tuple(table), inputs
        self.stride = int(np.prod([step for _, step in table]))

    @property
    def geometry(self) -> list[tuple[int, int, int]]:
        """Kernel, stride and padding (before, of an even map) of each convolution."""
        kernels = [3, *[3, 1] * self.blocks]
        return [(k, s, k // 2 if s == 1 else 0) for k, (_, s) in zip(kernels, self.table, strict=True)]

    def first(self, blocks: int) -> MobileNet:
        """The same network as far as its first `blocks` blocks; the layers are shared, not copied."""
        twin, shorter = copy.copy(self), MobileNet(np.random.default_rng(0), self.width, blocks)
        twin.layers = self.layers[: len(shorter.layers)]
        twin.blocks, twin.table, twin.channels, twin.stride = blocks, shorter.table, shorter.channels, shorter.stride
        return twin


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int, rng: np.random.Generator, groups: int = 1
) -> list[Module]:
    """A convolution without bias, its batch norm, ReLU6."""
    make, padding = (Conv2d, kernel // 2) if stride == 1 else (SameConv2d, 0)
    conv = make(inputs, outputs, kernel, rng, stride, padding, groups=groups, bias=False)
    return [conv, BatchNorm2d(outputs, eps=EPS), ReLU6()]


# ------------------------------------------------------------------ Keras' weights


def load_mobilenet(path: str | Path, width: float = 0.25, blocks: int = 11) -> MobileNet:
    """The first `blocks` blocks of a MobileNet whose weights Keras published (HDF5, "no top").

    All 13 blocks must be in the file and nothing else, whatever is then kept of them. For later use without h5py:
    `save_arrays(file, trunk.state_dict())` (nn/checkpoint.py).
    Raises ImportError that says how to install h5py where it is missing; FileNotFoundError; ValueError that names the
    file, and tensors that are missing, left over or of another shape.
    """
    net = MobileNet(np.random.default_rng(0), width, len(BLOCKS))
    net.load_state_dict(from_keras(read_hdf5(Path(path)), net, str(path)), str(path))
    net.layers[0].weight.data *= np.float32(INPUT_SCALE)
    return net.first(blocks)


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a Keras weights file by layer and name: "conv_dw_1/depthwise_kernel"."""
    try:
        import h5py
    except ImportError:
        raise ImportError(
            f"{path}: reading HDF5 needs h5py, which is not installed: "
            'pip install h5py, or pip install -e ".[mobilenet]"'
        ) from None
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    tensors: dict[str, np.ndarray] = {}

    def collect(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset):  # conv1/conv1/kernel:0
            parts = name.split("/")
            tensors[f"{parts[0]}/{parts[-1].partition(':')[0]}"] = node[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except OSError as error:
        raise ValueError(f"{path}: not a readable HDF5 file ({error})") from None
    return tensors


def keras_names(blocks: int) -> list[tuple[str, str]]:
    """For each convolution in the order of the network: its name in Keras, and that of its filters."""
    names = [("conv1", "kernel")]
    for k in range(1, blocks + 1):
        names += [(f"conv_dw_{k}", "depthwise_kernel"), (f"conv_pw_{k}", "kernel")]
    return names


def from_keras(tensors: Mapping[str, np.ndarray], net: MobileNet, source: str) -> dict[str, np.ndarray]:
    """A state for `net` from Keras' tensors. Raises ValueError that names missing and left-over ones.

    Keras keeps filters as (KH, KW, C, O), those of a depthwise convolution as (KH, KW, C, 1).
    """
    norm = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    ours: dict[str, tuple[str, tuple[int, ...] | None]] = {}  # Keras' name -> ours, and how to turn the axes
    for k, (layer, filters) in enumerate(keras_names(net.blocks)):
        axes = (2, 3, 0, 1) if filters == "depthwise_kernel" else (3, 2, 0, 1)
        ours[f"{layer}/{filters}"] = (f"layers.{3 * k}.weight", axes)
        ours |= {f"{layer}_bn/{theirs}": (f"layers.{3 * k + 1}.{name}", None) for theirs, name in norm.items()}
    missing, unknown = sorted(ours.keys() - tensors.keys()), sorted(tensors.keys() - ours.keys())
    if missing or unknown:
        raise ValueError(
            f"{source}: not a MobileNet without its classifier: missing {shortened(missing)}; "
            f"left over {shortened(unknown)}"
        )
    state = {}
    for theirs, (name, axes) in ours.items():
        array = np.asarray(tensors[theirs])
        if axes is not None and array.ndim != len(axes):
            raise ValueError(f"{source}: {theirs} has shape {array.shape}, filters need four axes")
        state[name] = array if axes is None else array.transpose(axes)
    return state
