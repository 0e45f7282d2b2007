"""Both formats of torch.save: files made here without torch, files made by torch, damaged ones and hostile ones."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_files import (
    KINDS,
    Code,
    call,
    emit,
    name,
    of_array,
    old_head,
    op,
    program,
    save,
    storage,
    tensor,
    write_old,
    write_zip,
)

from minidetect.nn import torch_file
from minidetect.nn.torch_file import read_state_dict

REFERENCE = [f"mtcnn/{net}net.pt" for net in "pro"] + [f"extd/EXTD_{width}.pth" for width in (32, 48, 64)]
NUMBERS = np.arange(6, dtype=np.float32)


def example(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Every dtype, 0-d and empty arrays, numbers whose bits are easily lost."""
    arrays = {dtype: rng.integers(0, 2, (2, 3)).astype(dtype) for dtype in KINDS}
    arrays["conv.weight"] = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    arrays["bn.num_batches_tracked"] = np.array(2**40, np.int64)
    arrays["odd"] = np.array([np.nan, np.inf, -0.0, 1e-45], np.float32)
    arrays["empty"] = np.zeros((0, 4), np.float32)
    arrays["Gänse"] = np.array([], np.int64)
    return arrays


def assert_same(read: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Same names in the same order, same dtypes, shapes and bits; and arrays of one's own."""
    assert list(read) == list(expected)
    for key, array in expected.items():
        assert type(read[key]) is np.ndarray and read[key].dtype == array.dtype, key
        assert read[key].shape == array.shape and read[key].tobytes() == array.tobytes(), key
        assert read[key].flags.c_contiguous and read[key].flags.writeable and read[key].flags.owndata, key


def refusal(path: Path, key: str | None = None, **settings: int) -> str:
    with pytest.raises(ValueError) as error:
        read_state_dict(path, key, **settings)
    message = str(error.value)
    assert type(error.value) is ValueError and message.startswith(f"{path}: ") and "\n" not in message
    assert len(message) < len(str(path)) + 1500
    return message[len(f"{path}: ") :]


def zipped(path: Path, value: object, storages: dict[str, bytes], order: bytes | None = b"little") -> Path:
    return write_zip(path, program(value), storages, order)


# ------------------------------------------------------------------ what comes back


@pytest.mark.parametrize("old", [False, True])
def test_arrays_come_back_with_names_shapes_types_and_bits(tmp_path, rng, old):
    arrays = example(rng)
    path = save(tmp_path / "w.pt", arrays, old)
    assert_same(read_state_dict(path), arrays)
    assert_same(read_state_dict(str(path)), arrays)


def test_views_of_one_storage(tmp_path):
    """[0 1 2 3 4 5] seen as rows, transposed, from the third on, every other one, one number many times."""
    row = storage("FloatStorage", "7", 6)
    views = {
        "rows": tensor(row, 0, (2, 3), (3, 1)),
        "transposed": tensor(row, 0, (3, 2), (1, 3)),
        "tail": tensor(row, 3, (3,), (1,)),
        "every other": tensor(row, 1, (3,), (2,)),
        "overlapping": tensor(row, 0, (3, 2), (1, 1)),
        "repeated": tensor(row, 5, (2, 2), (0, 0)),
        "one": tensor(row, 2, (), ()),
        "any stride": tensor(row, 5, (1, 1), (2**62, 99)),
        "none": tensor(row, 99, (0, 3), (3, 1)),
    }
    expected = {
        "rows": [[0, 1, 2], [3, 4, 5]], "transposed": [[0, 3], [1, 4], [2, 5]], "tail": [3, 4, 5],
        "every other": [1, 3, 5], "overlapping": [[0, 1], [1, 2], [2, 3]], "repeated": [[5, 5], [5, 5]], "one": 2,
        "any stride": [[5]], "none": np.zeros((0, 3)),
    }  # fmt: skip
    read = read_state_dict(zipped(tmp_path / "w.pt", views, {"7": NUMBERS.tobytes()}))
    assert_same(read, {key: np.array(value, np.float32) for key, value in expected.items()})
    read["rows"][...] = -1  # copies: the other views stay as they are
    assert read["tail"].tolist() == [3, 4, 5]
    old = write_old(tmp_path / "old.pt", program(views), {"7": (6, NUMBERS.tobytes())})
    assert read_state_dict(old)["every other"].tolist() == [1, 3, 5]


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
    """1.5 is 0x3FC00000, -2 is 0xC0000000, infinity 0x7F800000."""
    row = storage("BFloat16Storage", "0", 3)
    value = {"x": tensor(row, 0, (3,), (1,)), "scalar": tensor(row, 1, (), ())}
    raw = np.array([0x3FC0, 0xC000, 0x7F80], "<u2").tobytes()
    read = read_state_dict(zipped(tmp_path / "w.pt", value, {"0": raw}))
    assert_same(read, {"x": np.array([1.5, -2, np.inf], np.float32), "scalar": np.array(-2, np.float32)})


def test_bool_is_zero_or_not(tmp_path):
    value = {"x": tensor(storage("BoolStorage", "0", 3), 0, (3,), (1,))}
    read = read_state_dict(zipped(tmp_path / "w.pt", value, {"0": b"\x00\x01\x02"}))
    assert_same(read, {"x": np.array([False, True, True])})


@pytest.mark.parametrize(
    ("kind", "stored", "expected"),
    [
        ("FloatStorage", np.array([1.5, -2], np.float32), np.array([1.5, -2], np.float32)),
        ("LongStorage", np.array([1, -(2**40)]), np.array([1, -(2**40)])),
        ("BFloat16Storage", np.array([0x3FC0, 0xC000], np.uint16), np.array([1.5, -2], np.float32)),
        ("BoolStorage", np.array([0, 1], np.uint8), np.array([False, True])),
    ],
)
def test_both_byte_orders_of_the_archive(tmp_path, kind, stored, expected):
    value = {"x": tensor(storage(kind, "0", 2), 0, (2,), (1,))}
    little, big = (stored.astype(stored.dtype.newbyteorder(order)).tobytes() for order in "<>")
    for order, raw in ((b"little", little), (b"big", big), (None, little)):
        assert_same(read_state_dict(zipped(tmp_path / "w.pt", value, {"0": raw}, order)), {"x": expected})


def test_other_byte_orders_are_refused(tmp_path):
    middle = zipped(tmp_path / "w.pt", {}, {}, b"middle")
    assert refusal(middle) == "byteorder is b'middle' instead of b'little' or b'big'"
    old = write_old(tmp_path / "o.pt", program({}), {}, old_head(little=False))
    assert refusal(old) == "not written on a little-endian machine"


@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_of_a_training_run_needs_a_key(tmp_path, old):
    weights = OrderedDict(w=of_array(NUMBERS, "0", old))
    moments = {"state": {0: {"step": 3, "m": of_array(NUMBERS, "1", old)}}, "param_groups": [{"lr": 0.1}]}
    value = program({"epoch": 7, "state_dict": weights, "optimizer": moments, "best": None})
    raw, other = NUMBERS.tobytes(), (-NUMBERS).tobytes()
    if old:
        path = write_old(tmp_path / "w.pt", value, {"0": (6, raw), "1": (6, other)})
    else:
        path = write_zip(tmp_path / "w.pt", value, {"0": raw, "1": other})
    assert_same(read_state_dict(path, "state_dict"), {"w": NUMBERS})
    choose = "choose one with key=: 'state_dict', 'optimizer' (of 'epoch', 'state_dict', 'optimizer', 'best')"
    assert refusal(path) == f"a dict of dicts; {choose}"
    assert refusal(path, "model").startswith("no 'model'; its keys: 'epoch', 'state_dict', 'optimizer', 'best'; d")
    assert refusal(path, "epoch").startswith("entry 'epoch' is int, not a dict of tensors; its keys: ")
    assert refusal(path, "optimizer") == "optimizer: 'state' is dict instead of a tensor"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1], "holds list, not a dict of tensors"),
        (None, "holds NoneType, not a dict"),
        (of_array(NUMBERS, "0"), "holds a tensor, not a dict"),
        (storage("FloatStorage", "0", 6), "holds a storage, not a dict"),
        ({"a": of_array(NUMBERS, "0"), "epoch": 3}, "'epoch' is int instead of a tensor"),
        ({3: of_array(NUMBERS, "0")}, "a tensor has the name 3, an int instead of str"),
        ({f"{i}" * 99: {} for i in range(20)}, "and 12 more"),
    ],
)
def test_what_is_no_flat_dict_of_tensors_is_refused(tmp_path, value, words):
    assert words in refusal(zipped(tmp_path / "w.pt", value, {"0": NUMBERS.tobytes()}))


