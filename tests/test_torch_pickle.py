"""The machine that reads a torch file's pickle: what it builds, what it refuses, and that it never runs anything."""

from __future__ import annotations

import ast
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_files import CODES, Code, call, emit, name, op, program, storage, tensor

from minidetect.nn import torch_pickle, torch_values
from minidetect.nn.torch_pickle import STEPS, read_pickle
from minidetect.nn.torch_values import Storage, StoredTensor

# Written out here, so that nobody adds one by accident.
ALLOWED = set(
    "PROTO FRAME NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE "
    "SHORT_BINSTRING MARK EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS "
    "BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID STOP".split()
)
GLOBALS = {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"} | {
    f"torch.{kind}Storage" for kind in "Double Float Half BFloat16 Long Int Short Char Byte Bool".split()
}
ROW = storage("FloatStorage", "0", 6)
ORDERED = name("collections.OrderedDict")


def read(value: object) -> object:
    return read_pickle(program(value), 0, "w.pt").value


def refusal(content: bytes) -> str:
    """The message that a pickle is refused with: one line, with all that a person needs to find the place."""
    with pytest.raises(ValueError) as error:
        read_pickle(content, 0, "w.pt")
    message = str(error.value)
    assert type(error.value) is ValueError and "\n" not in message and len(message) < 700
    assert message.startswith("w.pt: ") and "(opcode " in message and " at byte " in message
    assert message.endswith("Nothing from the file was executed.")
    return message


# ------------------------------------------------------------------ what it builds

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text(max_size=300),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.sampled_from([2, 3, 4, 5]))
def test_plain_values_come_back_as_from_pickle_itself(value, protocol):
    text = pickle.dumps(value, protocol)
    result = read_pickle(b"other bytes" + text + b"more", 11, "w.pt")
    assert result.value == value and repr(result.value) == repr(value)
    assert result.end == 11 + len(text)


def test_what_is_used_twice_is_remembered():
    shared = ["weight"]
    result = read_pickle(pickle.dumps((shared, shared), 2), 0, "w.pt").value
    assert result == (["weight"], ["weight"]) and result[0] is result[1]


def test_a_tensor_is_a_view_of_a_storage():
    value = OrderedDict(a=tensor(ROW, 1, (2, 2), (3, 1)), b=tensor(ROW, 5, (), ()))
    result = read_pickle(program(value), 0, "w.pt")
    row = Storage("torch.FloatStorage", "0", 6)
    assert result.value == {"a": StoredTensor(row, 1, (2, 2), (3, 1)), "b": StoredTensor(row, 5, (), ())}
    assert type(result.value) is OrderedDict and result.storages == {"0": row}


def test_a_parameter_is_its_tensor():
    parameter = call(name("torch._utils._rebuild_parameter"), tensor(ROW, 0, (6,), (1,)), True, OrderedDict())
    assert read(parameter) == StoredTensor(Storage("torch.FloatStorage", "0", 6), 0, (6,), (1,))


def test_metadata_of_a_state_dict_is_dropped():
    versions = {"_metadata": OrderedDict({"": {"version": 1}, "bn": {"version": 2}})}
    assert read(Code(emit(OrderedDict(n=3)) + emit(versions) + op("BUILD"))) == {"n": 3}


def test_python_2_wrote_ordered_dicts_as_pairs_and_short_byte_strings():
    key = op("SHORT_BINSTRING", b"\x06weight")
    assert read(call(ORDERED, [[key, 1], ["bias", 2]])) == OrderedDict(weight=1, bias=2)


def test_protocol_4_names_globals_on_the_stack():
    stacked = Code(emit("collections") + op("MEMOIZE") + emit("OrderedDict") + op("STACK_GLOBAL"))
    assert read_pickle(program(call(stacked), 4), 0, "w.pt").value == OrderedDict()


# ------------------------------------------------------------------ what it refuses


def test_the_tables_are_these():
    assert STEPS.keys() | {"STOP"} == ALLOWED
    assert torch_values.GLOBALS == GLOBALS


