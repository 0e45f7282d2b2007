"""EXTD: its sizes, what sharing one F means for gradients and norms, the fused copy, files, and the published weights.

Weights of random numbers in the published files' names and shapes serve where the real files are absent.
"""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch_files
from command import run
from matplotlib import cbook
from PIL import Image

import minidetect
from minidetect import api
from minidetect.api import save
from minidetect.autograd import Tensor, no_grad
from minidetect.data.images import load_image
from minidetect.data.wider_face import read_wider
from minidetect.kernels.iou import iou_matrix
from minidetect.models.extd import ACTIVATIONS, BLOCKS, EXTD, STRUCTURES
from minidetect.models.extd_weights import THRESHOLDS, load_extd
from minidetect.models.shape_trace import trace
from minidetect.models.single_shot_scales import ManyLooks
from minidetect.nn.checkpoint import load_arrays, save_arrays
from minidetect.nn.normalize import BatchNorm2d
from minidetect.nn.torch_file import read_state_dict
from minidetect.ops.conv import conv2d
from minidetect.ops.elementwise import add, mul
from minidetect.ops.reduce import sum as sum_over

PARAMETERS = {("fpn", 32): 62_939, ("fpn", 48): 100_160, ("fpn", 64): 162_352,
              ("ssd", 32): 56_059, ("ssd", 48): 86_000, ("ssd", 64): 138_352}  # fmt: skip
SLOPES = {32: 1 + 2 + 6 * 3, 48: 1 + 1 + 4 * 2, 64: 1 + 1 + 4 * 2}  # of E, block 1 and F; 32 has them at its ends too
WIDTHS = tuple(BLOCKS)
every_width = pytest.mark.parametrize("width", WIDTHS)
TINY = {"width": 4, "stem": 4, "blocks": ((2, 1), (1, 2))}


def shaken(model: EXTD, seed: int = 0) -> EXTD:
    """Statistics, scales, slopes and biases that are not those of a new network; no map grows from pass to pass."""
    rng = np.random.default_rng(seed)
    model.start.layers[0].weight.data /= 60  # of pixels
    for name, p in model.named_parameters():
        if p.ndim == 1:
            p.data[...] = rng.uniform(0.5, 1.5, p.shape) if name.endswith("weight") else rng.normal(0, 0.3, p.shape)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer[...] = rng.normal(0, 0.2, buffer.shape)
        elif name.endswith("running_var"):
            buffer[...] = rng.uniform(0.5, 1.5, buffer.shape)
    for block in (block for backbone in model.backbones for block in backbone.layers if block.skip):
        [norm for norm in block.body.layers if isinstance(norm, BatchNorm2d)][-1].weight.data *= 0.2
    with no_grad():
        maps = model.maps(random_images(rng, 64, 64))
        for heads, size in ((model.heads.logits, 2.0), (model.heads.deltas, 0.5)):
            for head, x in zip(heads, maps, strict=True):
                head.weight.data *= size / head(x).data.std()
    return model


def random_images(rng, height: int, width: int, num: int = 1, dtype=np.float32) -> Tensor:
    return Tensor(rng.normal(0, 60, (num, 3, height, width)).astype(dtype))


