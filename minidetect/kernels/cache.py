"""Where the machine code of kernels is kept, so that only the first process on a machine has to compile.

Numba's own cache (`njit(cache=True)`) keys a kernel on the one file it stands in and keeps an index file
beside the code. Three things follow that a library of kernels can't live with:

    stale code       a helper in another file is compiled into the kernel; edit the helper, and the old
                     machine code goes on being used
    mixed-up code    the index is written before the code it points to: two processes that fill the cache
                     at once can each get the other's machine code, for other types of arguments
    a slow import    it looks for a folder it can write to once a kernel, at import

So here a file holds the code of one kernel for one set of argument types, and its *name* is a hash of all
that the code depends on: nothing in it can be out of date, and two writers write the same thing. A file is
written under another name and renamed, so a reader sees all of it or none.

Searched in this order: $NUMBA_CACHE_DIR and nothing else if it is set; else `__pycache__` beside the source,
which may come filled with a read-only installation; else the user's own cache folder. The first that can be
written takes new code. Where none can, kernels are compiled in every process.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import re
import sys
import uuid
from pathlib import Path

import numba
from numba.core import config
from numba.core.caching import FunctionCache, UserWideCacheLocator
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

KERNELS = Path(__file__).parent

# Environment variables that don't change the code. All others of Numba and of this library might
# (NUMBA_BOUNDSCHECK and MINIDETECT_LANES do), and so they are part of a file's name.
HARMLESS = {
    "NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY",
    "NUMBA_DEBUG_CACHE", "NUMBA_DISABLE_PERFORMANCE_WARNINGS", "NUMBA_ENABLE_CUDASIM", "MINIDETECT_DATA",
    "MINIDETECT_BUDGET", "MINIDETECT_STARTED", "MINIDETECT_INTERPRETED",
}  # fmt: skip
NOT_COMPILED = {"device"}  # what a kernel's file may import that is no part of its code
SWITCHES = sorted(
    (name, value)
    for name, value in os.environ.items()
    if name.startswith(("NUMBA_", "MINIDETECT_")) and name not in HARMLESS and not name.startswith("NUMBA_CUDA_")
)


class KernelCache(FunctionCache):
    """The files of one kernel, in the place that Numba keeps its own cache of a function."""

    def __init__(self, function) -> None:
        # Not Numba's own: that one creates and probes folders, and this runs at import.
        self._name, self._py_func = repr(function), function
        self._source = Path(function.__code__.co_filename)
        stamp_at_import(self._source)
        self.enable()

    @property
    def cache_path(self) -> str:
        return str(folders(self._source)[0])

    def flush(self) -> None:
        """Forget this kernel's code, in all versions."""
        for folder in folders(self._source):
            for file in folder.glob(f"{self._prefix()}-*.nbc"):
                file.unlink(missing_ok=True)

    def _load_overload(self, sig, target_context) -> CompileResult | None:
        if not self._usable():
            return None
        name = self._file_name(sig, target_context.codegen())
        for folder in folders(self._source):
            try:
                payload = pickle.loads((folder / name).read_bytes())
            except Exception:  # no such file, or a damaged one: pickle raises whatever its bytes say
                continue
            return CompileResult._rebuild(target_context, *payload)
        return None

    def _save_overload(self, sig, result: CompileResult) -> None:
        if not self._usable() or result.lifted or result.library.has_dynamic_globals:
            return
        name, content = self._file_name(sig, result.codegen), dumps(result._reduce())
        for folder in folders(self._source):
            try:
                write_whole(folder / name, content)
            except OSError:  # may not be written to, or is full
                continue
            self._tidy(folder)
            return

    def _usable(self) -> bool:
        """Whether the sources on disk are still those that this process has imported.

        After an edit they aren't, and the code in memory must not be kept under the new sources' name.
        """
        return self._enabled and source_stamp(self._source) == stamp_at_import(self._source) != ""

    def _prefix(self) -> str:
        name = self._py_func.__qualname__.replace("<", "").replace(">", "")
        return f"{self._source.stem}.{name}.py{sys.version_info[0]}{sys.version_info[1]}"

    def _file_name(self, sig, codegen) -> str:
        facts = (str(sig), codegen.magic_tuple(), SWITCHES, numba.__version__, describe(self._py_func))
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
        return f"{self._prefix()}-{stamp_at_import(self._source)[:12]}-{key}.nbc"

    def _tidy(self, folder: Path) -> None:
        """Delete this kernel's code from other sources: nobody will ask for it again."""
        current = f"{self._prefix()}-{stamp_at_import(self._source)[:12]}-"
        for file in folder.glob(f"{self._prefix()}-*.nbc"):
            if not file.name.startswith(current):
                try:
                    file.unlink()
                except OSError:  # another process was faster, or is reading it (Windows)
                    pass


