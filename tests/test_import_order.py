"""The order of the rooms: imports only go downwards, nothing heavy happens on the way, nothing is random globally."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import minidetect

ROOT = Path(minidetect.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = (
    {"kernels", "reference"},
    {"autograd"},
    {"ops"},
    {"nn", "detection"},
    {"models", "data"},
    {"train", "evaluate", "visualize", "api", "api_objects", "recipes", "benchmark", "checks", "teach"},
    {"cli", "cli_arguments", "cli_evaluate", "cli_objects", "console", "warmup", "__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Rooms of one floor do not know each other, but for these.
SIDEWAYS = {
    ("visualize", "evaluate"),
    ("train", "evaluate"),
    ("recipes", "train"),
    ("api", "api_objects"),
    ("recipes", "api"),
    ("recipes", "api_objects"),
    ("recipes", "visualize"),
    ("benchmark", "visualize"),
    ("checks", "visualize"),
    ("checks", "evaluate"),
    ("teach", "checks"),
    ("teach", "visualize"),
    ("cli", "console"),
    ("cli", "cli_arguments"),
    ("cli", "cli_evaluate"),
    ("cli", "cli_objects"),
    ("cli_evaluate", "cli_arguments"),
    ("cli_evaluate", "cli_objects"),
    ("cli_evaluate", "console"),
    ("cli_objects", "cli_arguments"),
    ("cli_objects", "console"),
    ("cli", "warmup"),
    ("__main__", "cli"),
}
# Parts of detection that stand in the graph; the others are plain functions on arrays.
DIFFERENTIABLE = {
    "minidetect.detection.losses",
    "minidetect.detection.focal_loss",
    "minidetect.detection.decode_boxes",
}
ALLOWED_PACKAGES = {"numpy", "numba", "llvmlite", "PIL", "matplotlib", "tqdm", "minidetect"}  # llvmlite is Numba's
PEERS_FILE = ROOT / "benchmark" / "peers.py"
OPTIONAL = {  # what a file may import beyond these, inside a function
    ROOT / "models" / "mobilenet.py": {"h5py"},
    ROOT / "data" / "wider_ground_truth.py": {"scipy"},
}


def imports(source: str, package: str) -> Iterator[str]:
    """Every module that a source imports, wherever it stands, by its full name; package: what "." means."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from minidetect import api` names a room, `from minidetect.ops import conv` a module of it
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    """minidetect.ops.conv.conv2d -> ops; "" for the package's own names, such as minidetect.__version__."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else ""


def complaints(source: str, module: str) -> list[str]:
    """What a module (minidetect.ops.conv) may not import."""
    here, found = room_of(module), []
    for name in imports(source, module.rpartition(".")[0]):
        there = room_of(name)
        if name.split(".")[0] != "minidetect" or not there or here in ("", there):
            continue
        below = FLOOR[there] < FLOOR[here] or (here, there) in SIDEWAYS
        if here == "detection" and module not in DIFFERENTIABLE:
            below = there == "kernels"  # plain functions on arrays, outside of the graph
        if not below:
            found.append(f"{module} imports {name}: {there} is not below {here}")
    return found


def module_of(file: Path) -> str:
    return ".".join(("minidetect", *file.relative_to(ROOT).with_suffix("").parts))


@pytest.mark.parametrize("file", FILES, ids=lambda f: module_of(f))
def test_imports_go_downwards(file):
    assert not complaints(file.read_text(), module_of(file))


def test_every_room_has_a_floor():
    rooms = {file.relative_to(ROOT).parts[0].removesuffix(".py") for file in FILES} - {"__init__", "weights"}
    assert rooms <= FLOOR.keys(), f"add {rooms - FLOOR.keys()} to FLOORS, and to the map in the README"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("minidetect.kernels.conv", "from minidetect.autograd import Tensor"),
        ("minidetect.kernels.conv", "from minidetect.reference import nn_ops"),
        ("minidetect.reference.boxes", "def f():\n    import minidetect.kernels.iou"),
        ("minidetect.detection.boxes", "from minidetect.ops import conv"),
        ("minidetect.detection.boxes", "from minidetect.nn import Module"),
        ("minidetect.detection.losses", "from minidetect.nn import Module"),
        ("minidetect.models.facecraft", "from minidetect import data"),
        ("minidetect.data.fddb", "from ..models.facecraft import SIZES"),
        ("minidetect.evaluate.fddb", "from minidetect.visualize import plot_roc"),
        ("minidetect.train.loop", "from minidetect.cli import main"),
    ],
)
def test_an_upward_import_would_be_found(module, source):
    assert len(complaints(source, module)) == 1


def test_downward_imports_are_allowed():
    for source in ("from minidetect.kernels import conv", "from ..autograd.tensor import Tensor", "from . import pool"):
        assert complaints(source, "minidetect.ops.conv") == []
    assert complaints("from minidetect.ops import elementwise", "minidetect.detection.losses") == []
    assert complaints("from minidetect import __version__", "minidetect.kernels.conv") == []


def test_nothing_is_needed_beyond_the_five_packages():
    for file in FILES:
        if file != PEERS_FILE:
            needed = {name.split(".")[0] for name in imports(file.read_text(), "minidetect.x")}
            allowed = ALLOWED_PACKAGES | OPTIONAL.get(file, set())
            assert needed - set(sys.stdlib_module_names) - {"__future__"} <= allowed, file


def outside_of_functions(source: str) -> set[str]:
    """The packages that are imported as soon as a module is."""
    outside = [node for node in ast.parse(source).body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return {name.split(".")[0] for name in imports(ast.unparse(outside), "minidetect.x")}


@pytest.mark.parametrize(("file", "packages"), OPTIONAL.items(), ids=lambda value: getattr(value, "name", ""))
def test_what_is_optional_is_imported_where_it_is_needed(file, packages):
    assert packages <= {name.split(".")[0] for name in imports(file.read_text(), "minidetect.x")}
    assert not packages & outside_of_functions(file.read_text())
    assert outside_of_functions("import h5py\ndef f():\n    import torch") == {"h5py"}


def test_peers_are_imported_by_one_file_and_only_inside_its_functions():
    """Benchmarks compare with them where they are installed; the library itself never computes with them."""
    source = PEERS_FILE.read_text()
    everywhere = {name.split(".")[0] for name in imports(source, "minidetect.benchmark")}
    assert {"torch", "onnx", "onnxruntime", "cv2"} <= everywhere
    assert outside_of_functions(source) - set(sys.stdlib_module_names) - {"__future__"} == {"numpy", "minidetect"}


# ------------------------------------------------------------------ randomness


def global_randomness(source: str) -> list[str]:
    """Uses of NumPy's or Python's global random state: np.random.rand, but not np.random.default_rng."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("np.random", "numpy.random"):
            if node.attr not in ("default_rng", "Generator"):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    modules = imports(source, "minidetect.x")
    return found + [name for name in modules if name == "random" or name.startswith(("random.", "numpy.random."))]


