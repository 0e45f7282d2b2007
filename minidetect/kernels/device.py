"""Where arrays live and where kernels run: in the machine's memory (NumPy's arrays), or on the GPU (`DeviceArray`).

    x = to_device(array)                  to the GPU; to_numpy(x) comes back
    y = relu_forward(x)                   runs where its arrays are; the result stays there
    with use_device("cuda"):              NumPy's arrays are copied to the GPU for each kernel, and the results back:
        y = relu_forward(array)           worth it for much work on few numbers, seldom otherwise

An array on the GPU meets one from the machine's memory: that one is copied over. Nothing is ever copied back unasked,
since that waits for the GPU; where a decision is taken on the processor, the code says `to_numpy`. Either kind of copy
is counted (`count_copies`).

A `DeviceArray` has the arithmetic that the operations of minidetect/ops need, by NumPy's names: operators, `np.exp(x)`,
`x.sum(axis=1)`, slices, `np.concatenate`. So an operation that is written in NumPy runs on the GPU as it stands, and
one with a kernel has a twin (`on_either_device`). What is not there is refused by name, never computed elsewhere.

Left out: more than one GPU, more than one stream, arrays with gaps (a slice is a copy), types that are not in `TYPES`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

DEVICES = ("cpu", "cuda")
MOST = 2**32 - 1  # numbers of an array: kernels take places apart in 32 bits
TYPES = ("float32", "float64", "int32", "int64", "uint8", "uint64", "bool")

_types = frozenset(np.dtype(name) for name in TYPES)
_offload = ContextVar("offload", default=False)
_counts: ContextVar[tuple[CopyCount, ...]] = ContextVar("copy_counts", default=())


class CopyCount:
    """How often and how much was copied between the machine's memory and the GPU."""

    def __init__(self) -> None:
        self.to_gpu, self.to_gpu_bytes, self.to_host, self.to_host_bytes = 0, 0, 0, 0

    def __repr__(self) -> str:
        return (
            f"{self.to_gpu} copies to the GPU ({self.to_gpu_bytes:,} bytes), "
            f"{self.to_host} back ({self.to_host_bytes:,} bytes)"
        )


@contextmanager
def count_copies() -> Iterator[CopyCount]:
    """`with count_copies() as copies: ...` counts the copies of this thread inside; may be nested."""
    count = CopyCount()
    token = _counts.set((*_counts.get(), count))
    try:
        yield count
    finally:
        _counts.reset(token)


@contextmanager
def use_device(device: str) -> Iterator[None]:
    """Inside `use_device("cuda")` kernels run on the GPU, whatever memory their arrays are in; "cpu" undoes that.

    Raises ValueError for another name, and RuntimeError that says what to install where there is no GPU to use.
    """
    check_device(device)
    token = _offload.set(device == "cuda")
    try:
        yield
    finally:
        _offload.reset(token)


def check_device(device: str) -> None:
    """Raise ValueError unless it is one of DEVICES, RuntimeError for "cuda" where no GPU can be used."""
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cuda":
        gpu().require_gpu()


@functools.cache
def gpu() -> Any:
    """The module gpu.py, imported at its first use: that takes half a second, which nobody else shall wait for."""
    return importlib.import_module("minidetect.kernels.gpu")


@functools.cache
def arithmetic() -> Any:
    """The module device_math.py, likewise."""
    return importlib.import_module("minidetect.kernels.device_math")


@functools.cache
def reductions() -> Any:
    """The module device_reduce.py, likewise."""
    return importlib.import_module("minidetect.kernels.device_reduce")


@functools.cache
def indexing() -> Any:
    """The module device_index.py, likewise."""
    return importlib.import_module("minidetect.kernels.device_index")


# --------------------------------------------------------------------------------------------- the two targets


def on_either_device(function: Callable) -> Callable:
    """A kernel's wrapper for NumPy's arrays that hands arrays on the GPU to its twin.

    The twin has its name and its parameters and stands in the file NAME_cuda.py beside its own. All arrays are brought
    to the GPU for it. Its results stay there, unless all arguments came from the machine's memory.
    """

    @functools.wraps(function)
    def choose(*args: Any, **kwargs: Any) -> Any:
        is_resident = any(type(a) is DeviceArray for a in args) or any(type(a) is DeviceArray for a in kwargs.values())
        if not is_resident and not _offload.get():
            return function(*args, **kwargs)
        twin, out = find_twin(function), kwargs.pop("out", None)
        args = [brought(a) for a in args]
        kwargs = {name: brought(a) for name, a in kwargs.items()}
        if is_resident:
            if isinstance(out, np.ndarray):
                raise ValueError(f"{function.__name__}: out must be on the GPU, as the other arrays are")
            return twin(*args, **kwargs) if out is None else twin(*args, **kwargs, out=out)
        if out is None:
            return fetched(twin(*args, **kwargs))
        result = fetched(twin(*args, **kwargs))
        if (out.shape, out.dtype) != (result.shape, result.dtype):
            raise ValueError(f"out must be {result.dtype} {result.shape}, got {out.dtype} {out.shape}")
        out[...] = result
        return out

    return choose


