"""The form of the lessons: header, short cells, pictures, exercises with their checks, the map. What they print and
claim is tested by running them: `lessons/run_all.py --budget smoke`, which CI does."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from minidetect.checks.case import Check

LESSONS = Path(__file__).resolve().parents[1] / "lessons"
MEDIAN_LINES, MOST_LINES = 5, 20  # of code in a cell
CELLS_PER_PICTURE = 10
FEWEST_PREDICTIONS = 3


def load(name: str) -> ModuleType:
    """A module of lessons/, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"lessons_{name}", LESSONS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


percent = load("percent")
FILES = percent.lesson_files()


def code_cells(file: Path) -> list[str]:
    return [cell.text for cell in percent.cells(file) if cell.is_code]


def lines_of_code(cell: str) -> int:
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in cell.splitlines())


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request) -> Path:
    return request.param


def test_the_header_says_what_a_reader_needs(file):
    said = percent.header(file)
    assert 5 <= said.seconds <= 300
    assert said.fields["Question"].endswith("?"), said.fields["Question"]


def test_a_cell_is_one_idea(file):
    sizes = [lines_of_code(cell) for cell in code_cells(file)[1:]]  # the first cell imports
    assert statistics.median(sizes) <= MEDIAN_LINES, sizes
    longest = max(code_cells(file)[1:], key=lines_of_code)
    assert lines_of_code(longest) <= MOST_LINES, longest


def test_code_cells_do_not_stand_alone(file):
    kinds = "".join("c" if cell.is_code else "m" for cell in percent.cells(file))
    assert "cccccc" not in kinds, "six code cells in a row without a word"


def test_pictures_come_often_and_guesses_come_first(file):
    code = code_cells(file)
    pictures = sum("lesson.show(" in cell for cell in code)
    assert len(code) <= CELLS_PER_PICTURE * pictures, f"{pictures} pictures in {len(code)} cells"
    assert sum("lesson.predict(" in cell for cell in code) >= FEWEST_PREDICTIONS
    assert sum(cell.count("lesson.predict(") for cell in code) == sum(cell.count("lesson.reveal(") for cell in code)


def test_it_ends_with_what_the_reader_can_do_now(file):
    *_, prose, code = percent.cells(file)
    assert "## What you can do now" in prose.text and code.text == "lesson.finish()"


def test_every_exercise_has_a_check_a_solution_and_an_announcement(file):
    number = file.name[:2]
    checks = importlib.import_module(f"minidetect.checks.lesson_{number}")
    announced = re.findall(r"^## Exercise (\d+\.\d+)\b", "\n".join(c.text for c in percent.cells(file)), re.MULTILINE)
    wired = []
    for node in ast.walk(ast.parse(file.read_text())):
        for decorator in getattr(node, "decorator_list", []):
            if ast.unparse(decorator).startswith("lesson.exercise("):
                assert ast.unparse(decorator) == f"lesson.exercise(check.{node.name}, otherwise=solution.{node.name})"
                body = [line for line in node.body if not isinstance(line, ast.Expr)]
                assert [ast.unparse(line) for line in body] == ["raise NotImplementedError"], node.name
                wired.append(getattr(checks, node.name).number)
    offered = [found.number for found in vars(checks).values() if isinstance(found, Check)]
    assert wired == announced == offered


