"""What the commands say, and where they write: lines on the terminal, JSON files, annotated pictures."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from minidetect.detection.structures import Detections
    from minidetect.kernels.dispatch import CompileWatch
    from minidetect.models.cascade_pipeline import StageReport

# No NumPy at import: see cli.py.

# About so many kernels are compiled before a first detection, and further ones for a training; a test counts.
DETECTION_KERNELS, TRAINING_KERNELS = 39, 24


def as_json(
    path: Path, image: np.ndarray, found: Detections, seconds: float, classes: Sequence[str] = ("face",)
) -> dict:
    """One image's entry of `detect --json`."""
    entries = [
        {"box": [round(float(v), 2) for v in box], "score": round(float(score), 4), "label": classes[label - 1]}
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
    ]
    if found.landmarks is not None:
        for entry, points in zip(entries, found.landmarks, strict=True):
            entry["landmarks"] = [[round(float(v), 2) for v in point] for point in points]
    height, width = image.shape[:2]
    return {
        "image": str(path), "width": width, "height": height, "seconds": round(seconds, 4), "detections": entries
    }


def counted(found: Detections, classes: Sequence[str] = ("face",)) -> str:
    """"1 face", "3 faces", "no object", "7 objects (2 cat, 5 dog)"."""
    num, what = len(found.boxes), "face" if classes == ("face",) else "object"
    text = f"{num} {what}{'s' * (num != 1)}"
    if classes == ("face",) or num == 0:
        return text
    labels = found.labels.tolist()
    parts = [f"{labels.count(k)} {name}" for k, name in enumerate(classes, start=1) if k in labels]
    return f"{text} ({', '.join(parts)})"


def drawing_files(images: Sequence[Path], folder: Path | None) -> list[Path | None]:
    """Where each image is drawn: folder/STEM.png, or STEM-2.png and so on where that is another's already.

    A drawing never takes the place of one of the images either. The folder is made; without one, all None.
    """
    if folder is None:
        return [None] * len(images)
    make_folder(folder)
    files: list[Path | None] = []
    taken = {os.path.realpath(image) for image in images}
    for image in images:
        file, n = folder / f"{image.stem}.png", 1
        while os.path.realpath(file) in taken:
            n += 1
            file = folder / f"{image.stem}-{n}.png"
        taken.add(os.path.realpath(file))
        files.append(file)
    return files


def make_folder(folder: Path) -> None:
    """Make a folder for results. Raises OSError where it cannot be: before the work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OSError(f"{folder}: cannot be made, since a file is in its place") from None
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder}: may not be written to")


def check_can_write(file: Path | None) -> None:
    """Make the folder of a result that was asked for, or raise OSError as `make_folder` does."""
    if file is not None:
        if file.is_dir():
            raise OSError(f"{file}: is a folder, not a file that could be written")
        make_folder(file.parent)


def write_json(path: Path, content: object) -> None:
    from minidetect.nn.checkpoint import write_atomically

    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def draw(image: np.ndarray, found: Detections, file: Path, classes: Sequence[str] = ("face",)) -> None:
    from minidetect.visualize import draw_detections, save_png

    names = None if classes == ("face",) else dict(enumerate(classes, start=1))
    save_png(draw_detections(image, found, label_names=names), file)


def print_table(found: Detections, classes: Sequence[str] = ("face",)) -> None:
    """A line a detection; faces need no name."""
    if len(found.boxes):
        print(f"  {'score':>6}  {'x1':>7} {'y1':>7} {'x2':>7} {'y2':>7}")
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        name = "" if classes == ("face",) else f"  {classes[label - 1]}"
        print(f"  {score:6.3f}  " + " ".join(f"{v:7.1f}" for v in box) + name)


def rounded(summary: dict[str, float]) -> dict[str, float | None]:
    """Figures to four places; what is not defined becomes None, since JSON has no NaN."""
    return {key: None if value != value else round(value, 4) for key, value in summary.items()}


def print_stages(stages: Sequence[StageReport]) -> None:
    total = sum(stage.seconds for stage in stages) or 1.0
    for stage in stages:
        print(
            f"  {stage.stage:4} {stage.boxes_in:9} in {stage.boxes_out:8} out {stage.seconds:8.3f} s "
            f"{stage.seconds / total:5.0%}"
        )


def say(text: object) -> None:
    """One line on standard error, whatever line breaks the text has."""
    print("minidetect:", " ".join(str(text).splitlines()), file=sys.stderr, flush=True)


class CompileNote:
    """`with note: ...` says on standard error when kernels are compiled meanwhile, and is silent otherwise.

    about: how many there may be. On a terminal one line counts them; elsewhere (a log file) one line says it.
    May be entered again: it goes on counting.
    """

    def __init__(self, about: int, live: bool | None = None) -> None:
        self.about, self.live = about, sys.stderr.isatty() if live is None else live
        self.watch: CompileWatch | None = None
        self.line = ""  # what stands on the terminal's last line

    def __enter__(self) -> CompileNote:
        from minidetect.kernels.dispatch import CompileWatch

        self.watch = self.watch or CompileWatch(self.tell)
        self.watch.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.watch.__exit__(*error)
        if self.live and self.line:
            print("\r" + " " * len(self.line), end="\r", file=sys.stderr, flush=True)
            self.line = ""

    def tell(self, number: int, seconds: float) -> None:
        if self.live:
            count = f"{number} of about {max(self.about, number)}, {seconds:.0f} s"
            self.line = f"minidetect: compiling the kernels for this machine, once: {count} "
            print("\r" + self.line, end="", file=sys.stderr, flush=True)
        elif not self.line:
            self.line = f"compiling the kernels for this machine, about {self.about} (once; they are kept on disk) ..."
            say(self.line)


def complain(error: BaseException, path: Path | None = None) -> int:
    """Say what went wrong, and with which file: `path`, where the error itself does not name it. Returns 2."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    say(text if path is None else f"{path}: {text}")
    return 2