@pytest.mark.parametrize("file", FILES, ids=lambda f: module_of(f))
def test_no_global_random_state(file):
    assert not global_randomness(file.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "np.random.rand(3)", "np.random.seed(0)", "x = numpy.random.RandomState(1)", "import random",
        "from random import shuffle", "from numpy.random import rand",
    ],
)  # fmt: skip
def test_global_randomness_would_be_found(source):
    assert len(global_randomness(source)) == 1


def test_generators_are_allowed():
    assert global_randomness("def f(rng: np.random.Generator):\n    return np.random.default_rng(rng)") == []


# ------------------------------------------------------------------ what an import costs

LOOK = textwrap.dedent("""
    import importlib, pkgutil, sys
    import minidetect
    print("after minidetect:", *sorted({"numba", "matplotlib", "PIL"} & sys.modules.keys()))
    names = [m.name for m in pkgutil.walk_packages(minidetect.__path__, "minidetect.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    from numba.core.dispatcher import Dispatcher
    kernels = {id(v): v for m in modules for v in vars(m).values() if isinstance(v, Dispatcher)}
    print("kernels:", len(kernels))
    print("compiled:", *(k.__name__ for k in kernels.values() if k.signatures))
    print("pyplot:", "matplotlib.pyplot" in sys.modules)
    print("peers:", *sorted({"torch", "onnx", "onnxruntime", "cv2"} & sys.modules.keys()))
""")


def test_importing_everything_compiles_nothing_and_leaves_pyplot_alone():
    """In a process of its own: this one has compiled and imported already."""
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert int(lines["kernels"]) > 15
    assert lines["compiled"].strip() == ""
    assert lines["pyplot"].strip() == "False"
    assert lines["peers"].strip() == ""
    assert lines["after minidetect"].strip() == ""  # `import minidetect` alone is quick