# --------------------------------------------------------------------------------------------- what it hangs on


# `from minidetect.kernels.simd import load` and `from minidetect.kernels import simd, lanes`: the two ways in which
# kernel files import each other (a test holds them to that). Python's parser would take a hundred times as long.
IMPORT = re.compile(
    rb"^[ \t]*(?:from|import) minidetect\.kernels(?:\.(\w+)| import (\([^)]*\)|[^\n]*))", re.MULTILINE
)


def imported_files(content: bytes) -> list[str]:
    """The names of the kernel files that a source imports."""
    names = set()
    for module, several in IMPORT.findall(content):
        names |= {module} if module else {part.split()[0] for part in several.strip(b"()").split(b",") if part.split()}
    return sorted(name.decode() for name in names)


def source_stamp(source: Path) -> str:
    """A hash of what a kernel may be made of: its own file, and what that imports from minidetect/kernels.

    "" where a file can't be read. Contents, not times: installers and version control set times as they like.
    """
    digest, waiting, seen = hashlib.sha256(), [source], {source}
    while waiting:
        file = waiting.pop()
        try:
            stat = file.stat()
            content_hash, names = _read(file, stat.st_mtime_ns, stat.st_size)
        except OSError:
            return ""
        digest.update(file.name.encode() + content_hash)
        imported = [KERNELS / f"{name}.py" for name in names if name not in NOT_COMPILED]
        waiting += [other for other in imported if other not in seen]
        seen.update(imported)
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _read(file: Path, changed: int, size: int) -> tuple[bytes, list[str]]:
    """A file's hash and the kernel files that it imports; read again only after its time or size changed."""
    content = file.read_bytes()
    return hashlib.sha256(content).digest(), imported_files(content)


@functools.cache
def stamp_at_import(source: Path) -> str:
    return source_stamp(source)


def describe(function) -> tuple:
    """What tells kernels of one name apart: the bytecode, and the values that a maker of kernels put in."""
    code = function.__code__
    cells = function.__closure__ or ()
    return (code.co_firstlineno, code.co_code, tuple(_describe_value(cell.cell_contents) for cell in cells))


def _describe_value(value: object) -> object:
    inner = getattr(value, "py_func", None)  # a kernel: pickled, it would hold a number drawn for each process
    return describe(inner) if inner is not None else dumps(value)


# ----------------------------------------------------------------------------------------------------- places


def folders(source: Path) -> list[Path]:
    """Where a source's kernels may be kept, best first."""
    below = UserWideCacheLocator.get_suitable_cache_subpath(str(source))  # a name for the source's folder
    if config.CACHE_DIR:
        return [Path(config.CACHE_DIR, below)]
    return [source.parent / "__pycache__", Path(_user_cache(), below)]


@functools.cache
def _user_cache() -> str:
    from numba.misc.appdirs import AppDirs

    return AppDirs(appname="numba", appauthor=False).user_cache_dir


def write_whole(file: Path, content: bytes) -> None:
    """Write a file under another name first: it is there in full or not at all. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{uuid.uuid4().hex[:12]}")
    try:
        draft.write_bytes(content)
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)
