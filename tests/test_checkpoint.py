"""Arrays on disk: the round trip, files that are not what they should be, and writes that fail half-way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from minidetect.nn import Linear, Module
from minidetect.nn.checkpoint import load_arrays, save_arrays, write_atomically
from minidetect.nn.layers import Conv2d
from minidetect.nn.normalize import BatchNorm2d


class Net(Module):
    """A small model with everything that is saved: parts, a list of parts, a buffer, a bare parameter."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.convs = [Conv2d(3, 4, 3, rng), Conv2d(4, 2, 1, rng, bias=False)]
        self.norm = BatchNorm2d(4)
        self.out = Linear(4, 2, rng)
        self.mean_colour = np.array([1, 2, 3], np.float32)


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------ round trip


def test_arrays_come_back_with_shape_type_and_bits(tmp_path, rng):
    arrays = {
        "x12.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "double": rng.standard_normal(5),
        "patches": rng.integers(0, 256, (2, 4, 4, 3), np.uint8),
        "labels": np.array([-(2**60), 2**60]),
        "flags": np.array([True, False]),
        "scalar": np.float64(1 / 3),
        "empty": np.zeros((0, 4), np.float32),
        "odd": np.array([np.nan, np.inf, -0.0], np.float32),
        "transposed": np.arange(6.0).reshape(2, 3).T,
    }
    save_arrays(tmp_path / "a.npz", arrays, {"step": 7, "rng": {"state": 2**127 + 1}, "name": "Gänse"})
    loaded, meta = load_arrays(tmp_path / "a.npz")
    assert meta == {"step": 7, "rng": {"state": 2**127 + 1}, "name": "Gänse"}
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype and loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes(), name


def test_no_meta_is_an_empty_one_and_numpy_alone_reads_the_file(tmp_path):
    save_arrays(tmp_path / "new" / "folder" / "a.npz", {"x": np.arange(3)})
    assert load_arrays(str(tmp_path / "new" / "folder" / "a.npz"))[1] == {}
    with np.load(tmp_path / "new" / "folder" / "a.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["x"], [0, 1, 2])


def test_saving_twice_replaces_the_file_and_leaves_nothing_else(tmp_path):
    for value in (1, 2):
        save_arrays(tmp_path / "a.npz", {"x": np.array([value])}, {"step": value})
    arrays, meta = load_arrays(tmp_path / "a.npz")
    assert arrays["x"] == 2 and meta == {"step": 2}
    assert os.listdir(tmp_path) == ["a.npz"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of a file exist on Unix only")
def test_a_saved_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "any").write_text("")
    save_arrays(tmp_path / "a.npz", {"x": np.zeros(3)})
    assert (tmp_path / "a.npz").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_model_comes_back_through_a_file(tmp_path):
    saved, other = Net(np.random.default_rng(0)), Net(np.random.default_rng(1))
    saved.norm.running_mean[:] = [1, 2, 3, 4]
    save_arrays(tmp_path / "net.npz", saved.state_dict())
    other.load_state_dict(load_arrays(tmp_path / "net.npz")[0])
    assert other.state_dict().keys() == saved.state_dict().keys()
    for name, array in saved.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)


# ------------------------------------------------------------------ files that are not checkpoints


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file") as error:
            load_arrays(path)
        assert str(path) in one_line(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 100, b"PK\x03\x04", b"not a zip archive\n" * 20, b"\x80\x04\x95\x05.", b"\x93NUMPY\x01\x00"],
    ids=["empty", "zeros", "only a zip's first bytes", "text", "pickle", "broken npy"],
)
def test_a_file_that_is_no_npz_is_named(tmp_path, content):
    path = tmp_path / "weights.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a readable .npz") as error:
        load_arrays(path)
    assert str(path) in one_line(error)


def test_a_single_array_file_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ValueError, match="not a readable .npz") as error:
        load_arrays(tmp_path / "a.npy")
    assert "a.npy" in one_line(error)


def test_every_truncation_is_refused(tmp_path, rng):
    """A zip archive's table stands at its end, so no prefix of the file may pass for a smaller checkpoint."""
    save_arrays(tmp_path / "whole.npz", {"a": rng.standard_normal(40), "b": np.arange(9)}, {"step": 1})
    whole, path = (tmp_path / "whole.npz").read_bytes(), tmp_path / "cut.npz"
    for length in [*range(0, len(whole), 17), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a readable .npz") as error:
            load_arrays(path)
        assert str(path) in one_line(error)


def test_a_flipped_bit_in_an_array_is_noticed(tmp_path):
    save_arrays(tmp_path / "a.npz", {"a": np.full(1000, 7, np.int64)})
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[4000] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="not a readable .npz"):
        load_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_anywhere_is_an_error_or_harmless(tmp_path, rng, save):
    """Whatever is damaged, the caller sees the arrays as they were or one ValueError; nothing else escapes."""
    arrays = {"a": rng.standard_normal(3), "b": np.arange(4)}
    save(tmp_path / "whole.npz", **arrays)
    whole, path = (tmp_path / "whole.npz").read_bytes(), tmp_path / "damaged.npz"
    refused = 0
    for bit in rng.choice(8 * len(whole), 1000, replace=False):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(content)
        try:
            loaded, _ = load_arrays(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            for name in arrays.keys() & loaded.keys():
                np.testing.assert_array_equal(loaded[name], arrays[name])
    assert refused > 500


def test_objects_are_refused_and_never_unpickled(tmp_path):
    class Explosive:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    np.savez(tmp_path / "evil.npz", weight=np.array([Explosive()], object))
    assert not (tmp_path / "executed").exists()
    with pytest.raises(ValueError, match="not a readable .npz") as error:
        load_arrays(tmp_path / "evil.npz")
    assert str(tmp_path / "evil.npz") in one_line(error)
    assert not (tmp_path / "executed").exists()


def test_meta_that_is_no_json_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), __meta__=np.array("{step: 1"))
    with pytest.raises(ValueError, match="not a readable .npz"):
        load_arrays(tmp_path / "a.npz")