def noise(rng, height: int = 40, width: int = 60) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_close(ours: np.ndarray, truth: np.ndarray, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(ours, truth, rtol=tolerance, atol=tolerance * np.abs(truth).max())


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_eighteen_models(structure, width, act, rng):
    model = EXTD(rng, structure, width, act)
    assert model.num_parameters() == PARAMETERS[structure, width] - (SLOPES[width] if act != "prelu" else 0)
    assert model.name == f"EXTD-{structure.upper()}-{width}-{dict(relu='ReLU', lrelu='LReLU', prelu='PReLU')[act]}"
    slopes = {float(p.data[0]) for name, p in model.named_parameters() if name.endswith("slope")}
    assert slopes == ({0.25} if act == "prelu" else set())
    (found,) = shaken(model).detect([noise(rng, 20, 30)], min_face=0, min_score=0)
    assert len(found.boxes) > 10 and (found.boxes >= 0).all() and (found.boxes <= [30, 20, 30, 20]).all()
    model.train()
    assert np.isfinite(model.predict(random_images(rng, 64, 64, num=2)).logits.data).all()


def test_activations_by_hand():
    x = Tensor(np.float32([-4, 4]).reshape(1, 2, 1, 1))
    found = {name: make()(x).data.ravel().tolist() for name, make in ACTIVATIONS.items()}
    assert found == {"relu": [0, 4], "lrelu": [-1, 4], "prelu": [-1, 4]}


@pytest.mark.parametrize("size", [(640, 640), (480, 641), (33, 129), (7, 5), (1, 1)])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_sizes_of_the_maps(structure, size, rng):
    model = EXTD(rng, structure)
    expected = [(1, 32, *(ceil(n / stride) for n in size)) for stride in (4, 8, 16, 32, 64, 128)]
    assert [y.shape for y in trace(model, size).maps] == expected
    if size[0] < 100:  # and truly
        with no_grad():
            images = random_images(rng, *size)
            assert [y.shape for y in model.maps(images)] == expected
            prediction = model.predict(images)
        anchors = sum(h * w for *_, h, w in expected)
        assert prediction.logits.shape == (1, anchors, 2) and prediction.deltas.shape == (1, anchors, 4)
        assert prediction.anchors.shape == (anchors, 4)


def test_blocks_of_fig_7(rng):
    assert BLOCKS[32] == ((2, 1), (2, 1), (4, 1), (4, 1), (2, 1), (2, 2)) and BLOCKS[48] == BLOCKS[64]
    assert BLOCKS[48] == ((2, 1), (2, 1), (4, 1), (4, 2))
    for width, ends in ((32, True), (48, False), (64, False)):
        model = EXTD(rng, width=width)
        assert len(model.backbones) == 1 and len(model.up) == 5 and model.activated_ends == ends
        blocks = [model.start.layers[-1], *model.backbones[0].layers]
        assert [len(b.body.layers) for b in blocks] == [5 + ends, *[8 + ends] * (len(blocks) - 1)]
        assert [b.skip for b in blocks] == [width == 64, *[True] * (len(blocks) - 2), False]  # E has 64 channels
    assert EXTD(rng, width=48, activated_ends=True).num_parameters() == 100_160 + 5
    assert EXTD(rng, "ssd").up == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"structure": "tree"}, "structure must be one of fpn, ssd, got 'tree'"),
        ({"act": "gelu"}, "act must be one of relu, lrelu, prelu, got 'gelu'"),
        ({"width": 40}, "width must be one of 32, 48, 64, got 40; another needs `blocks`"),
        ({"blocks": ()}, "blocks must be"),
        ({"blocks": ((2, 1), (2, 1))}, "only the last of stride 2"),
        ({"blocks": ((2, 2), (2, 2))}, "only the last of stride 2"),
        ({"blocks": ((0, 1), (2, 2))}, "t of at least 1"),
        ({"threshold": 3}, "threshold must be a number from 0 to 1"),
        ({"sides": (16, 30)}, "sides must be multiples of 4"),
    ],
)
def test_choices_that_there_are_not(settings, complaint, rng):
    with pytest.raises(ValueError) as error:
        EXTD(rng, **settings)
    assert complaint in str(error.value)


# ------------------------------------------------------------------ one F, six times


def unshared(model: EXTD) -> EXTD:
    """A model whose six passes have an F each, with the weights of the one that `model` has."""
    dtype = model.start.layers[0].weight.dtype
    arguments = model.arguments() | {"shared": False}
    twin, state = EXTD(np.random.default_rng(1), **arguments), model.state_dict()
    for p in twin.parameters():
        p.data = p.data.astype(dtype)
    copies = {}
    for name in twin.state_dict():
        part, _, rest = name.partition(".")
        copies[name] = state[f"backbones.0.{rest.partition('.')[2]}" if part == "backbones" else name]
    twin.load_state_dict(copies)
    assert len(twin.backbones) == len(model.sides) and len(model.backbones) == 1
    return twin


def in_float64(model: EXTD) -> EXTD:
    for p in model.parameters():
        p.data = p.data.astype(np.float64)
    return model


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_shared_gradient_is_the_sum_over_the_six_uses(structure, training, rng):
    one = in_float64(shaken(EXTD(rng, structure, **TINY)))
    six = unshared(one)
    images, gradients = random_images(rng, 128, 140, num=2, dtype=np.float64), []
    gys = None
    for model in (one, six):
        model.train(training)
        said = model.predict(images)
        gys = gys or [Tensor(rng.standard_normal(y.shape)) for y in said[:2]]
        add(*(sum_over(mul(y, gy)) for y, gy in zip(said[:2], gys, strict=True))).backward()
        gradients.append(({name: p.grad for name, p in model.named_parameters()}, said))
    (ours, said), (copies, said_six) = gradients
    np.testing.assert_array_equal(said.logits.data, said_six.logits.data)
    np.testing.assert_array_equal(said.deltas.data, said_six.deltas.data)
    for name, g in ours.items():
        uses = [copies[name]]
        if name.startswith("backbones.0."):
            uses = [copies[f"backbones.{k}.{name.removeprefix('backbones.0.')}"] for k in range(6)]
        scale = max(np.abs(use).max() for use in uses)
        np.testing.assert_allclose(g, sum(uses), rtol=1e-9, atol=1e-9 * scale + 1e-12, err_msg=name)
        if len(uses) == 6 and not name.endswith("bias"):
            assert all(use.any() for use in uses), name
            others = sum(uses[:-1])  # a wrong sum does not pass
            assert np.abs(g - others).max() > 1e-6 * scale, name


