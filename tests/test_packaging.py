"""What an installation gets: metadata, extras, every module, the weights and their cards."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import minidetect

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minidetect"


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def names(lines: str) -> set[str]:
    """The packages that requirement lines name."""
    return {re.split(r"[\s<>=!~\[;]", line.strip())[0] for line in lines.splitlines() if line.strip()}


def test_metadata(setup):
    assert setup["metadata"]["name"] == "minidetect"
    assert setup["metadata"]["version"] == "attr: minidetect.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", minidetect.__version__)
    assert setup["metadata"]["license"] == "MIT" and "MIT" in (ROOT / "LICENSE").read_text()
    assert setup["options"]["python_requires"] == ">=3.11"
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in setup["metadata"]["classifiers"]
    assert sys.version_info >= (3, 11)
    assert "minidetect = minidetect.cli:main" in setup["options.entry_points"]["console_scripts"]


def test_requirements_and_extras(setup):
    """NumPy and Numba compute; Pillow, matplotlib and tqdm are for files, plots and progress: nothing else."""
    assert names(setup["options"]["install_requires"]) == {"numpy", "numba", "pillow", "matplotlib", "tqdm"}
    extras = setup["options.extras_require"]
    assert set(extras) == {"test", "peers", "mobilenet", "wider", "cuda", "cuda13", "lessons"}
    assert {"pytest", "hypothesis", "ruff"} <= names(extras["test"])
    assert {"torch"} <= names(extras["peers"]) and {"numba-cuda"} <= names(extras["cuda"]) & names(extras["cuda13"])
    assert names(extras["mobilenet"]) == {"h5py"} and names(extras["wider"]) == {"scipy"}


def test_the_build_needs_setuptools_alone():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert build["build-backend"] == "setuptools.build_meta" and names("\n".join(build["requires"])) == {"setuptools"}


def test_the_installed_version_is_this_one():
    from importlib.metadata import PackageNotFoundError, version

    try:
        assert version("minidetect") == minidetect.__version__
    except PackageNotFoundError:
        pytest.skip("minidetect is not installed, only imported")


def test_every_folder_with_code_is_a_package():
    """`packages = find:` takes folders with an `__init__.py`; one that lacks it would be missing once installed."""
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    assert PACKAGE / "reference" in folders and len(folders) > 10
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_weights_and_cards_are_package_data(setup):
    patterns = [p.strip() for p in setup["options.package_data"]["minidetect.weights"].split(",")]
    left_out = [
        file.name for file in (PACKAGE / "weights").iterdir()
        if file.is_file() and file.suffix != ".py" and not any(file.match(pattern) for pattern in patterns)
    ]
    assert patterns == ["*.npz", "*.md"] and left_out == []


def test_a_build_holds_every_module_and_every_weight(tmp_path):
    """What goes into a wheel, built from a copy and without the network, by the setuptools that is installed."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("this environment has no setuptools to build with (from Python 3.12 on, venv brings none)")
    source, built = tmp_path / "source", tmp_path / "built"
    shutil.copytree(PACKAGE, source / "minidetect", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for folder in ("tests", "lessons", "benchmarks"):
        (source / folder).mkdir()
        (source / folder / "__init__.py").touch()  # even if they were packages, they should stay at home
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "build", "--build-lib", str(built)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [folder.name for folder in built.iterdir()] == ["minidetect"]
    kinds = (".py", ".npz", ".md")
    wanted = {p.relative_to(source) for p in (source / "minidetect").rglob("*") if p.suffix in kinds}
    assert Path("minidetect/reference/nn_ops.py") in wanted
    assert wanted - {p.relative_to(built) for p in built.rglob("*")} == set()


def test_readme_and_ci_run_the_same_test_command():
    """What a newcomer is told to type is what is checked on every push."""
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    (command,) = [line for line in lines if "-m venv" in line]
    assert "pip install" in command and ".[test]" in command and "pytest" in command
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("README.md is not written yet")
    text = [line.strip() for line in readme.read_text().splitlines()]
    assert command in text, f"README.md should tell to run exactly {command!r}"
    assert any("-m venv" in line and "minidetect demo" in line for line in text), "README.md lacks the demo command"
