"""PTX, the assembly language of NVIDIA's GPUs, as NumPy's operations: what one instruction does, for many threads.

An array stands for a register: one number for each thread. `add.f32 %f3, %f1, %f2` is then np.add of two arrays. Here
are the text's parser and the arithmetic; interpreter.py has the memory and the threads. What Numba's compilers emit
for the kernels of this package is here, as NVIDIA's "PTX ISA" defines it, and nothing else: any other instruction is
refused by name.

Not as a GPU does it: `ex2.approx`, `rcp.approx` and the power function of NVIDIA's library are NumPy's, which are
exact to the last bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

KINDS = {"s": "i", "u": "u", "b": "u", "f": "f"}  # PTX's letter of a type -> NumPy's


def dtype_of(name: str) -> np.dtype:
    """NumPy's type for "s32", "f64", "pred"."""
    if name == "pred":
        return np.dtype(bool)
    return np.dtype(f"{KINDS[name[0]]}{int(name[1:]) // 8}")


@dataclass
class Instruction:
    """`@%p1 add.s64 %rd3, %rd1, 8;`: guard "%p1", negated False, parts (add, s64), operands (%rd3, %rd1, 8)."""

    parts: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None
    negated: bool
    line: str  # of the kernel's source, "pool_cuda.py:57"

    def __str__(self) -> str:
        guard = f"@{'!' * self.negated}{self.guard} " if self.guard else ""
        return f"{guard}{'.'.join(self.parts)} {', '.join(self.operands)}"


@dataclass
class Program:
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # the instruction that stands after a label
    registers: dict[str, np.dtype] = field(default_factory=dict)  # "%rd" -> uint64, of all %rd0, %rd1, ...
    shared: dict[str, int] = field(default_factory=dict)  # bytes
    local: dict[str, int] = field(default_factory=dict)  # a thread's own, of which there is one at most
    parameters: list[str] = field(default_factory=list)

    def register_type(self, name: str) -> np.dtype:
        """%temp is declared by itself, %rd0 to %rd99 together."""
        return self.registers.get(name) or self.registers[name.rstrip("0123456789")]


def parse(text: str) -> Program:
    """The only kernel of a module."""
    program, place = Program(), "unknown"
    files = {number: path.rpartition("/")[2] for number, path in re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text)}
    for name, size in re.findall(r"\.shared \.align \d+ \.b8 (\w+)\[(\d+)\]", text):
        program.shared[name] = int(size)
    for name, size in re.findall(r"\.local \.align \d+ \.b8\s+(\w+)\[(\d+)\]", text):
        program.local[name] = int(size)
    head, _, body = text[text.index(".entry") :].partition("{")
    program.parameters = re.findall(r"\.param \.\w+ (\w+)", head)
    body = re.sub(r"//[^\n]*", "", body.partition("\n}")[0])
    body = re.sub(r"(\.loc\s[^\n]*|[$]\w+:)", r";\1;", body)  # these end with their line
    for statement in body.split(";"):
        statement = " ".join(statement.split()).lstrip("{} ")  # braces around declarations and calls
        if statement.startswith(".loc "):
            _, file, line, *_ = statement.split()
            place = f"{files.get(file, 'unknown')}:{line}"
        elif statement.startswith(".reg"):
            for kind, name in re.findall(r"\.reg \.(\w+)\s+(%\w+)", statement):
                program.registers[name] = dtype_of(kind)
        elif statement.endswith(":"):
            program.labels[statement[:-1]] = len(program.instructions)
        elif statement and not statement.startswith((".param", ".pragma", ".local")):
            program.instructions += one_by_one(instruction(statement, place))
    return program


def instruction(statement: str, place: str) -> Instruction:
    guard, negated, rest = None, False, statement
    if statement.startswith("@"):
        guard, rest = statement[1:].split(None, 1)
        negated, guard = guard.startswith("!"), guard.lstrip("!")
    name, _, operands = rest.partition(" ")
    found = re.findall(r"[{(\[][^\])}]*[\])}]|[^\s,]+", operands)
    return Instruction(tuple(name.split(".")), tuple(found), guard, negated, place)


def one_by_one(step: Instruction) -> list[Instruction]:
    """st.local.v2.f32 [%rd1], {%f1, %f2} -> st.local.f32 [%rd1], %f1 and st.local.f32 [%rd1+4], %f2; so is ld."""
    if len(step.parts) < 3 or step.parts[2] not in ("v2", "v4"):
        return [step]
    address, vector = sorted(step.operands, key=lambda text: text.startswith("{"))
    base, _, offset = address.strip("[]").partition("+")
    parts, names = (*step.parts[:2], step.parts[3]), [name.strip() for name in vector.strip("{}").split(",")]
    if step.parts[0] == "ld" and base in names:
        raise NotImplementedError(f"the first number would overwrite the address of the others: {step}")
    steps = []
    for k, name in enumerate(names):
        place = f"[{base}+{int(offset or 0) + k * dtype_of(parts[-1]).itemsize}]"
        operands = (name, place) if step.parts[0] == "ld" else (place, name)
        steps.append(Instruction(parts, operands, step.guard, step.negated, step.line))
    return steps


# -------------------------------------------------------------------------------------------------- numbers


