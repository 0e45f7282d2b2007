"""Pictures: detections drawn into a photo, training, ROC and error curves, and boxes for the lessons.

Photos are drawn on with Pillow and keep their pixels; plots are made with matplotlib. Every plot is a
`Figure` with an Agg canvas of its own instead of a pyplot figure: no window opens, no figure stays in
memory, and the backend that the user chose (a notebook's, for instance) is left alone.

Letters: N boxes, P landmark points, H and W image height and width.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

from minidetect.data.images import load_image
from minidetect.detection.structures import Detections
from minidetect.evaluate.average_precision import Curve
from minidetect.evaluate.landmarks import as_percent, cumulative_curve, mean_error

# Okabe and Ito's colours, told apart by colour-blind readers as well; label 1 has the first.
COLOURS = ("#F0E442", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#0072B2")


def draw_detections(
    image: str | Path | Image.Image | np.ndarray,
    detections: Detections,
    min_score: float = -math.inf,
    label_names: Mapping[int, str] | None = None,
    show_scores: bool = True,
    min_side: int = 320,
) -> Image.Image:
    """A copy of the photo with a box, its score and its landmarks for each detection.

    image: anything `load_image` takes; detections: boxes in its pixels, in any order.
    min_score: leave out what scored less. label_names: label -> word written before the score.
    min_side: a smaller photo is enlarged by a whole factor until its long side has about this many pixels,
        since a label would hide it otherwise; 0 keeps every size. Lines and letters grow with large photos.

    The best detections are drawn last and stay on top. Returns an RGB image.
    """
    picture = Image.fromarray(load_image(image))
    factor = max(1, round(min_side / max(picture.size)))
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    else:
        picture = picture.copy()
    pen = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 320))
    font = _font(max(11, round(max(picture.size) / 50)))
    order = np.argsort(np.asarray(detections.scores), kind="stable")
    for i in (i for i in order if detections.scores[i] >= min_score):
        colour = COLOURS[(int(detections.labels[i]) - 1) % len(COLOURS)]
        box = [float(v) * factor for v in detections.boxes[i]]
        if not _is_drawable(box):
            continue
        # A box covers the pixels from x1 up to x2 (not included); Pillow's rectangle includes both ends.
        pen.rectangle((box[0], box[1], max(box[2] - 1, box[0]), max(box[3] - 1, box[1])), None, colour, line)
        if detections.landmarks is not None:
            _draw_points(pen, np.asarray(detections.landmarks[i]) * factor, colour, 1.5 * line)
        words = [label_names.get(int(detections.labels[i]), "")] if label_names else []
        words += [f"{float(detections.scores[i]):.2f}"] if show_scores else []
        _draw_label(pen, picture.size, box, " ".join(words).strip(), font, colour)
    return picture


def save_png(image: Image.Image | np.ndarray | Figure, file: str | Path) -> None:
    """Write a Pillow image, an (H, W, 3) uint8 array or a plot as PNG; folders on the way are made."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, Figure):
        image.savefig(file, format="png", dpi=120)
        return
    image = image if isinstance(image, Image.Image) else Image.fromarray(load_image(image))
    image.save(file, format="PNG")


def plot_curves(
    log: str | Path | Iterable[Mapping[str, object]],
    file: str | Path | None = None,
    fields: Sequence[str] | None = None,
    x: str = "step",
) -> Figure:
    """Training curves: one panel for each number in the log, as it was and as a running mean.

    log: rows, or the path of a log of them: JSON lines, or CSV with a header (`.csv`).
    fields: which numbers, in order; None: all that occur. A row may lack a field; what is not a finite
        number is left out. x: the field on the horizontal axis.
    file: where to write a PNG; None: only return the figure.

    Raises ValueError for a log without a row that has `x` and a number, or a line that is not JSON (a
    last line cut off by a kill is passed over).
    """
    rows = read_log(log) if isinstance(log, (str, Path)) else list(log)
    rows = [row for row in rows if _is_number(row.get(x))]
    if fields is None:
        fields = list(dict.fromkeys(k for row in rows for k, v in row.items() if k != x and _is_number(v)))
    if not rows or not fields:
        raise ValueError(f"nothing to plot: the log has no row with {x!r} and another number")
    columns = math.ceil(math.sqrt(len(fields)))
    figure = new_figure(4.2 * columns, 2.8 * math.ceil(len(fields) / columns))
    for i, field in enumerate(fields):
        ax = figure.add_subplot(math.ceil(len(fields) / columns), columns, i + 1)
        points = np.array([(float(r[x]), float(r[field])) for r in rows if _is_number(r.get(field))])
        points = points.reshape(-1, 2)
        ax.plot(points[:, 0], points[:, 1], color="#56B4E9", linewidth=0.8, alpha=0.6)
        ax.plot(points[:, 0], running_mean(points[:, 1]), color="#0072B2", linewidth=1.5)
        ax.set_title(field, fontsize=10)
        ax.set_xlabel(x, fontsize=8)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.3)
    return _finish(figure, file)


def read_log(file: str | Path) -> list[dict[str, object]]:
    """The rows of a training log: JSON lines, or CSV with a header for a file named `.csv`."""
    file = Path(file)
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".csv":
        return [{k: _number_or_text(v) for k, v in row.items()} for row in csv.DictReader(text.splitlines())]
    rows = []
    lines = text.split("\n")
    for i, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
            if row is not None and not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError:
            if i == len(lines):  # no newline after it: the writer was stopped in the middle
                break
            raise ValueError(f"{file}:{i}: not a JSON object: {line[:60]!r}") from None
        rows += [row] if row is not None else []
    return rows