@pytest.mark.parametrize("opcode", sorted(CODES.keys() - ALLOWED))
def test_every_other_opcode_is_refused_by_name(opcode):
    """With arguments and a stack that would suit it, so that nothing but the opcode can be at fault."""
    before = op("PROTO", b"\x02") + op("MARK") + emit("os") + emit("system") + emit("x") + op("BINPUT", b"\x00")
    argument = b"\x01\x00\x00\x00\x00\x00\x00\x00os\nsystem\n"
    message = refusal(before + CODES[opcode] + argument + op("STOP"))
    assert f"not one that weights need (opcode {opcode} at byte {len(before)})" in message


@pytest.mark.parametrize("opcode", sorted(ALLOWED - {"PROTO", "FRAME", "MARK", "STOP"}))
def test_an_allowed_opcode_with_nothing_before_and_after_it_is_refused(opcode):
    refusal(CODES[opcode])


@pytest.mark.parametrize("code", sorted(set(range(256)) - {CODES[each][0] for each in CODES}))
def test_bytes_that_are_no_opcode_are_refused(code):
    assert f"opcode 0x{code:02x} at byte 0" in refusal(bytes([code]))


@pytest.mark.parametrize(
    "dotted",
    [
        "os.system", "posix.system", "builtins.eval", "builtins.exec", "__builtin__.eval", "builtins.getattr",
        "torch.load", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_sparse_tensor", "torch.FloatTensor",
        "torch.storage.UntypedStorage", "collections.OrderedDict.fromkeys", "collections.defaultdict", "torch.device",
        "numpy.core.multiarray.scalar", "subprocess.Popen", "runpy._run_code", "torch.ComplexFloatStorage",
    ],
)  # fmt: skip
def test_other_globals_are_refused_by_their_dotted_name(dotted):
    assert f"the global '{dotted}'" in refusal(program(name(dotted)))
    module, _, last = dotted.rpartition(".")
    assert f"the global '{dotted}'" in refusal(program(Code(emit(module) + emit(last) + op("STACK_GLOBAL")), 4))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Code(emit(1) + op("BINPERSID")), "a persistent id is not a storage's"),
        (Code(emit(("module", ORDERED, "a.py", "import os", 1)) + op("BINPERSID")), "not a storage's"),
        (Code(emit(("storage", ORDERED, "0", "cpu", 1)) + op("BINPERSID")), "class of a storage is collections.Ord"),
        (Code(emit(("storage", "FloatStorage", "0", "cpu", 1)) + op("BINPERSID")), "class of a storage is str"),
        (storage("FloatStorage", "", 1), "not two strings"),
        (storage("FloatStorage", "0", -1), "no integer from 0"),
        (storage("FloatStorage", "0", 2**60), "no integer from 0"),
        (storage("FloatStorage", "0", True), "no integer from 0"),
        (storage("FloatStorage", "0", 4, ("1", 0, 2)), "view of another"),
        ((ROW, storage("FloatStorage", "0", 7)), "storage '0' is described twice"),
        ((ROW, storage("IntStorage", "0", 6)), "storage '0' is described twice"),
        (tensor(ROW, 0, (7,), (1,)), "does not fit into its storage of 6"),
        (tensor(ROW, 6, (), ()), "does not fit"),
        (tensor(ROW, 5, (2,), (1,)), "does not fit"),
        (tensor(ROW, 0, (2, 2), (5, 1)), "does not fit"),
        (tensor(ROW, 0, (2,), (2**62,)), "does not fit"),
        (tensor(ROW, 5, (6,), (-1,)), "not all integers from 0"),
        (tensor(ROW, -1, (2,), (1,)), "not all integers from 0"),
        (tensor(ROW, 0, (-2,), (1,)), "not all integers from 0"),
        (tensor(ROW, 0, (2**1000,), (1,)), "not all integers from 0"),
        (tensor(ROW, 0, (2.0,), (1,)), "not all integers from 0"),
        (tensor(ROW, 0, (True,), (1,)), "not all integers from 0"),
        (tensor(ROW, 0, (2**40, 2**40), (0, 0)), "too large"),
        (tensor(ROW, 0, (0, 2**62), (1, 1)), "too large"),
        (tensor(ROW, 0, (1,) * 33, (1,) * 33), "33 dimensions"),
        (tensor(ROW, 0, (2, 2), (1,)), "not two tuples of one length"),
        (tensor(ROW, 0, [2], [1]), "not two tuples of one length"),
        (tensor(ROW, 0, (2,), (1,), {"conj": True}), "metadata"),
        (tensor("storage", 0, (2,), (1,)), "needs a storage"),
        (call(name("torch._utils._rebuild_tensor_v2"), ROW), "needs a storage"),
        (call(name("torch._utils._rebuild_tensor_v2"), ROW, 0, (2,), (1,), 1, OrderedDict()), "requires_grad is int"),
        (call(name("torch._utils._rebuild_tensor_v2"), ROW, 0, (2,), (1,), True, {}), "backward hooks"),
        (call(name("torch._utils._rebuild_tensor_v2"), ROW, 0, (2,), (1,), True, OrderedDict(a=1)), "backward hooks"),
        (call(name("torch._utils._rebuild_parameter"), ROW, True, OrderedDict()), "needs a tensor"),
        (call(name("torch.FloatStorage"), 3), "calls torch.FloatStorage"),
        (call("eval", "1"), "calls str"),
        (call(tensor(ROW, 0, (), ())), "calls a tensor"),
        (Code(ORDERED + emit([]) + op("REDUCE")), "calls collections.OrderedDict with list"),
        (call(ORDERED, {}), "list of pairs"),
        (call(ORDERED, [], []), "list of pairs"),
        (call(ORDERED, [1, 2]), "list of pairs"),
        (call(ORDERED, [["a", 1, 2]]), "list of pairs"),
        (Code(tensor(ROW, 0, (), ()) + emit({"data": 1}) + op("BUILD")), "attributes of a tensor"),
        (Code(emit({}) + emit({"_metadata": 1}) + op("BUILD")), "attributes of dict"),
        (Code(ORDERED + emit({"__call__": 1}) + op("BUILD")), "attributes of collections.OrderedDict instead"),
        (Code(emit(OrderedDict()) + emit({"__class__": 1}) + op("BUILD")), "other attributes"),
        (Code(emit(OrderedDict()) + emit((None, {"x": 1})) + op("BUILD")), "other attributes"),
        ({1.5: 1}, "a key of a dict is float"),
        ({-1: 1}, "a key of a dict is int"),
        ({2**31 + 1: 1}, "a key of a dict is int"),
        ({("a",): 1}, "a key of a dict is tuple"),
        (call(ORDERED, [[("a",), 1]]), "a key of a dict is tuple"),
        (Code(emit(1) + op("BINGET", b"\x07")), "nothing was remembered under 7"),
        (Code(emit(()) + emit("a") + op("APPEND")), "appends to tuple"),
        (Code(emit(ROW) + emit("a") + emit(1) + op("SETITEM")), "sets items of a storage"),
        (Code(op("EMPTY_DICT") + op("MARK") + emit("a") + op("SETITEMS")), "a key has no value"),
        (Code(emit(1) + emit(2)), "left over"),
        (Code(op("MARK") + emit(2)), "left over"),
        (Code(emit(1) + op("TUPLE")), "no mark"),
        (Code(emit(1) + op("TUPLE3")), "the stack is empty"),
        (Code(op("BINUNICODE", b"\x02\x00\x00\x00\xff\xfe")), "not UTF-8"),
        (Code(op("GLOBAL", b"\xff\nx\n")), "not UTF-8"),
        (Code(op("GLOBAL", b"torch" + b"o" * 5000)), "a name does not end"),
        (Code(op("BINUNICODE", b"\xff\xff\xff\xffabc")), "ends too early"),
        (Code(op("FRAME", struct.pack("<Q", 2**63))), "ends too early"),
        (Code(emit("a") + emit(1) + op("STACK_GLOBAL")), "named by str and int"),
        (op("PROTO", b"\x06"), "protocol 6"),
    ],
)  # fmt: skip
def test_what_is_not_a_description_of_tensors_is_refused(value, words):
    assert words in refusal(program(value))