def test_the_norms_of_f_move_six_times_a_step(rng):
    """r <- 0.9 r + 0.1 m for the means of passes 1 to 6; each pass's own mean is read off a model with six F."""
    one = EXTD(rng, **TINY)
    six = unshared(one)
    images = random_images(rng, 128, 150, num=2)
    for model in (one, six):
        model.train()
        model.predict(images)
    ours, copies = one.state_dict(), six.state_dict()
    names = [name for name in ours if name.startswith("backbones") and "running" in name]
    assert len(names) == 2 * (3 + 2)
    for name in names:
        start = 1.0 if name.endswith("var") else 0.0
        expected = np.full(ours[name].shape, start)
        for k in range(6):
            of_this_pass = (copies[f"backbones.{k}.{name.removeprefix('backbones.0.')}"] - 0.9 * start) / 0.1
            expected = 0.9 * expected + 0.1 * of_this_pass
        np.testing.assert_allclose(ours[name], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max(), err_msg=name)
    for name in ours:
        if "running" in name and not name.startswith("backbones"):  # the others once
            np.testing.assert_allclose(ours[name], copies[name], rtol=1e-5, err_msg=name)


def test_tests_use_one_mixture_for_all_passes(rng):
    """Running averages that are wrong for one pass show in every map, in a model that is not training."""
    model = shaken(EXTD(rng, "ssd", **TINY))
    images = random_images(rng, 64, 64)
    with no_grad():
        before = [y.data for y in model.maps(images)]
        model.backbones[0].layers[0].body.layers[1].running_mean += 1
        after = [y.data for y in model.maps(images)]
    assert all((a != b).any() for a, b in zip(before, after, strict=True))


def test_activated_ends_pass_the_state_through_the_activation(rng):
    """With ReLU at the ends nothing that F hands on is negative; with linear ends about half is. EXTD, section 4.3."""
    images = random_images(rng, 64, 64, num=2)
    for ends in (True, False):
        model = shaken(EXTD(rng, "ssd", act="relu", activated_ends=ends, **TINY))
        model.train()
        negative = [(y.data < 0).mean() for y in model.iterate(images)]
        assert max(negative) == 0 if ends else min(negative) > 0.1


# ------------------------------------------------------------------ the fused copy


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 129), (64, 96)])
@pytest.mark.parametrize("kind", [("fpn", 32, "prelu"), ("ssd", 48, "relu"), ("fpn", 64, "lrelu")], ids=str)
def test_the_fused_copy_says_the_same(kind, size, rng):
    model = shaken(EXTD(rng, *kind))
    images = random_images(rng, *size, num=2)
    with no_grad():
        fused, plain = model.fuse().predict(images), model.predict(images)
    assert_close(fused.logits.data, plain.logits.data)
    assert_close(fused.deltas.data, plain.deltas.data)
    np.testing.assert_array_equal(fused.anchors, plain.anchors)


def test_the_fused_copy_detects_the_same(rng):
    model, image = shaken(EXTD(rng)), noise(rng, 70, 90)
    (ours,), (theirs,) = model.fuse().detect([image]), model.detect([image])
    assert len(theirs.boxes) > 10
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.01)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    assert (ours.boxes >= 0).all() and (ours.boxes <= [90, 70, 90, 70]).all() and (np.diff(ours.scores) <= 0).all()


def test_no_face_where_nothing_is_certain(rng):
    (found,) = EXTD(rng, threshold=1.0, **TINY).detect([noise(rng)])
    assert found.boxes.shape == (0, 4) and found.scores.shape == (0,)


# ------------------------------------------------------------------ files of one's own


@pytest.fixture(scope="module")
def own_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.npz"
    settings = {"threshold": 0.25, "nms_threshold": 0.5, "most": 20, "most_candidates": 300, "sides": (16, 32, 64)}
    model = shaken(EXTD(np.random.default_rng(3), "ssd", act="lrelu", activated_ends=True, **TINY, **settings))
    save(model, path, {"steps": 3})
    return path


