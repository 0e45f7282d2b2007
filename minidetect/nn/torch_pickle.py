"""The pickle inside a torch file, read by a small machine that can build dicts of tensors and nothing else.

A pickle is a program. Its bytes are instructions of a stack machine: put a string on the stack, gather what is above
the mark into a tuple, look a function up by name, call it. The last two are why `pickle.load` of a stranger's file
runs a stranger's code: `(GLOBAL os.system) ("rm ...") REDUCE` is a valid pickle. What torch.save writes for a dict with
one weight of two numbers is, shortened,

    PROTO 2   EMPTY_DICT   BINUNICODE 'fc.bias'
    GLOBAL torch._utils._rebuild_tensor_v2
        MARK
            MARK 'storage' GLOBAL torch.FloatStorage '0' 'cpu' 2 TUPLE BINPERSID   the numbers: elsewhere, under '0'
            0   (2,)   (1,)   NEWFALSE   OrderedDict()                             offset, shape, strides, grad, hooks
        TUPLE   REDUCE
    SETITEM   STOP

The machine below knows the opcodes of STEPS and the names of GLOBALS (in `torch_values`). It imports nothing and calls
nothing that a file names: a name is only looked up in the table, and "calling" one of the three callables fills in a
dict, or a `StoredTensor` of plain numbers. Anything else is refused with its opcode, its position and its name. The
numbers themselves are not in the pickle; `torch_file` reads them.

torch writes protocol 2 (Python 2 did too, hence SHORT_BINSTRING and OrderedDict of pairs); FRAME, MEMOIZE,
SHORT_BINUNICODE and STACK_GLOBAL are what `torch.save(..., pickle_protocol=4)` needs for the same objects. A file
cannot make the machine work for long: a step costs no more than its bytes do, and PICKLE_BYTES bounds those.

Left out, and refused by name: sparse and quantised tensors, complex numbers, float8 and unsigned integers above 8 bits
(`_rebuild_tensor_v3`), tensor subclasses, lazily conjugated or negated views, storage views (torch before 0.4).
"""

from __future__ import annotations

import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from minidetect.nn import torch_values as values
from minidetect.nn.torch_values import GLOBALS, ORDERED_DICT, PARAMETER, TENSOR, Global, Storage, is_size, kind_of

PICKLE_BYTES = 4 * 2**20  # of one pickle; 25 000 tensors take about that
INTEGER_KEYS = 2**31  # keys of a dict; larger ones could be made to collide

OPCODE_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


@dataclass(frozen=True, slots=True)
class Unpickled:
    """What a pickle held. end: the position after its STOP; storages: those that it speaks of, by key."""

    value: object
    end: int
    storages: dict[str, Storage]


def read_pickle(data: bytes, start: int, where: str) -> Unpickled:
    """Run the pickle that begins at byte `start`; where: the file's name, for messages.

    The value consists of None, bool, int, float, str, tuple, list, dict, OrderedDict, Storage and StoredTensor.
    Raises ValueError that names the file, the opcode and its position.
    """
    return Machine(data, start, where).run()