def test_a_dict_in_itself_is_refused(tmp_path):
    start = op("EMPTY_DICT") + op("BINPUT", b"\x00")
    itself = Code(start + emit("model") + op("BINGET", b"\x00") + op("SETITEM"))
    path = zipped(tmp_path / "w.pt", itself, {})
    assert "choose one with key=: 'model'" in refusal(path)
    assert refusal(path, "model") == "model: 'model' is dict instead of a tensor"


def test_an_empty_state_dict(tmp_path):
    assert read_state_dict(save(tmp_path / "w.pt", {}, False)) == {}
    assert read_state_dict(save(tmp_path / "o.pt", {}, True)) == {}


# ------------------------------------------------------------------ damaged files


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path)
    path = tmp_path / "w.pt"
    for content in (b"", b"\x89HDF\r\n\x1a\n", b"hello", pickle.dumps({"a": 1}, 0)):
        path.write_bytes(content)
        assert "neither of torch's two formats" in refusal(path)
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps({"a": 1}, protocol))
        assert refusal(path) == "a pickle, but not one of torch's: the magic number is missing"
    np.savez(tmp_path / "w.npz", a=NUMBERS)
    assert "not one of torch's: no data.pkl in one folder ('a.npy')" in refusal(tmp_path / "w.npz")