def where_it_lives(function: Callable) -> Callable:
    """`on_either_device` for a function that changes its arrays: offloaded, it would change copies of them."""

    @functools.wraps(function)
    def choose(*args: Any) -> Any:
        if not any(type(a) is DeviceArray for a in args):
            return function(*args)
        if any(isinstance(a, np.ndarray) for a in args):
            raise TypeError(
                f"{function.__name__}: some arrays are on the GPU, some in the machine's memory. An optimiser keeps "
                "arrays of its own: make it after model.to(...)"
            )
        return find_twin(function)(*args)

    return choose


@functools.cache
def find_twin(function: Callable) -> Callable:
    """The function of the same name in the file of CUDA kernels; its parameters must be the same."""
    gpu().require_gpu()
    twin = getattr(importlib.import_module(f"{function.__module__}_cuda"), function.__name__)
    own, its = (list(inspect.signature(f).parameters.values()) for f in (function, twin))
    if [(p.name, p.kind, p.default) for p in own] != [(p.name, p.kind, p.default) for p in its]:
        raise TypeError(f"{twin.__module__}.{twin.__name__} takes {its}, {function.__name__} takes {own}")
    return twin


def brought(argument: Any) -> Any:
    """An argument of a twin: an array is brought to the GPU, anything else stays."""
    return to_device(argument) if isinstance(argument, np.ndarray) else argument


def fetched(result: Any) -> Any:
    """A result of a twin, its arrays in the machine's memory."""
    if isinstance(result, tuple):
        return tuple(fetched(part) for part in result)
    return to_numpy(result) if isinstance(result, DeviceArray) else result


# ----------------------------------------------------------------------------------------------------- copies


def to_device(array: np.ndarray | DeviceArray) -> DeviceArray:
    """A copy on the GPU; an array that is there already is returned as it is."""
    if isinstance(array, DeviceArray):
        return array
    array = np.asarray(array)
    result = empty(array.shape, array.dtype.newbyteorder("="))
    if array.size:
        result.flat.copy_to_device(np.ascontiguousarray(array, result.dtype).reshape(-1))
    for count in _counts.get():
        count.to_gpu += 1
        count.to_gpu_bytes += array.nbytes
    return result


def to_numpy(array: np.ndarray | DeviceArray) -> np.ndarray:
    """A copy in the machine's memory, for which the GPU must first finish; NumPy's arrays are returned as they are."""
    if not isinstance(array, DeviceArray):
        return np.asarray(array)
    result = np.empty(array.size, array.dtype)
    if array.size:
        array.flat.copy_to_host(result)
    for count in _counts.get():
        count.to_host += 1
        count.to_host_bytes += result.nbytes
    return result.reshape(array.shape)


def host_copy(array: np.ndarray | DeviceArray) -> np.ndarray:
    """A copy in the machine's memory, of NumPy's arrays as well."""
    return to_numpy(array) if isinstance(array, DeviceArray) else array.copy()


def empty(shape: tuple[int, ...] | int, dtype: Any) -> DeviceArray:
    """A new array on the GPU that holds anything."""
    shape = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
    dtype = np.dtype(dtype)
    if dtype not in _types:
        raise TypeError(f"an array on the GPU holds {', '.join(TYPES[:-1])} or {TYPES[-1]}, not {dtype}")
    if min(shape, default=0) < 0:
        raise ValueError(f"an array can't have the shape {shape}")
    if math.prod(shape) > MOST:
        raise ValueError(f"an array on the GPU holds {MOST:,} numbers at most, not {shape}")
    return DeviceArray(gpu().Memory(math.prod(shape), dtype), shape, dtype)


