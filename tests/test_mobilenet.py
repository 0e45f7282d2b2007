"""MobileNet as a trunk: Keras' borders and names by hand, the published weights beside PyTorch, surgery."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from minidetect.autograd.tensor import Tensor
from minidetect.detection.image_scale import normalise
from minidetect.detection.structures import make_target
from minidetect.models.backbones import trunk_maps
from minidetect.models.fast_rcnn import FastRCNN
from minidetect.models.mobilenet import (
    INPUT_SCALE,
    MEAN_COLOUR,
    MobileNet,
    ReLU6,
    SameConv2d,
    from_keras,
    keras_names,
    load_mobilenet,
    same_padding,
)
from minidetect.models.rcnn import RCNN, CropNet
from minidetect.models.surgery import fast_rcnn_from
from minidetect.models.unit_view import receptive_field, unit_field, unit_of
from minidetect.nn.fuse import fuse
from minidetect.nn.layers import Conv2d

WEIGHTS = "weights/mobilenet025/mobilenet_2_5_224_tf_no_top.h5"


def keras_tensors(net: MobileNet) -> dict[str, np.ndarray]:
    """A network's weights as Keras would keep them; the inverse of `from_keras`."""
    tensors = {}
    for k, (layer, filters) in enumerate(keras_names(net.blocks)):
        conv, norm = net.layers[3 * k : 3 * k + 2]
        axes = (2, 3, 0, 1) if filters == "depthwise_kernel" else (2, 3, 1, 0)
        tensors[f"{layer}/{filters}"] = conv.weight.data.transpose(axes)
        tensors[f"{layer}_bn/gamma"], tensors[f"{layer}_bn/beta"] = norm.weight.data, norm.bias.data
        tensors[f"{layer}_bn/moving_mean"] = norm.running_mean
        tensors[f"{layer}_bn/moving_variance"] = norm.running_var
    return tensors


def random_net(rng, blocks=13) -> MobileNet:
    """With norms that are not those of a new network."""
    net = MobileNet(rng, 0.25, blocks)
    for norm in net.layers[1::3]:
        norm.weight.data[...] = rng.uniform(0.5, 1.5, norm.weight.shape)
        norm.bias.data[...] = rng.normal(0, 0.5, norm.bias.shape)
        norm.running_mean[...] = rng.normal(0, 0.2, norm.bias.shape)
        norm.running_var[...] = rng.uniform(0.5, 1.5, norm.bias.shape)
    return net


# ------------------------------------------------------------------ layers by hand


def test_same_padding_by_hand():
    assert same_padding(224, 3, 2) == (0, 1) and same_padding(7, 3, 2) == (1, 1)
    assert same_padding(5, 3, 1) == (1, 1) and same_padding(1, 3, 2) == (1, 1)
    assert same_padding(8, 1, 2) == (0, 0)
    for length in range(1, 20):  # always as many outputs as a stride of 2 asks for
        assert (length + sum(same_padding(length, 3, 2)) - 3) // 2 + 1 == -(-length // 2)


def test_a_stride_of_two_begins_at_the_first_pixel(rng):
    """A row 1, 2, 3, 4 and a filter of ones: 1+2+3 and 3+4+0; with a border of one on each side 0+1+2 and 2+3+4."""
    conv = SameConv2d(1, 1, 3, rng, stride=2, bias=False)
    conv.weight.data[...] = 0
    conv.weight.data[0, 0, 0] = 1  # the upper row of the filter
    x = np.float32([[[[1, 2, 3, 4], [9, 9, 9, 9]]]])
    assert conv(Tensor(x)).data.tolist() == [[[[6, 7]]]]
    plain = Conv2d(1, 1, 3, rng, stride=2, padding=1, bias=False)
    plain.weight.data[0, 0] = [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert plain(Tensor(x)).data.tolist() == [[[[3, 9]]]]
    assert conv(Tensor(np.float32([[[[1, 2, 3]]]]))).shape == (1, 1, 1, 2)


def test_relu6_and_its_gradient():
    x = Tensor(np.float64([-1, 0, 2, 5.5, 7]), requires_grad=True)
    y = ReLU6()(x)
    assert y.data.tolist() == [0, 0, 2, 5.5, 6] and y.dtype == np.float64
    y.sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1, 0]