def test_arguments_survive_a_file(own_file, rng):
    detector = minidetect.load(own_file)
    assert json.loads(json.dumps(detector.model.arguments())) == {
        "structure": "ssd", "width": 4, "act": "lrelu", "stem": 4, "blocks": [[2, 1], [1, 2]], "activated_ends": True,
        "shared": True, "threshold": 0.25, "nms_threshold": 0.5, "most": 20, "most_candidates": 300,
        "sides": [16, 32, 64],
    }  # fmt: skip
    assert detector.training == {"steps": 3} and "EXTD" in repr(detector)
    settings = detector.model.arguments()
    assert settings["sides"] == (16, 32, 64) and settings["blocks"] == ((2, 1), (1, 2))
    image = noise(rng)
    twin = EXTD(rng, **settings)
    twin.load_state_dict(load_arrays(own_file)[0])
    (ours,), (theirs,) = detector.detect([image]), twin.detect([image], min_face=8)
    assert 0 < len(ours.boxes) <= 20
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.01)
    assert len(detector.detect([image], min_face=1000)[0].boxes) == 0
    assert len(detector.detect([image], threshold=1.0)[0].boxes) == 0


def test_an_unshared_model_survives_a_file_too(tmp_path, rng):
    model = shaken(EXTD(rng, shared=False, **TINY))
    save(model, tmp_path / "six.npz", {})
    loaded = minidetect.load(tmp_path / "six.npz").model
    assert not loaded.shared and len(loaded.backbones) == 6
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], array)


def test_thorough_looks_many_times(own_file, rng):
    image = noise(rng)
    detector, usual = minidetect.load(own_file, thorough=True), minidetect.load(own_file)
    assert isinstance(detector.pipeline, ManyLooks) and detector.pipeline.threshold == 0.25
    (found,) = detector.detect([image])
    (expected,) = ManyLooks(usual.pipeline).detect([image])
    assert 0 < len(found.boxes) <= 20
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert (found.boxes >= 0).all() and (found.boxes <= [60, 40, 60, 40]).all() and (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda arrays, m: m["arguments"].update(width=31, blocks=None), "width must be one of 32, 48, 64"),
        (lambda arrays, m: m["arguments"].update(structure="tree"), "structure must be one of fpn, ssd"),
        (lambda arrays, m: m["arguments"].update(threshold=2), "threshold must be a number"),
        (lambda arrays, m: m["arguments"].update(sides=[16, 30, 64]), "sides must be multiples"),
        (lambda arrays, m: m["arguments"].update(sides=16), "do not describe a EXTD"),
        (lambda arrays, m: m["arguments"].update(colour="red"), "colour"),
        (lambda arrays, m: m["arguments"].update(blocks=[[2]]), "do not describe a EXTD"),
        (lambda arrays, m: m["arguments"].update(act=["relu"]), "do not describe a EXTD"),
        (lambda arrays, m: m["arguments"].update(sides=[16, 32]), "not weights of EXTD"),
        (lambda arrays, m: m["arguments"].update(stem=5), "has shape"),
        (lambda arrays, m: m.pop("arguments"), "do not describe a EXTD"),
        (lambda arrays, m: arrays.pop("start.layers.1.running_var"), "missing start.layers.1.running_var"),
        (lambda arrays, m: arrays.pop("mean_colour"), "missing mean_colour"),
        (lambda arrays, m: arrays.update(more=np.zeros(2)), "unknown more"),
    ],
)
def test_a_file_that_does_not_fit_is_named(own_file, tmp_path, change, complaint):
    arrays, meta = load_arrays(own_file)
    change(arrays, meta)
    save_arrays(tmp_path / "wrong.npz", arrays, meta)
    with pytest.raises(ValueError, match=r"wrong\.npz") as error:
        minidetect.load(tmp_path / "wrong.npz")
    assert complaint in str(error.value)


# ------------------------------------------------------------------ published weights