def empty_or(out: DeviceArray | None, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
    """`out` if there is one, or else a new array. Raises ValueError unless `out` has the shape and the type."""
    if out is None:
        return empty(shape, dtype)
    if out.shape != tuple(shape) or out.dtype != dtype:
        raise ValueError(f"out must be a contiguous {np.dtype(dtype)} {tuple(shape)}, got {out.dtype} {out.shape}")
    return out


def zeros(shape: tuple[int, ...] | int, dtype: Any) -> DeviceArray:
    """A new array of zeros on the GPU."""
    return full(shape, 0, dtype)


def full(shape: tuple[int, ...] | int, value: float, dtype: Any) -> DeviceArray:
    """A new array on the GPU that holds one value everywhere. The value travels with the launch: no copy."""
    result = empty(shape, dtype)
    arithmetic().fill(result, value)
    return result


def is_on_gpu(array: Any) -> bool:
    return type(array) is DeviceArray


# ------------------------------------------------------------------------------------------------- the array


class DeviceArray(NDArrayOperatorsMixin):
    """Numbers on the GPU, in C's order without gaps. Made by `to_device`, `empty`, `zeros`, `full`, never directly.

    flat: Numba's device array (size,), which kernels read and write; nd: the same memory in its own shape.
    Operators are NumPy's: `a + b` is np.add(a, b), and `__array_ufunc__` says where that goes.
    """

    __slots__ = ("memory", "flat", "shape", "dtype", "__weakref__")

    def __init__(self, memory: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """memory: `gpu.Memory`; views share it, and it is free again when the last one goes."""
        self.memory, self.flat, self.shape, self.dtype = memory, memory.array, shape, dtype

    @property
    def nd(self) -> Any:
        return self.flat.reshape(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> DeviceArray:
        return self.transpose()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __iter__(self) -> Iterator[DeviceArray]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"DeviceArray({self.shape}, {self.dtype})"

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("an array on the GPU is not copied unasked: use to_numpy (minidetect.kernels.device)")

    def item(self) -> float | int | bool:
        """The value of an array with one element; waits for the GPU."""
        if self.size != 1:
            raise ValueError(f"item() needs an array with one element, this one has shape {self.shape}")
        return to_numpy(self).item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same memory in another shape; one length may be -1 where the array is not empty."""
        shape = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], (int, np.integer)) else shape
        shape = tuple(int(n) for n in shape)
        rest = math.prod(n for n in shape if n != -1)
        if shape.count(-1) == 1 and rest > 0:
            shape = tuple(self.size // rest if n == -1 else n for n in shape)
        if math.prod(shape) != self.size or min(shape, default=0) < 0:
            raise ValueError(f"an array of shape {self.shape} has no shape {shape}")
        return DeviceArray(self.memory, shape, self.dtype)

    def transpose(self, *axes: Any) -> DeviceArray:
        """A copy with its axes in another order, reversed where none is given."""
        axes = axes[0] if len(axes) == 1 and not isinstance(axes[0], (int, np.integer)) else axes
        order = tuple(range(self.ndim))[::-1] if not axes else tuple(int(a) for a in axes)
        order = tuple(a + self.ndim if a < 0 else a for a in order)
        if sorted(order) != list(range(self.ndim)):
            raise ValueError(f"transpose: axes {tuple(axes)} are not those of an array of shape {self.shape}")
        return indexing().transpose(self, order)

    def copy(self) -> DeviceArray:
        return arithmetic().converted(self, self.dtype)

    __copy__ = copy

    def __deepcopy__(self, memo: dict) -> DeviceArray:
        return self.copy()

    def __reduce__(self) -> tuple:
        """Pickled by way of the machine's memory."""
        return to_device, (to_numpy(self),)

    def astype(self, dtype: Any, copy: bool = True) -> DeviceArray:
        dtype = np.dtype(dtype)
        return self if dtype == self.dtype and not copy else arithmetic().converted(self, dtype)

    def __getitem__(self, index: Any) -> DeviceArray:
        return indexing().get(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        indexing().put(self, index, value)

    def sum(self, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        return reductions().reduced("sum", self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        axes = range(self.ndim) if axis is None else np.atleast_1d(axis)
        return self.sum(axis, keepdims) / math.prod(self.shape[int(a)] for a in axes)

    def prod(self, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        return reductions().reduced("prod", self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        return reductions().reduced("max", self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        return reductions().reduced("min", self, axis, keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        return reductions().reduced("any", self.astype(bool, copy=False), axis, keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> DeviceArray:
        return reductions().reduced("all", self.astype(bool, copy=False), axis, keepdims)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return arithmetic().apply_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, function: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        return indexing().apply_function(function, args, kwargs)
