"""Whole detectors on the GPU: the losses and gradients of the processor, and nothing copied but what must be."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import pytest

from minidetect.api import Detector, load
from minidetect.autograd.tensor import Tensor, no_grad
from minidetect.detection.structures import make_target
from minidetect.kernels import gpu
from minidetect.kernels.device import count_copies, is_on_gpu, to_numpy
from minidetect.models.extd import EXTD
from minidetect.models.facecraft import JointCascade
from minidetect.models.single_shot_loss import single_shot_losses
from minidetect.nn.checkpoint import load_arrays
from minidetect.nn.fuse import fuse
from minidetect.nn.layers import Conv2d, Linear, PReLU, Sequential
from minidetect.nn.module import Module
from minidetect.nn.normalize import BatchNorm2d
from minidetect.nn.optim import SGD, Adam, clip_gradients
from minidetect.train.loop import Schedule, train_phase

TABLES = (((2, 3, 2), (3, 5, 0)), ((2, 3, 3), (3, 3, 3)), ((2, 3, 3), (2, 3, 3), (3, 3, 3)))  # as few filters as can be


def gradients(model: Module, losses: dict[str, Tensor]) -> dict[str, np.ndarray]:
    sum(losses.values(), start=Tensor(np.float32(0))).backward()
    return {name: to_numpy(p.grad) for name, p in model.named_parameters()}


def same(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray], rtol: float) -> None:
    """Of a gradient that is small beside the others, as those before a batch norm are, little but rounding is left."""
    assert ours.keys() == expected.keys()
    largest = max(np.abs(g).max() for g in expected.values())
    for name in ours:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(ours[name], expected[name], rtol, rtol * scale + 1e-5 * largest, err_msg=name)


def facecraft(rng: np.random.Generator) -> tuple[JointCascade, Tensor, tuple]:
    model = JointCascade(rng, TABLES, gates=(0.4, 0.4), dropout=(0.0, 0.3, 0.3))
    x = Tensor(rng.standard_normal((2, 3, 48, 48)).astype(np.float32))
    labels, deltas = np.array([1, 0]), [rng.standard_normal((2, 4)).astype(np.float32) for _ in range(3)]
    return model, x, (labels, deltas)


def test_facecraft_forward_and_backward(rng):
    model, x, truth = facecraft(rng)
    expected_losses = model.losses(x, *truth, np.random.default_rng(1))
    expected = gradients(model, expected_losses)
    for p in model.parameters():
        p.grad = None
    model.to("cuda")
    with count_copies() as copies:
        losses = model.losses(x, *truth, np.random.default_rng(1))
        for name in losses:
            assert is_on_gpu(losses[name].data)
        forward = copies.to_host
        ours = gradients(model, losses)
    assert {name: pytest.approx(loss.item(), 1e-4) for name, loss in expected_losses.items()} == {
        name: loss.item() for name, loss in losses.items()
    }
    same(ours, expected, 1e-3)
    assert forward == 2  # the scores at the two gates; going back only the gradients that this test looks at
    assert copies.to_host - forward == len(ours)


def extd(rng: np.random.Generator) -> tuple[EXTD, Tensor, list]:
    model = EXTD(rng, width=2, blocks=((2, 1), (1, 2)), structure="fpn", act="prelu")
    model.train(True)
    x = Tensor(rng.uniform(-100, 100, (2, 3, 16, 16)).astype(np.float32))
    return model, x, [make_target(boxes=[[2, 1, 14, 15]]), make_target(boxes=[[0, 0, 16, 16], [1, 3, 15, 16]])]


def test_extd_forward_backward_and_steps(rng):
    model, x, targets = extd(rng)
    twin = copy.deepcopy(model).to("cuda")
    losses = single_shot_losses(model, x, targets)
    expected = gradients(model, losses)
    with count_copies() as copies:
        their_losses = single_shot_losses(twin, x, targets)
        assert copies.to_host == 1  # what the network says of every anchor: hard negatives are chosen by it
        sum(their_losses.values(), start=Tensor(np.float32(0))).backward()
        assert copies.to_host == 1
    for name, loss in losses.items():
        assert their_losses[name].item() == pytest.approx(loss.item(), 1e-3)
    same({name: to_numpy(p.grad) for name, p in twin.named_parameters()}, expected, 1e-2)
    for (name, buffer), (_, theirs) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        np.testing.assert_allclose(to_numpy(theirs), buffer, 1e-3, 1e-4, err_msg=name)


@pytest.mark.parametrize("optimiser", [SGD, Adam])
def test_steps_of_an_optimiser(optimiser, rng):
    model = Sequential(Conv2d(3, 5, 3, rng), BatchNorm2d(5), PReLU(5), Linear(7, 4, rng))
    twin = copy.deepcopy(model).to("cuda")
    ours, theirs = optimiser(model, lr=0.01), optimiser(twin, lr=0.01)
    for _ in range(2):
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = rng.standard_normal(p.shape).astype(np.float32)
            q.grad = p.grad.copy()
        clip_gradients(model.parameters(), 3.0)
        twin.to("cuda")  # its gradients, too
        clip_gradients(twin.parameters(), 3.0)
        ours.step()
        with count_copies() as copies:
            theirs.step()
        assert (copies.to_gpu, copies.to_host) == (0, 0), copies
    same(twin.state_dict(), model.state_dict(), 1e-5)
    same(theirs.state_dict(), ours.state_dict(), 1e-5)
    again = optimiser(twin, lr=0.01)
    again.load_state_dict(ours.state_dict())
    same(again.state_dict(), ours.state_dict(), 0)


def test_a_state_is_saved_from_the_gpu_and_loaded_there(rng):
    model, _, _ = extd(rng)
    state = model.state_dict()
    model.to("cuda")
    assert all(isinstance(array, np.ndarray) for array in model.state_dict().values())
    model.load_state_dict({name: array + 1 for name, array in state.items()})
    np.testing.assert_array_equal(model.to("cpu").state_dict()["mean_colour"], state["mean_colour"] + 1)
    assert all(isinstance(p.data, np.ndarray) for p in model.parameters())


def test_a_fused_copy_detects_there(rng):
    model, _, _ = extd(rng)
    model.train(False)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    fused = fuse(model)
    expected = fused.detect([image], min_score=0.0)[0]
    found = fused.to("cuda").detect([image], min_score=0.0)[0]
    assert isinstance(model.parameters()[0].data, np.ndarray)  # the model that was fused stays where it was
    np.testing.assert_allclose(found.boxes, expected.boxes, 1e-3, 1e-2)
    np.testing.assert_allclose(found.scores, expected.scores, 1e-3, 1e-4)
    with no_grad(), pytest.raises(ValueError, match="EXTD is on the GPU: fuse a copy"):
        fuse(model.to("cuda"))


in_a_minute = pytest.mark.skipif(gpu.SIMULATED, reason="the simulator takes a minute for several scales")


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=in_a_minute)])
def test_a_detector_for_people(thorough, rng):
    model, _, _ = extd(rng)
    model.train(False)
    image = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    expected = Detector(model, "mine", {}, thorough).detect([image], threshold=0.0)[0]
    found = Detector(model, "mine", {}, thorough, "cuda").detect([image], threshold=0.0)[0]
    np.testing.assert_allclose(found.boxes, expected.boxes, 1e-3, 1e-2)
    with pytest.raises(ValueError, match="facecraft: detects on the processor alone"):
        load("facecraft", device="cuda")


@pytest.mark.parametrize("adam", [False, True])
def test_a_training_that_is_stopped_and_goes_on_there(adam, tmp_path, rng):
    """The loop of every training: checkpoints are written from the GPU, read into it, and end in the same weights."""
    # Without a bias: before a batch norm its gradient is rounding alone, which Adam makes as large as any other's.
    start = Sequential(Conv2d(2, 3, 3, rng, bias=False), BatchNorm2d(3), PReLU(1))
    ends = {}
    for device in ("cpu", "cuda"):
        for steps, every in ((2, 1), (3, 1)):  # two of three steps, and then the third
            model = copy.deepcopy(start).to(device)

            def losses(step_rng, model=model):
                return {"mean": (model(Tensor(step_rng.random((2, 2, 5, 4), np.float32))) ** 2).mean()}

            schedule = Schedule(3, lr=0.1, warm_up=0, adam=adam)
            train_some(model, losses, schedule, tmp_path / device, steps, every)
        ends[device] = load_arrays(tmp_path / device / "phase.npz")[0]
    same(ends["cuda"], ends["cpu"], 1e-4)


def train_some(model, losses, schedule, folder, steps, every) -> None:
    """`train_phase`, stopped by an error after some steps, as by a kill."""
    done = 0

    def stopping(rng):
        nonlocal done
        done += 1
        if done > steps:
            raise KeyboardInterrupt
        return losses(rng)

    with contextlib.suppress(KeyboardInterrupt):
        train_phase(
            "phase", model, stopping, schedule, folder, np.random.default_rng(1), checkpoint_every=every, progress=False
        )
