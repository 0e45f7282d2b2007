"""What models cost: EXTD's published numbers, one model by hand, brute force, and the graph that training keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minidetect.autograd import Tensor, no_grad
from minidetect.autograd.tensor import topological_order
from minidetect.detection.anchor_layout import FPN, FPN_FINEST, FPN_FINEST_STRIDE, LAYOUTS, SSD
from minidetect.models.counting import (
    VIEWS,
    LayerCount,
    count_table,
    head_multiply_adds,
    memory,
    module_walk,
    table_text,
    total,
)
from minidetect.models.extd import EXTD
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.receptive_fields import receptive_fields, rows_of_maps, seen_by_head, uncut_size
from minidetect.models.s3fd import S3FD, S3FDMobileFaceNet
from minidetect.models.shape_trace import layers_of, trace
from minidetect.models.unit_view import receptive_field
from minidetect.nn.layers import Conv2d
from minidetect.nn.module import Module
from minidetect.ops import conv as conv_op
from minidetect.ops.elementwise import mul

MODELS = [(structure, width) for structure in ("fpn", "ssd") for width in (32, 48, 64)]
PARAMETERS = (62_939, 100_160, 162_352, 56_059, 86_000, 138_352)
WALK = (4.520, 6.674, 11.153, 4.352, 6.323, 10.555)  # G at 640 x 640, what train.py of the published code counts
TRUE = (5.397, 7.889, 13.411, 5.353, 7.796, 13.252)


def extd(structure: str = "fpn", width: int = 32, **settings) -> EXTD:
    return EXTD(np.random.default_rng(0), structure, width, **settings)


def small(structure: str = "ssd", **settings) -> EXTD:
    """Two maps, four channels: E 3 -> 2 channels, block 1 2 -> 4, F one block of t = 2."""
    return extd(structure, 4, **{"stem": 2, "blocks": ((2, 2),), "sides": (16, 32)} | settings)


# ------------------------------------------------------------------ the paper's numbers


@pytest.mark.parametrize("index", range(6))
def test_published_figures(index):
    model = extd(*MODELS[index])
    rows = count_table(model)
    assert total(rows).parameters == model.num_parameters() == PARAMETERS[index]
    assert module_walk(model) / 1e9 == pytest.approx(WALK[index], abs=5e-4)
    assert total(rows).multiply_adds / 1e9 == pytest.approx(TRUE[index], abs=5e-4)


def test_parameters_of_each_block():
    """1,857 of E, block 1, then F's six blocks of t = 2, 2, 4, 4, 2, 2; 6,880 of five U, 10,982 of the heads."""
    rows = count_table(extd(), (64, 64))
    start = [total(rows, f"start.layers.{k}").parameters for k in range(4)]
    blocks = [total(rows, f"backbones.0.layers.{k}").parameters for k in range(6)]
    assert sum(start[:3]) == 64 * 3 * 9 + 2 * 64 + 1 == 1857
    assert [start[3], *blocks] == [2882, 5059, 5059, 10051, 10051, 5059, 5059]
    assert total(rows, "start").parameters + total(rows, "backbones").parameters == 45_077
    assert total(rows, "up").parameters == 5 * total(rows, "up.3").parameters == 6880
    assert total(rows, "heads").parameters == 10_982
    t2 = (32 * 64 + 2 * 64 + 1) + (64 * 9 + 64 + 2 * 64 + 1) + (64 * 32 + 2 * 32 + 1)
    assert t2 == 5059


def test_baselines():
    """The paper: 22 M and 128 G, 1.2 M and 12.7 G."""
    model = S3FD(np.random.default_rng(0))
    assert total(count_table(model)) == (22_459_110, 128_540_505_600)
    assert module_walk(model) / 1e9 == pytest.approx(127.826, abs=5e-4)
    assert [field.of_head for field in receptive_fields(model)] == [48, 108, 228, 340, 468, 724]  # S3FD, Table 1


# ------------------------------------------------------------------ by hand, and by brute force


