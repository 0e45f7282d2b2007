"""Run every lesson as a script and collect its claims.

    python lessons/run_all.py --budget smoke            # everything runs: under 4 minutes, what CI does
    python lessons/run_all.py                           # the lessons as a student runs them
    python lessons/run_all.py --only 05 07
    python lessons/run_all.py --record                  # and write claims.json and the table in README.md

What each lesson prints goes to out/NN.txt. Exit code 1 if a lesson fails, or takes longer than its header states.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from percent import FOLDER, Header, header, lesson_files

from minidetect.nn.checkpoint import write_atomically
from minidetect.teach import BUDGETS

OUT = FOLDER / "out"
CLAIMS = FOLDER / "claims.json"
README = FOLDER / "README.md"
BEGIN, END = "<!-- claims: written by lessons/run_all.py --record -->", "<!-- /claims -->"


def run_lesson(lesson: Header, budget: str) -> tuple[float, dict | None]:
    """Seconds, and what the lesson left in out/NN.json; None if it failed."""
    record, log = OUT / f"{lesson.number}.json", OUT / f"{lesson.number}.txt"
    OUT.mkdir(exist_ok=True)
    record.unlink(missing_ok=True)
    environment = os.environ | {"MINIDETECT_BUDGET": budget, "MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    with open(log, "w") as output:
        done = subprocess.run(
            [sys.executable, str(lesson.file)], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    seconds = time.perf_counter() - start
    if done.returncode != 0 or not record.exists():
        return seconds, None
    return seconds, json.loads(record.read_text())


def claim_table(claims: Sequence[Mapping]) -> str:
    """Markdown: one row a claim, every seed's value, failures included."""
    lines = ["| lesson | claim | | paper | here, one value a seed | expected | |", "| --- " * 7 + "|"]
    for c in claims:
        values = ", ".join(f"{v:.4g}" for v in c["values"])
        row = (c["lesson"], c["id"], c["text"], c["paper"] or "arithmetic", values, c["bound"], c["verdict"])
        lines.append(f"| {' | '.join(escaped(cell) for cell in row)} |")
    return "\n".join(lines) + "\n"


def escaped(cell: str) -> str:
    """A cell's text as Markdown wants it: a bar would end the cell."""
    return cell.replace("|", "\\|")


def put_between(text: str, table: str) -> str:
    """README's text with the table between the two markers. Raises ValueError where a marker is missing."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"{README} has no {BEGIN} ... {END} for the table")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n{table}{text[text.index(END) :]}"


def write_record(records: Sequence[Mapping]) -> None:
    """Write claims.json (claims of lessons that were not run stay) and the table in README.md."""
    ran = {record["lesson"] for record in records}
    kept = [c for c in json.loads(CLAIMS.read_text()) if c["lesson"] not in ran] if CLAIMS.exists() else []
    new = [{"lesson": record["lesson"], **claim} for record in records for claim in record["claims"]]
    claims = sorted(kept + new, key=lambda c: (c["lesson"], c["id"]))
    readme = put_between(README.read_text(), claim_table(claims))
    for file, text in ((CLAIMS, json.dumps(claims, indent=1) + "\n"), (README, readme)):
        write_atomically(file, lambda stream, text=text: stream.write(text.encode()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--budget", choices=BUDGETS, default="lesson")
    parser.add_argument("--only", nargs="+", metavar="NN", help="numbers of lessons, such as 05 07")
    parser.add_argument("--record", action="store_true", help="write claims.json and README.md's table")
    args = parser.parse_args(arguments)
    if args.record and args.budget == "smoke":
        parser.error("--record: the smoke budget judges no claims; use lesson or full")
    lessons = [header(file) for file in lesson_files()]
    if unknown := set(args.only or ()) - {lesson.number for lesson in lessons}:
        parser.error(f"--only: no lesson {', '.join(sorted(unknown))}")

    records, failures, start = [], [], time.perf_counter()
    for lesson in lessons:
        if args.only and lesson.number not in args.only:
            continue
        seconds, record = run_lesson(lesson, args.budget)
        if record is None:
            failures.append(f"{lesson.file.name} failed; its output is in {OUT / lesson.number}.txt")
            print(f"{lesson.number} {lesson.title:36} {seconds:5.0f} s  FAILED", flush=True)
            continue
        records.append(record)
        late = args.budget == "lesson" and seconds > lesson.seconds
        if late:
            failures.append(f"{lesson.file.name} took {seconds:.0f} s; its header states {lesson.seconds} s")
        verdicts = [claim["verdict"] for claim in record["claims"]]
        shown = f"claims that come out: {verdicts.count('comes out')} of {len(verdicts)}"
        shown = shown if args.budget != "smoke" else f"claims not judged: {len(verdicts)}"
        print(f"{lesson.number} {lesson.title:36} {seconds:5.0f} s of {lesson.seconds:3}  {shown}", flush=True)
    print(f"{len(records)} lessons in {time.perf_counter() - start:.0f} s")
    if args.record and not failures:
        write_record(records)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