def norm_names(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def published_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the files, written down from the published network's definition."""
    shapes = {"base.0.0.weight": (64, 3, 3, 3)} | norm_names("base.0.1", 64) | {"base.0.2.weight": (1,)}
    expansions = {32: (1, 2, 2, 4, 4, 2, 2), 48: (1, 2, 2, 4, 4), 64: (1, 2, 2, 4, 4)}[width]
    for k, t in enumerate(expansions, start=1):
        inner = 64 if k == 1 else t * width
        parts = [] if t == 1 else [(inner, width, 1, 1), "norm", "act"]
        parts += [(inner, 1, 3, 3), "norm", "act", (width, inner, 1, 1), "norm"] + ["act"] * (width == 32)
        for i, part in enumerate(parts):
            name = f"base.{k}.conv.{i}"
            if part == "norm":
                shapes |= norm_names(name, parts[i - 1][0])
            elif part == "act":
                shapes[f"{name}.weight"] = (1,)
            else:
                shapes[f"{name}.weight"] = part
                if part[2:] == (3, 3):
                    shapes[f"{name}.bias"] = (inner,)
    for k in range(5):
        shapes |= {f"upfeat.{k}.0.weight": (width, 1, 3, 3), f"upfeat.{k}.1.weight": (width, width, 1, 1)}
        shapes |= norm_names(f"upfeat.{k}.2", width)
    for k in range(6):
        outputs = {"loc": 4, "conf": 4 if k == 0 else 2}
        for head, out in outputs.items():
            shapes |= {f"{head}.{k}.weight": (out, width, 3, 3), f"{head}.{k}.bias": (out,)}
    return shapes


LAST_BLOCK = {32: "7", 48: "5", 64: "5"}  # the one that halves the map


def random_weights(width: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng, state = np.random.default_rng(seed), {}
    for name, shape in published_shapes(width).items():
        if name.endswith("tracked"):
            shared = name.startswith("base") and name[5] not in "01"
            state[name] = np.array(7 * 6 if shared else 7, np.int64)
        elif len(shape) > 1:
            state[name] = (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
            if name == "base.0.0.weight":
                state[name] /= 60  # of pixels
            elif name.startswith("base") and shape[0] == width and name.split(".")[1] not in ("1", LAST_BLOCK[width]):
                state[name] *= np.float32(0.2)  # what is added to a map stays small
            elif name.startswith("loc"):
                state[name] *= np.float32(0.02)
        elif name.endswith("var") or (name.endswith("weight") and shape != (1,)):
            state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            state[name] = rng.normal(0, 0.3, shape).astype(np.float32)
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    for width in WIDTHS:
        torch_files.save(folder / f"EXTD_{width}.pth", random_weights(width, seed=width), old=width == 48)
    return folder


@pytest.fixture(params=["random", "published"])
def weights(request, folder) -> Path:
    """A folder of the three files."""
    return folder if request.param == "random" else request.getfixturevalue("data_dir") / "weights" / "extd"


@every_width
def test_every_tensor_has_its_place(width, weights):
    """Each number of the file is in the model: sums over all tensors, by shape, and some places by hand."""
    state, model = read_state_dict(weights / f"EXTD_{width}.pth"), load_extd(weights / f"EXTD_{width}.pth")
    assert {name: array.shape for name, array in state.items()} == published_shapes(width)
    own = model.state_dict()
    ours = sorted(array.tobytes() for name, array in own.items() if name != "mean_colour")
    assert ours == sorted(array.tobytes() for name, array in state.items() if not name.endswith("tracked"))
    last = len(BLOCKS[width]) - 1
    for theirs, here in {
        "base.0.0.weight": "start.layers.0.weight",
        "base.0.1.running_var": "start.layers.1.running_var",
        "base.0.2.weight": "start.layers.2.slope",
        "base.1.conv.0.bias": "start.layers.3.body.layers.0.bias",
        "base.2.conv.2.weight": "backbones.0.layers.0.body.layers.2.slope",
        f"base.{2 + last}.conv.6.weight": f"backbones.0.layers.{last}.body.layers.6.weight",
        "upfeat.4.2.bias": "up.4.layers.2.bias",
        "loc.5.bias": "heads.deltas.5.bias",
        "conf.0.weight": "heads.logits.0.weight",
    }.items():
        np.testing.assert_array_equal(state[theirs], own[here], err_msg=theirs)
    np.testing.assert_array_equal(model.mean_colour, [123, 117, 104])
    assert model.name == f"EXTD-FPN-{width}-PReLU" and model.threshold == THRESHOLDS[width] and not model.training


def by_torch(torch, state: dict, x, training: bool = False) -> tuple:
    """The published network with torch's functions: logits (N, A, 2) and deltas (N, A, 4). state: torch tensors."""
    f = torch.nn.functional

    def norm(x, name):
        stats = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return f.batch_norm(x, *stats, state[f"{name}.weight"], state[f"{name}.bias"], training)

    def prelu(x, name):
        return f.prelu(x, state[f"{name}.weight"]) if f"{name}.weight" in state else x

    def block(x, k):
        y, i, name = x, 0, f"base.{k}.conv"
        last = max(int(key.split(".")[3]) for key in state if key.startswith(f"{name}."))
        while i <= last:
            w = state[f"{name}.{i}.weight"]
            depthwise = w.shape[2] == 3
            halves = depthwise and k == num_blocks
            groups = len(w) if depthwise else 1
            y = f.conv2d(y, w, state.get(f"{name}.{i}.bias"), 2 if halves else 1, int(depthwise), groups=groups)
            y = prelu(norm(y, f"{name}.{i + 1}"), f"{name}.{i + 2}") if i + 2 <= last else norm(y, f"{name}.{i + 1}")
            i += 3
        return x + y if k < num_blocks and x.shape[1] == y.shape[1] else y

    num_blocks = max(int(key.split(".")[1]) for key in state if key.startswith("base."))
    x = block(prelu(norm(f.conv2d(x, state["base.0.0.weight"], stride=2, padding=1), "base.0.1"), "base.0.2"), 1)
    features = []
    for _ in range(6):
        for k in range(2, num_blocks + 1):
            x = block(x, k)
        features.append(x)
    maps = [features[5]]
    for k in range(5):
        finer = features[4 - k]
        y = f.interpolate(maps[-1], size=finer.shape[2:], mode="bilinear", align_corners=False)
        y = f.conv2d(y, state[f"upfeat.{k}.0.weight"], padding=1, groups=y.shape[1])
        y = norm(f.conv2d(y, state[f"upfeat.{k}.1.weight"]), f"upfeat.{k}.2")
        maps.append(f.relu(y) + finer)
    outputs = {"conf": [], "loc": []}
    for k, y in enumerate(maps[::-1]):
        for head, rows in outputs.items():
            z = f.conv2d(y, state[f"{head}.{k}.weight"], state[f"{head}.{k}.bias"], padding=1)
            if head == "conf" and k == 0:
                z = torch.cat([z[:, :3].max(dim=1, keepdim=True).values, z[:, 3:]], dim=1)
            rows.append(z.permute(0, 2, 3, 1).flatten(1, 2))
    return tuple(torch.cat(rows, dim=1) for rows in outputs.values())


@every_width
def test_it_says_what_torch_says(width, weights, rng):
    torch = pytest.importorskip("torch")
    file = weights / f"EXTD_{width}.pth"
    images = random_images(rng, 75, 101)
    model = load_extd(file)
    with no_grad():
        ours = model.predict(images)
    state = {name: torch.from_numpy(array) for name, array in read_state_dict(file).items()}
    with torch.no_grad():
        theirs = by_torch(torch, state, torch.from_numpy(images.data))
    for a, b in zip(ours[:2], theirs, strict=True):
        assert a.shape == b.shape
        assert_close(a.data, b.numpy())


@every_width
def test_it_trains_as_torch_does(width, folder, rng):
    """One step's forward and backward: outputs, gradients, and the running averages that six passes leave."""
    torch = pytest.importorskip("torch")
    file = folder / f"EXTD_{width}.pth"
    images, model = random_images(rng, 67, 80, num=2, dtype=np.float64), in_float64(load_extd(file))
    model.train()
    ours = model.predict(images)
    gys = [rng.standard_normal(y.shape) for y in ours[:2]]
    add(*(sum_over(mul(y, Tensor(gy))) for y, gy in zip(ours[:2], gys, strict=True))).backward()

    state = {name: torch.from_numpy(a).double() for name, a in read_state_dict(file).items()}
    trained = [n for n in state if not n.endswith(("running_mean", "running_var", "tracked"))]
    for name in trained:
        state[name].requires_grad_()
    theirs = by_torch(torch, state, torch.from_numpy(images.data), training=True)
    sum((y * torch.from_numpy(gy)).sum() for y, gy in zip(theirs, gys, strict=True)).backward()
    for a, b in zip(ours[:2], theirs, strict=True):
        assert_close(a.data, b.detach().numpy(), 1e-7)
    own = model.state_dict()
    for name in state:  # F's norms have moved six times
        if "running" in name:
            part, k, *rest = name.split(".")
            if part == "base" and int(k) > 1:
                here = f"backbones.0.layers.{int(k) - 2}.body.layers.{'.'.join(rest[1:])}"
                assert_close(own[here], state[name].numpy(), 1e-5)  # float32
    pairs = {"base.0.0.weight": model.start.layers[0].weight, "conf.0.weight": model.heads.logits[0].weight,
             "base.2.conv.0.weight": model.backbones[0].layers[0].body.layers[0].weight,
             "base.2.conv.2.weight": model.backbones[0].layers[0].body.layers[2].slope,
             "upfeat.0.0.weight": model.up[0].layers[0].weight}  # fmt: skip
    for name, p in pairs.items():
        assert_close(p.grad, state[name].grad.numpy(), 1e-6)


def test_its_pointwise_convolutions_of_a_large_batch_are_torchs(rng):
    """20 images of 33 x 32 positions: a product for each image (kernels/conv_fast.py)."""
    torch = pytest.importorskip("torch")
    for dtype, tolerance in ((np.float32, 1e-4), (np.float64, 1e-10)):
        x, w = (rng.standard_normal(s).astype(dtype) for s in ((20, 6, 33, 32), (5, 6, 1, 1)))
        gy, ours, theirs = rng.standard_normal((20, 5, 33, 32)).astype(dtype), [], []
        for kind, conv in ((ours, lambda a, b: conv2d(a, b)), (theirs, torch.nn.functional.conv2d)):
            make = Tensor if kind is ours else torch.tensor
            leaves = [make(x, requires_grad=True), make(w, requires_grad=True)]
            y = conv(*leaves)
            y.backward(gy if kind is ours else torch.from_numpy(gy))
            kind += [y.detach(), *(leaf.grad for leaf in leaves)]
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a.data if isinstance(a, Tensor) else a, b.numpy(), tolerance)


def put(name: str, array: np.ndarray):
    return lambda state: state.update({name: array})


def replaced(old: str, new: str):
    return lambda state: state.update({new: state.pop(old)})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("upfeat.2.0.weight"), "missing up.2.layers.0.weight"),
        (lambda state: state.pop("base.0.1.running_mean"), "missing start.layers.1.running_mean"),
        (lambda state: state.pop("base.1.conv.3.weight"), "base.1.conv.3.weight of width 32, 48, 64"),
        (lambda state: state.pop("base.0.1.num_batches_tracked"), "base.0.1.num_batches_tracked is missing"),
        (lambda state: state.pop("upfeat.4.2.num_batches_tracked"), "upfeat.4.2.num_batches_tracked is missing"),
        (put("extra", np.zeros(3, np.float32)), "unknown extra"),
        (put("base.extra", np.zeros(3, np.float32)), "unknown base.extra"),
        (put("base.8.conv.0.weight", np.zeros((64, 32, 1, 1), np.float32)), "unknown backbones.0.layers.6"),
        (put("loc.6.bias", np.zeros(4, np.float32)), "unknown heads.deltas.6.bias"),
        (put("heads.deltas.0.bias", np.zeros(4, np.float32)), "unknown heads.deltas.0.bias (of the file)"),
        (put("mean_colour", np.zeros(3, np.float32)), "unknown mean_colour (of the file)"),
        (put("base.00.0.weight", np.zeros((64, 3, 3, 3), np.float32)), "unknown base.00.0.weight (of the file)"),
        (put("base.²0.0.weight", np.zeros((64, 3, 3, 3), np.float32)), "base.²0.0.weight"),
        (put("more.num_batches_tracked", np.array(7)), "more.num_batches_tracked belongs to no batch norm"),
        (replaced("base.1.conv.0.bias", "base.1.conv.0.offset"), "missing start.layers.3.body.layers.0.bias"),
        (put("loc.0.weight", np.zeros((4, 32, 1, 1), np.float32)), "heads.deltas.0.weight has shape (4, 32, 1, 1)"),
        (put("base.0.2.weight", np.zeros(64, np.float32)), "start.layers.2"),
        (put("base.1.conv.3.weight", np.zeros((), np.float32)), "base.1.conv.3.weight of width"),
        (put("base.1.conv.3.weight", np.zeros((48, 64, 1, 1), np.float32)), "missing"),
        (put("base.3.conv.1.num_batches_tracked", np.array(7)), "base.3.conv.1.num_batches_tracked is 7"),
        (put("base.1.conv.1.num_batches_tracked", np.array(42)), "base.1.conv.1.num_batches_tracked is 42"),
        (put("upfeat.0.2.num_batches_tracked", np.array(8)), "does not fit 7 steps and 6 passes"),
        (put("upfeat.0.2.num_batches_tracked", np.array([7])), "upfeat.0.2.num_batches_tracked is [7]"),
        (put("upfeat.0.2.num_batches_tracked", np.array(np.inf)), "upfeat.0.2.num_batches_tracked is inf"),
        (put("conf.3.bias", np.float32([1, np.nan])), "heads.logits.3.bias holds values that are not finite"),
        (lambda state: state.clear(), "base.1.conv.3.weight of width"),
    ],
)
def test_weights_of_another_net_are_refused_by_name(change, complaint, tmp_path):
    state = random_weights(32)
    change(state)
    file = torch_files.save(tmp_path / "EXTD_32.pth", state, old=False)
    with pytest.raises(ValueError, match=r"EXTD_32\.pth") as error:
        load_extd(file)
    assert complaint in str(error.value)