@pytest.mark.parametrize("old", [False, True])
def test_a_file_cut_anywhere_is_refused(tmp_path, old):
    arrays = {"a": NUMBERS, "b": np.array(3)}
    whole = save(tmp_path / "w.pt", arrays, old).read_bytes()
    for end in range(0, len(whole), 1 if old else 3):
        (tmp_path / "cut.pt").write_bytes(whole[:end])
        refusal(tmp_path / "cut.pt")


def test_a_changed_number_is_noticed_where_there_is_a_checksum(tmp_path):
    whole = save(tmp_path / "w.pt", {"a": NUMBERS}, False).read_bytes()
    (tmp_path / "w.pt").write_bytes(whole.replace(NUMBERS.tobytes(), (NUMBERS + 1).tobytes()))
    assert "archive/data/0 cannot be read (Bad CRC-32" in refusal(tmp_path / "w.pt")


def test_an_entry_must_be_as_long_as_its_storage(tmp_path):
    value = {"a": of_array(NUMBERS, "0")}
    for content in (b"", bytes(23), bytes(25)):
        words = f"archive/data/0 has {len(content)} bytes, the tensors in it say 24"
        assert refusal(zipped(tmp_path / "w.pt", value, {"0": content})) == words
    assert refusal(zipped(tmp_path / "w.pt", value, {"1": bytes(24)})) == "the archive has no entry 'archive/data/0'"
    huge = {"a": tensor(storage("FloatStorage", "0", 2**30), 0, (1,), (1,))}
    assert "its storages claim 4294967296 bytes" in refusal(zipped(tmp_path / "w.pt", huge, {"0": bytes(24)}))


