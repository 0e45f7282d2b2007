"""Cases: the layers between the convolutions, forward and backward, on the models' maps."""

from __future__ import annotations

import numpy as np

from minidetect.benchmark.peers import Peers
from minidetect.benchmark.timing import Call, Case, Contest, compare
from minidetect.kernels.pool import max_pool_backward, max_pool_forward, max_pool_values
from minidetect.kernels.prelu import prelu_backward, prelu_forward
from minidetect.kernels.roi_pool import roi_pool_backward, roi_pool_forward
from minidetect.ops.activation import Softmax
from minidetect.ops.normalize import BatchNorm, BatchNormFixed
from minidetect.reference import nn_ops as reference

Size = tuple[int, ...]
# (N, C, H, W): EXTD's maps, a first layer of x12 on a photo, a batch of patches
MAPS: tuple[Size, ...] = ((1, 64, 320, 320), (1, 128, 80, 80), (1, 16, 238, 318), (128, 32, 46, 46), (128, 64, 8, 8))
SHORT = MAPS[1]
POOLS = (  # x, kernel, ceil mode; all at stride 2
    ((1, 16, 238, 318), 2, False), ((128, 16, 10, 10), 2, False), ((128, 32, 46, 46), 3, True),
    ((128, 64, 21, 21), 3, True), ((128, 64, 8, 8), 2, False), ((1, 64, 160, 160), 3, False),
)  # fmt: skip
ROIS = (((1, 256, 38, 50), 128), ((2, 64, 80, 80), 300))  # map, number of RoIs
SOFTMAX = ((34125, 2), (2000, 21), (128, 1000))


def layer_cases() -> list[Case]:
    return [
        *(case for size in MAPS for case in (*prelu_cases(size), *batch_norm_cases(size))),
        *(case for pool in POOLS for case in max_pool_cases(*pool)),
        *(case for rois in ROIS for case in roi_pool_cases(*rois)),
        *(softmax_case(size) for size in SOFTMAX),
    ]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def size_name(size: Size) -> str:
    return "x".join(map(str, size))


def against(slow: Call, tolerance: float = 1e-4):
    """A check by the slow twin, which is only called where no peer is."""
    return lambda result: compare(result, slow(), "the reference", tolerance)


# ---------------------------------------------------------------------------------------- activations


def prelu_cases(size: Size) -> list[Case]:
    moved = 8.0 * np.prod(size)

    def forward(peers: Peers) -> Contest:
        x, slope = normal(*size), normal(size[1], seed=1)
        calls = {}
        if peers.torch:
            tensors = peers.tensor(x), peers.tensor(slope)
            calls["torch"] = lambda: peers.torch.prelu(*tensors)
        if peers.ort:
            calls["onnxruntime"] = peers.node("PRelu", {"x": x}, {"slope": slope.reshape(-1, 1, 1)})
        return Contest(lambda: prelu_forward(x, slope), calls, against(lambda: reference.prelu(x, slope)))

    def backward(peers: Peers) -> Contest:
        x, slope, gy = normal(*size), normal(size[1], seed=1), normal(*size, seed=2)
        calls = {}
        if peers.torch:
            calls["torch"] = torch_gradient(peers, peers.torch.prelu, gy, x, slope)

        def check(result: tuple) -> None:
            negative = np.minimum(x, 0).astype(np.float64)
            gx = np.where(x > 0, gy, gy * slope.reshape(-1, 1, 1))
            compare(result, (gx, (gy * negative).sum(axis=(0, 2, 3))), "the definition", 5e-4)

        return Contest(lambda: prelu_backward(gy, x, slope), calls, check, tolerance=5e-4)

    name, short = size_name(size), size == SHORT
    return [
        Case("prelu forward", name, 0, moved, forward, short),
        Case("prelu backward", name, 0, 1.5 * moved, backward, short),
    ]


def torch_gradient(peers: Peers, function, gy: np.ndarray, *inputs: np.ndarray) -> Call:
    """For what torch has no plain backward operator: its graph, built once and walked back every time."""
    leaves = [peers.tensor(a.copy()).requires_grad_() for a in inputs]
    y, upstream = function(*leaves), peers.tensor(gy)
    return lambda: peers.torch.autograd.grad(y, leaves, upstream, retain_graph=True)


def softmax_case(size: Size) -> Case:
    def build(peers: Peers) -> Contest:
        x = normal(*size)
        calls = {}
        if peers.torch:
            tensor = peers.tensor(x)
            calls["torch"] = lambda: peers.torch.softmax(tensor, 1)
        if peers.ort:
            calls["onnxruntime"] = peers.node("Softmax", {"x": x}, axis=1)
        return Contest(lambda: Softmax(1).forward(x), calls, against(lambda: reference.softmax(x)))

    return Case("softmax", size_name(size), 0, 8.0 * np.prod(size), build, size == SOFTMAX[0])


