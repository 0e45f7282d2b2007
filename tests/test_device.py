"""Where there is no GPU: what is said about it, that nobody waits for CUDA's modules; and every kernel has its twin.

What is run on a GPU, or in the simulator, is tested in tests/cuda.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[1] / "minidetect" / "kernels"
TWINS = sorted(KERNELS.glob("*_cuda.py"))

# What others than the decorator may take from a file of CUDA kernels: parts that several of these files share, a
# function that chooses its target by hand, and one that only the benchmark compares with.
TAKEN = {
    "planes_cuda": {
        "as_planes", "fold_sums", "grid_2d", "grid_of_planes", "my_pixel", "next_power_of_two", "planes_apart", "shares"
    },
    "products_cuda": {"convolve", "divided", "finished", "product", "product_adder", "tile_rows"},
    "depthwise_cuda": {"depthwise_backward", "depthwise_forward"},
    "roi_pool_cuda": {"roi_pool_backward_atomic"},
}  # fmt: skip
# On both sides under one name, and not decorated: resize_image looks for its twin itself, the others are kernels.
OTHERS = {"resize_image", "resample", "blend_planes"}


def without_gpu(script: str) -> dict:
    """What a script leaves in `said`, run in a process that has neither a GPU nor the simulator."""
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"} | {"CUDA_VISIBLE_DEVICES": "-1"}
    script = f"import json, sys\nsaid = {{}}\n{script}\nprint(json.dumps(said))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------ asked for a GPU that is not there


@pytest.fixture(scope="module")
def refusals() -> dict[str, list[str]]:
    """By what was tried: what the error is, most special first, and what it says."""
    return without_gpu("""
import numpy as np
from minidetect.autograd import Tensor
from minidetect.kernels.device import to_device, use_device, zeros
from minidetect.kernels.relu import relu_forward
from minidetect.nn.layers import Linear
model = Linear(2, 3, np.random.default_rng(0))
before = model.weight.data.copy()
def offload(device):
    with use_device(device):
        relu_forward(np.ones(3, np.float32))
for name, attempt in {
    "to_device": lambda: to_device(np.ones(3)), "zeros": lambda: zeros(3, np.float32),
    "use_device": lambda: offload("cuda"), "model": lambda: model.to("cuda"),
    "bogus device": lambda: offload("bogus"), "bogus model": lambda: model.to("gpu"),
}.items():
    try:
        attempt()
        said[name] = [["nothing"], ""]
    except Exception as error:
        said[name] = [[kind.__name__ for kind in type(error).mro()], str(error)]
offload("cpu")
said["after it"] = [type(model.to("cpu")(Tensor(np.ones((1, 2), np.float32))).data).__name__, ""]
said["weights"] = [str(bool((model.weight.data == before).all())), ""]
""")


@pytest.mark.parametrize("attempt", ["to_device", "zeros", "use_device", "model"])
def test_it_is_said_what_is_missing_and_how_to_get_it(refusals, attempt):
    kinds, message = refusals[attempt]
    assert "RuntimeError" in kinds
    for part in ("no GPU can be used here", 'pip install "numba-cuda[cu12]"', "NUMBA_ENABLE_CUDASIM=1", "simulator"):
        assert part in message, message
    assert "\n" not in message and " :" not in message and ".." not in message


@pytest.mark.parametrize("attempt, device", [("bogus device", "bogus"), ("bogus model", "gpu")])
def test_a_device_of_another_name(refusals, attempt, device):
    kinds, message = refusals[attempt]
    assert kinds[0] == "ValueError" and message == f"device must be one of cpu, cuda, got {device!r}"


def test_what_was_refused_changed_nothing(refusals):
    assert refusals["after it"][0] == "ndarray" and refusals["weights"][0] == "True"


@pytest.mark.parametrize(
    "command", [["detect", "photo.png", "--model", "extd"], ["train", "extd", "--data", "data", "--out", "run"]]
)
def test_the_command_line_says_it_in_one_line(command, tmp_path):
    """Before it looks for photos, and without a folder for the run."""
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"} | {"CUDA_VISIBLE_DEVICES": "-1"}
    arguments = [sys.executable, "-m", "minidetect", *command, "--device", "cuda"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, env=env, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "no GPU can be used here" in done.stderr and not (tmp_path / "run").exists()


# ------------------------------------------------------------------ nobody waits for CUDA


def test_detection_and_training_on_the_processor_import_nothing_of_cuda():
    """numba.cuda takes half a second; so do the files that need it."""
    said = without_gpu("""