def test_an_archive_with_odd_entries_is_refused(tmp_path):
    body = program({"a": of_array(NUMBERS, "0")})

    def archive(*names: str, compression: int = zipfile.ZIP_STORED, content: bytes = body) -> Path:
        with zipfile.ZipFile(tmp_path / "w.pt", "w", compression) as file:
            for each in names:
                file.writestr(zipfile.ZipInfo(each) if compression == 0 else each, content)
        return tmp_path / "w.pt"

    assert "an entry named 'a/../../x'" in refusal(archive("a/data.pkl", "a/../../x"))
    assert "an entry named '/a/x'" in refusal(archive("a/data.pkl", "/a/x"))
    assert "an entry named 'a\\\\x'" in refusal(archive("a/data.pkl", "a\\x"))
    assert "no data.pkl in one folder" in refusal(archive("a/data.pkl", "b/data/0"))
    assert "no data.pkl in one folder" in refusal(archive("data.pkl"))
    assert "no data.pkl in one folder" in refusal(archive("a/b/data.pkl"))
    assert "no data.pkl" in refusal(archive("a/version"))
    assert "a TorchScript archive" in refusal(archive("a/data.pkl", "a/constants.pkl", "a/code/__torch__.py"))
    assert "a/data.pkl is compressed" in refusal(archive("a/data.pkl", compression=zipfile.ZIP_DEFLATED))
    assert "a/data.pkl goes on for 3 bytes" in refusal(archive("a/data.pkl", content=body + b"abc"))
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive("a/data.pkl", "a/x", "a/x")
    assert refusal(tmp_path / "w.pt") == "two entries of the archive have one name"


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    """A million zeros in a thousand bytes."""
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as file:
        value = {"a": tensor(storage("ByteStorage", "0", 2**20), 0, (1,), (1,))}
        file.writestr(zipfile.ZipInfo("a/data.pkl"), program(value))
        file.writestr("a/data/0", bytes(2**20))
    assert "claim 1048576 bytes, the file has" in refusal(tmp_path / "w.pt")


def test_an_archive_has_a_largest_number_of_entries(tmp_path, monkeypatch):
    path = save(tmp_path / "w.pt", {"a": NUMBERS}, False)
    monkeypatch.setattr(torch_file, "MAX_ENTRIES", 4)  # data.pkl, byteorder, data/0, version
    assert_same(read_state_dict(path), {"a": NUMBERS})
    monkeypatch.setattr(torch_file, "MAX_ENTRIES", 3)
    assert refusal(path) == "an archive of more than 3 entries"


def test_what_takes_more_than_max_bytes_is_refused(tmp_path):
    """One number, seen as 10**12 of them: the file is small, the arrays would not be."""
    value = {"a": tensor(storage("FloatStorage", "0", 1), 0, (10**6, 10**6), (0, 0))}
    path = zipped(tmp_path / "w.pt", value, {"0": bytes(4)})
    assert refusal(path) == "its tensors take 4000000000000 bytes, more than max_bytes=4294967296"
    path = save(tmp_path / "w.pt", {"a": NUMBERS}, False)
    size = path.stat().st_size
    assert refusal(path, max_bytes=size - 1) == f"{size} bytes, more than max_bytes={size - 1}"
    assert_same(read_state_dict(path, max_bytes=size), {"a": NUMBERS})


def test_the_old_format_is_checked_piece_by_piece(tmp_path):
    path, body, raw = tmp_path / "w.pt", program({"a": of_array(NUMBERS, "0", old=True)}), NUMBERS.tobytes()

    def old(rows: dict[str, tuple[int, bytes]], *, tail: bytes = b"", **head: object) -> str:
        write_old(path, body, rows, old_head(**head))
        path.write_bytes(path.read_bytes() + tail)
        return refusal(path)

    assert old({"0": (6, raw)}, magic=0x1950A86A20F9469CFC6D) == (
        "a pickle, but not one of torch's: the magic number is missing"
    )
    assert old({"0": (6, raw)}, protocol=1002) == "torch's old format has protocol 1001, this file another one"
    for numel in (5, 7, -1, 2**62):
        assert old({"0": (numel, raw)}) == f"storage '0' has {numel} numbers, its tensors say 6"
    assert old({"0": (6, raw[:-1])}) == "ends within storage '0'"
    assert old({"0": (6, raw)}, tail=b"xy") == "2 bytes are left over at the end"
    for rows in ({}, {"1": (6, raw)}, {"0": (6, raw), "1": (6, raw)}):
        assert old(rows) == "the tensors are in 1 storages, the list has others"
    numbered = old_head() + body + program([0]) + struct.pack("<q", 6) + raw
    path.write_bytes(numbered)
    assert refusal(path) == "the list of storages is no list of strings"
    path.write_bytes(old_head() + body + program(["0", "0"]) + (struct.pack("<q", 6) + raw) * 2)
    assert refusal(path) == "the tensors are in 1 storages, the list has others"