def immediate(text: str, dtype: np.dtype) -> np.generic | None:
    """A number that stands in the text: 5, -1, 0x1F, 0f3F800000 (the bits of a float32), 0dBFF0000000000000."""
    if text[:2] in ("0f", "0d"):
        bits = np.uint32(int(text[2:], 16)) if text[1] == "f" else np.uint64(int(text[2:], 16))
        return bits.view(np.float32 if text[1] == "f" else np.float64).astype(dtype)
    if not re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)", text):
        return None
    if dtype.kind == "b":
        return np.bool_(int(text, 0))
    wide = int(text, 0) % (1 << 8 * dtype.itemsize)
    return np.array(wide, f"u{dtype.itemsize}").view(dtype)[()]


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Towards zero; NumPy's // goes down. What a division by zero gives is not defined."""
    if np.result_type(a, b).kind == "f":
        return np.divide(a, b)
    return (a - np.fmod(a, b)) // np.where(b == 0, 1, b).astype(b.dtype)


def shift_left(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    bits = a.dtype.itemsize * 8
    return np.where(by < bits, a << np.minimum(by, bits - 1).astype(a.dtype), 0).astype(a.dtype)


def shift_right(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    bits = a.dtype.itemsize * 8
    last = a >> np.minimum(by, bits - 1).astype(a.dtype)
    return last if a.dtype.kind == "i" else np.where(by < bits, last, 0).astype(a.dtype)


def fused_multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray, rounding: str) -> np.ndarray:
    """a * b + c, rounded once: to the nearest (rn) or, of float32, down (rm)."""
    if a.dtype == np.float64 and rounding == "rn":
        return fused_multiply_add64(a, b, c)
    if a.dtype != np.float32 or rounding not in ("rn", "rm"):
        raise NotImplementedError(f"fma.{rounding} of {a.dtype}")
    exact = a.astype(np.float64) * b + c
    near = exact.astype(np.float32)
    return near if rounding == "rn" else np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)


def fused_multiply_add64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """What the product and the sum lose by rounding is found without loss (Dekker, Knuth), and added at the end."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = split(a), split(b)
    lost = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    total = product + c
    own = total - product
    lost = lost + ((product - (total - own)) + (c - own))
    return np.where(np.isfinite(lost), total + lost, total)


def split(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 as a sum of two numbers of 26 bits, whose products are exact."""
    much = a * 134217729.0  # 2**27 + 1
    high = much - (much - a)
    return high, a - high


def multiply_wide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    double = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
    return a.astype(double) * np.asarray(b).astype(double)


def multiply_high(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper 64 bits of a product of two int64."""
    (a_high, a_low), (b_high, b_low) = ((n >> 32, n & 0xFFFFFFFF) for n in (np.asarray(a), np.asarray(b)))
    middle = a_high * b_low + ((a_low.view(np.uint64) * b_low.view(np.uint64)) >> np.uint64(32)).view(np.int64)
    return a_high * b_high + (middle >> 32) + ((a_low * b_high + (middle & 0xFFFFFFFF)) >> 32)


def compare(name: str) -> Callable:
    """Of `setp`: eq, ne, lt, le, gt, ge; ltu and so on are true also where one is not a number; num, nan ask just that.

    `ne` of two numbers that are not ordered is false, `neu` is true.
    """
    unordered = len(name) == 3 and name.endswith("u")
    plain = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
             "ge": np.greater_equal}.get(name[:2])  # fmt: skip

    def result(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if np.asarray(a).dtype.kind != "f":
            return plain(a, b)
        nan = np.isnan(a) | np.isnan(b)
        if name in ("nan", "num"):
            return nan if name == "nan" else ~nan
        return plain(a, b) | nan if unordered else plain(a, b) & ~nan

    return result


def convert(a: np.ndarray, to: np.dtype, modes: tuple[str, ...]) -> np.ndarray:
    """`cvt`: rni, rmi, rpi and rzi round to whole numbers; a float that is too large gives the largest integer."""
    if "sat" in modes:
        a = np.clip(np.where(np.isnan(a), 0, a), 0, 1)
    for mode, whole in (("rni", np.rint), ("rmi", np.floor), ("rpi", np.ceil), ("rzi", np.trunc)):
        if mode in modes:
            a = whole(a)
    if a.dtype.kind != "f" or to.kind == "f":
        return a.astype(to)
    least, most = np.iinfo(to).min, np.iinfo(to).max
    fits = (a >= float(least)) & (a < float(most) + (to.itemsize < 8))
    inside = np.where(fits, a, 0).astype(to)
    return np.where(fits, inside, np.where(np.isnan(a), 0, np.where(a < 0, least, most))).astype(to)


def bit_count(a: np.ndarray) -> np.ndarray:
    return np.bitwise_count(a).astype(np.uint32)


def computation(step: Instruction) -> Callable:
    """What an instruction does whose operands are all of one type (of a shift: the first)."""
    name, parts = step.parts[0], step.parts
    if "wide" in parts:
        return multiply_wide
    if "hi" in parts and parts[-1] == "s64":
        return multiply_high
    if name == "fma":
        return lambda a, b, c: fused_multiply_add(a, b, c, parts[1])
    if name not in COMPUTATIONS or "hi" in parts:
        raise NotImplementedError(f"the interpreter does not know {step}")
    if parts[-1] == "pred":
        return LOGIC[name]
    return COMPUTATIONS[name]


LOGIC = {"not": np.logical_not, "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor,
         "mov": lambda a: a}  # fmt: skip
COMPUTATIONS: dict[str, Callable] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": divide, "rem": np.fmod, "neg": np.negative,
    "abs": np.abs, "min": np.fmin, "max": np.fmax, "sqrt": np.sqrt, "rcp": np.reciprocal, "ex2": np.exp2,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.bitwise_not,
    "shl": shift_left, "shr": shift_right, "popc": bit_count, "mad": lambda a, b, c: a * b + c,
    "mov": lambda a: a, "cvta": lambda a: a,
}  # fmt: skip