def running_mean(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Each value's mean with its neighbours, over a window of `share` of the series: (N,) -> (N,).

    The window is cut at the ends, so the first and last values are means of fewer.
    """
    values = np.asarray(values, np.float64)
    half = int(len(values) * share / 2)
    start = values[0] if len(values) else 0.0  # sums of the differences from it: a constant stays exact
    total = np.concatenate([[0.0], np.cumsum(values - start)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return start + (total[high] - total[low]) / (high - low)


def plot_roc(
    curves: Curve | Mapping[str, Curve],
    file: str | Path | None = None,
    title: str = "",
    marks: Sequence[int] = (10, 100, 1000),
    recall_name: str = "true positive rate",
) -> Figure:
    """Recall against false positives, as FDDB's results are shown; the false positives run logarithmically.

    curves: one, or name -> curve; the legend tells each one's recall at the `marks`. Curves without a
    point are listed with recall 0. file: where to write a PNG; None: only return the figure.
    """
    curves = curves if isinstance(curves, Mapping) else {"": curves}
    figure = new_figure(7, 5)
    ax = figure.add_subplot()
    for i, (name, curve) in enumerate(curves.items()):
        reached = ", ".join(f"{curve.recall_at(m):.3f}" for m in marks)
        ax.step(
            curve.false_positives + 1,  # so that 0 false positives have a place on a logarithmic axis
            curve.recall,
            where="post",
            color=COLOURS[-1 - i % len(COLOURS)],
            label=f"{name}: {reached}" if name else reached,
        )
    for mark in marks:
        ax.axvline(mark + 1, color="grey", linewidth=0.6, linestyle=":")
    ax.set_xscale("log")
    ax.set_xticks([1, *(m + 1 for m in marks)], ["0", *(str(m) for m in marks)])
    ax.minorticks_off()
    ax.set(ylim=(0, 1), xlabel="false positives", ylabel=recall_name, title=title)
    ax.grid(alpha=0.3)
    if curves:
        at = ", ".join(str(m) for m in marks)
        ax.legend(loc="lower right", fontsize=8, title=f"at {at} false positives", title_fontsize=8)
    return _finish(figure, file)


def plot_error_curves(
    errors: np.ndarray | Mapping[str, np.ndarray], file: str | Path | None = None, title: str = "", limit: float = 0.2
) -> Figure:
    """Cumulative error curves: the share of faces whose landmarks are off by at most so much, up to `limit`.

    errors: (N,) of each face as `LandmarkErrors.per_face` has them, infinite for a missed face; or name -> errors.
    The legend tells the mean (NME) of the faces found. file: where to write a PNG; None: only return the figure.
    """
    errors = errors if isinstance(errors, Mapping) else {"": errors}
    figure = new_figure(7, 5)
    ax = figure.add_subplot()
    for i, (name, of_faces) in enumerate(errors.items()):
        x = np.unique([0.0, *of_faces[of_faces < limit], limit])
        words = f"{name}: {as_percent(mean_error(of_faces))}, {np.isinf(of_faces).sum()} missed".removeprefix(": ")
        ax.step(100 * x, cumulative_curve(of_faces, x), where="post", color=COLOURS[-1 - i % len(COLOURS)], label=words)
    ax.set(xlim=(0, 100 * limit), ylim=(0, 1), xlabel="error, % of face size", ylabel="share of faces", title=title)
    ax.grid(alpha=0.3)
    if errors:
        ax.legend(loc="lower right", fontsize=8, title="mean error", title_fontsize=8)
    return _finish(figure, file)


def plot_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str] | None = None,
    colours: str | Sequence[str] = COLOURS[5],
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Show boxes over a picture on matplotlib axes: for lessons, where several panels stand side by side.

    image: (H, W, 3) or (H, W) array; boxes: (N, 4) x1 y1 x2 y2, continuous: pixel column 0 is drawn from 0
    to 1, so a box lies exactly on the borders of its pixels. texts: one a box. colours: one, or one a box.
    ax: where to draw; None: a figure of its own (`ax.figure`).
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    colours = [colours] * len(boxes) if isinstance(colours, str) else list(colours)
    if len(colours) != len(boxes) or (texts is not None and len(texts) != len(boxes)):
        raise ValueError(f"{len(boxes)} boxes need as many texts and colours")
    ax = new_figure(5, 5).add_subplot() if ax is None else ax
    height, width = image.shape[:2]
    ax.imshow(image, cmap="gray" if image.ndim == 2 else None, extent=(0, width, height, 0))
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colours[i], linewidth=1.5))
        if texts is not None:
            ax.text(x1, y1, texts[i], fontsize=8, va="bottom", backgroundcolor=colours[i])
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()
    return ax


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that pyplot knows nothing of."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(figure: Figure, file: str | Path | None) -> Figure:
    if file is not None:
        save_png(figure, file)
    return figure


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font has one small size in older releases."""
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size)


def _is_drawable(box: Sequence[float]) -> bool:
    return all(math.isfinite(v) for v in box) and box[2] > box[0] and box[3] > box[1]


def _draw_points(pen: ImageDraw.ImageDraw, points: np.ndarray, colour: str, radius: float) -> None:
    for x, y in points[np.isfinite(points).all(axis=1)]:  # a missing landmark is NaN
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour, "black")


def _draw_label(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Sequence[float],
    text: str,
    font: ImageFont.FreeTypeFont,
    colour: str,
) -> None:
    """Black on the box's colour, above the box if there is room, else inside it; always in the picture."""
    if not text:
        return
    width = pen.textlength(text, font=font) + 4
    height = sum(font.getmetrics()) + 1
    x = max(0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else max(0, min(box[1], size[1] - height))
    y = min(y, size[1] - height)
    pen.rectangle((x, y, x + width - 1, y + height - 1), colour)
    pen.text((x + 2, y), text, "black", font=font)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def _number_or_text(text: str | None) -> object:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text