def test_too_little_memory_is_told_by_name(tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        raise MemoryError

    path = save(tmp_path / "w.pt", {"a": NUMBERS}, False)
    monkeypatch.setattr(torch_file, "to_array", fail)
    assert refusal(path) == "needs more memory than there is"


# ------------------------------------------------------------------ hostile files


@pytest.mark.parametrize("old", [False, True])
def test_a_hostile_pickle_in_either_format_is_refused_and_does_nothing(tmp_path, old):
    flag = tmp_path / "flag"
    evil = call(name("builtins.eval"), f"open({str(flag)!r}, 'w').close()")
    text = program(OrderedDict(a=of_array(NUMBERS, "0", old), b=evil))
    path = tmp_path / "w.pt"
    if old:
        write_old(path, text, {"0": (6, NUMBERS.tobytes())})
    else:
        write_zip(path, text, {"0": NUMBERS.tobytes()})
    words = "the global 'builtins.eval' is not one that weights need (opcode GLOBAL at byte "
    assert words in refusal(path) and "Nothing from the file was executed." in refusal(path)
    assert not flag.exists()
    pickle.loads(program(evil))  # it is no dud
    assert flag.exists()


def test_the_small_pickles_of_the_old_format_are_read_by_the_same_machine(tmp_path):
    evil, body = call(name("builtins.eval"), "1"), program({})
    for head in (old_head(magic=evil), old_head(protocol=evil), old_head(little=evil)):
        assert "'builtins.eval'" in refusal(write_old(tmp_path / "w.pt", body, {}, head))
    (tmp_path / "w.pt").write_bytes(old_head() + body + program([evil]))
    assert "'builtins.eval'" in refusal(tmp_path / "w.pt")


# ------------------------------------------------------------------ fuzzing

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def whole_file(tmp_path: Path, old: bool) -> bytes:
    arrays = {"a": NUMBERS.reshape(2, 3), "n": np.array(3), "e": np.zeros((0, 2), np.float16)}
    return save(tmp_path / "whole.pt", arrays, old).read_bytes()


def check(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read = read_state_dict(path, max_bytes=2**20)
    except ValueError as error:
        assert type(error) is ValueError and str(error).startswith(f"{path}: ")
    else:
        assert type(read) is dict and all(type(array) is np.ndarray for array in read.values())


@FUZZ
@given(data=st.data(), old=st.booleans())
def test_changed_bytes_end_in_arrays_or_a_refusal(tmp_path, data, old):
    content = bytearray(whole_file(tmp_path, old))
    places = st.integers(0, len(content) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=5)):
        content[place] = byte
    check(tmp_path / "w.pt", bytes(content))


@FUZZ
@given(data=st.data(), old=st.booleans())
def test_spliced_files_end_in_arrays_or_a_refusal(tmp_path, data, old):
    content = whole_file(tmp_path, old)
    places = st.integers(0, len(content))
    a, b, c, d = (data.draw(places) for _ in range(4))
    check(tmp_path / "w.pt", content[:a] + content[min(b, c) : max(b, c)] + content[d:])


@FUZZ
@given(data=st.data(), old=st.booleans())
def test_changed_pickles_in_sound_containers_end_in_arrays_or_a_refusal(tmp_path, data, old):
    """The checksum of the archive is right, so that the change reaches the machine."""
    body = bytearray(program({"a": of_array(NUMBERS, "0", old)}))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    if old:
        write_old(tmp_path / "w.pt", bytes(body), {"0": (6, NUMBERS.tobytes())})
    else:
        write_zip(tmp_path / "w.pt", bytes(body), {"0": NUMBERS.tobytes()})
    check(tmp_path / "w.pt", (tmp_path / "w.pt").read_bytes())


@FUZZ
@given(
    numel=st.integers(0, 8),
    offset=st.integers(0, 8),
    view=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=4),
)
def test_a_view_is_read_exactly_when_it_fits(tmp_path, numel, offset, view):
    """The oracle goes through all indices, one by one."""
    shape, strides = tuple(size for size, _ in view), tuple(stride for _, stride in view)
    row = np.arange(numel, dtype=np.int16)
    value = {"a": tensor(storage("ShortStorage", "0", numel), offset, shape, strides)}
    path = zipped(tmp_path / "w.pt", value, {"0": row.tobytes()})
    places = [offset + sum(i * stride for i, stride in zip(index, strides, strict=True)) for index in np.ndindex(shape)]
    if all(place < numel for place in places):
        expected = np.array([row[place] for place in places], np.int16).reshape(shape)
        assert_same(read_state_dict(path), {"a": expected})
    else:
        assert "does not fit into its storage" in refusal(path)


