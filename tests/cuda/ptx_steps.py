"""PTX's instructions as functions of a launch (interpreter.py): registers, accesses to memory, branches.

Each executes the instruction for all active threads, and returns None, or where they go: ("branch", target, which
threads), ("wait", None, which) at a barrier, ("end", None, which).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ptx import Instruction, Program, compare, computation, convert, dtype_of, immediate

if TYPE_CHECKING:
    from interpreter import Launch

Step = Callable[["Launch"], "tuple[str, int | None, np.ndarray] | None"]
Read = Callable[["Launch"], np.ndarray]  # what an operand holds, for all threads, or one number for all
Write = Callable[["Launch", np.ndarray], None]  # gives the active threads their part of it
U32, U64, PREDICATE = np.dtype(np.uint32), np.dtype(np.uint64), np.dtype(bool)
SPECIAL = ("%tid", "%ctaid", "%ntid", "%nctaid")


class Registers(dict):
    """name -> array (threads,), made when it is first asked for; (name, dtype) -> the same bits as another type."""

    def __init__(self, program: Program, threads: int) -> None:
        self.program, self.threads = program, threads

    def __missing__(self, key: str | tuple[str, np.dtype]) -> np.ndarray:
        if isinstance(key, tuple):
            self[key] = self[key[0]].view(key[1])
        else:
            self[key] = np.zeros(self.threads, self.program.register_type(key))
        return self[key]


def reader(text: str, dtype: np.dtype, program: Program) -> Read:
    """What an operand holds, as that type; of a wider register the low bits."""
    number = immediate(text, dtype)
    if number is not None:
        return lambda launch: number
    if text in program.shared or text in program.local:
        return lambda launch: dtype.type(launch.address[text])
    own = U32 if text.startswith(SPECIAL) else program.register_type(text)
    if own == dtype:
        return lambda launch: launch.registers[text]
    if PREDICATE in (own, dtype) or own.itemsize < dtype.itemsize:
        raise NotImplementedError(f"{text} holds {own}, and is read as {dtype}")
    if own.itemsize == dtype.itemsize:
        return lambda launch: launch.registers[text, dtype]
    bits = np.dtype(f"u{dtype.itemsize}")
    return lambda launch: launch.registers[text].astype(bits).view(dtype)


def writer(text: str, dtype: np.dtype, program: Program) -> Write:
    """A wider register keeps the number, and so its sign."""
    own = program.register_type(text)
    if own == dtype:
        return lambda launch, value: np.copyto(launch.registers[text], value, where=launch.mask)
    if PREDICATE in (own, dtype) or own.itemsize < dtype.itemsize:
        raise NotImplementedError(f"{text} holds {own}, and is given {dtype}")
    wide = np.dtype(f"{dtype.kind}{own.itemsize}")
    return lambda launch, value: np.copyto(launch.registers[text, wide], value, where=launch.mask)


def decoded(step: Instruction, program: Program) -> Step:
    """The instruction as a function. Raises NotImplementedError for one that is not known here."""
    name = step.parts[0]
    if name in ("bra", "ret", "bar"):
        return control(step, program)
    if step.guard is not None:
        raise NotImplementedError(f"only branches can have a condition: {step}")
    if name == "call":
        return call(step)
    if name == "mov" and "{" in "".join(step.operands):
        return halves(step, program)
    if name in ("ld", "st", "atom"):
        return parameter_access(step, program) if step.parts[1] == "param" else memory_access(step, program)
    types_in, type_out, compute = computed(step)
    reads = [reader(text, kind, program) for text, kind in zip(step.operands[1:], types_in, strict=True)]
    write = writer(step.operands[0], type_out, program)
    return lambda launch: write(launch, compute(*[read(launch) for read in reads]))


def computed(step: Instruction) -> tuple[list[np.dtype], np.dtype, Callable]:
    """An instruction that reads and writes registers only: the types of its operands, of its result, what it does."""
    name, own = step.parts[0], dtype_of(step.parts[-1])
    if name == "cvt":
        to = dtype_of(step.parts[-2])
        return [own], to, lambda a: convert(a, to, step.parts)
    if name == "setp":
        return [own, own], PREDICATE, compare(step.parts[1])
    if name == "selp":
        return [own, own, PREDICATE], own, lambda a, b, condition: np.where(condition, a, b)
    types_in = [own, U32] if name in ("shl", "shr") else [own] * (len(step.operands) - 1)
    type_out = np.dtype(f"{own.kind}{2 * own.itemsize}") if "wide" in step.parts else U32 if name == "popc" else own
    return types_in, type_out, computation(step)


def halves(step: Instruction, program: Program) -> Step:
    """mov.b64 {%r1, %r2}, %fd1: the two halves of a number, the low one first; or the other way round."""
    to, source = step.operands
    low, high = (name.strip() for name in (to if "{" in to else source).strip("{}").split(","))
    if "{" in to:
        read, shifts = reader(source, U64, program), {low: np.uint64(0), high: np.uint64(32)}
        writes = [(writer(name, U32, program), shift) for name, shift in shifts.items() if name != "%temp"]

        def take_apart(launch: Launch) -> None:
            whole = np.asarray(read(launch))
            for write, shift in writes:
                write(launch, (whole >> shift).astype(np.uint32))

        return take_apart
    reads, write = [reader(name, U32, program) for name in (low, high)], writer(to, U64, program)

    def put_together(launch: Launch) -> None:
        low, high = (np.asarray(read(launch)).astype(np.uint64) for read in reads)
        write(launch, low | high << np.uint64(32))

    return put_together


def control(step: Instruction, program: Program) -> Step:
    what = {"bra": "branch", "ret": "end", "bar": "wait"}[step.parts[0]]
    target = program.labels[step.operands[0]] if what == "branch" else None
    if step.guard is None:
        return lambda launch: (what, target, launch.mask)
    condition = reader(step.guard, PREDICATE, program)
    return lambda launch: (what, target, launch.mask & (condition(launch) ^ step.negated))


def memory_access(step: Instruction, program: Program) -> Step:
    """ld.global.f32 %f1, [%rd1+8]; st.shared.u64 [%rd1], %rd2; atom.global.add.f32 %f1, [%rd1], %f2"""
    name, space, dtype = step.parts[0], step.parts[1], dtype_of(step.parts[-1])
    kind = (name, *step.parts[2:-1])
    if space not in ("global", "shared", "local") or kind not in (("ld",), ("st",), ("atom", "add")):
        raise NotImplementedError(f"the interpreter does not know {step}")
    base, _, offset = step.operands[0 if name == "st" else 1].strip("[]").partition("+")
    address, more = reader(base, U64, program), np.uint64(int(offset or 0) % (1 << 64))
    read = None if name == "ld" else reader(step.operands[-1], dtype, program)
    write = None if name == "st" else writer(step.operands[0], dtype, program)

    def run(launch: Launch) -> None:
        at, memory = np.broadcast_to(address(launch), launch.mask.shape)[launch.active] + more, launch.gpu
        if launch.counts is not None:
            launch.counts.access(launch, space, at, dtype.itemsize)
        if space != "global":  # each block has its own shared memory, each thread its own local
            bytes_each, memory = launch.own[space]
            owner = launch.active // launch.per_block if space == "shared" else launch.active
            launch.refuse(at >= bytes_each, f"accesses an address outside of {space} memory")
            at = at + (owner * bytes_each).astype(np.uint64)
        if name == "ld":
            found = memory.load(at, dtype, launch)
        else:
            values = np.broadcast_to(read(launch), launch.mask.shape)[launch.active]
            found = (memory.store if name == "st" else memory.add)(at, values, launch)
        if write is not None:
            whole = np.zeros(launch.mask.shape, dtype)
            whole[launch.active] = found
            write(launch, whole)

    return run


def parameter_access(step: Instruction, program: Program) -> Step:
    """Of the kernel: the same number for all threads. Of a call: a slot, [param0+0], that holds a register."""
    dtype = dtype_of(step.parts[-1])
    slot = step.operands[0 if step.parts[0] == "st" else 1].strip("[]").partition("+")[0]
    if step.parts[0] == "st":
        read = reader(step.operands[1], dtype, program)
        return lambda launch: launch.slots.__setitem__(slot, np.array(read(launch)))
    write = writer(step.operands[0], dtype, program)
    if slot in program.parameters:
        return lambda launch: write(launch, np.asarray(launch.parameters[slot]).astype(dtype))
    return lambda launch: write(launch, launch.slots[slot])


def call(step: Instruction) -> Step:
    """call.uni (retval0), __internal_accurate_pow, (param0, param1)"""
    result, name, given = (text.strip("() ") for text in step.operands)
    if name != "__internal_accurate_pow":
        raise NotImplementedError(f"the interpreter does not know the function {name}")
    base, exponent = (part.strip() for part in given.split(","))

    def run(launch: Launch) -> None:
        launch.slots[result] = np.power(np.abs(launch.slots[base]), launch.slots[exponent])

    return run
