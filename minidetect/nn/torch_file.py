"""Weights that torch.save wrote, as NumPy arrays, without torch and without running anything from the file.

    from minidetect.nn.torch_file import read_state_dict
    weights = read_state_dict("onet.pt")            # {"conv1.weight": float32 (32, 3, 3, 3), ...}

Letters: S storage, a row of numbers; several tensors may be views of one. There are two formats.

    since torch 1.6, a zip archive, nothing compressed     before, and with _use_new_zipfile_serialization=False
    +-----------------------------------------+           +------------------------------------------------------+
    | archive/data.pkl    names and views     |           | pickle: 0x1950a86a20f9469cfc6c, the magic number     |
    | archive/byteorder   "little" or "big"   |           | pickle: 1001, the protocol                           |
    | archive/data/0      the numbers of S 0  |           | pickle: {"little_endian": True, ...}                 |
    | archive/data/1      the numbers of S 1  |           | pickle: names and views                              |
    | archive/version     not needed here     |           | pickle: ["94029", ...], the keys of S, in order      |
    +-----------------------------------------+           | for each key: length of S (int64), the numbers of S  |
                                                          +------------------------------------------------------+

A pickle is a program that the usual reader executes, which is why a file of weights can harm: `torch_pickle` explains
it, and reads the pickles with a machine that can only build dicts of tensors.

Every number in the file is checked against the file before it is used: a view against its storage, a storage against
its entry, the sum of all against `max_bytes`. The arrays are contiguous copies, in this machine's byte order, of the
dtypes that NumPy has; bfloat16 becomes float32, exactly.

Left out: TorchScript archives (programs, not weights), compressed archives, the tar files of torch before 0.1.10,
archives written without checksums (torch's set_crc32_options(False)), and what `torch_pickle` leaves out. Devices,
requires_grad and the versions of modules are ignored.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minidetect.nn.checkpoint import DAMAGED
from minidetect.nn.torch_pickle import Unpickled, read_pickle
from minidetect.nn.torch_values import STORAGES, Storage, StoredTensor, kind_of, shorten

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_BYTES = 4 * 2**30
MAX_ENTRIES = 100_000  # of an archive, since zipfile makes an object of each
RESULT = {"torch.BFloat16Storage": "f4", "torch.BoolStorage": "?"}  # where the dtype is not STORAGES'
ZIP_ERRORS = (*DAMAGED, struct.error, OverflowError, IndexError, ValueError, OSError)  # what zipfile raises, all of it


def read_state_dict(path: str | Path, key: str | None = None, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """The tensors of a state dict that torch.save wrote, by name, in the file's order.

    key: which entry to read where the file is a dict of dicts, such as "state_dict" or "model" of a training run's
    checkpoint. max_bytes: the most that the file, and the arrays together, may take.
    Raises FileNotFoundError, or ValueError that names the file and what is wrong with it: damaged, too large, no dict
    of tensors, or a pickle that does something else than to describe tensors. Nothing from the file is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, more than max_bytes={max_bytes}")
    try:
        data = path.read_bytes()
        if data.startswith(b"PK\x03\x04"):
            return ZipFormat(data, path).arrays(key, max_bytes)
        if data.startswith(b"\x80"):
            return OldFormat(data, path).arrays(key, max_bytes)
    except MemoryError:
        raise ValueError(f"{path}: needs more memory than there is") from None
    raise ValueError(f"{path}: begins with {data[:8]!r}; neither of torch's two formats does")


def choose(value: object, key: str | None, path: Path) -> dict[str, StoredTensor]:
    """The flat dict of tensors in what a file held."""
    if type(value) not in (dict, OrderedDict):
        raise ValueError(f"{path}: holds {kind_of(value)}, not a dict of tensors")
    where = f"{path}"
    if key is not None:
        if type(value.get(key)) not in (dict, OrderedDict):
            dicts = [name for name, entry in value.items() if type(entry) in (dict, OrderedDict)]
            what = f"entry {key!r} is {kind_of(value[key])}, not a dict of tensors" if key in value else f"no {key!r}"
            raise ValueError(f"{path}: {what}; its keys: {shorten(value)}; dicts: {shorten(dicts) or 'none'}")
        value, where = value[key], f"{path}: {key}"
    others = [name for name, entry in value.items() if type(entry) is not StoredTensor]
    dicts = [name for name in others if type(value[name]) in (dict, OrderedDict)]
    if dicts and key is None:
        raise ValueError(f"{where}: a dict of dicts; choose one with key=: {shorten(dicts)} (of {shorten(value)})")
    if others:
        raise ValueError(f"{where}: {shorten(others[:1])} is {kind_of(value[others[0]])} instead of a tensor")
    numbers = [name for name in value if type(name) is not str]
    if numbers:
        raise ValueError(f"{where}: a tensor has the name {numbers[0]}, an int instead of str")
    return dict(value)


