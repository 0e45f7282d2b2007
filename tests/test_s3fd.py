"""The two baselines of EXTD's Table 1: layers by hand, against torch's, map sizes, gradients, the fused copies."""

from __future__ import annotations

import json
from math import ceil

import numpy as np
import pytest

from minidetect.autograd import Tensor, no_grad
from minidetect.autograd.gradcheck import GradientError, gradcheck
from minidetect.detection.structures import make_target
from minidetect.models.counting import count_table, module_walk, total
from minidetect.models.s3fd import S3FD, L2Norm, MaxPool2d, S3FDMobileFaceNet, norm_conv
from minidetect.models.shape_trace import trace
from minidetect.models.single_shot_loss import single_shot_losses
from minidetect.nn.blocks import InvertedResidual
from minidetect.nn.layers import Conv2d, ReLU, Sequential
from minidetect.nn.normalize import BatchNorm2d
from minidetect.nn.optim import SGD
from minidetect.ops.elementwise import add, div, mul
from minidetect.ops.reduce import mean
from minidetect.ops.reduce import sum as sum_over

STRIDES = (4, 8, 16, 32, 64, 128)
MODELS = (S3FD, S3FDMobileFaceNet)


@pytest.fixture(scope="module")
def s3fd() -> S3FD:
    return S3FD(np.random.default_rng(0))


@pytest.fixture(scope="module")
def mobile() -> S3FDMobileFaceNet:
    """With norms that are not those of a new network."""
    rng = np.random.default_rng(0)
    model = S3FDMobileFaceNet(rng)
    for norm in batch_norms(model):
        norm.weight.data[...] = rng.uniform(0.5, 1.5, norm.weight.shape)
        norm.bias.data[...] = rng.normal(0, 0.5, norm.bias.shape)
        norm.running_mean[...] = rng.normal(0, 0.2, norm.bias.shape)
        norm.running_var[...] = rng.uniform(0.5, 1.5, norm.bias.shape)
    return model


def batch_norms(module) -> list[BatchNorm2d]:
    own = [module] if isinstance(module, BatchNorm2d) else []
    return own + [norm for _, part in module.children() for norm in batch_norms(part)]


def mobile_blocks(model: S3FDMobileFaceNet) -> list[InvertedResidual]:
    return [layer for stage in model.stages for layer in stage.layers if isinstance(layer, InvertedResidual)]


def random_images(rng, height: int, width: int, num: int = 1) -> Tensor:
    return Tensor(rng.normal(0, 60, (num, 3, height, width)).astype(np.float32))


# ------------------------------------------------------------------ the layers


def test_l2_norm_by_hand():
    """(3, 4) has length 5; a scale of 10 for the first channel and 20 for the second."""
    norm = L2Norm(2, 10)
    norm.scale.data[1] = 20
    x = np.float32([3, 4, 0, -1]).reshape(2, 2).T.reshape(1, 2, 1, 2)  # cells (3, 4) and (0, -1)
    np.testing.assert_allclose(norm(Tensor(x)).data.reshape(2, 2), [[6, 0], [16, -20]], rtol=1e-6)


def test_l2_norm_of_zeros_is_zero_and_learns_on():
    norm, x = L2Norm(3, 10), Tensor(np.zeros((1, 3, 2, 2), np.float32), requires_grad=True)
    y = norm(x)
    assert not y.data.any()
    y.backward(np.ones(y.shape, np.float32))
    assert np.isfinite(x.grad).all() and not norm.scale.grad.any()


def test_l2_norm_makes_every_cell_as_long_as_its_scale(rng):
    x = rng.standard_normal((2, 5, 4, 3)).astype(np.float32) * np.float32(10.0) ** rng.integers(-1, 4, (2, 1, 4, 3))
    y = L2Norm(5, 8)(Tensor(x.astype(np.float32))).data
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 8, rtol=1e-5)
    assert L2Norm(5, 8)(Tensor(np.zeros((0, 5, 4, 3), np.float32))).shape == (0, 5, 4, 3)


