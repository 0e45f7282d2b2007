"""MTCNN's published weights in our nets: against torch's layers, by hand for the order of the connected layers, and on
photos; and the command `convert`. Weights of random numbers in torch's format serve where the real ones are absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch_files
from command import run
from matplotlib import cbook

import minidetect
from minidetect import api
from minidetect.autograd import Tensor, no_grad
from minidetect.data.images import load_image
from minidetect.models.mtcnn import FILES, load_mtcnn
from minidetect.models.multi_output_cascade import MultiOutputCascade
from minidetect.nn.torch_file import read_state_dict

# Channels of the convolutions, their kernels; then the layers on top. From the published nets' definition.
LAYERS = (
    {"conv1": (10, 3, 3, 3), "conv2": (16, 10, 3, 3), "conv3": (32, 16, 3, 3), "conv4_1": (2, 32, 1, 1),
     "conv4_2": (4, 32, 1, 1)},
    {"conv1": (28, 3, 3, 3), "conv2": (48, 28, 3, 3), "conv3": (64, 48, 2, 2), "dense4": (128, 576),
     "dense5_1": (2, 128), "dense5_2": (4, 128)},
    {"conv1": (32, 3, 3, 3), "conv2": (64, 32, 3, 3), "conv3": (64, 64, 3, 3), "conv4": (128, 64, 2, 2),
     "dense5": (256, 1152), "dense6_1": (2, 256), "dense6_2": (4, 256), "dense6_3": (10, 256)},
)  # fmt: skip
PRELUS = ((10, 16, 32), (28, 48, 64, 128), (32, 64, 64, 128, 256))


def random_weights(stage: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    state = {}
    for name, shape in LAYERS[stage].items():
        state[f"{name}.weight"] = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        state[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32) * 0.1
    for k, channels in enumerate(PRELUS[stage], start=1):
        state[f"prelu{k}.weight"] = rng.uniform(-0.2, 0.5, channels).astype(np.float32)
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("mtcnn"), np.random.default_rng(0)
    for stage, name in enumerate(FILES):
        torch_files.save(folder / name, random_weights(stage, rng), old=stage == 1)
    return folder


@pytest.fixture
def published(data_dir) -> Path:
    return data_dir / "weights" / "mtcnn"


def said(cascade: MultiOutputCascade, stage: int, x: np.ndarray) -> list[np.ndarray]:
    """What a branch says of x (N, 3, S, S): logits, deltas, and points where it has them."""
    net = cascade.branches[stage]
    with no_grad():
        return [part.data for part in net.predict(net.features(Tensor(x))) if part is not None]


def by_torch(torch, state: dict[str, np.ndarray], stage: int, x: np.ndarray) -> list[np.ndarray]:
    """The published nets, written with torch's functions: PReLU, pooling in ceil mode, columns before rows."""
    f = torch.nn.functional
    w = {name: torch.from_numpy(array) for name, array in state.items()}
    x, pools = torch.from_numpy(x), ((2, 0, 0), (3, 3, 0), (3, 3, 2, 0))[stage]
    for k, pool in enumerate(pools, start=1):
        x = f.prelu(f.conv2d(x, w[f"conv{k}.weight"], w[f"conv{k}.bias"]), w[f"prelu{k}.weight"])
        x = f.max_pool2d(x, pool, 2, ceil_mode=True) if pool else x
    if stage == 0:
        return [f.conv2d(x, w[f"conv4_{k}.weight"], w[f"conv4_{k}.bias"]).flatten(1).numpy() for k in (1, 2)]
    top = len(pools) + 1
    x = x.permute(0, 3, 2, 1).reshape(len(x), -1)  # (N, C, H, W) -> (N, W, H, C) -> (N, W*H*C)
    x = f.prelu(f.linear(x, w[f"dense{top}.weight"], w[f"dense{top}.bias"]), w[f"prelu{top}.weight"])
    heads = [f"dense{top + 1}_{k}" for k in range(1, stage + 2)]
    return [f.linear(x, w[f"{head}.weight"], w[f"{head}.bias"]).numpy() for head in heads]


@pytest.mark.parametrize("stage", range(3))
@pytest.mark.parametrize("source", ["random", "published"])
def test_each_net_says_what_torch_says(source, stage, folder, request, rng):
    torch = pytest.importorskip("torch")
    where = folder if source == "random" else request.getfixturevalue("published")
    x = rng.standard_normal((5, 3, 12 * 2**stage, 12 * 2**stage)).astype(np.float32)
    ours, theirs = said(load_mtcnn(where), stage, x), by_torch(torch, read_state_dict(where / FILES[stage]), stage, x)
    assert len(ours) == (2, 2, 3)[stage]
    if stage == 2:  # five x, then five y -> x and y of each point
        theirs[2] = theirs[2].reshape(-1, 2, 5).transpose(0, 2, 1).reshape(-1, 10)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_connected_layer_reads_columns_before_rows(folder):
    """Without torch: one weight of dense4, followed to its place. Map 3 x 3 of 64 channels: (w * 3 + h) * 64 + c."""
    state, fc = read_state_dict(folder / "rnet.pt"), load_mtcnn(folder).x24.fc.weight.data
    for unit, channel, row, column in ((0, 0, 0, 1), (5, 63, 2, 0), (127, 17, 1, 2)):
        theirs = state["dense4.weight"][unit, (column * 3 + row) * 64 + channel]
        assert fc[unit, (channel * 3 + row) * 3 + column] == theirs


