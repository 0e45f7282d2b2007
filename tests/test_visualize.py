"""Pictures and plots: what is drawn where, at every size, and that nothing of the user's is touched."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minidetect.detection.structures import Detections, make_detections
from minidetect.evaluate.average_precision import precision_recall
from minidetect.visualize import (
    COLOURS,
    draw_detections,
    plot_boxes,
    plot_curves,
    plot_roc,
    read_log,
    running_mean,
    save_png,
)

YELLOW = tuple(int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))


def grey(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def is_colour(image, colour):
    return (np.asarray(image) == colour).all(axis=2)


# ---------------------------------------------------------------- drawing into a photo


def test_a_box_is_drawn_on_its_own_border_pixels():
    one = make_detections([[10, 20, 60, 90]], [0.5])
    drawn = is_colour(draw_detections(grey(320, 320), one, show_scores=False), YELLOW)
    rows, columns = np.nonzero(drawn)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (10, 59, 20, 89)
    assert drawn[20, 10:60].all() and drawn[89, 10:60].all() and drawn[20:90, 10].all()
    assert not drawn[21:89, 11:59].any()


def test_the_photo_given_is_not_changed():
    photo = grey(400, 400)
    draw_detections(photo, make_detections([[10, 10, 90, 90]], [0.5]))
    assert (photo == 128).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (64, 48), (480, 640), (3000, 2000)])
def test_the_score_is_legible_at_any_size(size):
    height, width = size
    box = [[0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height]]
    picture = draw_detections(grey(*size), make_detections(box, [0.87]))
    factor = picture.width / width
    assert factor == int(factor) and picture.height / height == factor
    assert max(picture.size) >= 240
    label = is_colour(picture, YELLOW) & ~is_colour(
        draw_detections(grey(*size), make_detections(box, [0.87]), show_scores=False), YELLOW
    )
    rows = np.nonzero(label.any(axis=1))[0]
    assert np.ptp(rows) >= 8
    assert is_colour(picture, (0, 0, 0)).any()  # the letters


def test_sizes_can_be_kept():
    picture = draw_detections(grey(20, 30), make_detections([[2, 2, 9, 9]], [0.5]), min_side=0)
    assert picture.size == (30, 20)


@pytest.mark.parametrize(
    "box", [[-50, -50, 20, 20], [300, 0, 900, 30], [0, 310, 319, 800], [-9, -9, 400, 400]]
)
def test_labels_stay_inside_the_picture(box):
    plain = make_detections([box], [0.5])
    with_label = np.asarray(draw_detections(grey(320, 320), plain))
    without = np.asarray(draw_detections(grey(320, 320), plain, show_scores=False))
    changed = (with_label != without).any(axis=2)
    assert changed.sum() > 100  # a whole label, none of it cut away
    assert changed.any(axis=1).sum() >= 10 and changed.any(axis=0).sum() >= 20


def test_nothing_found_leaves_the_photo_as_it_is():
    picture = draw_detections(grey(400, 400), make_detections([], []))
    assert (np.asarray(picture) == 128).all()


def test_min_score_landmarks_names_and_impossible_boxes():
    points = np.array([[[20, 30], [40, 30], [30, np.nan], [22, 50], [38, 50]]] * 2)
    two = Detections(
        np.float32([[10, 10, 60, 70], [100, 100, 150, 160]]), np.float32([0.9, 0.2]), np.array([1, 2]), points
    )
    photo = grey(400, 400)
    all_drawn = draw_detections(photo, two, label_names={1: "face"})
    best_only = draw_detections(photo, two, min_score=0.5)
    second = tuple(int(COLOURS[1][i : i + 2], 16) for i in (1, 3, 5))
    assert is_colour(all_drawn, second).any() and not is_colour(best_only, second).any()
    assert is_colour(best_only, YELLOW)[30, 20] and is_colour(best_only, YELLOW)[50, 38]  # landmarks
    broken = Detections(np.float32([[5, 5, np.nan, 9], [9, 9, 5, 5]]), np.float32([1, 1]), np.array([1, 1]))
    assert (np.asarray(draw_detections(photo, broken)) == 128).all()


def test_save_png(tmp_path):
    file = tmp_path / "new" / "folder" / "picture.png"
    save_png(draw_detections(grey(300, 400), make_detections([[5, 5, 50, 50]], [0.5])), file)
    with Image.open(file) as picture:
        assert (picture.format, picture.size, picture.mode) == ("PNG", (400, 300), "RGB")
    save_png(grey(5, 6), file)
    with Image.open(file) as picture:
        assert picture.size == (6, 5)


# ---------------------------------------------------------------- training curves


def test_curves_from_rows_have_a_panel_for_each_number(tmp_path):
    rows = [{"step": i, "loss": 1 / (i + 1), "recipe": "x", "lr": 0.1 if i % 2 else None} for i in range(40)]
    rows[3]["loss"] = float("nan")
    figure = plot_curves(rows, tmp_path / "curves.png")
    assert [ax.get_title() for ax in figure.axes] == ["loss", "lr"]
    x, y = figure.axes[0].lines[0].get_data()
    assert len(x) == 39 and 3 not in x and y[0] == 1
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert [ax.get_title() for ax in plot_curves(rows, fields=["lr"]).axes] == ["lr"]


def test_a_log_is_read_as_json_lines_or_csv(tmp_path):
    lines, table = tmp_path / "log.jsonl", tmp_path / "log.csv"
    lines.write_text('{"step": 1, "loss": 0.5}\n\n{"step": 2, "loss": 0.25}\n')
    table.write_text("step,loss,note\n1,0.5,a\n2,0.25,\n")
    assert read_log(lines) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert [(row["step"], row["loss"]) for row in read_log(table)] == [(1, 0.5), (2, 0.25)]
    assert len(plot_curves(table).axes) == len(plot_curves(lines).axes) == 1


def test_a_line_cut_off_by_a_kill_is_passed_over_but_no_other(tmp_path):
    log = tmp_path / "log.jsonl"
    row = json.dumps({"step": 1, "loss": 0.5})
    log.write_text(row + '\n{"step": 2, "lo')
    assert read_log(log) == [{"step": 1, "loss": 0.5}]
    log.write_text('{"step": 2, "lo\n' + row + "\n")
    with pytest.raises(ValueError, match=r"log.jsonl:1: not a JSON object"):
        read_log(log)
    log.write_text("3\n" + row + "\n")
    with pytest.raises(ValueError, match=r"log.jsonl:1: not a JSON object: '3'"):
        read_log(log)


def test_an_empty_log_is_an_error():
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_curves([])
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_curves([{"loss": 1.0}])


def test_running_mean_by_hand():
    values = np.array([0.0, 3.0, 6.0, 9.0, 0.0])
    np.testing.assert_allclose(running_mean(values, share=0.5), [1.5, 3, 6, 5, 4.5])  # one on each side
    np.testing.assert_array_equal(running_mean(values, share=0.0), values)
    assert running_mean(np.zeros(0)).shape == (0,)


# ---------------------------------------------------------------- other plots


def test_roc_with_one_and_several_curves(tmp_path):
    good = precision_recall(np.array([0.9, 0.8, 0.7]), np.array([1, 1, 0], bool), 2)
    empty = precision_recall(np.zeros(0), np.zeros(0, bool), 2)
    figure = plot_roc({"joint": good, "nothing": empty}, tmp_path / "roc.png", title="FDDB")
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["joint: 1.000, 1.000, 1.000", "nothing: 0.000, 0.000, 0.000"]
    x, y = figure.axes[0].lines[0].get_data()
    assert x.tolist() == [1, 1, 2] and y.tolist() == [0.5, 1, 1]
    assert (tmp_path / "roc.png").stat().st_size > 1000
    assert len(plot_roc(good).axes) == 1


def test_boxes_on_axes(tmp_path):
    image = grey(40, 60)
    ax = plot_boxes(image, np.array([[0, 0, 60, 40], [5, 6, 7, 8]]), ["all", "some"], title="two")
    assert [patch.get_bbox().extents.tolist() for patch in ax.patches] == [[0, 0, 60, 40], [5, 6, 7, 8]]
    assert ax.images[0].get_extent() == [0, 60, 40, 0]
    assert plot_boxes(image, np.zeros((0, 4)), ax=ax) is ax
    save_png(ax.figure, tmp_path / "boxes.png")
    with pytest.raises(ValueError, match="2 boxes need as many"):
        plot_boxes(image, np.zeros((2, 4)), texts=["one"])


def test_pyplot_and_its_backend_are_left_alone():
    program = (
        "import sys, minidetect.visualize as v; v.plot_curves([{'step': 1, 'loss': 1.0}]); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
