"""The interpreter of compiled kernels (interpreter.py), on programs by hand: its arithmetic, and what it notices.

Needs neither a GPU nor a compiler.
"""

from __future__ import annotations

import math
import operator
from fractions import Fraction

import numpy as np
import ptx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import Kernel, KernelError
from ptx_counts import Counts
from ptx_memory import GAP, UNWRITTEN, WRITTEN, Memory

REGISTER = {"s32": "%r", "u32": "%r", "b32": "%r", "s64": "%rd", "u64": "%rd", "b64": "%rd", "f32": "%f", "f64": "%fd"}
HEAD = """.file 1 "/there/kernels.py"
.visible .shared .align 8 .b8 room[512];
.visible .entry kernel(
	.param .u64 kernel_param_0,
	.param .u64 kernel_param_1
)
{
	.reg .pred %p<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b64 %rd<9>; .reg .f64 %fd<9>;
	ld.param.u64 %rd1, [kernel_param_0];
	ld.param.u64 %rd2, [kernel_param_1];
	mov.u32 %r1, %tid.x;
	mov.u32 %r2, %ctaid.x;
	mul.wide.u32 %rd3, %r1, 4;
	mov.u64 %rd4, room;
	add.s64 %rd5, %rd4, %rd3;
	.loc 1 7 0
"""


def execute(
    body: str, first: np.ndarray, second: np.ndarray, threads: int, blocks: int = 1, counts: Counts | None = None
) -> np.ndarray:
    """What `second` holds after the body, which finds: %rd1, %rd2 the arrays, %rd3 4 * %r1, the thread; %r2 the block;
    %rd4 the shared memory, %rd5 the thread's own four bytes of it."""
    gpu, addresses, arrays = Memory(1 << 16, "global"), [], []
    for given_array in (first, second):
        arrays.append(gpu.allocate(given_array.size, given_array.dtype))
        gpu.mark(arrays[-1], UNWRITTEN if given_array is EMPTY else WRITTEN, 255)
        if given_array is not EMPTY:
            arrays[-1][...] = given_array
        addresses.append(arrays[-1].ctypes.data)
    kernel = Kernel(ptx.parse(HEAD + body + "\tret;\n\n}\n"))
    if counts is None:
        kernel.run((blocks,), (threads,), addresses, gpu)
    else:
        kernel.run_some((blocks,), (threads,), addresses, gpu, 2 * threads, counts)
    return arrays[1].copy()


EMPTY = np.zeros(64, np.int32)


def computed(instruction: str, kind: str, operands: list, out: str | None = None) -> np.generic:
    """`add.s32`, "s32", [1, 2] -> 3: one thread loads the operands, computes, and stores."""
    out = out or kind
    size = int(kind[1:]) // 8
    loads = "".join(f"\tld.global.{kind} {REGISTER[kind]}{k + 5}, [%rd1+{k * size}];\n" for k in range(len(operands)))
    names = ", ".join(f"{REGISTER[kind]}{k + 5}" for k in range(len(operands)))
    target = REGISTER[out]
    body = f"{loads}\t{instruction} {target}8, {names};\n\tst.global.{out} [%rd2], {target}8;\n"
    result = execute(body, np.array(operands, ptx.dtype_of(kind)), np.zeros(1, ptx.dtype_of(out)), 1)
    return result[0]


def wrapped(number: int, bits: int) -> int:
    """A whole number as a signed one of so many bits."""
    return (number + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


# ------------------------------------------------------------------------------------------------ arithmetic

INT64 = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-9, 9))
INT32 = st.one_of(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-9, 9))
FLOAT32 = st.floats(width=32, allow_nan=False)


@settings(max_examples=50)
@given(INT64, INT64)
def test_integers_wrap(a, b):
    for name, function in (("add.s64", operator.add), ("sub.s64", operator.sub), ("mul.lo.s64", operator.mul)):
        assert computed(name, "s64", [a, b]) == wrapped(function(a, b), 64)
    assert computed("mul.hi.s64", "s64", [a, b]) == a * b >> 64
    assert computed("and.b64", "b64", [a % 2**64, b % 2**64]) == (a & b) % 2**64
    assert computed("popc.b64", "b64", [a % 2**64], "u32") == (a % 2**64).bit_count()


