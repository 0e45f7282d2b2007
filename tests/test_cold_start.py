"""What a fresh process finds: nothing compiled at import, machine code on disk, and never an old one."""

from __future__ import annotations

import ast
import ctypes
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minidetect
from minidetect import cli, console
from minidetect.kernels import cache
from minidetect.kernels.dispatch import CompileWatch, kernel

ROOT = Path(minidetect.__file__).parent
# A package of the same name with a kernel `scaled`, its helper and a constant in another file each.
KERNEL = """
from minidetect.kernels.constants import FACTOR
from minidetect.kernels.dispatch import kernel
from minidetect.kernels.helper import combine, lane

@kernel
def scaled(x, y):
    for i in range(x.size):
        y[i] = combine(x[i], FACTOR) + lane(x[i])
"""
HELPER = """
from numba.extending import intrinsic
from minidetect.kernels.dispatch import kernel

@kernel
def combine(a, b):
    return a * b

@intrinsic
def lane(typingctx, a):
    def codegen(context, builder, signature, args):
        return builder.fmul(args[0], context.get_constant(a, 10.0))
    return a(a), codegen
"""
CONSTANTS = "FACTOR = 3\n"
# Prints the type, 2 * 3 + 2 * 10 as `scaled` computes it, and how many kernels it had to compile for that.
CALL = """
import sys
import numpy as np
from minidetect.kernels.dispatch import CompileWatch
from minidetect.kernels.user import scaled

for dtype in sys.argv[1:]:
    x, y = np.full(3, 2, dtype), np.zeros(3, dtype)
    with CompileWatch(lambda number, seconds: None) as watch:
        scaled(x, y)
    print(dtype, y[0], watch.number)
"""


class Copy:
    """A small copy of the package, and processes that use it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kernels = folder, folder / "minidetect" / "kernels"
        self.kernels.mkdir(parents=True)
        shutil.copy(ROOT / "__init__.py", folder / "minidetect")
        for name in ("__init__", "cache", "dispatch", "threads"):
            shutil.copy(ROOT / "kernels" / f"{name}.py", self.kernels)
        for name, source in (("user", KERNEL), ("helper", HELPER), ("constants", CONSTANTS)):
            (self.kernels / f"{name}.py").write_text(source)
        (folder / "home").mkdir()
        self.before = None  # what a process does before it becomes Python

    def edit(self, name: str, old: str, new: str) -> None:
        """Same length, and the file's time is put back: only its content tells."""
        file = self.kernels / name
        time, text = file.stat().st_mtime_ns, file.read_text()
        assert old in text and len(old) == len(new)
        file.write_text(text.replace(old, new))
        os.utime(file, ns=(time, time))

    def start(self, *dtypes: str, code: str = CALL, **environment: str) -> subprocess.Popen:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
        settings = {"HOME": str(self.folder / "home"), "PYTHONPATH": str(self.folder), "NUMBA_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-B", "-c", code, *dtypes], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=self.folder, env=outside | settings | environment, preexec_fn=self.before,
        )  # fmt: skip

    def run(self, *dtypes: str, **options) -> str:
        return finish(self.start(*(dtypes or ("float32",)), **options))

    def files(self, module: str = "") -> list[Path]:
        return sorted(self.folder.rglob(f"{module}*.nbc"))


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


@pytest.fixture
def copy(tmp_path) -> Copy:
    return Copy(tmp_path)


# ------------------------------------------------------------------------------------------ never stale


def test_the_second_process_compiles_nothing(copy):
    assert copy.run() == "float32 26.0 2"
    assert copy.run() == "float32 26.0 0"
    assert {file.parent for file in copy.files()} == {copy.kernels / "__pycache__"}


@pytest.mark.parametrize(
    "file, old, new, result",
    [
        ("user.py", "+ lane", "- lane", -14.0),
        ("helper.py", "a * b", "a - b", 19.0),
        ("helper.py", "10.0", "20.0", 46.0),  # a vector instruction of simd.py is such an intrinsic
        ("constants.py", "3", "4", 28.0),
    ],
)
def test_a_change_in_any_file_that_a_kernel_is_made_of_makes_it_anew(copy, file, old, new, result):
    assert copy.run() == "float32 26.0 2"
    copy.edit(file, old, new)
    assert copy.run().startswith(f"float32 {result} ")
    copy.edit(file, new, old)
    assert copy.run().startswith("float32 26.0 ")


def test_numbas_own_cache_would_go_stale(copy):
    """Why there is another one. Should this fail, Numba has learnt it and cache.py can go."""
    file = copy.kernels / "dispatch.py"
    source, ours = file.read_text(), "    compiled._cache = KernelCache(compiled.py_func)\n"
    assert ours in source
    file.write_text(source.replace("numba.njit(", "numba.njit(cache=True, ").replace(ours, ""))
    before = copy.run()
    copy.edit("helper.py", "a * b", "a - b")
    assert before.startswith("float32 26.0 ") and copy.run().startswith("float32 26.0 ")