import numpy as np
import minidetect
from minidetect.autograd import Tensor
from minidetect.models.facecraft import JointCascade
from minidetect.nn.fuse import fuse
from minidetect.nn.layers import Conv2d, ReLU, Sequential
from minidetect.nn.normalize import BatchNorm2d
from minidetect.nn.optim import SGD, clip_gradients
from minidetect.ops.pool import max_pool2d
rng = np.random.default_rng(0)
tables = (((2, 3, 2), (3, 5, 0)), ((2, 3, 3), (3, 3, 3)), ((2, 3, 3), (2, 3, 3), (3, 3, 3)))
JointCascade(rng, tables).detect([rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)])
model = Sequential(Conv2d(3, 4, 3, rng, padding=1), BatchNorm2d(4), ReLU())
model.train()
optimiser = SGD(model, 0.1)
max_pool2d(model(Tensor(rng.random((2, 3, 6, 6), np.float32))), 2).sum().backward()
clip_gradients(model.parameters(), 1.0)
optimiser.step()
model.load_state_dict(model.to("cpu").state_dict())
fuse(model)(rng.random((1, 3, 6, 6), np.float32))
said["cuda"] = [m for m in sys.modules if m.startswith("numba.cuda") or m == "numba_cuda" or m.endswith("_cuda")]
said["device"] = [m for m in sys.modules if m.startswith("minidetect.kernels.device") or m == "minidetect.kernels.gpu"]
""")
    assert said == {"cuda": [], "device": ["minidetect.kernels.device"]}


# ------------------------------------------------------------------ twins


DECORATORS = ("on_either_device", "where_it_lives")


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def is_decorated(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) in DECORATORS for decorator in function.decorator_list)


def parameters(function: ast.FunctionDef) -> list[tuple[str, str, str]]:
    """Name, kind and default of each."""
    a = function.args
    positional = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(positional) - len(a.defaults)) + a.defaults
    rows = [("positional", arg, default) for arg, default in zip(positional, defaults, strict=True)]
    rows += [("keyword", arg, default) for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    return [(arg.arg, kind, "" if default is None else ast.unparse(default)) for kind, arg, default in rows]


DECORATED = {
    (path, name): function
    for path in sorted(KERNELS.glob("*.py"))
    for name, function in functions(path).items()
    if is_decorated(function)
}


def test_functions_are_found():
    assert len(DECORATED) > 20 and len({path for path, _ in DECORATED}) > 8
    assert parameters(ast.parse("def f(a, b=1, *, c, d=None): ...").body[0]) == [
        ("a", "positional", ""), ("b", "positional", "1"), ("c", "keyword", ""), ("d", "keyword", "None")
    ]  # fmt: skip


@pytest.mark.parametrize("path, name", DECORATED, ids=lambda part: getattr(part, "stem", part))
def test_the_twin_has_the_same_name_and_parameters(path, name):
    twins = functions(path.with_name(f"{path.stem}_cuda.py"))
    assert name in twins, f"{path.stem}_cuda.py lacks {name}"
    assert parameters(twins[name]) == parameters(DECORATED[path, name])


@pytest.mark.parametrize("path", TWINS, ids=lambda path: path.stem)
def test_what_has_a_twins_name_is_one(path):
    """A function that is on both sides, but not decorated, would never be called on the GPU."""
    ordinary = path.with_name(path.name.replace("_cuda", ""))
    ours = functions(ordinary) if ordinary.exists() else {}
    on_both = {name for name in functions(path) if name in ours and not name.startswith("_")}
    assert {name for name in on_both if not is_decorated(ours[name])} <= OTHERS


def test_others_take_from_these_files_what_is_listed():
    taken: dict[str, set[str]] = {}
    for path in KERNELS.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("_cuda"):
                names = {alias.name for alias in node.names}
                taken.setdefault(node.module.rpartition(".")[2], set()).update(n for n in names if not n.isupper())
    unlisted = {module: names - TAKEN.get(module, set()) for module, names in taken.items()}
    assert not any(unlisted.values()), unlisted


def test_only_these_files_import_them_when_they_are_imported():
    """A file for the processor may ask for CUDA inside a function at most."""
    for path in KERNELS.parent.rglob("*.py"):
        if "cuda" in path.stem or "gpu" in path.stem or path.stem.startswith("device_"):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                source = ast.unparse(node)
                assert "_cuda" not in source and "numba.cuda" not in source and "kernels.gpu" not in source, path