# ----------------------------------------------------------------------------------------- batch norm


def batch_norm_cases(size: Size) -> list[Case]:
    """train: statistics of the batch; inference: constants; backward: of the first."""
    eps = 1e-5

    def arrays() -> tuple[np.ndarray, ...]:
        """x, gamma, beta, mean, var, gy"""
        vectors = (normal(size[1], seed=seed) for seed in (1, 2, 3, 4))
        gamma, beta, mean, var = vectors
        return normal(*size), gamma, beta, mean, np.abs(var) + 0.5, normal(*size, seed=5)

    def train(peers: Peers) -> Contest:
        x, gamma, beta, *_ = arrays()
        calls = {}
        if peers.torch:
            tensors = [*map(peers.tensor, (x, gamma, beta)), None, None, True, 0.1, eps]
            calls["torch"] = lambda: peers.torch.ops.aten.native_batch_norm(*tensors)[0]
        check = against(lambda: reference.batch_norm(x, gamma, beta))
        return Contest(lambda: BatchNorm(eps).forward(x, gamma, beta), calls, check)

    def inference(peers: Peers) -> Contest:
        x, gamma, beta, mean, var, _ = arrays()
        calls = {}
        if peers.torch:
            tensors = [*map(peers.tensor, (x, gamma, beta, mean, var)), False, 0.1, eps]
            calls["torch"] = lambda: peers.torch.ops.aten.native_batch_norm(*tensors)[0]
        if peers.ort:
            constants = {"gamma": gamma, "beta": beta, "mean": mean, "var": var}
            calls["onnxruntime"] = peers.node("BatchNormalization", {"x": x}, constants, epsilon=eps)
        check = against(lambda: reference.batch_norm(x, gamma, beta, mean, var))
        return Contest(lambda: BatchNormFixed(mean, var, eps).forward(x, gamma, beta), calls, check)

    def backward(peers: Peers) -> Contest:
        x, gamma, beta, _, _, gy = arrays()
        calls = {}
        if peers.torch:
            aten = peers.torch.ops.aten
            tx, tgamma, tbeta, tgy = map(peers.tensor, (x, gamma, beta, gy))
            _, mean, inv_std = aten.native_batch_norm(tx, tgamma, tbeta, None, None, True, 0.1, eps)
            settings = (tgy, tx, tgamma, None, None, mean, inv_std, True, eps, [True] * 3)
            calls["torch"] = lambda: aten.native_batch_norm_backward(*settings)
        function = BatchNorm(eps)
        function.needs = (True, True, True)
        function.forward(x, gamma, beta)
        return Contest(lambda: function.backward(gy), calls, tolerance=5e-4)

    name, short, moved = size_name(size), size == SHORT, 8.0 * np.prod(size)
    return [
        Case("batch norm train", name, 0, 1.5 * moved, train, short),  # x is read twice
        Case("batch norm inference", name, 0, moved, inference, short),
        Case("batch norm backward", name, 0, 2.5 * moved, backward, short),  # x and gy are read twice
    ]


# -------------------------------------------------------------------------------------------- pooling