def test_other_files_do_not_matter_and_old_code_is_deleted(copy):
    copy.run()
    (old,) = copy.files("user")
    (copy.kernels / "other.py").write_text("NUMBER = 1\n")
    assert copy.run() == "float32 26.0 0"
    copy.edit("constants.py", "3", "4")
    copy.run()
    (new,) = copy.files("user")
    assert new != old


def test_code_of_a_process_whose_sources_were_edited_is_not_kept(copy):
    """It has imported the old helper, and would file its code under the name of the new one."""
    edit = "from pathlib import Path\nfile = Path('minidetect/kernels/helper.py')\n" \
        "file.write_text(file.read_text().replace('a * b', 'a - b'))\n"
    late = CALL.replace("for dtype", edit + "for dtype")
    assert copy.run(code=late) == "float32 26.0 2"
    assert copy.files() == []
    assert copy.run() == "float32 19.0 2"


def test_switches_that_change_the_code_are_told_apart(copy):
    past_the_end = (
        "import numpy as np\nfrom minidetect.kernels.user import scaled\n"
        "try:\n    scaled(np.ones(3), np.ones(2))\nexcept IndexError:\n    print('caught')\n"
    )
    copy.run("float64")
    assert copy.run(code=past_the_end, NUMBA_BOUNDSCHECK="1") == "caught"
    assert copy.run("float64") == "float64 26.0 0"
    assert copy.run("float64", MINIDETECT_LANES="1") == "float64 26.0 2"
    assert copy.run("float64", MINIDETECT_BUDGET="smoke") == "float64 26.0 0"  # changes no code


def test_kernels_from_one_maker_are_told_apart():
    def make(step):
        @kernel
        def add(x):
            return x + step

        @kernel
        def add_twice(x):
            return add(add(x))

        return add, add_twice

    (one, one_twice), (two, two_twice) = make(1), make(2)
    assert cache.describe(one.py_func) != cache.describe(two.py_func)
    assert cache.describe(one_twice.py_func) != cache.describe(two_twice.py_func)
    assert cache.describe(one_twice.py_func) == cache.describe(make(1)[1].py_func)


def names_by_the_parser(source: str) -> Iterator[str]:
    """What a file imports from minidetect/kernels; "?" for a way that isn't foreseen."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level or module == "minidetect":
                yield "?"
            modules = [f"{module}.{alias.name}" for alias in node.names] if module == "minidetect.kernels" else [module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[2] for name in modules if name.startswith("minidetect.kernels."))


@pytest.mark.parametrize("file", sorted(cache.KERNELS.glob("*.py")), ids=lambda file: file.stem)
def test_every_import_of_a_kernel_file_is_found(file):
    assert cache.imported_files(file.read_bytes()) == sorted(set(names_by_the_parser(file.read_text())))


@pytest.mark.parametrize(
    "source, names",
    [
        ("from minidetect.kernels.simd import load, store", ["simd"]),
        ("def f():\n    from minidetect.kernels import simd", ["simd"]),
        ("import minidetect.kernels.conv as c", ["conv"]),
        ("from minidetect.kernels import (\n    conv as c,\n    simd,\n)", ["conv", "simd"]),
    ],
)
def test_imports_are_found(source, names):
    assert cache.imported_files(source.encode()) == sorted(names_by_the_parser(source)) == names


@pytest.mark.parametrize(
    "source",
    ["from . import simd", "from .simd import load", "from minidetect import kernels",
     "import minidetect.kernels.conv, minidetect.kernels.simd"],
)  # fmt: skip
def test_an_import_that_is_missed_is_refused(source):
    assert cache.imported_files(source.encode()) != sorted(names_by_the_parser(source))


# ---------------------------------------------------------------------------------------- many processes


def test_processes_that_fill_the_cache_at_once(copy):
    """Each wants other types; Numba's own cache can hand one the code that another compiled."""
    types = ("float32", "float64", "float32", "float64")
    running = [copy.start(dtype) for dtype in types]
    printed = [finish(process).rsplit(" ", 1) for process in running]
    assert [values for values, _ in printed] == [f"{dtype} 26.0" for dtype in types]
    assert all(int(compiled) <= 2 for _, compiled in printed)  # fewer where another process was done earlier
    assert copy.run("float32", "float64") == "float32 26.0 0\nfloat64 26.0 0"
    assert len(copy.files()) == 4 and not [f for f in (copy.kernels / "__pycache__").iterdir() if f.suffix != ".nbc"]


@pytest.mark.parametrize("damage", [b"", b"no pickle", None])
def test_a_damaged_file_is_replaced(copy, damage):
    copy.run()
    for file in copy.files():
        file.write_bytes(file.read_bytes()[:500] if damage is None else damage)
    assert copy.run() == "float32 26.0 2"
    assert copy.run() == "float32 26.0 0"