# ------------------------------------------------------------------ with torch beside it


def as_numpy(state: dict) -> dict[str, np.ndarray]:
    """torch's tensors as this reader should give them."""
    torch = pytest.importorskip("torch")
    wide = {key: value.float() if value.dtype == torch.bfloat16 else value for key, value in state.items()}
    return {key: value.detach().resolve_neg().contiguous().numpy() for key, value in wide.items()}


@pytest.mark.parametrize("file", REFERENCE)
def test_the_reference_weights_are_read(data_dir, file):
    path = data_dir / "weights" / file
    if not path.is_file():
        pytest.skip(f"no {path}")
    arrays = read_state_dict(path)
    assert len(arrays) > 10 and all(np.isfinite(array).all() for array in arrays.values())
    torch = pytest.importorskip("torch")
    assert_same(arrays, as_numpy(torch.load(path, weights_only=True, map_location="cpu")))


def test_a_layer_of_the_reference_weights(data_dir):
    """O-Net's first layer: 32 filters of 3 x 3 over 3 colours."""
    path = data_dir / "weights" / "mtcnn" / "onet.pt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    weights = read_state_dict(path)["conv1.weight"]
    assert weights.shape == (32, 3, 3, 3) and weights.dtype == np.float32


@pytest.mark.parametrize("old", [False, True])
def test_torch_reads_what_these_tests_write(tmp_path, rng, old):
    """Otherwise the tests without torch would prove little."""
    torch = pytest.importorskip("torch")
    arrays = example(rng)
    path = save(tmp_path / "w.pt", arrays, old)
    assert_same(read_state_dict(path), as_numpy(torch.load(path, weights_only=True)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("new", [True, False])
def test_what_torch_writes_is_read(tmp_path, new, protocol):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(2, 300))
    base = torch.arange(24.0).reshape(4, 6)
    kinds = [*(getattr(torch, each) for each in KINDS), torch.bfloat16]
    state = net.state_dict()
    state.update({f"kind {kind}": torch.randn(3, 2).mul(3).to(kind) for kind in kinds})
    state.update(shared=base, transposed=base.T, part=base[1:3, ::2], expanded=base[0, :1].expand(5), zero=base[3, 5])
    state.update(parameter=torch.nn.Parameter(base), buffer=torch.nn.Parameter(base[1:], requires_grad=False))
    state.update(empty=torch.empty(0), hollow=torch.empty(3, 0, 2), images=base.reshape(1, 2, 3, 4).permute(0, 3, 1, 2))
    path = tmp_path / "w.pt"
    torch.save(state, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    assert_same(read_state_dict(path), as_numpy(state))
    torch.save({"model": state, "epoch": 3}, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    assert_same(read_state_dict(path, "model"), as_numpy(state))


def test_an_optimizer_beside_the_weights(tmp_path):
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path = tmp_path / "w.pt"
    torch.save({"model": layer.state_dict(), "optimizer": optimizer.state_dict(), "seed": 2**70}, path)
    assert_same(read_state_dict(path, "model"), as_numpy(layer.state_dict()))
    assert "choose one with key=: 'model', 'optimizer'" in refusal(path)


@pytest.mark.parametrize("new", [True, False])
def test_what_torch_writes_and_is_left_out_is_refused_by_name(tmp_path, new):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pt"
    lazy = torch.ones(2, dtype=torch.complex64).conj().imag
    cases = {
        "torch._utils._rebuild_sparse_tensor": torch.eye(2).to_sparse(),
        "torch.ComplexFloatStorage": torch.ones(2, dtype=torch.complex64),
        "torch._utils._rebuild_tensor_v3": torch.ones(2).to(torch.uint16),
        "a tensor has metadata": lazy,
        "torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2),
    }
    for words, value in cases.items():
        torch.save({"a": value}, path, _use_new_zipfile_serialization=new)
        assert words in refusal(path), words


def test_a_torchscript_archive_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    (tmp_path / "w.pt").write_bytes(buffer.getvalue())
    assert "a TorchScript archive, which holds a program" in refusal(tmp_path / "w.pt")