def test_gradient_of_l2_norm(rng):
    def normalised(x, scale):
        norm = L2Norm(4, 1)
        norm.scale = scale
        return norm(x)

    gradcheck(normalised, rng.standard_normal((2, 4, 3, 2)), rng.standard_normal(4), rng=rng)

    def constant_length(x):  # a backward that takes the length for a constant is wrong
        y = normalised(x, Tensor(np.ones(4)))
        return mul(x, div(y.detach(), x.detach()))

    with pytest.raises(GradientError):
        gradcheck(constant_length, rng.standard_normal((2, 4, 3, 2)), rng=rng)


def test_l2_norm_against_torch(rng):
    torch = pytest.importorskip("torch")
    x, gy = rng.standard_normal((2, 2, 6, 5, 4)).astype(np.float32)
    norm, ours = L2Norm(6, 5), Tensor(x, requires_grad=True)
    y = norm(ours)
    y.backward(gy)
    theirs = torch.tensor(x, requires_grad=True)
    scale = torch.full((6,), 5.0, requires_grad=True)
    expected = torch.nn.functional.normalize(theirs, dim=1) * scale[:, None, None]
    expected.backward(torch.tensor(gy))
    np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.scale.grad, scale.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_pooling_rounds_up():
    x = np.float32([[1, 5, 2], [3, 4, 6], [0, 7, 8]])[None, None]
    assert MaxPool2d()(Tensor(x)).data.tolist() == [[[[5, 6], [7, 8]]]]


# ------------------------------------------------------------------ the networks


def test_parameters(s3fd, mobile):
    """S3FD: VGG-16's convolutions, fc6, fc7, conv6 and conv7, three scales, heads of 6 outputs, the first of 8."""
    vgg, connected = 14_714_688, (512 * 9 + 1) * 1024 + (1024 + 1) * 1024
    extras = (1024 + 1) * 256 + (256 * 9 + 1) * 512 + (512 + 1) * 128 + (128 * 9 + 1) * 256
    heads = 6 * 9 * (256 + 512 + 512 + 1024 + 512 + 256) + 6 * 6 + 2 * (256 * 9 + 1)
    assert s3fd.num_parameters() == vgg + connected + extras + (256 + 512 + 512) + heads == 22_459_110
    assert mobile.num_parameters() == 1_188_482  # the paper: 22 M and 1.2 M


def test_blocks_are_those_of_table_3(mobile):
    middle = [[layer for layer in b.body.layers if isinstance(layer, Conv2d)][-2:] for b in mobile_blocks(mobile)]
    assert [depthwise.weight.shape[0] for depthwise, _ in middle] == [64, *[128] * 5, *[256] * 7, 512]
    assert [last.weight.shape[0] for _, last in middle] == [*[64] * 6, *[128] * 8]
    assert [k for k, (depthwise, _) in enumerate(middle, 1) if depthwise.settings[0] == 2] == [6, 7, 14]