def max_pool_cases(size: Size, kernel: int, ceil: bool) -> list[Case]:
    """values: for inference; winners: with their indices, for training; backward: from those."""
    settings = (kernel, 2, 0, ceil)
    attributes = {"kernel_shape": [kernel] * 2, "strides": [2, 2], "ceil_mode": int(ceil)}

    def values(peers: Peers) -> Contest:
        x, calls = normal(*size), {}
        if peers.torch:
            tensor = peers.tensor(x)
            calls["torch"] = lambda: peers.torch.max_pool2d(tensor, kernel, 2, 0, 1, ceil)
        if peers.ort:
            calls["onnxruntime"] = peers.node("MaxPool", {"x": x}, **attributes)
        check = against(lambda: reference.max_pool2d(x, *settings))
        return Contest(lambda: max_pool_values(x, *settings), calls, check)

    def winners(peers: Peers) -> Contest:
        x, calls = normal(*size), {}
        if peers.torch:
            tensor, pool = peers.tensor(x), peers.torch.ops.aten.max_pool2d_with_indices
            calls["torch"] = lambda: pool(tensor, [kernel] * 2, [2, 2], [0, 0], [1, 1], ceil)
        check = against(lambda: reference.max_pool2d(x, *settings))
        return Contest(lambda: max_pool_forward(x, *settings), calls, check)

    def backward(peers: Peers) -> Contest:
        x, calls = normal(*size), {}
        y, winner = max_pool_forward(x, *settings)
        gy = normal(*y.shape, seed=1)
        if peers.torch:
            gradient, tensors = peers.torch.ops.aten.max_pool2d_with_indices_backward, map(peers.tensor, (gy, x))
            more = ([kernel] * 2, [2, 2], [0, 0], [1, 1], ceil, peers.tensor(winner.astype(np.int64)))
            both = tuple(tensors)
            calls["torch"] = lambda: gradient(*both, *more)

        def check(gx: np.ndarray) -> None:
            true = np.zeros((size[0] * size[1], size[2] * size[3]))
            planes = np.arange(len(true))[:, None]
            np.add.at(true, (planes, winner.reshape(len(true), -1)), gy.reshape(len(true), -1))
            compare(gx, true.reshape(size), "the definition", 1e-4)

        return Contest(lambda: max_pool_backward(gy, winner, size, *settings[:3]), calls, check)

    name = f"{kernel}x{kernel} {size_name(size)}"
    outputs = (size[2] // 2) * (size[3] // 2) * size[0] * size[1]
    read, short = 4.0 * np.prod(size), (size, kernel, ceil) in (POOLS[0], POOLS[2])
    return [
        Case("max pool values", name, 0, read + 4.0 * outputs, values, short),
        Case("max pool winners", name, 0, read + 8.0 * outputs, winners, short),
        Case("max pool backward", name, 0, read + 8.0 * outputs, backward, short),
    ]


# ---------------------------------------------------------------------------------------- RoI pooling


def random_rois(size: Size, count: int) -> np.ndarray:
    """(count, 5) at the scale of the map: sides from 2 cells to the whole map."""
    rng = np.random.default_rng(0)
    limit = np.array([size[3], size[2]])
    first = rng.uniform(0, limit - 2, (count, 2))
    last = first + 2 + rng.uniform(0, 1, (count, 2)) * (limit - 2 - first)
    images = rng.integers(size[0], size=(count, 1))
    return np.concatenate([images, first, last], axis=1).astype(np.float32)


def roi_pool_cases(size: Size, count: int) -> list[Case]:
    """7 x 7 bins. The peer for the forward pass is ONNX Runtime's MaxRoiPool (Caffe's inclusive corners).

    PyTorch has the operator in torchvision only; without it one writes a loop over adaptive_max_pool2d, whose
    bins are the same: that loop stands for PyTorch here.
    """
    bins = (7, 7)

    def torch_loop(peers: Peers, rois: np.ndarray, x):
        pool, parts = peers.torch.nn.functional.adaptive_max_pool2d, []
        for image, *corners in rois:
            x1, y1, x2, y2 = (int(np.floor(v + 0.5)) for v in corners)
            parts.append(pool(x[int(image), :, y1 : max(y2, y1) + 1, x1 : max(x2, x1) + 1], bins))
        return peers.torch.stack(parts)

    def forward(peers: Peers) -> Contest:
        x, rois, calls = normal(*size), inside(random_rois(size, count), size), {}
        if peers.torch:
            tensor = peers.tensor(x)
            calls["torch loop"] = lambda: torch_loop(peers, rois, tensor)
        if peers.ort:
            calls["onnxruntime"] = peers.node(
                "MaxRoiPool", {"x": x, "rois": rois}, pooled_shape=list(bins), spatial_scale=1.0
            )
        check = against(lambda: reference.roi_pool(x, rois, bins, 1.0, True))
        # Caffe's float32 bin edges sometimes read one cell more: see kernels/roi_pool.py.
        return Contest(lambda: roi_pool_forward(x, rois, bins, 1.0, True), calls, check, wrong_share=0.02)

    def backward(peers: Peers) -> Contest:
        x, rois, calls = normal(*size), inside(random_rois(size, count), size), {}
        y, winner = roi_pool_forward(x, rois, bins, 1.0, True)
        gy = normal(*y.shape, seed=1)
        if peers.torch:
            calls["torch loop"] = torch_gradient(peers, lambda t: torch_loop(peers, rois, t), gy, x)
        return Contest(lambda: roi_pool_backward(gy, winner, rois, size), calls)

    name, short = f"{count} rois {size_name(size)}", count == ROIS[0][1]
    cells, read = 49.0 * count * size[1], 4.0 * np.prod(size)
    return [
        Case("roi pool forward", name, 0, read + 8 * cells, forward, short),
        Case("roi pool backward", name, 0, read + 8 * cells, backward, short),
    ]


def inside(rois: np.ndarray, size: Size) -> np.ndarray:
    """Last pixels, as Caffe means corners, must be cells of the map."""
    limits = np.array([np.inf, *(size[3] - 1, size[2] - 1) * 2], np.float32)
    return np.minimum(rois, limits)
