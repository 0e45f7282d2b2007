"""What a single-shot detector costs: parameters, multiply-adds, memory.

    count_table   every layer with its parameters and the multiply-adds of all its uses, each on its own map
    module_walk   what EXTD's published code counts instead, and its Tables 1 and 2 report
    memory        of weights, of the maps that training keeps, of the two that inference needs at least
    head_multiply_adds    of a proposal network's head by formula, for any layout of anchors

A convolution with weights (O, C/groups, K, K) on a map of PH x PW outputs multiplies and adds O * C/groups * K * K
times for each of them; bias, norms, activations, sums and resizing are not counted, as in the paper.

The two counts of EXTD differ because its backbone F has one set of weights that is used six times. The walk goes over
modules, and meets F once: it misses five passes. On the other hand it keeps one size for the map, and after F that is
160 x 160; so it counts the whole upsampling path and all twelve heads there, of which only the finest stand there.

                          FPN-32   FPN-48   FPN-64   SSD-32   SSD-48   SSD-64
    the paper               4.52     6.67    11.2      4.35     6.63    10.6     G, at 640 x 640
    `module_walk`          4.520    6.674   11.153    4.352    6.323   10.555    (6.63 must be a slip for 6.32)
    `count_table`          5.397    7.889   13.411    5.353    7.796   13.252

Weights and maps are two things: EXTD-FPN-32 has 357 times fewer parameters than S3FD, and keeps 2.2 times as many bytes
of maps in training.

Letters: N images, C O channels in and out, K kernel, H W size of an image, PH PW of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from minidetect.autograd.tensor import Function, Tensor, topological_order
from minidetect.detection.anchor_layout import AnchorLayout
from minidetect.models.anchor_detector import AnchorDetector
from minidetect.models.s3fd import MaxPool2d
from minidetect.models.shape_trace import Use, layers_of, trace
from minidetect.nn.layers import Conv2d
from minidetect.nn.module import Module
from minidetect.ops.shape import GetItem, Reshape, Transpose

VIEWS = (GetItem, Reshape, Transpose)  # their outputs are other looks at the same memory
BYTES = 4  # of a float32


class LayerCount(NamedTuple):
    """A layer with parameters.

    name: as in `named_parameters`. kind: "3x3 /2", "3x3 depthwise", or the name of the class. channels: in and out.
    maps: (PH, PW) of the output of each use. parameters: numbers that are learned, counted once. multiply_adds: of all
    uses, for one image.
    """

    name: str
    kind: str
    channels: tuple[int, int]
    maps: tuple[tuple[int, int], ...]
    parameters: int
    multiply_adds: int


class Total(NamedTuple):
    parameters: int
    multiply_adds: int


class Memory(NamedTuple):
    """Bytes, all numbers being float32, for one image.

    weights: of the parameters. training: of the outputs of all layers and sums, which the graph keeps until backward
    has passed (S3FD's L2 norm keeps a few maps more of its own). inference: of the inputs and the output of a single
    operation, where they are most: without fusing, no order of computing needs less.
    """

    weights: int
    training: int
    inference: int


def count_table(model: AnchorDetector, size: tuple[int, int] = (640, 640)) -> list[LayerCount]:
    """Every layer that has parameters, in the order in which the model defines them, for an image of (height, width).

    Raises as `trace` does.
    """
    uses: dict[str, list[Use]] = {}
    for use in trace(model, size).uses:
        uses.setdefault(use.layer_name, []).append(use)
    return [layer_count(name, layer, uses.get(name, ())) for name, layer in layers_of(model) if layer.parameters()]


def layer_count(name: str, layer: Module, uses: Sequence[Use]) -> LayerCount:
    multiply_adds = sum(conv_multiply_adds(layer, use.output_shape[2:]) for use in uses)
    channels = (uses[0].input_shape[1], uses[0].output_shape[1]) if uses else (0, 0)
    maps = tuple(use.output_shape[2:] for use in uses)
    return LayerCount(name, kind_of(layer), channels, maps, layer.num_parameters(), multiply_adds)


def conv_multiply_adds(layer: Module, size: tuple[int, int]) -> int:
    """Of a convolution whose output has (PH, PW) cells; 0 for any other layer."""
    return layer.weight.size * size[0] * size[1] if isinstance(layer, Conv2d) else 0


def kind_of(layer: Module) -> str:
    if not isinstance(layer, Conv2d):
        return type(layer).__name__
    stride, _, dilation, groups = layer.settings
    parts = [f"{layer.weight.shape[2]}x{layer.weight.shape[3]}"]
    parts += [f"/{stride}"] * (stride > 1) + [f"dilation {dilation}"] * (dilation > 1) + ["depthwise"] * (groups > 1)
    return " ".join(parts)


def total(rows: Sequence[LayerCount], part: str = "") -> Total:
    """The sum of the rows whose name is `part` or begins with it, such as "heads" or "backbones.0.layers.5"."""
    chosen = [row for row in rows if not part or f"{row.name}.".startswith(f"{part}.")]
    return Total(sum(row.parameters for row in chosen), sum(row.multiply_adds for row in chosen))


def table_text(rows: Sequence[LayerCount]) -> str:
    """The rows as lines of text, then the sum of each part (the first word of a name) and of all."""
    lines = [f"{'layer':36} {'kind':16} {'in':>5} {'out':>5} {'parameters':>11} {'M mult-adds':>12}  maps"]
    for row in rows:
        maps = " ".join(f"{height}x{width}" for height, width in row.maps)
        numbers = f"{row.channels[0]:5} {row.channels[1]:5} {row.parameters:11,} {row.multiply_adds / 1e6:12,.2f}"
        lines.append(f"{row.name:36} {row.kind:16} {numbers}  {maps}")
    for part in (*dict.fromkeys(row.name.split(".")[0] for row in rows), ""):
        parameters, multiply_adds = total(rows, part)
        lines.append(f"{part or 'all':36} {'':28} {parameters:11,} {multiply_adds / 1e6:12,.2f}")
    return "\n".join(lines)


def module_walk(model: AnchorDetector, size: tuple[int, int] = (640, 640)) -> float:
    """Multiply-adds as clovaai/EXTD_Pytorch counts them (`compute_flops` of its train.py): not the true number.

    One walk over the modules in the order of their definition, each met once. The map's size begins as the image's;
    every convolution of stride 2 and every pooling halves it for all that follow. Sizes are not rounded.
    """
    height, width = size
    count = 0.0
    for _, layer in layers_of(model):
        stride = layer.settings[0] if isinstance(layer, Conv2d) else layer.stride if isinstance(layer, MaxPool2d) else 1
        height, width = height / stride, width / stride
        count += conv_multiply_adds(layer, (height, width))
    return count


def head_multiply_adds(
    layout: AnchorLayout, size: tuple[int, int], channels: int = 256, features: int | None = None
) -> int:
    """What the shared head of a proposal network costs on a layout's maps. Group Sampling, section 6.2.

    A 3x3 convolution from `channels` (c) to `features` (c', None for as many) on every map, two 1x1 convolutions to
    2 + 4 numbers for each anchor. size: (height, width) of the image, of which P2 has h x w cells; then

        S1 (FPN_FINEST)    9 c' c h w + 4 (4 c' h w + 2 c' h w)
        S2 (FPN)           (9 c' c h w + 4 c' h w + 2 c' h w) (1 + 1/4 + 1/16 + 1/64)
        S1 - S2            (1026 - 189 c) c' h w / 64, below 0 from c = 6 on

    At 800 x 800, c = c' = 256: 23.84 G and 31.42 G. The paper's Table 11 has 28.91 and 36.50 in its column "RPN head":
    5.07 G more in both, as much as the lateral 1x1 convolutions of ResNet-50 (4.92 G) and the bilinear interpolations
    (0.15 G at 11 operations a number) make up; the difference of the two agrees.
    """
    features = channels if features is None else features
    maps = {row.feature: tuple(-(-n // layout.map_stride(row.feature)) for n in size) for row in layout.rows}
    hidden = sum(9 * features * channels * height * width for height, width in maps.values())
    outputs = 0
    for row in layout.rows:
        height, width = layout.places(row, size)
        outputs += (2 + 4) * features * layout.per_cell(row) * height * width
    return hidden + outputs


def memory(model: AnchorDetector, size: tuple[int, int] = (640, 640)) -> Memory:
    """Bytes for one image of (height, width). Raises as `trace` does."""
    made = makers(trace(model, size).outputs)
    training = sum(y.size for y, _ in made)
    inference = max(y.size + sum(x.size for x in function.inputs) for y, function in made)
    return Memory(BYTES * model.num_parameters(), BYTES * training, BYTES * inference)


def makers(outputs: Sequence[Tensor]) -> list[tuple[Tensor, Function]]:
    """Every tensor that `outputs` were computed from and that has memory of its own, with the function that made it."""
    tensors = {id(x): x for output in outputs for x in topological_order(output)}
    return [(x, x.creator) for x in tensors.values() if x.creator and not isinstance(x.creator, VIEWS)]