def test_one_model_by_hand():
    """16 x 16 pixels: E at 8 x 8, F from 8 x 8 to 4 x 4 and from 4 x 4 to 2 x 2."""
    rows = count_table(small(), (16, 16))
    e = 3 * 2 * 9 * 64
    block_1 = 2 * 9 * 64 + 2 * 4 * 64
    first = 4 * 8 * 64 + 8 * 9 * 16 + 8 * 4 * 16
    second = 4 * 8 * 16 + 8 * 9 * 4 + 8 * 4 * 4
    heads = 4 * 4 * 9 * 16 + 4 * 4 * 9 * 16 + 4 * 2 * 9 * 4 + 4 * 4 * 9 * 4
    assert total(rows, "start").multiply_adds == e + block_1 == 5120
    assert total(rows, "backbones").multiply_adds == first + second == 3712 + 928
    assert total(rows, "heads").multiply_adds == heads == 5472
    assert total(rows).multiply_adds == 15_232

    widen = next(row for row in rows if row.name == "backbones.0.layers.0.body.layers.0")
    assert widen == LayerCount(widen.name, "1x1", (4, 8), ((8, 8), (4, 4)), 32, 32 * (64 + 16))
    assert rows[0].kind == "3x3 /2" and rows[0].parameters == 54  # E has no bias
    depthwise = next(row for row in rows if row.name.startswith("backbones") and "depthwise" in row.kind)
    assert depthwise.kind == "3x3 /2 depthwise" and depthwise.parameters == 8 * 9 + 8
    walked_heads = 16 * (4 * 4 + 4 * 4 + 4 * 2 + 4 * 4) * 9  # all at 4 x 4, which is right for the first two
    assert module_walk(small(), (16, 16)) == 5120 + first + walked_heads == 16_896


@pytest.mark.parametrize("size", [(16, 16), (37, 50), (1, 1)])
@pytest.mark.parametrize("model", [small(), small("fpn"), extd(), S3FDMobileFaceNet(np.random.default_rng(0))])
def test_against_a_real_pass(model, size, monkeypatch):
    """The same forward pass, computed, with every output of every convolution counted where it is made."""
    counted = []
    compute = conv_op.conv2d_forward

    def counting(x, w, *others):
        y = compute(x, w, *others)
        counted.append(y.size * w[0].size)
        return y

    monkeypatch.setattr(conv_op, "conv2d_forward", counting)
    with no_grad():
        model.predict(Tensor(np.zeros((1, 3, *size), np.float32)))
    assert total(count_table(model, size)).multiply_adds == sum(counted) > 0


