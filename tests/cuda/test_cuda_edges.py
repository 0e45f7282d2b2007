"""Arrays on the GPU where they are most easily not NumPy's: odd types and shapes, copies, `out`, updates in place.

Then what is built on them: gradients that must be where their tensor is, the memory that is used again, Faster R-CNN.
"""

from __future__ import annotations

import copy
import gc
import operator
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from minidetect.autograd.tensor import Function, Tensor
from minidetect.detection.anchors import AnchorGrid
from minidetect.detection.focal_loss import focal_loss
from minidetect.detection.structures import make_target
from minidetect.kernels import gpu
from minidetect.kernels.conv import conv2d_forward
from minidetect.kernels.depthwise import depthwise_forward
from minidetect.kernels.device import (
    DeviceArray,
    count_copies,
    empty,
    full,
    is_on_gpu,
    to_device,
    to_numpy,
    use_device,
    zeros,
)
from minidetect.kernels.products import product
from minidetect.kernels.updates import adam_update, move_averages, sgd_update, sum_of_squares
from minidetect.kernels.updates_cuda import PART
from minidetect.models.backbones import Backbone
from minidetect.models.faster_rcnn import FasterRCNN, ProposalNet
from minidetect.nn.layers import Conv2d, Sequential
from minidetect.nn.module import Module
from minidetect.nn.normalize import BatchNorm2d
from minidetect.ops.roi_warp import roi_warp

BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])
F = np.arange(6, dtype=np.float32).reshape(2, 3)
WHOLE = np.arange(6).reshape(2, 3)
WIDE = F.T.astype(np.float64)
BYTES = np.full(6, 200, np.uint8)
NO_ROWS = np.zeros((0, 3), np.float32)


@pytest.fixture
def pool() -> Iterator[None]:
    """Nothing kept from before, and nothing that is left for others."""
    gc.collect()
    gpu.release_memory()
    yield
    gpu.release_memory()


# ------------------------------------------------------------------ as NumPy

