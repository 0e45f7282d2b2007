"""What the pickle of a torch file may name and build: a table of names, and plain records of tensors.

`torch_pickle` runs the pickle; where it meets a name it asks this table, and where the file "calls" a name one of the
functions here fills in a record from the arguments. Nothing is imported, and no tensor is read: a `StoredTensor` says
where its numbers lie, and that they fit into their storage. `torch_file` reads them.

All functions raise ValueError that says what was wrong; the caller adds the file and the position.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

DIMENSIONS = 32  # NumPy 1's limit
NUMBERS = 2**48  # of a storage or a tensor; far from where NumPy's 64-bit sizes overflow

# Storage classes: how NumPy reads one number. bfloat16 is the upper half of a float32.
STORAGES = {
    "torch.DoubleStorage": "f8", "torch.FloatStorage": "f4", "torch.HalfStorage": "f2", "torch.BFloat16Storage": "u2",
    "torch.LongStorage": "i8", "torch.IntStorage": "i4", "torch.ShortStorage": "i2", "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1", "torch.BoolStorage": "u1",
}  # fmt: skip
ORDERED_DICT = "collections.OrderedDict"
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
GLOBALS = frozenset({ORDERED_DICT, TENSOR, PARAMETER, *STORAGES})


@dataclass(frozen=True, slots=True)
class Global:
    """A name of GLOBALS on the stack. It stands for the class or function; it is not that."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A row of numbers that lies elsewhere in the file. kind: of STORAGES; key: where it lies; numel: how many."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage that fits into it. offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def shorten(names: Iterable[object]) -> str:
    """At most eight names, each of at most 60 characters, quoted and on one line."""
    names = [str(name) for name in names]
    shown = ", ".join(repr(name if len(name) <= 60 else f"{name[:57]}...") for name in names[:8])
    return f"{shown}, and {len(names) - 8} more" if len(names) > 8 else shown


def kind_of(value: object) -> str:
    """A value in words, never its content: that could be endless, or contain itself."""
    if isinstance(value, Global):
        return value.name
    return {StoredTensor: "a tensor", Storage: "a storage"}.get(type(value), type(value).__name__)


def is_size(value: object, most: int) -> bool:
    """True for an int (not a bool) from 0 to most."""
    return type(value) is int and 0 <= value <= most


def new_storage(given: object) -> Storage:
    """('storage', class, key, location, numel), in the old format with the view's metadata, None, behind it."""
    if type(given) is not tuple or len(given) not in (5, 6) or type(given[0]) is not str or given[0] != "storage":
        raise ValueError("a persistent id is not a storage's")
    if len(given) == 6 and given[5] is not None:
        raise ValueError("a storage is a view of another one, as torch wrote before 0.4")
    kind, key, location, numel = given[1:5]
    if type(kind) is not Global or kind.name not in STORAGES:
        raise ValueError(f"the class of a storage is {kind_of(kind)}")
    if type(key) is not str or not 1 <= len(key) <= 60 or type(location) is not str:
        raise ValueError("the key and the location of a storage are not two strings")
    if not is_size(numel, NUMBERS):
        raise ValueError(f"the length of storage {key!r} is no integer from 0 to 2**48")
    return Storage(kind.name, key, numel)


def new_tensor(arguments: tuple) -> StoredTensor:
    """_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, backward_hooks, metadata=None)."""
    if len(arguments) not in (6, 7) or type(arguments[0]) is not Storage:
        raise ValueError(f"{TENSOR} needs a storage, offset, shape, strides, requires_grad and hooks")
    storage, offset, shape, strides, grad, hooks, *metadata = arguments
    check_grad(grad, hooks)
    if metadata and not (metadata[0] is None or metadata[0] == {}):
        raise ValueError("a tensor has metadata (it may be a lazily conjugated or negated view)")
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise ValueError("the shape and the strides of a tensor are not two tuples of one length")
    if len(shape) > DIMENSIONS:
        raise ValueError(f"a tensor has {len(shape)} dimensions, more than {DIMENSIONS}")
    if not all(is_size(number, 2**63) for number in (offset, *shape, *strides)):
        raise ValueError("the offset, shape and strides of a tensor are not all integers from 0 to 2**63")
    if math.prod(max(size, 1) for size in shape) > NUMBERS:
        raise ValueError(f"a tensor of shape {shape} is too large")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.numel:
        raise ValueError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} "
            f"does not fit into its storage of {storage.numel} numbers"
        )
    return StoredTensor(storage, offset, shape, strides)


def new_parameter(arguments: tuple) -> StoredTensor:
    """_rebuild_parameter(tensor, requires_grad, backward_hooks): the tensor itself."""
    if len(arguments) != 3 or type(arguments[0]) is not StoredTensor:
        raise ValueError(f"{PARAMETER} needs a tensor, requires_grad and hooks")
    check_grad(arguments[1], arguments[2])
    return arguments[0]


def check_grad(grad: object, hooks: object) -> None:
    if type(grad) is not bool:
        raise ValueError(f"requires_grad is {kind_of(grad)} instead of bool")
    if not (hooks is None or type(hooks) is OrderedDict and not hooks):
        raise ValueError("a tensor has backward hooks")