def test_a_file_that_is_none(tmp_path, own_file):
    (tmp_path / "EXTD_32.pth").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"EXTD_32\.pth"):
        minidetect.load(f"extd:{tmp_path / 'EXTD_32.pth'}")
    with pytest.raises(ValueError, match=r"own\.npz"):
        minidetect.load(f"extd:{own_file}")
    for path in (tmp_path, tmp_path / "absent.pth", ""):
        with pytest.raises(FileNotFoundError, match="names no file; EXTD's weights are EXTD_32.pth, EXTD_48.pth"):
            minidetect.load(f"extd:{path}")


def test_it_finds_a_face_fused_or_not(data_dir):
    """The largest face of a photo of WIDER FACE that shows few, at half its size."""
    records = read_wider(data_dir / "wider" / "wider_val_bbx_gt.txt", data_dir / "wider" / "val")
    record = next(r for r in records if 0 < len(r.boxes) < 4 and (r.boxes[:, 2] - r.boxes[:, 0]).max() > 120)
    image = np.ascontiguousarray(load_image(record.path)[::2, ::2])
    truth = record.boxes[[np.argmax(record.boxes[:, 2] - record.boxes[:, 0])]] / 2
    model = load_extd(data_dir / "weights" / "extd" / "EXTD_32.pth")
    (plain,), (fused,) = model.detect([image]), model.fuse().detect([image])
    np.testing.assert_allclose(fused.boxes, plain.boxes, atol=0.05)
    np.testing.assert_allclose(fused.scores, plain.scores, atol=1e-3)
    best = iou_matrix(plain.boxes, truth.astype(np.float32))[:, 0]
    assert best.max() > 0.6 and plain.scores[best.argmax()] > 0.9