def size_in_file(storage: Storage) -> int:
    return storage.numel * np.dtype(STORAGES[storage.kind]).itemsize


def result_type(storage: Storage) -> np.dtype:
    return np.dtype(RESULT.get(storage.kind, STORAGES[storage.kind]))


def to_array(tensor: StoredTensor, raw: bytes | memoryview, order: str) -> np.ndarray:
    """The numbers of a view, copied out of the bytes of its storage; order: "<" or ">"."""
    kind, shape = tensor.storage.kind, tensor.shape
    if 0 in shape:
        return np.zeros(shape, result_type(tensor.storage))
    stored = np.dtype(STORAGES[kind]).newbyteorder(order)
    # A dimension of one number is never stepped along, and torch leaves any stride there.
    steps = [stride * stored.itemsize if size > 1 else 0 for size, stride in zip(shape, tensor.strides, strict=True)]
    view = np.ndarray(shape, stored, raw, tensor.offset * stored.itemsize, steps)
    if kind == "torch.BFloat16Storage":
        wide = np.empty(shape, np.float32)
        np.left_shift(view, 16, out=wide.view(np.uint32), dtype=np.uint32)
        return wide
    return view.astype(result_type(tensor.storage), order="C")


class Container:
    """What the two formats share. The subclasses say what the pickle held and where the bytes of a storage lie."""

    value: object
    order = "<"

    def __init__(self, data: bytes, path: Path) -> None:
        self.data, self.path = data, path
        self.open()

    def open(self) -> None:
        raise NotImplementedError

    def raw(self, storage: Storage) -> bytes | memoryview:
        raise NotImplementedError

    def arrays(self, key: str | None, max_bytes: int) -> dict[str, np.ndarray]:
        tensors = choose(self.value, key, self.path)
        total = sum(math.prod(t.shape) * result_type(t.storage).itemsize for t in tensors.values())
        if total > max_bytes:
            raise ValueError(f"{self.path}: its tensors take {total} bytes, more than max_bytes={max_bytes}")
        self.check_sizes({tensor.storage.key: tensor.storage for tensor in tensors.values()})
        by_storage: dict[Storage, list[str]] = {}
        for name, tensor in tensors.items():
            by_storage.setdefault(tensor.storage, []).append(name)
        arrays: dict[str, np.ndarray] = {}
        for storage, names in by_storage.items():
            raw = self.raw(storage)
            arrays.update({name: to_array(tensors[name], raw, self.order) for name in names})
        return {name: arrays[name] for name in tensors}

    def check_sizes(self, storages: Mapping[str, Storage]) -> None:
        claimed = sum(size_in_file(storage) for storage in storages.values())
        if claimed > len(self.data):
            raise ValueError(f"{self.path}: its storages claim {claimed} bytes, the file has {len(self.data)}")