# ------------------------------------------------------------------------------------- read-only installs


def obey_file_modes() -> None:
    """In a child process, before Python starts: as root, give up the right to write what is read-only."""
    drop_from_bounding_set, may_override_modes = 24, 1  # linux/prctl.h, linux/capability.h
    if ctypes.CDLL(None).prctl(drop_from_bounding_set, may_override_modes, 0, 0, 0):
        raise OSError("may not drop the capability")


@pytest.fixture
def installed(copy) -> Iterator[Copy]:
    """A copy whose processes obey file modes; `set_modes` makes it read-only."""
    if os.name == "nt" or (os.geteuid() == 0 and sys.platform != "linux"):
        pytest.skip("file modes mean little on Windows, and nothing to root")
    copy.before = obey_file_modes if os.geteuid() == 0 else None
    yield copy
    set_modes(copy.folder, 0o755)


def set_modes(folder: Path, mode: int) -> None:
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(mode)


def test_a_read_only_install_keeps_its_kernels_in_the_users_folder(installed):
    set_modes(installed.folder, 0o555)
    (installed.folder / "home").chmod(0o755)
    assert installed.run() == "float32 26.0 2"
    assert installed.run() == "float32 26.0 0"
    assert {file.parents[3] for file in installed.files()} == {installed.folder / "home"}  # below .cache/numba/


def test_kernels_that_come_with_a_read_only_install_are_used(installed):
    installed.run()
    set_modes(installed.folder, 0o555)
    assert installed.run() == "float32 26.0 0"


def test_without_any_place_to_write_kernels_still_run(installed):
    set_modes(installed.folder, 0o555)
    assert installed.run() == "float32 26.0 2"
    assert installed.files() == []


def test_a_cache_folder_of_ones_own_is_the_only_one(copy, tmp_path):
    copy.run()
    assert copy.run(NUMBA_CACHE_DIR=str(tmp_path / "own")) == "float32 26.0 2"
    assert len(list((tmp_path / "own").rglob("*.nbc"))) == 2


# ------------------------------------------------------------------------------------------- the library


def run_library(*command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300, env=os.environ | environment
    )


def test_importing_everything_compiles_nothing_and_writes_nothing(tmp_path):
    code = textwrap.dedent("""
        import importlib, pkgutil
        from numba.core import event
        compiled = event.RecordingListener()
        event.register("numba:compile", compiled)
        import minidetect
        for module in pkgutil.walk_packages(minidetect.__path__, "minidetect."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        print(len(compiled.buffer))
    """)
    done = run_library("-c", code, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0" and not (tmp_path / "cache").exists()


def test_warmup_leaves_nothing_to_compile_and_the_counts_are_about_right(tmp_path):
    """Compiles the kernels of detection and of training once more: half a minute."""
    own = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(photo)
    detect = ("-m", "minidetect", "detect", str(photo), "--threshold", "0")
    counts = []
    for options in ((), ("--training",)):
        done = run_library("-m", "minidetect", "warmup", *options, **own)
        assert done.returncode == 0 and len(done.stderr.splitlines()) == 1 and "compiling the kernels" in done.stderr
        counts.append(int(done.stdout.split()[0]))
        done = run_library(*detect, **own)
        assert done.returncode == 0 and done.stderr == ""  # a warm cache is silent
    assert counts == pytest.approx([cli.DETECTION_KERNELS, cli.TRAINING_KERNELS], rel=0.25)
    assert "nothing to compile" in run_library("-m", "minidetect", "warmup", "--training", **own).stdout


def test_a_watch_counts_helpers_and_goes_on_counting():
    @kernel
    def twice(x):
        return x + x

    @kernel
    def four_times(x):
        return twice(twice(x))

    told = []
    watch = CompileWatch(lambda number, seconds: told.append((number, seconds)))
    with watch:
        assert four_times(np.float32(1.5)) == 6
        four_times(np.float32(2))
    twice(1)  # not watched
    with watch:
        four_times(1)
    numbers, seconds = zip(*told, strict=True)
    assert numbers == (1, 2, 2, 2, 3, 3)
    assert list(seconds) == sorted(seconds) and watch.seconds == seconds[-1]


def test_the_note_is_one_line_in_a_log_and_a_line_that_goes_on_a_terminal(capsys):
    for live, expected in (
        (False, "minidetect: compiling the kernels for this machine, about 2 (once; they are kept on disk) ...\n"),
        (True, "\rminidetect: compiling the kernels for this machine, once: 1 of about 2, 0 s "
               "\rminidetect: compiling the kernels for this machine, once: 3 of about 3, 7 s \r" + 76 * " " + "\r"),
    ):  # fmt: skip
        note = console.CompileNote(2, live=live)
        with note:
            note.tell(1, 0.2)
            note.tell(3, 6.7)
        with note:
            pass
        assert capsys.readouterr().err == expected