class Machine:
    """One run over one pickle: the bytes, the stack, the stacks below each mark, the memo."""

    def __init__(self, data: bytes, start: int, where: str) -> None:
        self.data, self.where = data, where
        self.at = self.opcode_at = start
        self.end = min(len(data), start + PICKLE_BYTES)
        self.stack: list = []
        self.below: list[list] = []  # the stacks that a MARK set aside, the newest last
        self.memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}
        self.pairs_left = self.end - start  # of OrderedDict(pairs): one list of them could be used again and again

    def run(self) -> Unpickled:
        while True:
            self.opcode_at = self.at
            name = self.opcode_name(self.take(1)[0])
            if name == "STOP":
                break
            step = STEPS.get(name)
            if step is None:
                self.refuse("this opcode is not one that weights need")
            step(self)
        value = self.pop()
        if self.stack or self.below:
            self.refuse("values are left over at the end")
        return Unpickled(value, self.at, self.storages)

    # -------------------------------------------------------------- bytes and stack

    @staticmethod
    def opcode_name(code: int) -> str:
        return OPCODE_NAMES.get(code, f"0x{code:02x}")

    def refuse(self, what: str) -> NoReturn:
        name = self.opcode_name(self.data[self.opcode_at]) if self.opcode_at < len(self.data) else "none"
        raise ValueError(
            f"{self.where}: {what} (opcode {name} at byte {self.opcode_at}). Nothing from the file was executed."
        ) from None

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > self.end - self.at:
            cut = self.end < len(self.data)
            self.refuse(f"the pickle is longer than {PICKLE_BYTES} bytes" if cut else "the pickle ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def text(self, length_layout: str) -> str:
        """A string behind its length in bytes."""
        try:
            return self.take(self.number(length_layout)).decode()
        except UnicodeDecodeError:
            self.refuse("a string is not UTF-8")

    def line(self) -> str:
        newline = self.data.find(b"\n", self.at, min(self.end, self.at + 1000))
        if newline < 0:
            self.refuse("a name does not end")
        try:
            return self.take(newline + 1 - self.at)[:-1].decode()
        except UnicodeDecodeError:
            self.refuse("a name is not UTF-8")

    def pop(self) -> object:
        if not self.stack:
            self.refuse("the stack is empty")
        return self.stack.pop()

    def top(self) -> object:
        if not self.stack:
            self.refuse("the stack is empty")
        return self.stack[-1]

    def pop_to_mark(self) -> list:
        if not self.below:
            self.refuse("there is no mark")
        above, self.stack = self.stack, self.below.pop()
        return above

    # -------------------------------------------------------------- steps of a line or more

    def proto(self) -> None:
        protocol = self.number("<B")
        if not 2 <= protocol <= 5:
            self.refuse(f"pickle protocol {protocol} instead of 2 to 5")

    def frame(self) -> None:
        if self.number("<Q") > self.end - self.at:
            self.refuse("the pickle ends too early")

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def small_tuple(self, size: int) -> None:
        self.stack.append(tuple([self.pop() for _ in range(size)][::-1]))

    def tuple_from_mark(self) -> None:
        above = self.pop_to_mark()
        self.stack.append(tuple(above))

    def get(self, index: int) -> None:
        if index not in self.memo:
            self.refuse(f"nothing was remembered under {index}")
        self.stack.append(self.memo[index])

    def append(self, items: list) -> None:
        if type(self.top()) is not list:
            self.refuse(f"appends to {kind_of(self.top())} instead of list")
        self.stack[-1].extend(items)

    def set_items(self, flat: list) -> None:
        target = self.top()
        if type(target) not in (dict, OrderedDict):
            self.refuse(f"sets items of {kind_of(target)} instead of dict")
        if len(flat) % 2:
            self.refuse("a key has no value")
        self.fill(target, zip(flat[::2], flat[1::2], strict=True))

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def fill(self, target: dict, pairs: Iterable) -> None:
        """Only strings and modest integers are keys: hashing a tuple of tuples of tuples can take for ever."""
        for key, value in pairs:
            if not (type(key) is str or is_size(key, INTEGER_KEYS)):
                self.refuse(f"a key of a dict is {kind_of(key)} instead of str or a small int")
            target[key] = value

    # -------------------------------------------------------------- names, calls, storages

    def look_up(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            self.refuse(f"a global is named by {kind_of(module)} and {kind_of(name)} instead of two strings")
        dotted = f"{module}.{name}"
        if dotted not in GLOBALS:
            self.refuse(f"the global {values.shorten([dotted])} is not one that weights need")
        self.stack.append(Global(dotted))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.look_up(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        name = function.name if type(function) is Global else ""
        if name not in (ORDERED_DICT, TENSOR, PARAMETER):
            self.refuse(f"calls {kind_of(function)}")
        if type(arguments) is not tuple:
            self.refuse(f"calls {name} with {kind_of(arguments)} instead of tuple")
        if name == ORDERED_DICT:
            self.stack.append(self.new_ordered_dict(arguments))
            return
        try:
            new = values.new_tensor if name == TENSOR else values.new_parameter
            self.stack.append(new(arguments))
        except ValueError as error:
            self.refuse(str(error))

    def new_ordered_dict(self, arguments: tuple) -> OrderedDict:
        """OrderedDict(), or OrderedDict([[key, value], ...]) as Python 2 wrote it."""
        pairs = arguments[0] if arguments else []
        if len(arguments) > 1 or type(pairs) is not list:
            self.refuse("OrderedDict is called with something else than a list of pairs")
        self.pairs_left -= len(pairs)
        if self.pairs_left < 0:
            self.refuse("a list of pairs is used too often")
        if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
            self.refuse("OrderedDict is called with something else than a list of pairs")
        result: OrderedDict = OrderedDict()
        self.fill(result, pairs)
        return result

    def build(self) -> None:
        """Attributes of an object: only a state dict's _metadata, the versions of its modules, which is dropped."""
        state, target = self.pop(), self.top()
        if type(target) is not OrderedDict:
            self.refuse(f"sets attributes of {kind_of(target)} instead of OrderedDict")
        if type(state) is not dict or state.keys() - {"_metadata"}:
            self.refuse("sets other attributes of an OrderedDict than _metadata")

    def persistent_id(self) -> None:
        try:
            storage = values.new_storage(self.pop())
        except ValueError as error:
            self.refuse(str(error))
        if self.storages.setdefault(storage.key, storage) != storage:
            self.refuse(f"storage {storage.key!r} is described twice, differently")
        self.stack.append(storage)


# Every opcode that is not here, nor STOP, is refused. The names are pickletools'.
STEPS: dict[str, Callable[[Machine], None]] = {
    "PROTO": Machine.proto,
    "FRAME": Machine.frame,
    # values
    "NONE": lambda m: m.stack.append(None),
    "NEWTRUE": lambda m: m.stack.append(True),
    "NEWFALSE": lambda m: m.stack.append(False),
    "BININT": lambda m: m.stack.append(m.number("<i")),
    "BININT1": lambda m: m.stack.append(m.number("<B")),
    "BININT2": lambda m: m.stack.append(m.number("<H")),
    "LONG1": lambda m: m.stack.append(int.from_bytes(m.take(m.number("<B")), "little", signed=True)),
    "BINFLOAT": lambda m: m.stack.append(m.number(">d")),
    "BINUNICODE": lambda m: m.stack.append(m.text("<I")),
    "SHORT_BINUNICODE": lambda m: m.stack.append(m.text("<B")),
    "SHORT_BINSTRING": lambda m: m.stack.append(m.text("<B")),
    # containers
    "MARK": Machine.mark,
    "EMPTY_TUPLE": lambda m: m.small_tuple(0),
    "TUPLE1": lambda m: m.small_tuple(1),
    "TUPLE2": lambda m: m.small_tuple(2),
    "TUPLE3": lambda m: m.small_tuple(3),
    "TUPLE": Machine.tuple_from_mark,
    "EMPTY_LIST": lambda m: m.stack.append([]),
    "APPEND": lambda m: m.append([m.pop()]),
    "APPENDS": lambda m: m.append(m.pop_to_mark()),
    "EMPTY_DICT": lambda m: m.stack.append({}),
    "SETITEM": Machine.set_item,
    "SETITEMS": lambda m: m.set_items(m.pop_to_mark()),
    # what was seen before
    "BINPUT": lambda m: m.memo.update({m.number("<B"): m.top()}),
    "LONG_BINPUT": lambda m: m.memo.update({m.number("<I"): m.top()}),
    "MEMOIZE": lambda m: m.memo.update({len(m.memo): m.top()}),
    "BINGET": lambda m: m.get(m.number("<B")),
    "LONG_BINGET": lambda m: m.get(m.number("<I")),
    # names, calls, storages
    "GLOBAL": lambda m: m.look_up(m.line(), m.line()),
    "STACK_GLOBAL": Machine.stack_global,
    "REDUCE": Machine.reduce,
    "BUILD": Machine.build,
    "BINPERSID": Machine.persistent_id,
}