class ZipFormat(Container):
    """torch 1.6 and later."""

    def open(self) -> None:
        if self.data.count(b"PK\x01\x02") > MAX_ENTRIES:  # the signature of an entry in the archive's directory
            raise ValueError(f"{self.path}: an archive of more than {MAX_ENTRIES} entries")
        try:
            self.archive = zipfile.ZipFile(io.BytesIO(self.data))
        except ZIP_ERRORS as error:
            raise ValueError(f"{self.path}: not a readable zip archive ({reason(error)})") from None
        self.entries = {entry.filename: entry for entry in self.archive.infolist()}
        self.folder = self.check_names()
        pickled = self.read("data.pkl", None)
        result = read_pickle(pickled, 0, f"{self.path}: {self.folder}data.pkl")
        if result.end != len(pickled):
            raise ValueError(f"{self.path}: {self.folder}data.pkl goes on for {len(pickled) - result.end} bytes")
        self.value = result.value
        order = self.read("byteorder", None) if f"{self.folder}byteorder" in self.entries else b"little"
        if order not in (b"little", b"big"):
            raise ValueError(f"{self.path}: byteorder is {order[:20]!r} instead of b'little' or b'big'")
        self.order = "<" if order == b"little" else ">"

    def check_names(self) -> str:
        """The one folder, with a slash behind it, that all entries are in."""
        if len(self.entries) != len(self.archive.infolist()):
            raise ValueError(f"{self.path}: two entries of the archive have one name")
        for name, entry in self.entries.items():
            if name != entry.orig_filename or "\\" in name or ".." in name.split("/") or name.startswith("/"):
                raise ValueError(f"{self.path}: the archive has an entry named {shorten([entry.orig_filename])}")
        folders = {name.partition("/")[0] + "/" for name in self.entries}
        pickles = [folder for folder in folders if f"{folder}data.pkl" in self.entries]
        if len(folders) != 1 or not pickles:
            names = shorten(self.entries) or "none"
            raise ValueError(f"{self.path}: a zip archive, but not one of torch's: no data.pkl in one folder ({names})")
        if f"{pickles[0]}constants.pkl" in self.entries:
            raise ValueError(
                f"{self.path}: a TorchScript archive, which holds a program; "
                "load it with torch.jit.load and save model.state_dict() with torch.save"
            )
        return pickles[0]

    def read(self, name: str, size: int | None) -> bytes:
        """The bytes of an entry, which must be `size` if given."""
        name = self.folder + name
        entry = self.entries.get(name)
        if entry is None:
            raise ValueError(f"{self.path}: the archive has no entry {shorten([name])}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"{self.path}: {name} is compressed; torch does not, and this reader does not undo it")
        if entry.file_size > len(self.data):
            raise ValueError(f"{self.path}: {name} claims {entry.file_size} bytes, the file has {len(self.data)}")
        if size is not None and entry.file_size != size:
            raise ValueError(f"{self.path}: {name} has {entry.file_size} bytes, the tensors in it say {size}")
        try:
            content = self.archive.read(entry)
        except ZIP_ERRORS as error:
            raise ValueError(f"{self.path}: {name} cannot be read ({reason(error)})") from None
        if len(content) != entry.file_size:
            raise ValueError(f"{self.path}: {name} ends after {len(content)} of {entry.file_size} bytes")
        return content

    def raw(self, storage: Storage) -> bytes:
        return self.read(f"data/{storage.key}", size_in_file(storage))


class OldFormat(Container):
    """torch before 1.6: five pickles, then the storages, one behind the other and always little-endian."""

    def open(self) -> None:
        self.at = 0
        if self.next_pickle().value != MAGIC:
            raise ValueError(f"{self.path}: a pickle, but not one of torch's: the magic number is missing")
        protocol = self.next_pickle().value
        if protocol != PROTOCOL:
            raise ValueError(f"{self.path}: torch's old format has protocol {PROTOCOL}, this file another one")
        system = self.next_pickle().value
        if type(system) is not dict or system.get("little_endian") is not True:
            raise ValueError(f"{self.path}: not written on a little-endian machine")
        result = self.next_pickle()
        self.value = result.value
        keys = self.next_pickle().value
        if type(keys) is not list or not all(type(key) is str for key in keys):
            raise ValueError(f"{self.path}: the list of storages is no list of strings")
        if len(set(keys)) != len(keys) or set(keys) != result.storages.keys():
            raise ValueError(f"{self.path}: the tensors are in {len(result.storages)} storages, the list has others")
        self.check_sizes(result.storages)
        self.where = self.find([result.storages[key] for key in keys])

    def next_pickle(self) -> Unpickled:
        result = read_pickle(self.data, self.at, f"{self.path}")
        self.at = result.end
        return result

    def find(self, storages: list[Storage]) -> dict[str, int]:
        """Where the numbers of each storage begin."""
        where = {}
        for storage in storages:
            begin, size = self.at + 8, size_in_file(storage)
            if begin + size > len(self.data):
                raise ValueError(f"{self.path}: ends within storage {storage.key!r}")
            (numel,) = struct.unpack_from("<q", self.data, self.at)
            if numel != storage.numel:
                raise ValueError(
                    f"{self.path}: storage {storage.key!r} has {numel} numbers, its tensors say {storage.numel}"
                )
            where[storage.key], self.at = begin, begin + size
        if self.at != len(self.data):
            raise ValueError(f"{self.path}: {len(self.data) - self.at} bytes are left over at the end")
        return where

    def raw(self, storage: Storage) -> memoryview:
        begin = self.where[storage.key]
        return memoryview(self.data)[begin : begin + size_in_file(storage)]


def reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