# ------------------------------------------------------------------ the command line


def found_by(capsys, tmp_path, image: Path, model: object, *more: object) -> list[dict]:
    done = run(capsys, "detect", image, "--model", model, "--threshold", 0.5, "--json", tmp_path / "found.json", *more)
    assert (done.code, done.err) == (0, [])
    (entry,) = json.loads((tmp_path / "found.json").read_text())
    return entry["detections"]


def test_converted_it_finds_the_same(weights, tmp_path, capsys, rng):
    """Noise for the random weights; for the published ones matplotlib's portrait, at half its size."""
    picture = noise(rng)
    if weights.name == "extd":
        picture = load_image(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))[::2, ::2]
    Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / "image.png")
    file, source = tmp_path / "extd.npz", f"extd:{weights / 'EXTD_32.pth'}"
    outcome = run(capsys, "convert", source, file)
    assert (outcome.code, outcome.out) == (0, f"wrote {file}\n")
    for more in ((), ("--min-face", 20), ("--thorough",))[: 2 + (weights.name != "extd")]:
        there, here = (found_by(capsys, tmp_path, tmp_path / "image.png", model, *more) for model in (source, file))
        assert there == here
    assert here
    model, converted = minidetect.load(source).model, minidetect.load(file)
    assert converted.model.arguments() == model.arguments() and converted.training == {"converted from": source}
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(converted.model.state_dict()[name], array)