def test_points_are_pairs_here(folder):
    state, points = read_state_dict(folder / "onet.pt"), load_mtcnn(folder).x48.points
    for k in range(5):
        np.testing.assert_array_equal(points.weight.data[2 * k], state["dense6_3.weight"][k])
        assert points.bias.data[2 * k + 1] == state["dense6_3.bias"][5 + k]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("conv2.bias"), "conv"),
        (lambda state: state.update(extra=np.zeros(3, np.float32)), "extra"),
        (lambda state: state.update({"dense4.weight": np.zeros((128, 570), np.float32)}), "fc.weight"),
        (lambda state: state.update({"prelu1.weight": np.zeros(27, np.float32)}), "prelus.0.slope"),
        (lambda state: state.update({"prelu1.bias": np.zeros(28, np.float32)}), "prelu1.bias"),
        (lambda state: state.update({"stack.prelus.0.slope": np.zeros(28, np.float32)}), "stack.prelus.0.slope (of"),
        (lambda state: state.update({"dense4.weight": np.zeros((127, 320), np.float32)}), "fc.weight"),
        (lambda state: state.update({"dense4.weight": np.zeros((), np.float32)}), "fc.weight"),
    ],
    ids=["missing", "too many", "too small", "slopes too few", "a second slope", "our name", "no square", "0-d"],
)
def test_weights_of_another_net_are_refused_by_name(change, complaint, folder, tmp_path, rng):
    for stage, name in enumerate(FILES):
        state = random_weights(stage, rng)
        if stage == 1:
            change(state)
        torch_files.save(tmp_path / name, state, old=False)
    with pytest.raises(ValueError, match="rnet.pt") as error:
        load_mtcnn(tmp_path)
    assert complaint in str(error.value)


def test_a_missing_file(folder, tmp_path, capsys):
    (tmp_path / "pnet.pt").write_bytes((folder / "pnet.pt").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"no rnet\.pt; MTCNN's weights are pnet\.pt, rnet\.pt, onet\.pt"):
        minidetect.load(f"mtcnn:{tmp_path}")
    outcome = run(capsys, "convert", f"mtcnn:{tmp_path}", tmp_path / "out.npz")
    assert (outcome.code, len(outcome.err)) == (2, 1)
    assert not (tmp_path / "out.npz").exists()


def test_no_folder_at_all(capsys):
    outcome = run(capsys, "convert", "mtcnn:", "out.npz")
    assert outcome.code == 2 and "pnet.pt" in outcome.err[0]


def test_thorough_is_not_for_them(folder):
    with pytest.raises(ValueError, match="MTCNN"):
        minidetect.load(f"mtcnn:{folder}", thorough=True)


# --------------------------------------------------------------------------------------------- use


def test_converted_it_finds_the_same(folder, tmp_path, capsys, rng):
    file, image = tmp_path / "mtcnn.npz", rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    outcome = run(capsys, "convert", f"mtcnn:{folder}", file)
    assert (outcome.code, outcome.out) == (0, f"wrote {file}\n")
    there, here = minidetect.load(f"mtcnn:{folder}"), minidetect.load(file)
    assert here.model.arguments() == there.model.arguments()
    for detector in (there, here):
        detector.pipeline.thresholds = (0.2, 0.2, 0.2)
    (a,), (b,) = there.detect([image]), here.detect([image])
    assert len(a.boxes) > 0
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("source", ["facecraft", "mtcnn", "retinaface:weights"])
def test_only_known_forms_are_converted(source, tmp_path, capsys):
    outcome = run(capsys, "convert", source, tmp_path / "out.npz")
    assert outcome.code == 2 and "mtcnn:FOLDER" in outcome.err[0]
    assert not (tmp_path / "out.npz").exists()


def test_the_result_must_be_called_npz(folder, tmp_path, capsys):
    outcome = run(capsys, "convert", f"mtcnn:{folder}", tmp_path / "out.pt")
    assert outcome.code == 2 and ".npz" in outcome.err[0]


def test_the_portrait_and_its_landmarks(published):
    """Grace Hopper's eyes, nose and mouth, read off matplotlib's picture by hand, to within 12 of 512 pixels."""
    image = load_image(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)))
    (found,) = minidetect.load(f"mtcnn:{published}").detect([image])
    assert len(found.boxes) == 1 and found.scores[0] > 0.99
    expected = np.array([[222, 190], [304, 186], [268, 232], [226, 281], [310, 278]])
    assert np.abs(found.landmarks[0] - expected).max() < 12, found.landmarks[0]


def test_names_that_are_no_published_weights_are_paths():
    assert api.read_published("a:b") is None
    assert api.read_published("facecraft") is None