@settings(max_examples=50)
@given(INT32, INT32)
def test_products_of_32_bits_may_be_wide(a, b):
    assert computed("mul.wide.s32", "s32", [a, b], "s64") == a * b
    assert computed("mul.wide.u32", "u32", [a % 2**32, b % 2**32], "u64") == (a % 2**32) * (b % 2**32)
    assert computed("mad.lo.s32", "s32", [a, b, 7]) == wrapped(a * b + 7, 32)
    assert computed("cvt.s64.s32", "s32", [a], "s64") == a  # the sign goes on
    assert computed("cvt.u64.u32", "u32", [a % 2**32], "u64") == a % 2**32
    assert computed("cvt.u32.u64", "u64", [a % 2**64], "u32") == a % 2**32


@settings(max_examples=50)
@given(INT64, INT64.filter(lambda n: n not in (0, -1)))
def test_divisions_go_towards_zero(a, b):
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    assert computed("div.s64", "s64", [a, b]) == quotient
    assert computed("rem.s64", "s64", [a, b]) == a - quotient * b
    a, b = a % 2**32, b % 2**32 or 1
    assert (computed("div.u32", "u32", [a, b]), computed("rem.u32", "u32", [a, b])) == divmod(a, b)


@given(INT32, st.integers(0, 70))
def test_shifts_by_more_than_there_are_bits(a, by):
    body = f"\tld.global.u32 %r5, [%rd1];\n\t{{}} %r6, %r5, {by};\n\tst.global.u32 [%rd2], %r6;\n"
    for name, expected in (
        ("shl.b32", a << by), ("shr.s32", a >> by), ("shr.u32", (a % 2**32) >> by)
    ):  # fmt: skip
        found = execute(body.format(name), np.array([a], np.int32), np.zeros(1, np.uint32), 1)
        assert found[0] == expected % 2**32, name


@given(FLOAT32, FLOAT32, FLOAT32)
def test_floats(a, b, c):
    with np.errstate(all="ignore"):
        x, y = np.float32(a), np.float32(b)
        assert same(computed("mul.rn.f32", "f32", [a, b]), x * y)
        assert same(computed("div.rn.f32", "f32", [a, b]), x / y)
        assert same(computed("max.f32", "f32", [a, math.nan]), x)  # what is a number
        found = computed("fma.rn.f32", "f32", [a, b, c])
    gap = float(np.spacing(np.abs(found)))
    if all(map(math.isfinite, (a, b, c, gap))) and found != 0:
        exact, gap = Fraction(a) * Fraction(b) + Fraction(c), Fraction(gap)
        assert abs(Fraction(float(found)) - exact) <= gap * Fraction(501, 1000)  # from the next number: half of it


def test_one_rounding():
    """1 + 2**-23 squared is 1 + 2**-22 + 2**-46: without the rounding of the product, the last term is left."""
    a = 1 + 2.0**-23
    assert computed("fma.rn.f32", "f32", [a, a, -(1 + 2.0**-22)]) == 2.0**-46
    b = 1 + 2.0**-52
    assert computed("fma.rn.f64", "f64", [b, b, -(1 + 2.0**-51)]) == 2.0**-104
    assert computed("fma.rm.f32", "f32", [1, 1, 2.0**-30]) == 1 == computed("fma.rn.f32", "f32", [1, 1, 2.0**-30])
    assert computed("fma.rm.f32", "f32", [1, 1, -(2.0**-30)]) == np.nextafter(np.float32(1), np.float32(0))


def same(a: np.generic, b: np.generic) -> bool:
    return a == b or a != a and b != b


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1.9, 1), (-1.9, -1), (3e9, 2**31 - 1), (-3e9, -(2**31)), (math.nan, 0), (math.inf, 2**31 - 1)],
)
def test_floats_to_integers(number, expected):
    assert computed("cvt.rzi.s32.f32", "f32", [number], "s32") == expected