def test_the_smallest_face_where_nobody_says(folder, tmp_path, capsys, rng):
    Image.fromarray(noise(rng)).save(tmp_path / "noise.png")
    source = f"extd:{folder / 'EXTD_48.pth'}"
    usual = found_by(capsys, tmp_path, tmp_path / "noise.png", source)
    assert usual == found_by(capsys, tmp_path, tmp_path / "noise.png", source, "--min-face", 8)
    sides = [max(d["box"][2] - d["box"][0], d["box"][3] - d["box"][1]) for d in usual]
    assert 8 <= min(sides) < 24
    large = found_by(capsys, tmp_path, tmp_path / "noise.png", source, "--min-face", 24)
    assert large == [d for d, side in zip(usual, sides, strict=True) if side >= 24]


def test_a_wrong_path_is_named(tmp_path, capsys, rng):
    Image.fromarray(noise(rng)).save(tmp_path / "noise.png")
    for command in (("detect", tmp_path / "noise.png", "--model"), ("convert",)):
        more = [tmp_path / "out.npz"] if command == ("convert",) else []
        done = run(capsys, *command, f"extd:{tmp_path / 'absent.pth'}", *more)
        assert done.code == 2 and len(done.err) == 1
        assert "absent.pth names no file; EXTD's weights are EXTD_32.pth, EXTD_48.pth, EXTD_64.pth" in done.err[0]
    assert not (tmp_path / "out.npz").exists()
    done = run(capsys, "convert", "retina:weights", tmp_path / "out.npz")
    assert done.code == 2 and "mtcnn:FOLDER, extd:FILE" in done.err[0]


def test_names_that_are_no_published_weights_are_paths():
    assert api.read_published("extd") is None and api.read_published("other:file") is None