# ------------------------------------------------------------------ writes that fail


def old_file(tmp_path):
    path = tmp_path / "run" / "net.npz"
    save_arrays(path, {"x": np.arange(5)}, {"step": 1})
    return path, path.read_bytes()


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("function", ["os.fsync", "os.replace", "numpy.savez"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, function):
    path, before = old_file(tmp_path)
    monkeypatch.setattr(function, no_space)
    with pytest.raises(OSError, match="No space left") as error:
        save_arrays(path, {"x": np.zeros(1000)})
    assert str(path) in one_line(error)
    assert path.read_bytes() == before and os.listdir(path.parent) == ["net.npz"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError, ValueError("a bug in the writer")])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, interruption):
    path, before = old_file(tmp_path)

    def write(file):
        file.write(b"half of the new content")
        raise interruption

    with pytest.raises(interruption if isinstance(interruption, type) else type(interruption)):
        write_atomically(path, write)
    assert path.read_bytes() == before and os.listdir(path.parent) == ["net.npz"]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(OSError, match="could not be written") as error:
        save_arrays(tmp_path / "run" / "net.npz", {"x": np.zeros(3)})
    assert str(tmp_path / "run" / "net.npz") in one_line(error)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process exist on Unix only")
def test_a_real_write_error_in_the_middle(tmp_path):
    """A process that may write 64 kB at most saves 8 MB: the operating system refuses it half-way."""
    path, before = old_file(tmp_path)
    script = textwrap.dedent("""
        import resource, sys
        import numpy as np
        from minidetect.nn.checkpoint import save_arrays
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        try:
            save_arrays(sys.argv[1], {"x": np.ones(1_000_000)})
        except OSError as error:
            print(error)
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert str(path) in done.stdout and "could not be written" in done.stdout
    assert done.stderr == ""
    assert path.read_bytes() == before and os.listdir(path.parent) == ["net.npz"]


# ------------------------------------------------------------------ states that do not fit


@pytest.fixture
def net():
    return Net(np.random.default_rng(0))


def unchanged(net, state, source, says):
    before = {name: array.copy() for name, array in net.state_dict().items()}
    with pytest.raises(ValueError) as error:
        net.load_state_dict(state, source)
    for text in (source, *says):
        assert text in one_line(error)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def changed_state(net):
    """A state that fits, with other values everywhere: if any of it were copied, it would show."""
    return {name: array + 1 for name, array in net.state_dict().items()}


def test_a_fitting_state_is_copied_not_shared(net):
    state = changed_state(net)
    net.load_state_dict(state)
    state["out.bias"][:] = 99
    np.testing.assert_array_equal(net.out.bias.data, [1, 1])
    net.state_dict()["out.bias"][:] = 99
    np.testing.assert_array_equal(net.out.bias.data, [1, 1])


@pytest.mark.parametrize("name", ["convs.0.weight", "out.bias", "norm.running_var", "mean_colour"])
def test_a_missing_array_is_named(net, name):
    state = changed_state(net)
    del state[name]
    unchanged(net, state, "net.npz", [f"missing {name}", "unknown none", "Net"])


def test_an_unknown_array_is_named(net):
    unchanged(net, changed_state(net) | {"convs.7.weight": np.zeros(3)}, "net.npz", ["unknown convs.7.weight"])


@pytest.mark.parametrize("shape", [(2,), (2, 5), (4, 2), (1, 2, 4), ()])
def test_a_misshapen_array_is_named_with_both_shapes(net, shape):
    state = changed_state(net) | {"out.weight": np.zeros(shape, np.float32)}
    unchanged(net, state, "net.npz", ["out.weight", str(shape), "(2, 4)"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["out.weight", "norm.running_mean"])
def test_values_that_are_not_finite_are_refused(net, name, value):
    state = changed_state(net)
    state[name].reshape(-1)[-1] = value
    unchanged(net, state, "net.npz", [name, "not finite"])


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_value_too_large_for_float32_is_refused(net):
    state = changed_state(net)
    state["out.weight"] = np.full((2, 4), 1e300)
    unchanged(net, state, "net.npz", ["out.weight", "not finite"])


def test_text_in_the_place_of_numbers_is_refused(net):
    unchanged(net, changed_state(net) | {"out.bias": np.array(["0.5", "0.5"])}, "net.npz", ["out.bias"])


def test_weights_of_the_wrong_model_list_a_few_names(tmp_path, net):
    save_arrays(tmp_path / "linear.npz", Linear(3, 2, np.random.default_rng(0)).state_dict())
    path = str(tmp_path / "linear.npz")
    says = ["not weights of Net", "missing convs.0.bias, convs.0.weight, convs.1.weight and 7 more"]
    unchanged(net, load_arrays(path)[0], path, [*says, "unknown bias, weight"])
