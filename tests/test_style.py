"""House rules that a machine can check: ruff's, and functions that fit a screen."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 80  # lines of a function
FOLDERS = ("minidetect", "tests", "benchmarks", "lessons")


def functions(source: str) -> list[tuple[str, int, int]]:
    """Name, first line and number of lines of every function, decorators not counted."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    return [(node.name, node.lineno, node.end_lineno - node.lineno + 1) for node in nodes]


def test_ruff_is_content():
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed: pip install -e .[test]")
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_function_is_longer_than_a_screen():
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 60
    long = [
        f"{file.relative_to(ROOT)}:{line}: {name} has {length} lines"
        for file in files
        for name, line, length in functions(file.read_text(encoding="utf-8"))
        if length > LONGEST
    ]
    assert long == []


def test_the_rule_itself_counts_right():
    source = "@wrap\ndef f(\n    a,\n):\n    def g():\n        pass\n    return g\n"
    assert functions(source) == [("f", 2, 6), ("g", 5, 2)]
