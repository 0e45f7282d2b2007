"""The lessons as web pages: each one run as a notebook, its pictures in the page; no script, opens from disk.

    pip install -e ".[lessons]"
    python lessons/gallery.py                          # out/gallery/index.html, at the lesson budget
    python lessons/gallery.py --budget smoke --only 05

jupytext reads a lesson as a notebook, nbconvert runs it and turns it into HTML; the page around it is made here, since
nbconvert's own loads fonts and formulas from the network. Beside each page lies the notebook that was run.
"""

from __future__ import annotations

import argparse
import html
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from percent import FIELDS, FOLDER, Header, header, lesson_files

from minidetect.teach import BUDGETS

STYLE = """
body { max-width: 64rem; margin: 2rem auto; padding: 0 1rem; font: 17px/1.55 Georgia, serif; color: #222; }
p, ul, ol { max-width: 46rem; }
nav, h1, h2, h3, table { font-family: system-ui, sans-serif; }
nav { font-size: 0.85rem; display: flex; justify-content: space-between; border-bottom: 1px solid #ddd; }
a { color: #0072B2; }
h1, h2 { line-height: 1.2; margin-top: 2.2rem; }
code, pre { font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
.highlight pre { background: #f5f6f8; border-left: 3px solid #0072B2; padding: 0.6rem 0.9rem; overflow-x: auto; }
.output pre { margin: 0.3rem 0 1rem; padding: 0 0.9rem; color: #444; white-space: pre-wrap; }
.anchor-link { display: none; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
td, th { border-bottom: 1px solid #ddd; padding: 0.35rem 0.6rem; text-align: left; vertical-align: top; }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{nav}
{body}
{nav}
</body>
</html>
"""


def run_notebook(lesson: Header, budget: str) -> object:
    """The lesson as a notebook with its outputs. Raises nbclient's CellExecutionError where a cell fails."""
    import jupytext
    from nbclient import NotebookClient

    os.environ["MINIDETECT_BUDGET"] = budget  # the kernel inherits it
    notebook = jupytext.read(lesson.file)
    here = {"metadata": {"path": str(FOLDER)}}  # where the notebook runs: it imports `solutions` from there
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=here).execute()
    return notebook


def as_html(notebook: object) -> str:
    """The notebook's cells and outputs, without a page around them."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    return exporter.from_notebook_node(notebook)[0]


def page(title: str, body: str, nav: str) -> str:
    from pygments.formatters import HtmlFormatter

    style = STYLE + HtmlFormatter().get_style_defs(".highlight")
    return PAGE.format(title=html.escape(title), style=style, nav=nav, body=body)


def navigation(lessons: Sequence[Header], i: int) -> str:
    """Links to the lesson before, the contents, and the lesson after."""

    def link(k: int, text: str) -> str:
        return f'<a href="{lessons[k].file.stem}.html">{text}</a>' if 0 <= k < len(lessons) else "<span></span>"

    before = link(i - 1, f"&larr; {html.escape(lessons[i - 1].title)}") if i else "<span></span>"
    after = link(i + 1, f"{html.escape(lessons[i + 1].title)} &rarr;") if i + 1 < len(lessons) else "<span></span>"
    return f'<nav>{before}<a href="index.html">all lessons</a>{after}</nav>'


def contents(lessons: Sequence[Header]) -> str:
    """The table on the first page."""
    rows = []
    for lesson in lessons:
        said = {name: html.escape(lesson.fields[name].replace("**", "")) for name in FIELDS}
        title = f'<a href="{lesson.file.stem}.html">{lesson.number} {html.escape(lesson.title)}</a>'
        columns = (title, said["Question"], said["Papers"], f"{lesson.seconds} s")
        rows.append("<tr>" + "".join(f"<td>{column}</td>" for column in columns) + "</tr>")
    head = "<tr><th>lesson</th><th>question</th><th>papers</th><th>time</th></tr>"
    intro = (
        "<h1>minidetect: the lessons</h1>\n<p>Detection from a pixel to a box, each step by hand first. These pages "
        "were made by running every lesson; to do the exercises, run the files in <code>lessons/</code> yourself.</p>"
    )
    return f"{intro}\n<table>\n{head}\n{chr(10).join(rows)}\n</table>"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--budget", choices=BUDGETS, default="lesson")
    parser.add_argument("--only", nargs="+", metavar="NN", help="make these pages; the contents list all the same")
    parser.add_argument("--out", type=Path, default=FOLDER / "out" / "gallery")
    args = parser.parse_args(arguments)
    try:
        import jupytext
        import nbconvert
    except ImportError as error:
        parser.error(f"{error.name} is missing: pip install -e \".[lessons]\"")
    lessons = [header(file) for file in lesson_files()]
    args.out.mkdir(parents=True, exist_ok=True)
    for i, lesson in enumerate(lessons):
        if args.only and lesson.number not in args.only:
            continue
        notebook = run_notebook(lesson, args.budget)
        jupytext.write(notebook, args.out / f"{lesson.file.stem}.ipynb")
        text = page(f"{lesson.number} {lesson.title}", as_html(notebook), navigation(lessons, i))
        (args.out / f"{lesson.file.stem}.html").write_text(text, encoding="utf-8")
        print(args.out / f"{lesson.file.stem}.html", flush=True)
    (args.out / "index.html").write_text(page("minidetect: the lessons", contents(lessons), ""), encoding="utf-8")
    print(args.out / "index.html", "with nbconvert", nbconvert.__version__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