def test_stub_and_solution_take_the_same_arguments(file):
    number = file.name[:2]
    solutions = {
        node.name: ast.unparse(node.args)
        for node in ast.parse((LESSONS / "solutions" / f"lesson_{number}.py").read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    for node in ast.walk(ast.parse(file.read_text())):
        if any("lesson.exercise(" in ast.unparse(d) for d in getattr(node, "decorator_list", [])):
            assert ast.unparse(node.args) == solutions[node.name], node.name


def test_only_what_the_package_needs_is_imported(file):
    allowed = {"minidetect", "numpy", "matplotlib", "numba", "PIL", "solutions"} | set(sys.stdlib_module_names)
    for node in ast.walk(ast.parse(file.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= allowed
        assert "pyplot" not in "".join(names), "use minidetect.visualize.new_figure: no window, no global state"


def test_the_map_lists_every_lesson_with_its_time():
    text = (LESSONS / "README.md").read_text()
    for file in FILES:
        said = percent.header(file)
        row = next((line for line in text.splitlines() if f"({file.name})" in line), "")
        assert f"[{said.number} {said.title}]({file.name})" in row, f"lessons/README.md lacks {file.name}"
        assert f"| {said.seconds} s |" in row, row
    assert sorted(re.findall(r"\((\d\d_\w+\.py)\)", text)) == [file.name for file in FILES]


def test_the_map_shows_the_recorded_claims():
    run_all = load_run_all()
    claims = json.loads((LESSONS / "claims.json").read_text())
    text = (LESSONS / "README.md").read_text()
    assert run_all.put_between(text, run_all.claim_table(claims)) == text
    made = {(claim["lesson"], claim["id"]) for claim in claims}
    for file in FILES:
        ids = re.findall(r'lesson\.claim\(\s*"([^"]+)"', file.read_text())
        assert {(file.name[:2], id) for id in ids} <= made, f"{file.name}: run lessons/run_all.py --record"


def load_run_all() -> ModuleType:
    sys.path.insert(0, str(LESSONS))
    try:
        return load("run_all")
    finally:
        sys.path.remove(str(LESSONS))


def test_a_lesson_that_fails_is_told(tmp_path, monkeypatch, capsys):
    """Run a copy of the folder's programs over two lessons of our own, one of which dies."""
    run_all = load_run_all()
    good, bad = tmp_path / "01_good.py", tmp_path / "02_bad.py"
    said = " ".join(f"**{field}:** 9 s?" for field in percent.FIELDS)
    head = f"# %% [markdown]\n# # {{}} Title\n# {said}\n\n# %%\n"
    body = 'from minidetect.teach import Lesson\nlesson = Lesson("01", "Title")\nlesson.finish()\n'
    good.write_text(head.format("01") + body)
    bad.write_text(head.format("02") + "raise RuntimeError('dies')\n")
    monkeypatch.setattr(run_all, "lesson_files", lambda: [good, bad])
    monkeypatch.setattr(run_all, "OUT", tmp_path / "out")
    assert run_all.main(["--budget", "smoke"]) == 1
    said = capsys.readouterr()
    assert "01 Title" in said.out and "FAILED" in said.out and "02_bad.py failed" in said.err
    assert "dies" in (tmp_path / "out" / "02.txt").read_text()
    assert run_all.main(["--budget", "smoke", "--only", "01"]) == 0


def test_the_claim_table_shows_failures_and_every_value():
    run_all = load_run_all()
    claim = {
        "lesson": "15",
        "id": "FC-M1",
        "text": "joint is better, |yaw| < 1",
        "paper": "88.2 against 87.2",
        "values": [0.4, -0.2, -0.5],
        "bound": "> 0",
        "verdict": "does not come out",
    }
    assert (
        r"| 15 | FC-M1 | joint is better, \|yaw\| < 1 | 88.2 against 87.2 | 0.4, -0.2, -0.5 | > 0 | does not come out |"
        in run_all.claim_table([claim])
    )


def test_a_lesson_opens_as_a_notebook_and_becomes_a_page(tmp_path):
    """A lesson run as a notebook: its page holds pictures and no script, and asks nothing of the network."""
    if missing := [name for name in ("jupytext", "nbconvert", "ipykernel") if not importlib.util.find_spec(name)]:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -e .[lessons]")
    command = [sys.executable, LESSONS / "gallery.py", "--only", "05", "--budget", "smoke", "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    page = (tmp_path / "05_boxes.html").read_text()
    assert page.count("data:image/png;base64") >= 5 and 'alt="' in page
    assert "<script" not in page and 'src="http' not in page and 'href="http' not in page
    assert "not attempted" in page and (tmp_path / "05_boxes.ipynb").exists()
    contents = (tmp_path / "index.html").read_text()
    assert all(f"{file.stem}.html" in contents for file in FILES)