def test_the_other_readings_of_appendix_c():
    """What s3fd.py says of them: the first convolution at stride 1 and block 1 at stride 2; pairs of extra layers."""
    model = S3FDMobileFaceNet(np.random.default_rng(0))
    assert module_walk(model) / 1e9 == pytest.approx(12.775, abs=5e-4)
    assert total(count_table(model)).multiply_adds / 1e9 == pytest.approx(12.951, abs=5e-4)
    block = mobile_blocks(model)[0]
    model.stages[0].layers[0].settings, block.body.layers[0].settings = (1, 1, 1, 1), (2, 1, 1, 64)
    block.skip = False
    assert [y.shape[2] for y in trace(model, (640, 640)).maps] == [640 // stride for stride in STRIDES]
    assert module_walk(model) / 1e9 == pytest.approx(13.306, abs=5e-4)
    assert total(count_table(model)).multiply_adds / 1e9 == pytest.approx(13.482, abs=5e-4)

    model.stages[0].layers[0].settings = (2, 1, 1, 1)  # both at stride 2: no map of stride 4
    assert [y.shape[2] for y in trace(model, (640, 640)).maps] == [80, 40, 20, 10, 5, 3]

    rng = np.random.default_rng(0)
    narrow = [[Conv2d(128, 128, 1, rng, bias=False), BatchNorm2d(128), ReLU()] for _ in range(3)]
    model.stages[3:] = [Sequential(*layers, *norm_conv(128, 128, rng), ReLU()) for layers in narrow]
    assert model.num_parameters() / 1e6 == pytest.approx(1.24, abs=0.005)


@pytest.mark.parametrize("size", [(640, 640), (1, 1), (5, 7), (129, 257), (100, 65)])
def test_sizes_of_the_maps(s3fd, mobile, size):
    for model, channels in ((s3fd, (256, 512, 512, 1024, 512, 256)), (mobile, (64, 128, 128, 128, 128, 128))):
        expected = [(1, c, *(ceil(n / stride) for n in size)) for c, stride in zip(channels, STRIDES, strict=True)]
        assert [y.shape for y in trace(model, size).maps] == expected
        if size[0] < 100:  # and truly
            with no_grad():
                assert [y.shape for y in model.maps(Tensor(np.zeros((1, 3, *size), np.float32)))] == expected


@pytest.mark.parametrize("dilation", [1, 3])
def test_s3fd_against_torch(dilation):
    """Logits, deltas and the first layer's gradient, with torch's layers and our weights, for an odd size."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    model = S3FD(rng, dilation)
    for p in model.parameters():  # no bias stays 0
        p.data += 0.01 * rng.standard_normal(p.shape).astype(np.float32)
    images = random_images(rng, 50, 37)
    prediction = model.predict(images)
    gy = rng.standard_normal(prediction.deltas.shape).astype(np.float32)
    prediction.deltas.backward(gy)

    state = {name: torch.tensor(p.data, requires_grad=True) for name, p in model.named_parameters()}
    logits, deltas = s3fd_in_torch(torch, state, torch.tensor(images.data), dilation)
    deltas.backward(torch.tensor(gy))
    for ours, theirs in zip(prediction[:2], (logits, deltas), strict=True):
        theirs = theirs.detach().numpy()
        np.testing.assert_allclose(ours.data, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())
    theirs = state["stages.0.layers.0.weight"].grad.numpy()
    np.testing.assert_allclose(model.stages[0].layers[0].weight.grad, theirs, atol=1e-3 * np.abs(theirs).max())


def s3fd_in_torch(torch, state, x, dilation):
    """The network written out once more: the names of the stages are ours, the rest is S3FD, Fig. 2."""
    conv2d, relu = torch.nn.functional.conv2d, torch.relu

    def conv(name, x, **settings):
        return conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **settings)

    def convs(x, stage, places):
        for place in places:
            x = relu(conv(f"stages.{stage}.layers.{place}", x, padding=1))
        return x

    def pool(x):
        return torch.nn.functional.max_pool2d(x, 2, 2, ceil_mode=True)

    conv3 = convs(pool(convs(pool(convs(x, 0, (0, 2))), 0, (5, 7))), 0, (10, 12, 14))
    conv4 = convs(pool(conv3), 1, (1, 3, 5))
    conv5 = convs(pool(conv4), 2, (1, 3, 5))
    fc6 = relu(conv("stages.3.layers.1", pool(conv5), padding=dilation, dilation=dilation))
    fc7 = relu(conv("stages.3.layers.3", fc6))
    conv6 = relu(conv("stages.4.layers.2", relu(conv("stages.4.layers.0", fc7)), stride=2, padding=1))
    conv7 = relu(conv("stages.5.layers.2", relu(conv("stages.5.layers.0", conv6)), stride=2, padding=1))
    maps = [
        torch.nn.functional.normalize(y, dim=1) * state[f"norms.{k}.scale"][:, None, None]
        for k, y in enumerate((conv3, conv4, conv5))
    ] + [fc7, conv6, conv7]
    logits = [conv(f"heads.logits.{k}", y, padding=1) for k, y in enumerate(maps)]
    deltas = [conv(f"heads.deltas.{k}", y, padding=1) for k, y in enumerate(maps)]
    logits[0] = torch.cat([logits[0][:, :3].amax(1, keepdim=True), logits[0][:, 3:]], 1)
    return tuple(torch.cat([y.flatten(2).transpose(1, 2) for y in ys], 1) for ys in (logits, deltas))


# ------------------------------------------------------------------ as detectors


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (70, 45)])
def test_the_fused_copy_says_the_same(s3fd, mobile, rng, size):
    images = random_images(rng, *size, num=2)
    for model in (s3fd, mobile):
        with no_grad():
            plain, fused = model.predict(images), model.fuse().predict(images)
        for ours, theirs in zip(fused[:2], plain[:2], strict=True):
            np.testing.assert_allclose(ours.data, theirs.data, rtol=1e-3, atol=1e-4 * np.abs(theirs.data).max())
        cells = sum(ceil(size[0] / stride) * ceil(size[1] / stride) for stride in STRIDES)
        assert len(plain.anchors) == plain.logits.shape[1] == cells


def test_a_tiny_image_has_its_detections(s3fd, mobile):
    for model in (s3fd, mobile):
        for size in ((1, 1), (5, 7)):
            (found,) = model.detect([np.full((*size, 3), 90, np.uint8)], min_face=0, min_score=0)
            assert found.boxes.shape == (len(found.scores), 4)
            assert (found.boxes[:, 2:] <= (size[1], size[0])).all()


@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_gets_a_gradient(kind, rng):
    model = kind(rng)
    model.train()
    prediction = model.predict(random_images(rng, 64, 64, num=2))
    gys = [Tensor(rng.standard_normal(x.shape).astype(np.float32)) for x in prediction[:2]]
    sums = [sum_over(mul(x, gy)) for x, gy in zip(prediction[:2], gys, strict=True)]
    add(*sums).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and np.isfinite(p.grad).all() and p.grad.any(), name


def test_the_losses_of_extd_train_the_baseline(rng):
    """Two images, each with one face: the loss falls."""
    model = S3FDMobileFaceNet(rng)
    model.train()
    images = random_images(rng, 64, 64, num=2)
    targets = [make_target(np.float32([box]), np.int64([1])) for box in ([8, 8, 40, 40], [20, 24, 52, 60])]
    optimizer, losses = SGD(model, lr=0.005), []
    for _ in range(8):
        loss = add(*single_shot_losses(model, images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("kind", MODELS)
def test_arguments_make_the_same_detector(kind, rng):
    model = kind(rng, threshold=0.25, most=10, **({"dilation": 3} if kind is S3FD else {}))
    arguments = json.loads(json.dumps(model.arguments()))
    twin = kind(rng, **arguments)
    twin.load_state_dict(model.state_dict())
    assert json.loads(json.dumps(twin.arguments())) == arguments and twin.threshold == 0.25
    images = random_images(rng, 20, 30)
    with no_grad():
        np.testing.assert_array_equal(twin.predict(images).logits.data, model.predict(images).logits.data)


def test_what_cannot_be_built_is_refused(rng):
    for kind in MODELS:
        with pytest.raises(ValueError, match="sides must be 6, one for each map, got 2"):
            kind(rng, sides=(16, 32))
        with pytest.raises(ValueError, match="threshold"):
            kind(rng, threshold=2)
    for dilation in (0, 1.5, "3"):
        with pytest.raises(ValueError, match="dilation must be a whole number of at least 1"):
            S3FD(rng, dilation)


def test_the_published_padding_of_fc6_would_misplace_anchors():
    """S3FD's issue 9: with a padding of 3 and no dilation the map grows by four cells each way, 24 instead of 20."""
    model = S3FD(np.random.default_rng(0))
    model.stages[3].layers[1].settings = (1, 3, 1, 1)
    assert [y.shape[2] for y in trace(model, (640, 640)).maps] == [160, 80, 40, 24, 12, 6]


def test_l2_norm_is_over_channels(rng):
    """Not over the map: a wrong axis gives other lengths."""
    x = Tensor(rng.standard_normal((1, 3, 4, 4)).astype(np.float32))
    over_map = div(x, Tensor(np.sqrt(mean(mul(x, x), axis=(2, 3), keepdims=True).data)))
    assert not np.allclose(np.linalg.norm(over_map.data, axis=1), 1, atol=0.1)
    np.testing.assert_allclose(np.linalg.norm(L2Norm(3, 1)(x).data, axis=1), 1, rtol=1e-5)