def test_a_pickle_cut_anywhere_is_refused():
    whole = program(OrderedDict(a=tensor(ROW, 1, (2, 2), (3, 1)), b=2**70, c=[0.5, None]))
    for end in range(len(whole)):
        refusal(whole[:end])


# ------------------------------------------------------------------ pickles that would do harm


class Harm:
    """Pickles to a program that calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.made


def harms(flag: Path) -> list[Harm]:
    """Three ways to make a file appear."""
    return [
        Harm(os.system, f"touch {flag}"),
        Harm(eval, f"open({str(flag)!r}, 'w').close()"),
        Harm(io.open, str(flag), "w"),
    ]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("number", range(3))
def test_harm_is_refused_and_does_not_happen(tmp_path, number, protocol):
    flag = tmp_path / "flag"
    text = pickle.dumps({"weight": harms(flag)[number]}, protocol)
    refusal(text)
    assert not flag.exists()
    if os.name == "posix":
        pickle.loads(text)  # the usual reader does it: the pickle was a real one
        assert flag.exists()


def test_harm_by_every_opcode_that_can_call(tmp_path):
    flag = tmp_path / "flag"
    command = emit(f"touch {flag}")
    system = name("posix.system")
    start = op("PROTO", b"\x02")
    programs = {
        "REDUCE": system + command + op("TUPLE1") + op("REDUCE"),
        "INST": op("MARK") + command + op("INST", b"posix\nsystem\n"),
        "OBJ": op("MARK") + system + command + op("OBJ"),
        "NEWOBJ": name("subprocess.Popen") + command + op("TUPLE1") + op("NEWOBJ"),
        "NEWOBJ_EX": name("subprocess.Popen") + command + op("TUPLE1") + op("EMPTY_DICT") + op("NEWOBJ_EX"),
        "STACK_GLOBAL": emit("posix") + emit("system") + op("STACK_GLOBAL") + command + op("TUPLE1") + op("REDUCE"),
        "EXT1": op("EXT1", b"\x01") + command + op("TUPLE1") + op("REDUCE"),
        "remembered": emit("posix") + op("BINPUT", b"\x00") + emit("system") + op("BINPUT", b"\x01")
        + op("BINGET", b"\x00") + op("BINGET", b"\x01") + op("STACK_GLOBAL"),
        "BUILD": emit(OrderedDict()) + emit({"__reduce__": 1}) + op("BUILD"),
        "allowed, then called": ORDERED + op("EMPTY_TUPLE") + op("REDUCE") + command + op("TUPLE1") + op("REDUCE"),
        "NEWOBJ of an allowed class": ORDERED + op("EMPTY_TUPLE") + op("NEWOBJ"),
    }  # fmt: skip
    for text in programs.values():
        refusal(start + text + op("STOP"))
        assert not flag.exists()


def test_a_name_too_many_in_the_table_would_still_not_be_called(tmp_path, monkeypatch):
    flag = tmp_path / "flag"
    monkeypatch.setattr(torch_pickle, "GLOBALS", torch_values.GLOBALS | {"posix.system"})
    assert "calls posix.system" in refusal(program(call(name("posix.system"), f"touch {flag}")))
    assert not flag.exists()


def test_the_reader_has_nothing_that_could_run_a_file():
    """Neither of the three modules imports pickle, importlib or os, nor uses eval, exec, getattr or __import__."""
    root = Path(torch_pickle.__file__).parent
    for file in ("torch_pickle.py", "torch_values.py", "torch_file.py"):
        tree = ast.parse((root / file).read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not names & {"eval", "exec", "getattr", "setattr", "__import__", "compile", "globals", "vars"}
        assert not modules & {"pickle", "importlib", "os", "subprocess", "torch"}


def test_reading_needs_no_torch_and_nothing_heavy():
    look = "import sys, minidetect.nn.torch_file; print(*sorted({'torch', 'PIL', 'matplotlib'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == "", done.stderr


# ------------------------------------------------------------------ pickles that would keep it busy


def test_deep_nesting_is_no_recursion():
    deep = Code(op("EMPTY_LIST") + op("TUPLE1") * 50_000)
    assert type(read(deep)) is tuple
    assert "calls tuple" in refusal(program(call(deep)))
    assert "no mark" in refusal(op("MARK") * 50_000 + op("TUPLE") * 50_001)


def test_a_tuple_that_takes_for_ever_to_hash_is_no_key():
    """Fifty levels of (t, t): two to the fifty leaves in 250 bytes."""
    level = b"".join(op("BINPUT", bytes([i])) + op("BINGET", bytes([i])) + op("TUPLE2") for i in range(50))
    endless = Code(emit(()) + level)
    assert "a key of a dict is tuple" in refusal(program(Code(op("EMPTY_DICT") + endless + emit(1) + op("SETITEM"))))
    refusal(program(call(endless)))
    refusal(program(Code(endless + op("BINPERSID"))))
    refusal(program(tensor(ROW, endless, (), ())))
    refusal(program(tensor(ROW, 0, (), (), endless)))


def test_what_contains_itself_is_read_and_never_followed():
    itself = Code(op("EMPTY_DICT") + op("BINPUT", b"\x00") + emit("a") + op("BINGET", b"\x00") + op("SETITEM"))
    value = read(itself)
    assert value["a"] is value
    assert "calls dict" in refusal(program(call(itself)))


def test_one_list_of_pairs_cannot_be_multiplied():
    pairs = Code(emit([["a", 1]] * 300) + op("BINPUT", b"\x00"))
    copies = b"".join(ORDERED + op("BINGET", b"\x00") + op("TUPLE1") + op("REDUCE") for _ in range(300))
    assert "used too often" in refusal(program(Code(op("MARK") + pairs + copies + op("TUPLE"))))


def test_a_pickle_has_a_largest_size(monkeypatch):
    monkeypatch.setattr(torch_pickle, "PICKLE_BYTES", 100)
    assert "longer than 100 bytes" in refusal(program("x" * 200))
    assert read("x" * 80) == "x" * 80


# ------------------------------------------------------------------ fuzzing

ARGUMENTS = {"GLOBAL": [*(f"{each.rpartition('.')[0]}\n{each.rpartition('.')[2]}\n".encode() for each in GLOBALS)]}
WHOLE = program(OrderedDict(a=tensor(ROW, 1, (2, 2), (3, 1)), b=2**70, c=[0.5, None]))


@st.composite
def instruction(draw) -> bytes:
    """An allowed opcode with an argument that is often right."""
    which = draw(st.sampled_from(sorted(ALLOWED - {"STOP"})))
    arguments = ARGUMENTS.get(which) or [b"", b"\x00", b"\x01", b"\x00\x00", b"\x01\x00\x00\x00", bytes(8), b"\x01a"]
    return CODES[which] + draw(st.sampled_from(arguments))


def check(content: bytes) -> None:
    try:
        read_pickle(content, 0, "w.pt")
    except ValueError as error:
        assert type(error) is ValueError and str(error).startswith("w.pt: ")


@settings(max_examples=60, deadline=None)
@given(st.lists(instruction() | st.sampled_from([emit("storage"), emit(1), ROW, ORDERED]), max_size=40))
def test_random_programs_end_in_a_value_or_a_refusal(instructions):
    check(b"".join(instructions) + op("STOP"))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_end_in_a_value_or_a_refusal(content):
    check(content)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_spliced_programs_end_in_a_value_or_a_refusal(data):
    places = [position for _, _, position in pickletools.genops(WHOLE)] + [len(WHOLE)]
    cuts = data.draw(st.lists(st.sampled_from(places), min_size=4, max_size=4))
    a, b, c, d = cuts
    check(WHOLE[:a] + WHOLE[min(b, c) : max(b, c)] + WHOLE[d:])
