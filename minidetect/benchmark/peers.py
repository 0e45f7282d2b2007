"""The others: PyTorch, ONNX Runtime and OpenCV, each used where it is installed (`pip install minidetect[peers]`).

This is the only file of the package that imports them, and only when a benchmark asks: no result of the
library depends on a peer. What each is given is its quickest way to the same result:

    torch         eager, in inference mode or by the backward's own operator, without building a graph
    onnxruntime   a model of one node, its input bound and its output kept in the runtime's own memory
    opencv        the function
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from minidetect.kernels.dispatch import get_num_threads, set_num_threads

NAMES = ("torch", "onnxruntime", "opencv")
OPSET, IR_VERSION = 17, 9  # of the one-node models: old enough for every supported ONNX Runtime


class Peers:
    """What is installed, all set to the same number of threads. `torch`, `ort` and `cv2` are None where absent.

    names: which to use; the default is all.
    """

    def __init__(self, threads: int, names: tuple[str, ...] = NAMES) -> None:
        self.threads = threads
        # Numba's pool must be running already: as it starts, it sets OpenMP's number of threads to its own, and
        # where both use one OpenMP that is PyTorch's number too. "One thread" of PyTorch was two, before.
        set_num_threads(get_num_threads())
        self.torch = _torch(threads) if "torch" in names else None
        self.ort, self.onnx = _onnxruntime() if "onnxruntime" in names else (None, None)
        self.cv2 = _opencv(threads) if "opencv" in names else None
        self.torchvision: ModuleType | None = None  # see torch_on_gpu

    def versions(self) -> dict[str, str]:
        """Name and version of every peer that is here."""
        modules = zip(NAMES, (self.torch, self.ort, self.cv2), strict=True)
        return {name: module.__version__ for name, module in modules if module is not None}

    def torch_on_gpu(self) -> ModuleType | None:
        """PyTorch, if it is here and has a GPU: in float32 proper (no TF32), the quickest convolution of each shape.

        Where torchvision is installed as well its operators are loaded, and stand in torch.ops.torchvision.
        """
        if self.torch is None or not self.torch.cuda.is_available():
            return None
        self.torch.backends.cuda.matmul.allow_tf32 = self.torch.backends.cudnn.allow_tf32 = False
        self.torch.backends.cudnn.benchmark = True
        self.torchvision = _torchvision()
        return self.torch

    def check_threads(self) -> None:
        """Raise RuntimeError when something has changed PyTorch's number of threads since."""
        if self.torch and self.torch.get_num_threads() != self.threads:
            raise RuntimeError(f"PyTorch uses {self.torch.get_num_threads()} threads, not {self.threads}")

    def tensor(self, array: np.ndarray) -> Any:
        """A torch tensor on the same memory."""
        return self.torch.from_numpy(array)

    def session(self, model: Any) -> Any:
        """An ONNX Runtime session with this many threads, on the processor."""
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        # Its threads would otherwise wait in a loop, on the cores that the next contestant needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return self.ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def node(
        self, kind: str, arrays: dict[str, np.ndarray], constants: dict[str, np.ndarray] | None = None,
        outputs: int = 1, **attributes: Any,
    ) -> Callable[[], Any]:
        """A call of one ONNX operator. arrays: its inputs, by name and in order; then come the constants."""
        helper, names = self.onnx.helper, [f"y{i}" for i in range(outputs)]
        constants = constants or {}
        inputs = [*arrays, *constants]
        graph = helper.make_graph(
            [helper.make_node(kind, inputs, names, **attributes)], kind,
            [helper.make_tensor_value_info(n, onnx_type(self.onnx, a), list(a.shape)) for n, a in arrays.items()],
            [helper.make_empty_tensor_value_info(name) for name in names],
            [self.onnx.numpy_helper.from_array(a, n) for n, a in constants.items()],
        )
        return self.bound(self.model(graph), arrays, names)

    def model(self, graph: Any) -> Any:
        helper = self.onnx.helper
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def bound(self, model: Any, arrays: dict[str, np.ndarray], outputs: list[str]) -> Callable[[], Any]:
        """A call of a whole model on arrays that stay where they are. It returns the binding, from which
        `copy_outputs_to_cpu()` takes the results: `timing.as_arrays` does."""
        session = self.session(model)
        binding = session.io_binding()
        for name, array in arrays.items():
            binding.bind_cpu_input(name, array)
        for name in outputs:
            binding.bind_output(name, "cpu")

        def call() -> Any:
            session.run_with_iobinding(binding)
            return binding

        return call


def onnx_type(onnx: ModuleType, array: np.ndarray) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(array.dtype)


def _torch(threads: int) -> ModuleType | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    return torch


def _torchvision() -> ModuleType | None:
    """Not only its absence is an ImportError: one made for another PyTorch raises RuntimeError as it loads."""
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError):
        return None
    return torchvision


def _onnxruntime() -> tuple[ModuleType | None, ModuleType | None]:
    """The runtime, and `onnx`, which writes its models: one is of no use without the other."""
    try:
        import onnx
        import onnx.numpy_helper
        import onnxruntime
    except ImportError:
        return None, None
    return onnxruntime, onnx


def _opencv(threads: int) -> ModuleType | None:
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(threads)
    return cv2
