"""Arrays on disk: NumPy's .npz without pickle, written so that a crash never costs what was saved.

A file is either the old one or the whole new one: the new content goes to a temporary file in the same
folder, is flushed to the disk, and takes the old one's place in one rename.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

META = "__meta__"  # the entry that holds a JSON text beside the arrays
# What NumPy and zipfile raise for damaged files, beside ValueError and OSError (RuntimeError: "encrypted",
# MemoryError: a header that claims 10**12 numbers).
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, AttributeError, TypeError, RuntimeError, MemoryError)


def write_atomically(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Call `write(file)` and put what it wrote at `path`, or leave `path` as it was.

    Raises OSError that names the path (a full disk, a folder that cannot be written).
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~current_umask())  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    except BaseException as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(f"{path}: could not be written ({error.strerror or error}); nothing was changed") from error
        raise


def current_umask() -> int:
    """The permissions that new files of this process lack. It can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_arrays(
    path: str | Path, arrays: Mapping[str, np.ndarray], meta: Mapping | None = None, compressed: bool = False
) -> None:
    """Write arrays, and a JSON-able `meta`, to an .npz file.

    compressed: takes a little less room for weights, and longer to write.
    """
    entries = dict(arrays)
    if meta is not None:
        entries[META] = np.array(json.dumps(meta))
    write = np.savez_compressed if compressed else np.savez
    write_atomically(path, lambda file: write(file, **entries))


def load_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """Read what `save_arrays` wrote: the arrays and the meta data ({} when there is none).

    Executes nothing from the file. Raises FileNotFoundError, or ValueError that names a file which is
    truncated, is no .npz, or holds Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(str(arrays.pop(META))) if META in arrays else {}
    except (*DAMAGED, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable .npz of arrays ({reason})") from None
    return arrays, meta