@pytest.mark.parametrize("a", [0.0, 1.0, math.nan])
@pytest.mark.parametrize("b", [0.0, 1.0, math.nan])
def test_comparisons(a, b):
    plain = {"eq": operator.eq, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge}
    unordered = math.isnan(a) or math.isnan(b)
    expected = {name: function(a, b) for name, function in plain.items()}
    expected |= {f"{name}u": said or unordered for name, said in expected.items()}
    expected |= {"ne": a != b and not unordered, "neu": a != b, "nan": unordered, "num": not unordered}
    for name, said in expected.items():
        body = (
            "\tld.global.f32 %f1, [%rd1];\n\tld.global.f32 %f2, [%rd1+4];\n"
            f"\tsetp.{name}.f32 %p1, %f1, %f2;\n\tselp.u32 %r5, 1, 0, %p1;\n\tst.global.u32 [%rd2], %r5;\n"
        )
        assert execute(body, np.array([a, b], np.float32), np.zeros(1, np.int32), 1)[0] == said, name


def test_halves_of_a_number():
    body = """	ld.global.f64 %fd1, [%rd1];
	{
	.reg .b32 %temp;
	mov.b64 {%temp, %r5}, %fd1;
	}
	xor.b32 %r5, %r5, -2147483648;
	mov.b64 %fd2, {%r6, %r5};
	st.global.f64 [%rd2], %fd2;
"""
    assert execute(body, np.array([1.5]), np.zeros(1), 1)[0] == -1.5  # the highest bit is the sign


def test_an_instruction_that_is_not_known():
    with pytest.raises(NotImplementedError, match=r"does not know brev\.b32 %r5, %r1"):
        execute("\tbrev.b32 %r5, %r1;\n", EMPTY, EMPTY, 1)


# --------------------------------------------------------------------------------------------------- threads

COUNT_DOWN = """	add.s64 %rd6, %rd2, %rd3;
	mov.u32 %r5, %r1;
	mov.u32 %r6, 0;
$L_again:
	setp.eq.s32 %p1, %r5, 0;
	@%p1 bra $L_end;
	add.s32 %r6, %r6, %r5;
	sub.s32 %r5, %r5, 1;
	bra.uni $L_again;
$L_end:
	st.global.u32 [%rd6], %r6;
"""


