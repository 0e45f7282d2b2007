"""`minidetect detect | demo | models`: what they write and print, and what they say of what they cannot use."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from command import run, untrained
from PIL import Image

import minidetect
from minidetect import api, cli, console
from minidetect.detection.structures import Detections
from minidetect.kernels.dispatch import num_threads

MIN_FACE = ("--min-face", 40)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("weights") / "untrained.npz")


@pytest.fixture
def photo(tmp_path, rng) -> Path:
    """80 x 60 pixels of noise."""
    path = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return path


# --------------------------------------------------------------------------------------------- detect


def test_json_has_the_promised_form_and_what_the_library_finds(weights, photo, tmp_path, capsys):
    file = tmp_path / "new" / "folder" / "found.json"
    done = run(capsys, "detect", photo, "--model", weights, *MIN_FACE, "--threshold", 0, "--json", file)
    assert done.code == 0 and done.err == []
    (entry,) = json.loads(file.read_text())
    assert list(entry) == ["image", "width", "height", "seconds", "detections"]
    assert (entry["image"], entry["width"], entry["height"]) == (str(photo), 80, 60)
    assert isinstance(entry["width"], int) and entry["seconds"] > 0
    (expected,) = minidetect.load(str(weights)).detect([photo], min_face=40, threshold=0.0)
    assert len(entry["detections"]) == len(expected.boxes) > 0
    for found, box, score in zip(entry["detections"], expected.boxes, expected.scores, strict=True):
        assert list(found) == ["box", "score", "label"]
        np.testing.assert_allclose(found["box"], box, atol=0.006)
        assert found["score"] == pytest.approx(score, abs=6e-5) and found["label"] == "face"


def test_landmarks_are_written_where_a_model_has_them():
    points = np.arange(10, dtype=np.float32).reshape(1, 5, 2)
    found = Detections(np.array([[1, 2, 3, 4.004]], np.float32), np.array([0.5]), np.array([1]), points)
    entry = console.as_json(Path("a.jpg"), np.zeros((6, 8, 3), np.uint8), found, 0.25)
    assert entry == {
        "image": "a.jpg", "width": 8, "height": 6, "seconds": 0.25,
        "detections": [
            {
                "box": [1.0, 2.0, 3.0, 4.0], "score": 0.5, "label": "face",
                "landmarks": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0], [8.0, 9.0]],
            }
        ],
    }


def test_printed_are_the_faces_and_on_demand_the_stages(weights, photo, capsys):
    done = run(capsys, "detect", photo, "--model", weights, *MIN_FACE, "--threshold", 0, "--stages")
    lines = done.out.splitlines()
    (expected,) = minidetect.load(str(weights)).detect([photo], min_face=40, threshold=0.0)
    assert lines[0].startswith(f"{photo}: {len(expected.boxes)} face") and lines[0].endswith(" ms")
    assert lines[1].split() == ["score", "x1", "y1", "x2", "y2"]
    assert [float(line.split()[0]) for line in lines[2:-4]] == pytest.approx(expected.scores, abs=6e-4)
    assert [line.split()[0] for line in lines[-4:]] == ["x12", "x24", "x48", "nms"]


def test_nothing_found_is_no_error(weights, photo, tmp_path, capsys):
    for option in (("--min-face", 1e9), ("--threshold", 1)):
        done = run(capsys, "detect", photo, "--model", weights, *option, "--json", tmp_path / "found.json")
        assert done.code == 0 and done.err == [] and "0 faces" in done.out and len(done.out.splitlines()) == 1
        assert json.loads((tmp_path / "found.json").read_text())[0]["detections"] == []


def test_one_face_is_not_faces():
    def found(n):
        return Detections(np.zeros((n, 4), np.float32), np.zeros(n), np.ones(n, np.int64), None)

    assert [console.counted(found(n)) for n in (0, 1, 2)] == ["0 faces", "1 face", "2 faces"]


SAVE = {  # file name -> how to save a 40 x 30 pixel gradient under it
    "grey.png": lambda image, path: image.convert("L").save(path),
    "bits.png": lambda image, path: image.convert("1").save(path),
    "palette.png": lambda image, path: image.convert("P").save(path),
    "clear.gif": lambda image, path: image.convert("P").save(path, transparency=0),
    "alpha.png": lambda image, path: image.convert("RGBA").save(path),
    "grey_alpha.png": lambda image, path: image.convert("LA").save(path),
    "cmyk.jpg": lambda image, path: image.convert("CMYK").save(path),
    "photo.webp": lambda image, path: image.save(path),
    "deep.png": lambda image, path: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path),
}


@pytest.mark.parametrize("name", SAVE)
def test_every_kind_of_image(name, weights, tmp_path, capsys):
    gradient = np.linspace(0, 255, 30 * 40 * 3).reshape(30, 40, 3).astype(np.uint8)
    SAVE[name](Image.fromarray(gradient), tmp_path / name)
    done = run(capsys, "detect", tmp_path / name, "--model", weights, "--min-face", 20, "--json", tmp_path / "j.json")
    (entry,) = json.loads((tmp_path / "j.json").read_text())
    assert done.code == 0 and done.err == [] and (entry["width"], entry["height"]) == (40, 30)


def test_a_photo_held_sideways_is_turned(weights, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "grey").save(tmp_path / "turned.jpg", exif=exif)
    run(capsys, "detect", tmp_path / "turned.jpg", "--model", weights, *MIN_FACE, "--json", tmp_path / "j.json")
    (entry,) = json.loads((tmp_path / "j.json").read_text())
    assert (entry["width"], entry["height"]) == (30, 40)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 11), (12, 12)])
def test_tiny_and_thin_images(size, weights, tmp_path, capsys):
    Image.new("RGB", size, "grey").save(tmp_path / "thin.png")
    for min_face in (4, 24):
        done = run(capsys, "detect", tmp_path / "thin.png", "--model", weights, "--min-face", min_face)
        assert done.code == 0 and done.err == []


# ---------------------------------------------------------------------------------------- bad images


def make_bad(name: str, path: Path, photo: Path) -> None:
    if name == "truncated.jpg":
        Image.open(photo).save(path, quality=95)
        path.write_bytes(path.read_bytes()[:1500])
    elif name == "huge.png":
        Image.new("1", (20_000, 20_000)).save(path)
    elif name == "folder.jpg":
        path.mkdir()
    elif name == "text.jpg":
        path.write_text("not a picture")
    elif name == "empty.jpg":
        path.touch()
    else:
        assert name == "missing.jpg"


BAD = {
    "truncated.jpg": "truncated", "text.jpg": "not an image", "empty.jpg": "empty", "missing.jpg": "no such file",
    "folder.jpg": "is a folder", "huge.png": "too large",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_costs_one_line_and_the_others_are_processed(name, weights, photo, tmp_path, capsys):
    bad, file = tmp_path / name, tmp_path / "found.json"
    make_bad(name, bad, photo)
    other = tmp_path / "other.png"
    other.write_bytes(photo.read_bytes())
    draw = ("--draw", tmp_path / "drawn")
    done = run(capsys, "detect", photo, bad, other, "--model", weights, *MIN_FACE, "--json", file, *draw)
    assert done.code == 2
    (line,) = done.err
    assert line.count(str(bad)) == 1 and BAD[name] in line
    assert [entry["image"] for entry in json.loads(file.read_text())] == [str(photo), str(other)]
    assert sorted(os.listdir(tmp_path / "drawn")) == ["other.png", "photo.png"]


def test_only_bad_images_make_an_empty_list_and_no_traceback(weights, tmp_path):
    """The whole program, as a script would call it."""
    (tmp_path / "a.jpg").write_text("not a picture")
    command = [sys.executable, "-m", "minidetect", "detect", "a.jpg", "b.jpg", "--model", str(weights), "--json", "j"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    first, second = (line for line in done.stderr.splitlines() if "compiling the kernels" not in line)
    assert first.startswith("minidetect: a.jpg: not an image") and second.startswith("minidetect: b.jpg: no such file")
    assert json.loads((tmp_path / "j").read_text()) == []


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device", "drawn/photo.png")])
def test_a_failure_with_one_image_costs_only_that_one(error, weights, photo, tmp_path, capsys, monkeypatch):
    def fail_first(image, found, file, names, draw=console.draw):
        if file.stem == "photo":
            raise error
        draw(image, found, file, names)

    monkeypatch.setattr(cli, "draw", fail_first)
    other = tmp_path / "other.png"
    other.write_bytes(photo.read_bytes())
    done = run(capsys, "detect", photo, other, "--model", weights, *MIN_FACE, "--draw", tmp_path / "drawn")
    assert done.code == 2 and os.listdir(tmp_path / "drawn") == ["other.png"]
    (line,) = done.err
    assert line.startswith(f"minidetect: {photo}: ") and ("MemoryError" in line or "No space left" in line)


def test_a_name_that_is_no_text_is_shown_and_written_escaped(weights, photo, tmp_path):
    if sys.platform != "linux":
        pytest.skip("only Linux lets a file's name be any bytes")
    name = b"odd\xff\n.png"
    os.rename(photo, os.fsencode(tmp_path) + b"/" + name)
    command = [sys.executable, "-m", "minidetect", "detect", name, b"not\xff.png", "--model", weights, "--json", "j"]
    done = subprocess.run([*command, "--min-face", "40"], capture_output=True, cwd=tmp_path)
    assert done.returncode == 2 and b"odd\\udcff" in done.stdout
    assert [line for line in done.stderr.splitlines() if b"compiling" not in line] == [
        rb"minidetect: not\udcff.png: no such file"
    ]
    assert os.fsencode(json.loads((tmp_path / "j").read_text())[0]["image"]) == name


# -------------------------------------------------------------------------------------------- drawing


def test_pictures_are_drawn_and_photos_left_alone(weights, photo, tmp_path, capsys):
    before = photo.read_bytes()
    run(capsys, "detect", photo, "--model", weights, *MIN_FACE, "--threshold", 0, "--draw", tmp_path / "drawn")
    drawn = np.asarray(Image.open(tmp_path / "drawn" / "photo.png"))
    assert drawn.shape == (240, 320, 3)  # enlarged by 4, for the labels' sake
    assert (drawn[::4, ::4] != np.asarray(Image.open(photo))).any()
    assert photo.read_bytes() == before


def test_no_drawing_takes_the_place_of_another_or_of_a_photo(tmp_path):
    names = ["a/photo.jpg", "b/photo.jpg", "b/photo.png", "c/photo-2.jpg", "out/other.png", "a/photo.jpg"]
    images = [tmp_path / name for name in names]
    files = console.drawing_files(images, tmp_path / "out")
    assert [file.name for file in files] == [
        "photo.png", "photo-2.png", "photo-3.png", "photo-2-2.png", "other-2.png", "photo-4.png",
    ]
    assert {file.parent for file in files} == {tmp_path / "out"}
    assert console.drawing_files(images, None) == [None] * 6


def test_drawing_beside_the_photo_does_not_overwrite_it(weights, photo, capsys):
    before = photo.read_bytes()
    done = run(capsys, "detect", photo, "--model", weights, *MIN_FACE, "--draw", photo.parent)
    assert done.code == 0 and photo.read_bytes() == before and (photo.parent / "photo-2.png").is_file()


# ------------------------------------------------------------------------------ places and options


@pytest.mark.parametrize(
    "option", [("--json", "file/found.json"), ("--json", "file/b/found.json"), ("--json", "folder"),
               ("--draw", "file"), ("--draw", "file/b")],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(option, weights, photo, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    done = run(capsys, "detect", photo, "--model", weights, *MIN_FACE, option[0], tmp_path / option[1])
    assert done.code == 2 and done.out == ""
    (line,) = done.err
    assert str(tmp_path / option[1].split("/found")[0]) in line
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_without_permission_is_refused_before_the_work(weights, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # to root, every folder is open
    for option in (("--json", tmp_path / "found.json"), ("--draw", tmp_path)):
        done = run(capsys, "detect", photo, "--model", weights, *option)
        assert done.code == 2 and done.out == "" and done.err == [f"minidetect: {tmp_path}: may not be written to"]


@pytest.mark.parametrize(
    "option, reason",
    [
        (("--min-face", "0"), "at least 4"),
        (("--min-face", "-3"), "at least 4"),
        (("--min-face", "nan"), "at least 4"),
        (("--min-face", "inf"), "number of pixels"),
        (("--min-face", "big"), "number of pixels"),
        (("--threshold", "2"), "from 0 to 1"),
        (("--threshold", "-0.1"), "from 0 to 1"),
        (("--threshold", "nan"), "from 0 to 1"),
        (("--threads", "0"), "at least 1"),
        (("--threads", "-1"), "at least 1"),
        (("--threads", "two"), "at least 1"),
        (("--threads", "²"), "at least 1"),
        (("--colour", "red"), "--colour"),
    ],
)
def test_senseless_options(option, reason, photo, capsys):
    done = run(capsys, "detect", photo, *option)
    assert done.code == 2 and done.out == "" and reason in done.err[-1]


def test_a_command_is_needed(capsys):
    for arguments in ((), ("paint",), ("detect",)):
        assert run(capsys, *arguments).code == 2
    assert run(capsys, "--version").out.strip() == minidetect.__version__


@pytest.mark.parametrize("asked, used", [(1, 1), (100_000, os.cpu_count())])
def test_threads_are_limited_before_numpy_is_loaded(asked, used, weights, photo):
    """A hundred thousand would not start; more than processors only wait for each other."""
    code = "import sys; from minidetect.cli import main; code = main(sys.argv[1:]); import numba, os; " \
        "print('threads', numba.get_num_threads(), os.environ['OPENBLAS_NUM_THREADS']); sys.exit(code)"
    command = [sys.executable, "-c", code, "detect", str(photo), "--model", str(weights), "--threads", str(asked)]
    done = subprocess.run([*command, "--min-face", "60"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"threads {used} {used}"


def test_threads_called_from_python_leave_the_environment_alone(weights, photo, capsys):
    """Numba refuses to compile once NUMBA_NUM_THREADS differs from the threads it has started."""
    import numba

    before = dict(os.environ)
    with num_threads(numba.get_num_threads()):  # which puts the threads back
        assert run(capsys, "detect", photo, "--model", weights, *MIN_FACE, "--threads", 1).code == 0
        assert numba.get_num_threads() == 1 and dict(os.environ) == before
        assert run(capsys, "detect", photo, "--model", weights, *MIN_FACE, "--threads", 9999).code == 0


def test_interrupt_and_a_reader_who_leaves(weights, photo, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli, "timed_detection", interrupt)
        done = run(capsys, "detect", photo, "--model", weights)
    assert done.code == 130 and done.err == ["minidetect: interrupted"]
    command = [sys.executable, "-u", "-m", "minidetect", "detect", *[str(photo)] * 20, "--model", str(weights)]
    with subprocess.Popen([*command, "--min-face", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert b"Error" not in process.stderr.read()
    assert process.returncode == 141


# --------------------------------------------------------------------------------- models and demo


def test_a_model_that_is_not_there_or_not_one(weights, photo, tmp_path, capsys, monkeypatch):
    shipped = untrained(tmp_path / "shipped" / "facecraft.npz")
    monkeypatch.setattr(api, "WEIGHTS", shipped.parent)
    (tmp_path / "cut.npz").write_bytes(shipped.read_bytes()[:-500])
    np.savez(tmp_path / "other.npz", kernel=np.zeros(3))
    reasons = {"nope": "(facecraft)", tmp_path: "(facecraft)", photo: "", tmp_path / "cut.npz": "not a readable .npz",
               tmp_path / "other.npz": "not the weights of a model"}
    for model, reason in reasons.items():
        done = run(capsys, "detect", photo, "--model", model)
        assert done.code == 2 and done.out == ""
        (line,) = done.err
        assert str(model) in line and reason in line
    assert run(capsys, "detect", photo, *MIN_FACE).code == 0  # the default's name is facecraft


def test_a_file_that_claims_to_be_larger_than_memory(photo, tmp_path, capsys):
    """An .npz whose header promises a billion times a thousand numbers."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("kernel.npy", head.getvalue() + bytes(16))
    done = run(capsys, "detect", photo, "--model", tmp_path / "bomb.npz")
    assert done.code == 2 and done.out == "" and len(done.err) == 1


