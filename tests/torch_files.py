"""Small torch files written without torch: an assembler for pickles, and the two containers around them.

`emit` turns values into opcodes as torch's own pickles have them; `Code` is opcodes already, to put anywhere in a
value, hostile ones too. With torch installed, test_torch_file.py checks that torch reads what these functions write.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

CODES = {opcode.name: opcode.code.encode("latin-1") for opcode in pickletools.opcodes}
KINDS = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage",
    "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage", "uint8": "ByteStorage",
    "bool": "BoolStorage",
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C


class Code(bytes):
    """Opcodes that leave one value on the stack."""


def op(name: str, argument: bytes = b"") -> Code:
    return Code(CODES[name] + argument)


def name(dotted: str) -> Code:
    """GLOBAL: torch._utils._rebuild_tensor_v2 is in the module torch._utils."""
    module, _, last = dotted.rpartition(".")
    return op("GLOBAL", f"{module}\n{last}\n".encode())


def call(function: object, *arguments: object) -> Code:
    return Code(emit(function) + emit(arguments) + op("REDUCE"))


def emit(value: object) -> bytes:
    if isinstance(value, Code):
        return value
    if value is None or isinstance(value, bool):
        return op({None: "NONE", True: "NEWTRUE", False: "NEWFALSE"}[value])
    if isinstance(value, int):
        if 0 <= value < 256:
            return op("BININT1", bytes([value]))
        content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return op("LONG1", bytes([len(content)]) + content)
    if isinstance(value, float):
        return op("BINFLOAT", struct.pack(">d", value))
    if isinstance(value, str):
        return op("BINUNICODE", struct.pack("<I", len(value.encode())) + value.encode())
    if isinstance(value, tuple):
        return op("MARK") + b"".join(map(emit, value)) + op("TUPLE")
    if isinstance(value, list):
        return op("EMPTY_LIST") + op("MARK") + b"".join(map(emit, value)) + op("APPENDS")
    empty = call(name("collections.OrderedDict")) if isinstance(value, OrderedDict) else op("EMPTY_DICT")
    items = b"".join(emit(key) + emit(entry) for key, entry in value.items())
    return empty + op("MARK") + items + op("SETITEMS")


def program(value: object, protocol: int = 2) -> bytes:
    return op("PROTO", bytes([protocol])) + emit(value) + op("STOP")


def storage(kind: str, key: str, numel: object, *more: object) -> Code:
    return Code(emit(("storage", name(f"torch.{kind}"), key, "cpu", numel, *more)) + op("BINPERSID"))


def tensor(stored: object, offset: object, shape: object, strides: object, *more: object) -> Code:
    """more: a metadata argument."""
    rebuild = name("torch._utils._rebuild_tensor_v2")
    return call(rebuild, stored, offset, shape, strides, False, OrderedDict(), *more)


def of_array(array: np.ndarray, key: str, old: bool = False) -> Code:
    """A contiguous tensor that fills its storage."""
    strides = tuple(step // array.itemsize for step in np.empty(array.shape, array.dtype).strides)
    stored = storage(KINDS[array.dtype.name], key, array.size, *[None] * old)
    return tensor(stored, 0, array.shape, strides)


def write_zip(path: Path, pickle: bytes, storages: dict[str, bytes], order: bytes | None = b"little") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        if order is not None:
            archive.writestr("archive/byteorder", order)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")
    return path


def old_head(magic: object = MAGIC, protocol: object = 1001, little: object = True) -> bytes:
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": sizes}
    return program(magic) + program(protocol) + program(system)


def write_old(path: Path, pickle: bytes, storages: dict[str, tuple[int, bytes]], head: bytes | None = None) -> Path:
    """storages: by key, how many numbers the file claims and their bytes."""
    head = old_head() if head is None else head
    rows = b"".join(struct.pack("<q", numel) + content for numel, content in storages.values())
    path.write_bytes(head + pickle + program(list(storages)) + rows)
    return path


def save(path: Path, arrays: dict[str, np.ndarray], old: bool) -> Path:
    """What torch.save(state_dict) would write of these arrays, each in a storage of its own."""
    keys = {key: str(number) for number, key in enumerate(arrays)}
    pickle = program(OrderedDict((key, of_array(array, keys[key], old)) for key, array in arrays.items()))
    if old:
        return write_old(path, pickle, {keys[key]: (array.size, array.tobytes()) for key, array in arrays.items()})
    return write_zip(path, pickle, {keys[key]: array.tobytes() for key, array in arrays.items()})