def test_threads_leave_a_loop_one_by_one():
    found = execute(COUNT_DOWN, EMPTY, EMPTY, 40)
    assert found[:40].tolist() == [t * (t + 1) // 2 for t in range(40)] and set(found[40:]) == {-1}


TURNED = """	st.shared.u32 [%rd5], %r1;
	bar.sync 0;
	sub.s64 %rd6, %rd4, %rd3;
	ld.shared.u32 %r5, [%rd6+60];
	add.s64 %rd6, %rd2, %rd3;
	mul.wide.u32 %rd7, %r2, 64;
	add.s64 %rd6, %rd6, %rd7;
	st.global.u32 [%rd6], %r5;
"""


def test_each_block_has_shared_memory_of_its_own():
    assert execute(TURNED, EMPTY, EMPTY, 16, blocks=4).tolist() == [*range(15, -1, -1)] * 4


LOCAL = """	.local .align 8 .b8 	__local_depot0[16];
	.reg .b64 	%SPL;
	mov.u64 	%SPL, __local_depot0;
	add.u64 %rd6, %SPL, 8;
	st.local.u32 [%rd6], %r1;
	ld.local.u32 %r5, [%rd6];
	add.s64 %rd6, %rd2, %rd3;
	st.global.u32 [%rd6], %r5;
"""


def test_each_thread_has_local_memory_of_its_own():
    assert execute(LOCAL, EMPTY, EMPTY, 64).tolist() == list(range(64))
    with pytest.raises(KernelError, match="reads local memory that nobody has written"):
        execute(LOCAL.replace("ld.local.u32 %r5, [%rd6]", "ld.local.u32 %r5, [%rd6+4]"), EMPTY, EMPTY, 64)
    with pytest.raises(KernelError, match="accesses local memory beyond an array"):
        execute(LOCAL.replace("st.local.u32 [%rd6]", "st.local.u32 [%rd6+8]"), EMPTY, EMPTY, 64)


def test_vectors_of_numbers():
    body = """	ld.global.v2.u32 {%r5, %r6}, [%rd1+8];
	.local .align 8 .b8 	__local_depot0[16];
	mov.u64 	%rd6, __local_depot0;
	st.local.v2.u32 [%rd6], {%r6, %r5};
	ld.local.v2.u32 {%r7, %r8}, [%rd6];
	st.global.v2.u32 [%rd2], {%r7, %r8};
"""
    assert execute(body, np.arange(4, dtype=np.int32), EMPTY, 1)[:3].tolist() == [3, 2, -1]


def test_any_thread_of_the_block():
    body = """	setp.eq.s32 %p1, %r1, %r2;
	bar.red.or.pred %p2, 0, %p1;
	selp.u32 %r5, 1, 0, %p2;
	mul.wide.u32 %rd7, %r2, 8;
	add.s64 %rd6, %rd2, %rd7;
	add.s64 %rd6, %rd6, %rd3;
	st.global.u32 [%rd6], %r5;
"""
    assert execute(body, EMPTY, EMPTY, 2, blocks=3)[:6].tolist() == [1, 1, 1, 1, 0, 0]


def test_atomic_additions_are_no_race():
    body = "\tld.global.f32 %f1, [%rd1];\n\tatom.global.add.f32 %f2, [%rd2], %f1;\n"
    assert execute(body, np.full(1, 0.5, np.float32), np.zeros(1, np.float32), 32, blocks=3)[0] == 48


# ------------------------------------------------------------------------------------------ what is noticed

OWN = "\tadd.s64 %rd6, %rd2, %rd3;\n"
MISTAKES = {
    "beyond the end": (OWN + "\tst.global.u32 [%rd6+256], %r1;\n", "accesses global memory beyond an array"),
    "before the start": ("\tld.global.u32 %r5, [%rd2+-4];\n", "accesses global memory beyond an array"),
    "nowhere": ("\tld.global.u32 %r5, [%rd3];\n", "outside of global memory"),
    "across": ("\tld.global.u64 %rd6, [%rd2+4];\n", "uint64 in global memory at an address that is not aligned"),
    "unwritten": (OWN + "\tld.global.u32 %r5, [%rd6];\n", "reads global memory that nobody has written"),
    "shared, unwritten": ("\tld.shared.u32 %r5, [%rd5];\n", "reads shared memory that nobody has written"),
    "shared, beyond the end": ("\tst.shared.u32 [%rd5+512], %r1;\n", "accesses shared memory beyond an array"),
    "the barrier forgotten": (TURNED.replace("bar.sync", "not.b32 %r7,"), "reads shared memory that another thread"),
    "both at one place": ("\tst.shared.u32 [%rd4], %r1;\n", "writes shared memory that another thread uses"),
    "written what others read": (
        "\tst.shared.u32 [%rd5], %r1;\n\tbar.sync 0;\n\tld.shared.u32 %r5, [%rd4];\n\tst.shared.u32 [%rd5], %r5;\n",
        "writes shared memory that another thread uses",
    ),
    "blocks at one place": (OWN + "\tst.global.u32 [%rd6], %r2;\n", "writes global memory that another thread uses"),
    "another block's, after a barrier": (
        OWN + "\tsetp.eq.s32 %p1, %r2, 0;\n\t@%p1 bra $L_write;\n\tbar.sync 0;\n\tld.global.u32 %r5, [%rd6];\n"
        "\tbra.uni $L_end;\n$L_write:\n\tst.global.u32 [%rd6], %r1;\n\tbar.sync 0;\n$L_end:\n",
        "reads global memory that another thread wrote",
    ),
    "added to what is read": (
        "\tst.global.u32 [%rd2], 0;\n\tmov.f32 %f1, 0f3F800000;\n\tatom.global.add.f32 %f2, [%rd2], %f1;\n",
        "adds to global memory that another thread uses",
    ),
    "a barrier for some": (
        "\tsetp.eq.s32 %p1, %r1, 3;\n\t@%p1 bra $L_end;\n\tbar.sync 0;\n$L_end:\n", "wait here, and 1 of it have ended"
    ),
    "two barriers": (
        "\tsetp.eq.s32 %p1, %r1, 3;\n\t@%p1 bra $L_other;\n\tbar.sync 0;\n\tbra.uni $L_end;\n"
        "$L_other:\n\tbar.sync 0;\n$L_end:\n", "wait here, and 0 of it have ended"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_noticed(mistake):
    body, message = MISTAKES[mistake]
    with pytest.raises(KernelError, match=rf"^kernels\.py:7.*{message}"):
        execute(body, EMPTY, EMPTY, 16, blocks=2)


@pytest.mark.parametrize(("grid", "block"), [((1,), (1025,)), ((1,), (32, 64)), ((1, 65536), (1,)), ((1,), (1, 1, 65))])
def test_a_launch_that_is_too_large(grid, block):
    kernel = Kernel(ptx.parse(HEAD + "\tret;\n\n}\n"))
    with pytest.raises(KernelError, match="no GPU launches"):
        kernel.run(grid, block, [0, 0], Memory(1 << 12, "global"))


def test_several_may_write_the_same():
    assert execute("\tst.global.u32 [%rd2], 5;\n", EMPTY, EMPTY, 16, blocks=2)[0] == 5


# --------------------------------------------------------------------------------------------- what is counted


def counted(body: str, threads: int, blocks: int) -> Counts:
    counts = Counts()
    execute(body, np.zeros(2048, np.int32), EMPTY, threads, blocks, counts)
    return counts


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (8, 32), (0, 1)])
def test_sectors(stride, sectors):
    """32 threads that read 4 bytes each, so many numbers apart: 128 bytes, of 4 to 32 sectors."""
    body = f"\tmul.lo.s64 %rd6, %rd3, {stride};\n\tadd.s64 %rd6, %rd1, %rd6;\n\tld.global.u32 %r5, [%rd6];\n"
    counts = counted(body, 32, 1)
    assert (counts.asked, counts.sectors, counts.launches) == (128, sectors, 1)
    assert (counts.instructions, counts.active) == (11, 352)  # 7 of HEAD, 3, ret


def test_some_blocks_count_for_all():
    body = "\tadd.s64 %rd6, %rd1, %rd3;\n\tld.global.u32 %r5, [%rd6];\n"
    counts = counted(body, 64, 10)  # of which two are run
    assert (counts.asked, counts.sectors, counts.instructions, counts.active) == (2560, 80, 200, 6400)
    assert counted(body, 16, 1).active == 160 and counted(body, 16, 1).instructions == 10  # half of a warp is a warp


@pytest.mark.parametrize(("stride", "waves"), [(1, 1), (2, 2), (4, 4), (3, 1), (0, 1)])
def test_waves(stride, waves):
    """32 threads that write words of shared memory so far apart: in as many waves as words of one bank."""
    body = f"\tmul.lo.s64 %rd6, %rd3, {stride};\n\tadd.s64 %rd6, %rd4, %rd6;\n\tst.shared.u32 [%rd6], 7;\n"
    counts = counted(body, 32, 1)
    assert (counts.waves, counts.fewest_waves) == (waves, 1)


def test_waves_of_eight_bytes():
    body = "\tadd.s64 %rd6, %rd5, %rd3;\n\tmov.u64 %rd7, 1;\n\tst.shared.u64 [%rd6], %rd7;\n"
    counts = counted(body, 32, 1)
    assert (counts.waves, counts.fewest_waves) == (2, 2)


# --------------------------------------------------------------------------------------------------- memory


def test_memory_that_is_given_back_is_used_again():
    gpu = Memory(1 << 14, "global")
    arrays = [gpu.allocate(size, np.dtype(np.float32)) for size in (100, 200, 300)]
    for k in (1, 0, 2):
        gpu.mark(arrays[k], WRITTEN)
        gpu.give_back(arrays[k])
    assert gpu.free == [(GAP, 1 << 14)] and not gpu.state.any()
    with pytest.raises(MemoryError, match="is full"):
        gpu.allocate(1 << 14, np.dtype(np.uint8))