def test_gradients_pass_the_borders(rng):
    """d(sum of the maps)/d(one pixel), beside a finite difference, at an odd and an even size."""
    conv = SameConv2d(2, 2, 3, rng, stride=2, groups=2, bias=False)
    conv.weight.data = conv.weight.data.astype(np.float64)
    for size in ((5, 6), (4, 7)):
        x = Tensor(rng.standard_normal((1, 2, *size)), requires_grad=True)
        (conv(x) * Tensor(np.arange(12.0).reshape(3, 4)[: (size[0] + 1) // 2, : (size[1] + 1) // 2])).sum().backward()
        direction, h = rng.standard_normal(x.shape), 1e-6
        weights = np.arange(12.0).reshape(3, 4)[: (size[0] + 1) // 2, : (size[1] + 1) // 2]
        moved = [(conv(Tensor(x.data + s * h * direction)).data * weights).sum() for s in (1, -1)]
        assert (moved[0] - moved[1]) / (2 * h) == pytest.approx((x.grad * direction).sum(), rel=1e-6)


# ------------------------------------------------------------------ the trunk


def test_the_trunk_says_what_comes_out(rng):
    trunk = MobileNet(rng)
    assert (trunk.channels, trunk.stride, len(trunk.table), len(trunk.layers)) == (128, 16, 23, 69)
    assert (MobileNet(rng, blocks=13).channels, MobileNet(rng, blocks=13).stride) == (256, 32)
    assert MobileNet(rng, blocks=5).stride == 8 and MobileNet(rng, 1.0, 3).table[0] == (32, 2)
    for size, cells in (((64, 48), (4, 3)), ((50, 33), (4, 3)), ((1, 17), (1, 2))):
        assert trunk(Tensor(np.zeros((1, 3, *size), np.float32))).shape == (1, 128, *cells)
    taps = trunk.taps(Tensor(np.zeros((1, 3, 32, 32), np.float32)))
    assert list(taps)[0] == "conv1" and list(taps)[-1] == "conv23" and taps["conv23"].shape == (1, 128, 2, 2)
    with pytest.raises(ValueError, match="1 to 13 blocks, got 14"):
        MobileNet(rng, blocks=14)


def test_the_first_convolutions_can_be_frozen(rng):
    trunk = MobileNet(rng, blocks=3)
    trunk.train()
    trunk_maps(trunk, Tensor(rng.standard_normal((1, 3, 48, 48)).astype(np.float32)), frozen=3).sum().backward()
    grads = [p.grad is not None for _, p in trunk.named_parameters()]
    assert grads == [False] * 9 + [True] * 12  # weight, gamma and beta of each of 7 convolutions


def test_a_fused_copy_says_the_same(rng):
    trunk = random_net(rng, 11)
    x = Tensor(rng.standard_normal((1, 3, 71, 64)).astype(np.float32))
    np.testing.assert_allclose(fuse(trunk)(x).data, trunk(x).data, atol=1e-3)


def test_receptive_fields(rng):
    """Two 3 x 3 convolutions of stride 2 and 1 see 7 pixels; the first begins at the border."""
    net = CropNet(2, rng, 64, features=8, backbone=MobileNet(rng, blocks=1))
    assert net.backbone.geometry == [(3, 2, 0), (3, 1, 1), (1, 1, 0)]
    assert receptive_field(net.backbone.geometry) == (7, 2, -2)
    model = RCNN(2, rng, net)
    field = unit_field(model, unit_of(model, 0, 3, 0))  # pool5: cells of 2 x 2
    assert field.tolist() == [0, 10, 7, 19]


# ------------------------------------------------------------------ Keras' tensors


def test_every_tensor_of_a_file_is_used(rng):
    net, again = random_net(rng), MobileNet(rng, blocks=13)
    tensors = keras_tensors(net)
    assert len(tensors) == 5 * 27 and tensors["conv_dw_1/depthwise_kernel"].shape == (3, 3, 8, 1)
    again.load_state_dict(from_keras(tensors, again, "a.h5"))
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array)
    first = again.first(2)
    assert (first.stride, first.channels, len(first.layers)) == (4, 32, 15) and len(again.layers) == 81
    assert first.layers[0] is again.layers[0]


def test_missing_and_left_over_tensors_are_named(rng):
    net = random_net(rng)
    tensors = keras_tensors(net)
    del tensors["conv_pw_7_bn/beta"]
    tensors["conv_preds/kernel"] = np.zeros((1, 1, 256, 1000), np.float32)
    with pytest.raises(ValueError, match="a.h5: .* missing conv_pw_7_bn/beta; left over conv_preds/kernel"):
        from_keras(tensors, net, "a.h5")
    tensors = keras_tensors(net) | {"conv1/kernel": np.zeros(3)}
    with pytest.raises(ValueError, match="conv1/kernel has shape"):
        from_keras(tensors, net, "a.h5")
    wider = MobileNet(rng, 0.5, 13)
    with pytest.raises(ValueError, match=r"layers.0.weight has shape \(8, 3, 3, 3\), MobileNet needs \(16, 3, 3, 3\)"):
        wider.load_state_dict(from_keras(keras_tensors(net), wider, "a.h5"), "a.h5")


def test_without_h5py_one_is_told_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install h5py, or pip install -e "\.\[mobilenet\]"'):
        load_mobilenet(tmp_path / "a.h5")


def test_files_that_are_none(tmp_path):
    pytest.importorskip("h5py")
    with pytest.raises(FileNotFoundError, match="a.h5: no such file"):
        load_mobilenet(tmp_path / "a.h5")
    (tmp_path / "a.h5").write_bytes(b"no")
    with pytest.raises(ValueError, match="a.h5: not a readable HDF5 file"):
        load_mobilenet(tmp_path / "a.h5")


# ------------------------------------------------------------------ the published weights


def torch_mobilenet(tensors: dict[str, np.ndarray], image: np.ndarray, blocks: int) -> np.ndarray:
    """Keras' network once more, in PyTorch and in its own order: image (H, W, 3) uint8 -> (C, FH, FW)."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    def same(x, kernel: int, stride: int):
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:])
        return functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))

    def norm_relu6(x, name: str):
        gamma, beta, mean, var = (
            torch.tensor(tensors[f"{name}_bn/{part}"]) for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return functional.batch_norm(x, mean, var, gamma, beta, eps=1e-3).clamp(0, 6)

    x = torch.tensor(image.transpose(2, 0, 1)[None] / 127.5 - 1, dtype=torch.float32)
    kernel = torch.tensor(tensors["conv1/kernel"]).permute(3, 2, 0, 1)
    x = norm_relu6(functional.conv2d(same(x, 3, 2), kernel, stride=2), "conv1")
    for k in range(1, blocks + 1):
        stride = 2 if k in (2, 4, 6, 12) else 1
        kernel = torch.tensor(tensors[f"conv_dw_{k}/depthwise_kernel"]).permute(2, 3, 0, 1)
        x = norm_relu6(functional.conv2d(same(x, 3, stride), kernel, stride=stride, groups=x.shape[1]), f"conv_dw_{k}")
        kernel = torch.tensor(tensors[f"conv_pw_{k}/kernel"]).permute(3, 2, 0, 1)
        x = norm_relu6(functional.conv2d(x, kernel), f"conv_pw_{k}")
    return x[0].numpy()


def grace_hopper(size: tuple[int, int]) -> np.ndarray:
    from matplotlib import cbook
    from PIL import Image

    photo = Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    return np.asarray(photo.resize(size[::-1]))


@pytest.mark.parametrize("size", [(224, 224), (97, 150)])  # the second has odd maps on its way
@pytest.mark.parametrize("blocks", [11, 13])
def test_the_same_features_as_an_independent_network(size, blocks, rng):
    """Random weights: needs PyTorch, but no file."""
    net = random_net(rng)
    tensors, image = keras_tensors(net), grace_hopper(size)
    expected = torch_mobilenet(tensors, image, blocks)
    net.layers[0].weight.data *= np.float32(INPUT_SCALE)
    found = net.first(blocks)(Tensor(normalise(image, MEAN_COLOUR)[None])).data[0]
    assert found.shape == expected.shape == ((128, 256)[blocks == 13], *(-(-n // (16, 32)[blocks == 13]) for n in size))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("size", [(224, 224), (97, 150)])
def test_the_published_weights_give_the_same_features_in_pytorch(size, data_dir):
    h5py = pytest.importorskip("h5py")
    file = data_dir / WEIGHTS
    if not file.is_file():
        pytest.skip(f"no weights at {file}")
    tensors, image = {}, grace_hopper(size)
    with h5py.File(file) as content:
        for layer in content:
            for path in content[layer].attrs["weight_names"]:
                name = path.decode().split("/")[-1].removesuffix(":0")
                tensors[f"{layer}/{name}"] = content[layer][path.decode()][()]
    trunk = load_mobilenet(file, blocks=13)
    expected = torch_mobilenet(tensors, image, 13)
    found = trunk(Tensor(normalise(image, MEAN_COLOUR)[None])).data[0]
    np.testing.assert_allclose(found, expected, atol=2e-4 * expected.max())
    assert 0.1 < (found > 0).mean() < 0.9 and found.max() > 1  # features, not noise that died out or saturated
    wrong = trunk(Tensor(normalise(image, MEAN_COLOUR - 127.5)[None])).data[0]  # colours that were not centred
    assert np.abs(wrong - expected).max() > 0.5


def test_pre_trained_features_tell_textures_apart(data_dir):
    """Mean features of two cut-outs of one photo are nearer to each other than to those of noise and of a flat wall."""
    pytest.importorskip("h5py")
    file: Path = data_dir / WEIGHTS
    if not file.is_file():
        pytest.skip(f"no weights at {file}")
    trunk, photo = load_mobilenet(file, blocks=13), grace_hopper((300, 256))
    rng = np.random.default_rng(0)
    pictures = [
        photo[:224, :224], photo[40:264, 20:244],
        rng.integers(0, 256, (224, 224, 3), dtype=np.uint8), np.full((224, 224, 3), 127, np.uint8),
    ]  # fmt: skip
    features = [trunk(Tensor(normalise(p, MEAN_COLOUR)[None])).data.mean(axis=(0, 2, 3)) for p in pictures]
    first, *others = [f / np.linalg.norm(f) for f in features]
    likeness = [float(first @ other) for other in others]
    assert likeness[0] > 0.8 > max(likeness[1:]) + 0.1, likeness


# ------------------------------------------------------------------ surgery


@pytest.mark.parametrize("pretrained", [True, False])
def test_surgery_keeps_all_but_the_last_layer(pretrained, rng):
    """Fast R-CNN, section 2.2: the RoI that is the whole crop has the classifier's features; only siblings are new."""
    backbone = random_net(rng, 11) if pretrained else None
    net = CropNet(5, rng, 64, features=24, backbone=backbone)
    model = fast_rcnn_from(net, 3, rng, min_score=0.1)
    assert isinstance(model, FastRCNN) and model.min_score == 0.1
    assert model.head.logits.weight.shape == (4, 24) and model.head.deltas.weight.shape == (12, 24)
    crop = rng.standard_normal((1, 3, 64, 64)).astype(np.float32)
    maps = model.backbone(Tensor(crop))
    hidden = model.head.hidden(maps, np.float32([[0, 0, 64, 64]]))
    np.testing.assert_allclose(hidden.data, net.taps(Tensor(crop))["fc7"].data, rtol=1e-4, atol=1e-5)
    assert not np.allclose(model.head.hidden(maps, np.float32([[0, 0, 32, 32]])).data, hidden.data)
    image, target = rng.standard_normal((3, 90, 120)).astype(np.float32), make_target([[10, 10, 60, 70]], [3])
    losses = model.losses([image], [target], [target.boxes + 4], rng)
    sum(losses.values(), start=Tensor(np.float32(0))).backward()
    assert all(p.grad is not None for p in model.parameters())