# `at` brings an array to where it shall be computed.
EXPRESSIONS = {
    "sum above 255": lambda at: at(BYTES).sum(),
    "product above 255": lambda at: at(BYTES[:2]).prod(),
    "mean of bytes": lambda at: at(BYTES).mean(),
    "means of no rows": lambda at: at(NO_ROWS).mean(axis=1),
    "the whole": lambda at: at(F)[True],
    "nothing": lambda at: at(F)[False],
    "where, whole numbers and a half": lambda at: np.where(at(WHOLE) > 2, 0.5, at(WHOLE)),
    "where, the wider type is NumPy's": lambda at: np.where(at(F) > 2, F.astype(np.float64), at(F)),
    "no rows, as many columns": lambda at: at(NO_ROWS).reshape(-1, 3),
    "product, wide right": lambda at: product(at(F), at(WIDE)),
    "product, wide left": lambda at: product(at(WIDE), at(F)),
    "most significant byte first": lambda at: at(F.astype(">f4")) * 1,
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_as_numpy(name):
    expected = np.asarray(EXPRESSIONS[name](lambda array: array))
    result = EXPRESSIONS[name](to_device)
    assert is_on_gpu(result)
    assert result.dtype == expected.dtype and result.shape == expected.shape
    np.testing.assert_allclose(to_numpy(result), expected, 1e-6)


def test_bytes_in_another_order_are_turned():
    assert to_device(F.astype(">f4")).dtype.isnative


@pytest.mark.parametrize("name, array", {"table": F, "number": np.array(3.0)}.items())
def test_a_sum_over_no_axes_is_a_copy(name, array):
    """The array itself would change with its sum."""
    x = to_device(array)
    total = x.sum(axis=())
    total += 1
    np.testing.assert_array_equal(to_numpy(x), array)


@BOTH
def test_one_slope_for_all_channels(dtype, rng):
    x, w = rng.standard_normal((1, 3, 3, 3)).astype(dtype), rng.standard_normal((3, 1, 1, 1)).astype(dtype)
    settings = {"slope": np.array([0.5], dtype)}
    result = to_numpy(depthwise_forward(to_device(x), w, None, 1, 0, 1, **settings))
    np.testing.assert_allclose(result, depthwise_forward(x, w, None, 1, 0, 1, **settings), 1e-6)


# ------------------------------------------------------------------ refused

Misuse = Callable[[DeviceArray, DeviceArray], Any]
REFUSED: dict[str, tuple[Misuse, type[Exception], str]] = {
    "~ of whole numbers": (lambda x, i: ~i, TypeError, "np.invert is not there"),
    "& of whole numbers": (lambda x, i: i & 3, TypeError, "np.bitwise_and is not there"),
    "| of whole numbers": (lambda x, i: 3 | i, TypeError, "np.bitwise_or is not there"),
    "split into equal parts": (lambda x, i: np.split(x, 2), TypeError, "np.split .* not a number of parts"),
    "no lower limit": (lambda x, i: np.clip(x, None, 1), TypeError, "np.clip .* needs both bounds"),
    "no upper limit": (lambda x, i: np.clip(x, 0, None), TypeError, "np.clip .* needs both bounds"),
    "half in place": (lambda x, i: operator.iadd(i, 0.5), TypeError, "np.add: a result of float64"),
    "halves in place": (lambda x, i: operator.iadd(i, F), TypeError, "np.add: a result of float64"),
    "roi_warp": (lambda x, i: roi_warp(Tensor(x), Tensor(F)), TypeError, "roi_warp"),
    "its memory alone": (lambda x, i: pickle.dumps(x.memory), TypeError, "copied as a DeviceArray"),
    "row 1.0": (lambda x, i: x[[1.0]], IndexError, "whole numbers or booleans, not of float64"),
    "too few axes": (lambda x, i: x[None].transpose(1, 0), ValueError, r"transpose: axes \(1, 0\)"),
    "an axis twice": (lambda x, i: x[None].transpose((0, 0, 1)), ValueError, r"transpose: axes \(0, 0, 1\)"),
    "an axis too far": (lambda x, i: x[None].transpose((0, 1, 5)), ValueError, r"transpose: axes \(0, 1, 5\)"),
    "fewer columns": (lambda x, i: np.concatenate([x, x[:, :1]]), ValueError, r"axis 0: .*\(2, 1\)"),
    "no rows, more columns": (lambda x, i: np.concatenate([x, np.ones((0, 5))]), ValueError, r"axis 0: .*\(0, 5\)"),
    "along axis 2": (lambda x, i: np.concatenate([x, x], axis=2), ValueError, "concatenate along axis"),
    "along axis -3": (lambda x, i: np.concatenate([x, x], axis=-3), ValueError, "concatenate along axis"),
    "negative lengths": (lambda x, i: x.reshape(-2, -3), ValueError, r"\(2, 3\) has no shape \(-2, -3\)"),
    "two unknown lengths": (lambda x, i: x.reshape(6, -1, -1), ValueError, r"\(2, 3\) has no shape \(6, -1, -1\)"),
    "product that does not fit": (lambda x, i: product(x, x), ValueError, r"got \(2, 3\) and \(2, 3\)"),
    "2**32 numbers": (lambda x, i: empty((2**16, 2**16), np.uint8), ValueError, "4,294,967,295 numbers at most"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_nothing_changed(name):
    misuse, error, message = REFUSED[name]
    x, i = to_device(F), to_device(WHOLE)
    with pytest.raises(error, match=message):
        misuse(x, i)
    np.testing.assert_array_equal(to_numpy(x), F)
    np.testing.assert_array_equal(to_numpy(i), WHOLE)


# ------------------------------------------------------------------ where a kernel writes to

IMAGE = np.random.default_rng(1).random((1, 2, 3, 3), np.float32)
WRITERS = {
    "conv2d_forward": lambda x, out: conv2d_forward(x, np.ones((2, 2, 1, 1), x.dtype), None, 1, 0, 1, 1, out=out),
    "depthwise_forward": lambda x, out: depthwise_forward(x, np.ones((2, 1, 1, 1), x.dtype), None, 1, 0, 1, out=out),
    "product": lambda x, out: product(x.reshape(6, 3), np.ones((3, 2), x.dtype), out=out),
}
by_writer = pytest.mark.parametrize("name", WRITERS)


@by_writer
def test_numpys_out_is_filled_by_the_gpu(name):
    """A copy of it would be filled, and the caller's left as it was."""
    expected = WRITERS[name](IMAGE, None)
    out = np.zeros_like(expected)
    with use_device("cuda"):
        assert WRITERS[name](IMAGE, out) is out
    np.testing.assert_allclose(out, expected, 1e-6)


@by_writer
def test_numpys_out_beside_arrays_on_the_gpu_is_refused(name):
    out = np.zeros_like(WRITERS[name](IMAGE, None))
    for device in ("cpu", "cuda"):
        with use_device(device), pytest.raises(ValueError, match=f"{name}: out must be on the GPU"):
            WRITERS[name](to_device(IMAGE), out)
    assert not out.any()


@by_writer
def test_out_of_another_shape_or_type_is_refused(name):
    """A kernel would write past its end, or halves of numbers."""
    shape = WRITERS[name](IMAGE, None).shape
    for wrong in (zeros((*shape[:-1], 1), np.float32), zeros((1, *shape), np.float32), zeros(shape, np.float64)):
        with pytest.raises(ValueError, match="out must be a contiguous float32"):
            WRITERS[name](to_device(IMAGE), wrong)
        assert not to_numpy(wrong).any()


# ------------------------------------------------------------------ updates in place

UPDATES = {  # by how many arrays each takes
    "sgd": (3, lambda p, g, v: sgd_update(p, g, v, 0.1, 0.9, 0.0)),
    "sgd, decay": (3, lambda p, g, v: sgd_update(p, g, v, 0.1, 0.9, 0.01)),
    "adam": (4, lambda p, g, m, v: adam_update(p, g, m, v, 0.1, (0.9, 0.99), (0.19, 0.0199), 1e-8, 0.0)),
    "adam, decay": (4, lambda p, g, m, v: adam_update(p, g, m, v, 0.1, (0.9, 0.99), (0.19, 0.0199), 1e-8, 0.01)),
    "averages": (4, lambda *arrays: move_averages(*arrays, 0.1, 7)),
}
by_update = pytest.mark.parametrize("name", UPDATES)
SEVERAL_BLOCKS = 8 * PART + 5
LENGTHS = {"one": (1,), "several blocks": (SEVERAL_BLOCKS,), "table": (5, 7)}


def draw(name: str, shape: tuple[int, ...], dtype: type) -> tuple[list[np.ndarray], Callable]:
    """The arrays of an update, positive as second moments are, and the update."""
    number, update = UPDATES[name]
    rng = np.random.default_rng(2)
    return [rng.uniform(0.1, 1, shape).astype(dtype) for _ in range(number)], update


@by_update
@pytest.mark.parametrize("length", LENGTHS)
@BOTH
def test_an_update_is_the_processors(name, length, dtype):
    arrays, update = draw(name, LENGTHS[length], dtype)
    on_gpu = [to_device(a) for a in arrays]
    for _ in range(2):
        update(*arrays)
        with count_copies() as copies:
            update(*on_gpu)
        assert (copies.to_gpu, copies.to_host) == (0, 0), copies
    for ours, expected in zip(on_gpu, arrays, strict=True):
        assert ours.dtype == dtype
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(to_numpy(ours), expected, tolerance, tolerance)


@pytest.mark.parametrize("name", [name for name in UPDATES if name != "averages"])  # there is no batch norm of nothing
def test_an_update_of_nothing(name):
    """A launch of no blocks is an error on a GPU."""
    arrays, update = draw(name, (0, 3), np.float32)
    on_gpu = [to_device(a) for a in arrays]
    assert update(*on_gpu) is None
    assert all(a.shape == (0, 3) for a in on_gpu)


@by_update
def test_an_update_is_not_offloaded(name):
    """Copies would be changed on the GPU, and NumPy's arrays stay as they were."""
    arrays, update = draw(name, (5,), np.float32)
    expected = [a.copy() for a in arrays]
    update(*expected)
    with use_device("cuda"), count_copies() as copies:
        update(*arrays)
    assert (copies.to_gpu, copies.to_host) == (0, 0), copies
    for ours, theirs in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


SQUARED = {
    "no arrays": [],
    "nothing": [(0,)],
    "one number": [()],
    "a part and one more": [(PART + 1,)],
    "several, one of them empty": [(SEVERAL_BLOCKS,), (0, 3), (2, 3), (PART,)],
}


@pytest.mark.parametrize("shapes", SQUARED.values(), ids=SQUARED)
@BOTH
def test_sum_of_squares(shapes, dtype, rng):
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    truth = sum(float(np.square(a.astype(np.float64)).sum()) for a in arrays)
    on_gpu = [to_device(a) for a in arrays]
    with count_copies() as copies:
        ours = sum_of_squares(on_gpu)
    assert isinstance(ours, float) and ours == pytest.approx(truth, 1e-12)
    assert copies.to_gpu == 0 and copies.to_host <= 1, copies
    with use_device("cuda"), count_copies() as copies:
        assert sum_of_squares(arrays) == pytest.approx(truth, 1e-5)
    assert copies.to_gpu == 0, copies


def test_squares_that_float32_has_not():
    """1e30 squared: a gradient that is too long must be seen as that, not as infinite."""
    assert sum_of_squares([full(2, 1e30, np.float32)]) == pytest.approx(2e60, 1e-6)


# ------------------------------------------------------------------ copies and pickles

PICKLED = {"table": F, "number": np.array(3.0), "nothing": NO_ROWS, "booleans": F > 2, "whole numbers": WHOLE}


@pytest.mark.parametrize("name", PICKLED)
def test_an_array_is_copied_and_pickled(name):
    x = to_device(PICKLED[name])
    for twin in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert is_on_gpu(twin) and twin.memory is not x.memory
        assert twin.dtype == x.dtype and twin.shape == x.shape
        np.testing.assert_array_equal(to_numpy(twin), PICKLED[name])
        twin[...] = 0
    np.testing.assert_array_equal(to_numpy(x), PICKLED[name])


def test_what_is_one_array_is_one_in_the_copy():
    x = to_device(F)
    first, second = copy.deepcopy([x, x])
    assert first is second


def test_memory_of_a_copy_is_its_own(pool):
    """It would be given to another array, when the copy is gone, with the original still in it."""
    x = to_device(np.ones(1234))
    twin = copy.deepcopy(x)
    del twin
    gc.collect()
    others = [full(1234, 5, np.float64) for _ in range(2)]
    assert (to_numpy(x) == 1).all() and all((to_numpy(other) == 5).all() for other in others)


WAYS = {"copy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_model_is_copied_and_pickled(way, rng):
    """Its twin learns, parameters and running averages, and it does not."""
    model = Sequential(Conv2d(2, 3, 3, rng), BatchNorm2d(3)).to("cuda")
    before = model.state_dict()
    twin = way(model)
    for name, array in twin.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    for array in (*(p.data for p in twin.parameters()), twin.layers[1].running_mean):
        assert is_on_gpu(array)
        array += 1
    assert all((twin.state_dict()[name] == before[name] + 1).all() for name in before if "running_var" not in name)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


# ------------------------------------------------------------------ memory that is used again


def test_when_full_of_old_sizes_a_new_one_is_kept(pool, monkeypatch):
    """Otherwise every array of a network asks the driver, once images of many sizes have been seen."""
    monkeypatch.setattr(gpu, "most_kept", lambda: 1000)
    for size in range(1, 40):
        zeros(size, np.float32)
    memory = zeros(100, np.float32).memory.array
    assert empty(100, np.float32).memory.array is memory


def test_what_is_larger_than_all_that_may_be_kept_is_given_back(pool, monkeypatch):
    monkeypatch.setattr(gpu, "most_kept", lambda: 1000)
    small, large = zeros(100, np.float32).memory.array, zeros(300, np.float32).memory.array
    assert empty(300, np.float32).memory.array is not large
    assert empty(100, np.float32).memory.array is small  # and what was kept stays


def test_sizes_that_are_in_use_are_not_noted(pool):
    """A list for each size that was ever asked for would grow for as long as a program runs."""
    arrays = [empty(size, np.float32) for size in range(1000, 1050)]
    assert not {size for size, _ in gpu._kept} & {array.size for array in arrays}


# ------------------------------------------------------------------ tensors

MEETINGS = {
    "array * tensor": lambda: to_device(F) * Tensor(F),
    "tensor * array": lambda: Tensor(F) * to_device(F),
    "array * tensor on the GPU": lambda: F * Tensor(to_device(F)),
    "tensor * a wider array": lambda: Tensor(F) * to_device(F.astype(np.float64)),
    "a wider array * tensor": lambda: to_device(F.astype(np.float64)) * Tensor(F),
}


@pytest.mark.parametrize("name", MEETINGS)
def test_a_tensor_meets_an_array(name):
    """A tensor of the tensor's type; not an array of tensors, nor a refusal."""
    y = MEETINGS[name]()
    assert isinstance(y, Tensor) and is_on_gpu(y.data) and y.dtype == np.float32
    np.testing.assert_array_equal(to_numpy(y.data), F * F)


class Moved(Function):
    """To the processor in the middle of a network, or to the GPU; the gradient comes as it is."""

    def __init__(self, move: Callable) -> None:
        self.move = move

    def forward(self, x):
        return self.move(x)

    def backward(self, gy):
        return (gy,)


@pytest.mark.parametrize("home, away", [(to_device, to_numpy), (to_numpy, to_device)], ids=["on the GPU", "NumPy's"])
def test_a_gradient_is_where_its_tensor_is(home, away):
    """Twice, so that the second is added to the first."""
    t = Tensor(home(F), requires_grad=True)
    for _ in range(2):
        (Moved(away)(t) * 3).sum().backward()
    assert type(t.grad) is type(t.data)
    np.testing.assert_array_equal(to_numpy(t.grad), np.full((2, 3), 6, np.float32))


FOLLOWED = {"alone": lambda loss, t: loss, "beside another loss": lambda loss, t: loss + t.sum() * 0.1}


@pytest.mark.parametrize("kind", FOLLOWED)
@pytest.mark.parametrize("normaliser", [None, 3.0])
@BOTH
def test_focal_loss(kind, normaliser, dtype, rng):
    logits, labels = rng.standard_normal((7, 2)).astype(dtype), np.array([0, 1, 1, 0, 0, 1, 0])
    results = []
    for home in (to_numpy, to_device):
        t = Tensor(home(logits.copy()), requires_grad=True)
        loss = FOLLOWED[kind](focal_loss(t, labels, normaliser=normaliser), t)
        loss.backward()
        assert type(loss.data) is type(t.grad) is type(t.data)
        assert loss.dtype == t.grad.dtype == dtype
        results.append((loss.item(), to_numpy(t.grad)))
    (expected, expected_gradient), (ours, gradient) = results
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert ours == pytest.approx(expected, tolerance)
    np.testing.assert_allclose(gradient, expected_gradient, tolerance, tolerance)


def test_focal_loss_of_no_samples():
    t = Tensor(to_device(np.zeros((0, 2), np.float32)), requires_grad=True)
    loss = focal_loss(t, np.zeros(0, np.int64))
    loss.backward()
    assert is_on_gpu(loss.data) and loss.item() == 0
    assert is_on_gpu(t.grad) and t.grad.shape == (0, 2)


# ------------------------------------------------------------------ Faster R-CNN


def small_model(rng: np.random.Generator) -> FasterRCNN:
    """As small as can be; logits far enough apart that rounding does not change their order."""
    grid, backbone = AnchorGrid(8, (12.0, 20.0), (1.0,)), Backbone(rng, ((2, 4), (3, 2)))
    proposals = {"train_proposals": (20, 10), "test_proposals": (20, 5)}
    model = FasterRCNN(2, rng, grid, backbone, features=8, min_score=0.0, **proposals)
    model.rpn = ProposalNet(backbone.channels, grid, rng, features=4, num_anchors=16)
    for layer in (model.rpn.logits, model.head.logits):
        layer.weight.data *= 30
    for layer in (model.rpn.conv, model.head.fc6, model.head.fc7):
        layer.bias.data += 1  # few zeros after a ReLU: they make equal scores
    return model


def losses_and_gradients(model: Module, images: list, targets: list) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    losses = model.losses(images, targets, np.random.default_rng(1))
    sum(losses.values(), start=Tensor(np.float32(0))).backward()
    assert all(type(p.grad) is type(p.data) for p in model.parameters())
    values = {name: loss.item() for name, loss in losses.items()}
    return values, {name: to_numpy(p.grad) for name, p in model.named_parameters()}


def test_faster_rcnn_learns_and_detects(rng):
    """Proposals and samples are chosen by the processor, from what the GPU says; one image has no objects."""
    images = [rng.standard_normal((3, *size)).astype(np.float32) for size in ((40, 48), (32, 40))]
    targets = [make_target([[4, 5, 18, 17], [20, 10, 41, 30]], np.array([1, 2])), make_target(np.zeros((0, 4)))]
    model = small_model(rng)
    model.train()
    twin = copy.deepcopy(model).to("cuda")
    expected, expected_gradients = losses_and_gradients(model, images, targets)
    losses, gradients = losses_and_gradients(twin, images, targets)
    assert losses == {name: pytest.approx(value, 1e-4, 1e-7) for name, value in expected.items()}
    largest = max(np.abs(g).max() for g in expected_gradients.values())
    for name, g in expected_gradients.items():
        np.testing.assert_allclose(gradients[name], g, 1e-3, 1e-5 * largest, err_msg=name)
    for net in (model, twin):
        net.train(False)
    for ours, theirs in zip(twin.detect(images), model.detect(images), strict=True):
        assert len(theirs.boxes) > 5
        assert all(isinstance(array, np.ndarray) for array in ours[:3])
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.scores, theirs.scores, 1e-4, 1e-5)
        np.testing.assert_allclose(ours.boxes, theirs.boxes, 1e-4, 1e-3)