@pytest.mark.parametrize("structure, width", [("fpn", 32), ("ssd", 48)])
def test_sharing_saves_parameters_and_no_arithmetic(structure, width):
    """Six F of their own cost as many multiply-adds as one that is used six times; the walk does not see that."""
    shared, apart = (extd(structure, width, shared=flag) for flag in (True, False))
    rows, rows_apart = count_table(shared), count_table(apart)
    assert total(rows).multiply_adds == total(rows_apart).multiply_adds
    assert total(rows_apart, "backbones").parameters == 6 * total(rows, "backbones").parameters
    assert {len(row.maps) for row in rows if row.name.startswith("backbones")} == {6}
    assert {len(row.maps) for row in rows_apart} == {1}
    assert module_walk(shared) < 0.9 * total(rows).multiply_adds
    first = total(rows_apart, "backbones.0").multiply_adds
    assert total(rows, "backbones").multiply_adds == sum(first // 4**i for i in range(6))  # each map is a quarter


def test_the_table_as_text():
    rows = count_table(small(), (16, 16))
    lines = table_text(rows).splitlines()
    assert len(lines) == 1 + len(rows) + len(("start", "backbones", "heads", "all"))
    assert lines[1].split() == ["start.layers.0", "3x3", "/2", "3", "2", "54", "0.00", "8x8"]
    assert lines[-1].split() == ["all", f"{small().num_parameters():,}", "0.02"]


# ------------------------------------------------------------------ memory


def graph_bytes(model: Module, size: tuple[int, int]) -> int:
    """Of every map that a true forward pass leaves in the graph; a slope drawn out to all channels is no map."""
    prediction = model.predict(Tensor(np.zeros((1, 3, *size), np.float32)))
    tensors = {id(x): x for y in prediction[:2] for x in topological_order(y) if x.creator and x.ndim > 1}
    return sum(x.data.nbytes for x in tensors.values() if not isinstance(x.creator, VIEWS))


@pytest.mark.parametrize("model", [small(), small("fpn"), extd(), extd("ssd", 48, act="relu")])
def test_memory_is_what_the_graph_holds(model):
    for size in ((16, 16), (37, 50)):
        assert memory(model, size).training == graph_bytes(model, size)
    assert memory(model, (16, 16)).weights == 4 * model.num_parameters()


def test_memory_of_s3fd():
    """Two maps and three of one channel more for each L2 norm, as counting.py says. The largest pair: conv1_2."""
    model, size = S3FD(np.random.default_rng(0)), (32, 32)
    counted = memory(model, size)
    extra = sum(2 * y.size + 3 * y.size // y.shape[1] for y in trace(model, size).maps[:3])
    scales = 4 * (256 + 512 + 512)  # which are no maps, though they have their four axes
    assert graph_bytes(model, size) in (counted.training + 4 * extra, counted.training + 4 * extra + scales)
    assert counted.inference == 4 * 2 * 64 * 32 * 32


def test_memory_by_hand():
    """The largest pair of the small model at 16 x 16: widened to 8 channels of 8 x 8, its batch norm's in and out."""
    assert memory(small(), (16, 16)).inference == 4 * 2 * 8 * 64


def test_extd_has_few_weights_and_large_maps():
    tiny, large = memory(extd()), memory(S3FD(np.random.default_rng(0)))
    assert large.weights / tiny.weights == pytest.approx(357, abs=0.5)
    assert tiny.training / large.training == pytest.approx(2.2, abs=0.05)


# ------------------------------------------------------------------ receptive fields


@pytest.mark.parametrize("width, expected", [(32, [31, 79, 175, 367, 751, 1519]), (48, [23, 55, 119, 247, 503, 1015])])
def test_fields_of_a_chain_by_the_recursion(width, expected):
    """f_i sees what E, block 1 and i times F see: the stack of their kernels, strides and paddings."""
    model = extd("ssd", width)
    f = [(conv.weight.shape[2], *conv.settings[:2]) for conv in convs_of(model.backbones[0])]
    start = [(conv.weight.shape[2], *conv.settings[:2]) for conv in convs_of(model.start)]
    chains = [receptive_field([*start, *f * (i + 1)]) for i in range(6)]
    fields = receptive_fields(model)
    assert [field.size for field in fields] == [chain.size for chain in chains] == expected
    assert [field.stride for field in fields] == [chain.stride for chain in chains] == [4, 8, 16, 32, 64, 128]
    assert [field.of_head for field in fields] == [chain.size + 2 * chain.stride for chain in chains]
    assert [field.ratio for field in fields] == [field.of_head / (4 * field.stride) for field in fields]
    n = sum(conv.weight.shape[2] == 3 for conv in convs_of(model.backbones[0]))
    sizes = [7, *expected]  # a pass of F on a map of stride S adds 2 * n * S
    assert np.diff(sizes).tolist() == [2 * n * stride for stride in (2, 4, 8, 16, 32, 64)]


def convs_of(module: Module) -> list[Conv2d]:
    return [layer for _, layer in layers_of(module) if isinstance(layer, Conv2d)]


def test_upsampling_shows_the_finest_map_what_the_coarsest_sees():
    ssd, fpn = receptive_fields(extd("ssd")), receptive_fields(extd("fpn"))
    assert fpn[-1] == ssd[-1]
    assert [field.size for field in fpn] == [2031, 2031, 2031, 1903, 1775, 1519]
    assert [field.size for field in receptive_fields(extd("fpn", 64))] == [1527, 1527, 1527, 1399, 1271, 1015]


PROBED = {
    "ssd": (lambda: extd("ssd", 4, stem=4, blocks=((1, 1), (2, 2)), sides=(16, 32, 64)), 3),
    "fpn": (lambda: extd("fpn", 8, stem=4, blocks=((1, 2),), sides=(16, 32, 64)), 3),
    "s3fd": (lambda: S3FD(np.random.default_rng(0)), 2),
}


@pytest.mark.parametrize("name, size", [("ssd", 96), ("ssd", 77), ("fpn", 96), ("fpn", 77), ("s3fd", 45)])
def test_fields_against_the_gradient_of_one_cell(name, size, rng):
    """Which pixels move a cell: those with a gradient, for random weights. At the border and in the middle."""
    make, num_maps = PROBED[name]
    model = make()
    x = Tensor(rng.standard_normal((1, 3, size, size)).astype(np.float32) * 50, requires_grad=True)
    for k, rows in enumerate(rows_of_maps(model, size)[:num_maps]):
        for i in (0, len(rows.low) // 2, len(rows.low) - 1):
            x.grad = None
            y = model.maps(x)[k]
            gy = np.zeros(y.shape, np.float32)
            gy[0, :, i, i] = rng.standard_normal(y.shape[1])
            y.backward(gy)
            pixels = np.flatnonzero(x.grad.any(axis=(0, 1, 3))), np.flatnonzero(x.grad.any(axis=(0, 1, 2)))
            for seen in pixels:
                assert (seen[0], seen[-1]) == (rows.low[i], rows.high[i])


def test_a_wrong_stride_is_noticed(rng):
    """The probe above has teeth: a model that truly strides by 1 where its copy says 2 sees less."""
    model = PROBED["ssd"][0]()
    rows = rows_of_maps(model, 96)[0]
    convs_of(model.start)[0].settings = (1, 1, 1, 1)
    other = rows_of_maps(model, 96)[0]
    assert uncut_size(other, 96) < uncut_size(rows, 96) < uncut_size(seen_by_head(rows), 96)


# ------------------------------------------------------------------ the trace


def test_a_trace_leaves_the_model_alone():
    model = small("fpn")
    before, parts = model.state_dict(), [id(layer) for _, layer in layers_of(model)]
    count_table(model, (40, 33))
    assert [id(layer) for _, layer in layers_of(model)] == parts
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_trace_has_the_shapes_of_a_true_pass():
    for model in (small("fpn"), S3FDMobileFaceNet(np.random.default_rng(0))):
        seen = trace(model, (45, 70))
        with no_grad():
            true = model.predict(Tensor(np.zeros((1, 3, 45, 70), np.float32)))
        assert [y.shape for y in seen.outputs] == [true.logits.shape, true.deltas.shape]
        assert len(seen.maps) == len(model.sides)


def test_layers_have_the_names_of_their_parameters():
    model = extd()
    names = [f"{name}." for name, layer in layers_of(model) if layer.parameters()]
    assert {name.rpartition(".")[0] + "." for name, _ in model.named_parameters()} == set(names)


def test_what_cannot_be_counted_is_refused():
    model = small()
    with pytest.raises(ValueError, match="a FusedBlock cannot be counted|a FusedConv cannot be counted"):
        count_table(model.fuse())
    with pytest.raises(ValueError, match="cannot be counted"):
        module_walk(model.fuse())
    with no_grad(), pytest.raises(RuntimeError, match="outside no_grad"):
        memory(model)
    for size in ((0, 64), (64,)):
        with pytest.raises(ValueError, match="size must be .* of at least 1 pixel each, got"):
            count_table(model, size)

    class Doubled(EXTD):
        def maps(self, x):
            return [mul(y, 2.0) for y in super().maps(x)]

    doubled = Doubled(np.random.default_rng(0), "ssd", 4, stem=2, blocks=((2, 2),), sides=(16, 32))
    assert total(count_table(doubled, (16, 16))).multiply_adds == 15_232
    with pytest.raises(ValueError, match="Mul: rows through such an operation"):
        receptive_fields(doubled)


def test_the_benchmark_prints_every_model(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import extd_counts

    chosen = {name: make for name, make in extd_counts.models().items() if "32-PReLU" in name or name == "S3FD"}
    rows = [extd_counts.measure(name, make(), (128, 128)) for name, make in chosen.items()]
    text = extd_counts.report(rows, 128)
    assert len(extd_counts.models()) == 20
    assert text.count("EXTD-FPN-32-PReLU") == 4 and "356.8" in text and "62,939" in text
    monkeypatch.setattr("sys.argv", ["extd_counts.py", "--layers", "EXTD-SSD-32-ReLU", "--size", "64"])
    extd_counts.main()
    assert "56,038" in capsys.readouterr().out


# ------------------------------------------------------------------ heads of a layout


def test_heads_at_800():
    """Group Sampling, section 6.2, c = c' = 256: S1 = 23.83872 G, S2 = 31.416 G; the difference is published."""
    s1, s2 = (head_multiply_adds(layout, (800, 800)) for layout in (FPN_FINEST, FPN))
    assert s1 == 9 * 256 * 256 * 200 * 200 + 4 * 6 * 256 * 200 * 200 == 23_838_720_000
    assert s2 == (9 * 256 * 256 + 6 * 256) * (200**2 + 100**2 + 50**2 + 25**2) == 31_416_000_000
    assert (s2 - s1) / 1e9 == pytest.approx(36.50 - 28.91, abs=0.015)
    # With the anchors of FPN alone on the finest map: its hidden map, and fewer outputs than four a cell.
    outputs = 6 * 256 * (200**2 + 100**2 + 50**2 + 25**2)
    assert head_multiply_adds(FPN_FINEST_STRIDE, (800, 800)) == 9 * 256 * 256 * 200 * 200 + outputs < s1


@pytest.mark.parametrize("c", [1, 4, 5, 6, 7, 64, 256])
@pytest.mark.parametrize("features", [1, 24, 256])
def test_the_difference_changes_its_sign_between_5_and_6_channels(c, features):
    """S1 - S2 = (1026 - 189 c) c' h w / 64; its root is at c = 5.43."""
    height, width = 96, 160
    s1, s2 = (head_multiply_adds(layout, (4 * height, 4 * width), c, features) for layout in (FPN_FINEST, FPN))
    assert 64 * (s1 - s2) == (1026 - 189 * c) * features * height * width
    assert (s1 > s2) == (c <= 5)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("head", ["shared", "dilated"])
def test_the_formula_of_heads_against_a_trace(name, head):
    """Four dilated convolutions to a fourth of the features cost as much as one. RPN looks at C4, SSD needs equal C."""
    widths = (6, 6, 6, 6) if name == "ssd" else (4, 5, 6, 7)
    model = LayoutDetector(
        np.random.default_rng(0), LAYOUTS[name], head, width=6, features=12, widths=widths, stem=4
    )
    for size in ((128, 192), (64, 64)):
        counted = total(count_table(model, size), "heads").multiply_adds
        assert counted == head_multiply_adds(LAYOUTS[name], size, 6, 12) > 0


def test_a_layout_detector_is_counted_as_it_runs(monkeypatch):
    """Every output of every convolution, in a true pass; 96 x 128 pixels."""
    counted, compute = [], conv_op.conv2d_forward

    def counting(x, w, *others):
        y = compute(x, w, *others)
        counted.append(y.size * w[0].size)
        return y

    monkeypatch.setattr(conv_op, "conv2d_forward", counting)
    for layout, head in ((FPN, "shared"), (FPN_FINEST_STRIDE, "context"), (SSD, "own")):
        counted.clear()
        model = LayoutDetector(
            np.random.default_rng(0), layout, head, width=4, features=8, widths=(4, 4, 4, 8), stem=4
        )
        with no_grad():
            model.predict(Tensor(np.zeros((1, 3, 96, 128), np.float32)))
        rows = count_table(model, (96, 128))
        assert total(rows).multiply_adds == sum(counted) > 0
        assert total(rows).parameters == model.num_parameters()