def test_models_are_listed_with_size_score_and_card(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(api, "WEIGHTS", tmp_path)
    done = run(capsys, "models")
    assert done.code == 0 and done.out.count("\n") == 1 and "no trained model ships" in done.out
    file = untrained(tmp_path / "small.npz")
    name, size, unit, score, _, card = run(capsys, "models").out.split()
    assert (name, unit, score, card) == ("small", "kB", "none", str(tmp_path / "small.md"))
    assert int(size) == round(file.stat().st_size / 1000)


def test_demo_writes_two_pictures_and_a_table(tmp_path, capsys, monkeypatch):
    """With weights that find nothing; what the shipped ones find is in test_shipped_weights.py."""
    monkeypatch.setattr(api, "WEIGHTS", tmp_path)
    assert "none in this copy" in run(capsys, "demo", "--out", tmp_path / "out").err[0]
    untrained(tmp_path / "facecraft.npz", thresholds=(0.999, 0.999, 0.999))
    done = run(capsys, "demo", "--out", tmp_path / "out")
    assert done.code == 0 and done.err == []
    assert "grace_hopper (512 x 600): 0 faces" in done.out and "drawn_crowd (640 x 480): 0 faces" in done.out
    assert sorted(os.listdir(tmp_path / "out")) == ["drawn_crowd.png", "grace_hopper.png"]
    assert Image.open(tmp_path / "out" / "grace_hopper.png").size == (512, 600)
    (tmp_path / "file").touch()
    done = run(capsys, "demo", "--out", tmp_path / "file")
    assert done.code == 2 and done.out == "" and str(tmp_path / "file") in done.err[0]


def test_warnings_are_one_line_without_source_and_only_here(weights, photo, capsys, monkeypatch):
    def warn(*arguments):
        warnings.warn("two\nlines", stacklevel=1)
        raise ValueError("and an error")

    before = warnings.showwarning
    monkeypatch.setattr(cli, "timed_detection", warn)
    done = run(capsys, "detect", photo, "--model", weights)
    assert done.err == ["minidetect: warning: two lines", f"minidetect: {photo}: and an error"]
    assert warnings.showwarning is before
