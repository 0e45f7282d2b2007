"""Vectors of float32 for Numba kernels, and the register tiles that convolution is built from.

LLVM turns a plain loop into vector instructions by itself, but it can't keep a block of sums in registers
while it walks over channels and taps: it loads and stores each sum again at every step, and reaches a fraction
of the machine's speed. So here a vector is a value that a kernel can name:

    v = load(x, i)                        x[i], x[i + 1], ... x[i + LANES - 1] of a flat float32 array
    store(y, i, fma(splat(w), v, acc))    y[i ...] = w * v + acc, lane by lane, rounded once

and two blocks of sums are written out instruction by instruction:

    make_outer_tile   the sums over k of  w[k, m] * x[k, p]       for M filters and V vectors of positions p
    make_dot_tile     the sums over p of  g[m, p] * x[p + off_t]  for M filters and T taps

LANES is what one register of this machine holds: 16 (AVX-512), 8 (AVX2), 4 (NEON), or 1 where the processor
isn't known: convolution then takes its plain loops, and nets in lanes run one patch at a time. The tile's sizes
follow from the number of registers, REGISTERS: M * V sums, V vectors of x and one broadcast weight must fit.

Denormal numbers are computed exactly: nothing here sets a switch that would flush them to zero, since that
would hold for the user's whole process.

MINIDETECT_LANES=1, 4 or 8 in the environment forces a smaller width, for tests and comparisons.
"""

from __future__ import annotations

import operator
import os
import platform

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, lower_builtin, register_model, type_callable

__all__ = [
    "LANES", "TILE_FILTERS", "TILE_VECTORS", "fma", "load", "make_dot_tile", "make_outer_tile", "maximum", "splat",
    "store", "transpose", "where_positive",
]  # fmt: skip


def host_vectors() -> tuple[int, int]:
    """(float32 lanes of a vector register, number of registers) of this machine; (1, 0) where unknown."""
    features = dict(llvmlite.binding.get_host_cpu_features())
    if features.get("avx512f"):
        widest = (16, 32)
    elif features.get("avx2") and features.get("fma"):
        widest = (8, 16)
    elif platform.machine().lower() in ("arm64", "aarch64"):
        widest = (4, 32)
    else:
        widest = (1, 0)
    forced = os.environ.get("MINIDETECT_LANES")
    if forced is None:
        return widest
    if forced not in ("1", "4", "8", "16") or int(forced) > widest[0]:
        raise ValueError(f"MINIDETECT_LANES must be 1, 4, 8 or 16 and at most {widest[0]} here, got {forced!r}")
    return int(forced), (0, 16, 16, 32)[("1", "4", "8", "16").index(forced)]


LANES, REGISTERS = host_vectors()

# 8 x 3 sums, 3 vectors of x and a weight fill 28 of 32 registers; 4 x 3 fill all 16 of AVX2. Three vectors
# a step, since each broadcast weight then serves three multiply-adds.
TILE_FILTERS = 8 if REGISTERS >= 32 else 4
TILE_VECTORS = 3

F32 = ir.FloatType()
I32 = ir.IntType(32)
VECTOR = ir.VectorType(F32, LANES)


# ------------------------------------------------------------------------------------------------ vectors


class VectorType(types.Type):
    """LANES float32 in one register."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


vector_type = VectorType()


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, VECTOR)


def _checked_pointer(context, builder, array_type, array, index, count: int = LANES):
    """The address of array[index]; an IndexError under NUMBA_BOUNDSCHECK unless `count` floats lie there."""
    struct = context.make_array(array_type)(context, builder, array)
    if context.enable_boundscheck:
        size = builder.extract_value(struct.shape, 0)
        last = builder.add(index, ir.Constant(index.type, count))
        outside = builder.or_(
            builder.icmp_signed("<", index, ir.Constant(index.type, 0)), builder.icmp_signed(">", last, size)
        )
        with builder.if_then(outside, likely=False):
            context.call_conv.return_user_exc(builder, IndexError, (f"a vector of {count} is out of bounds",))
    return builder.gep(struct.data, [index])


def _load_vector(builder, pointer):
    value = builder.load(builder.bitcast(pointer, VECTOR.as_pointer()))
    value.align = 4
    return value


def _store_vector(builder, pointer, value) -> None:
    builder.store(value, builder.bitcast(pointer, VECTOR.as_pointer())).align = 4


def _splat(builder, scalar):
    undefined = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


def _call(builder, name: str, arguments):
    function_type = ir.FunctionType(VECTOR, [VECTOR] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, arguments)


def _is_flat(array) -> bool:
    return isinstance(array, types.Array) and array.ndim == 1 and array.dtype == types.float32 and array.layout == "C"


@intrinsic
def load(typingctx, array, index):
    """array[index : index + LANES] as a vector."""
    if _is_flat(array) and isinstance(index, types.Integer):
        def codegen(context, builder, signature, args):
            return _load_vector(builder, _checked_pointer(context, builder, signature.args[0], *args))
        return vector_type(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, value):
    """array[index : index + LANES] = value."""
    if _is_flat(array) and isinstance(index, types.Integer):
        def codegen(context, builder, signature, args):
            _store_vector(builder, _checked_pointer(context, builder, signature.args[0], *args[:2]), args[2])
            return context.get_dummy_value()
        return types.void(array, types.intp, vector_type), codegen


@intrinsic
def splat(typingctx, scalar):
    """A vector with `scalar` in every lane."""
    def codegen(context, builder, signature, args):
        return _splat(builder, args[0])
    return vector_type(types.float32), codegen


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, rounded once."""
    def codegen(context, builder, signature, args):
        return _call(builder, "fma", args)
    return vector_type(vector_type, vector_type, vector_type), codegen


@intrinsic
def maximum(typingctx, a, b):
    """The larger of a and b in each lane; NaN where either is NaN."""
    def codegen(context, builder, signature, args):
        a, b = args
        wins = builder.or_(builder.fcmp_ordered(">", a, b), builder.fcmp_unordered("uno", a, a))
        return builder.select(wins, a, b)
    return vector_type(vector_type, vector_type), codegen


@intrinsic
def where_positive(typingctx, t, a, b):
    """a in the lanes where t > 0, b in the others."""
    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[0], ir.Constant(VECTOR, [0.0] * LANES)), *args[1:])
    return vector_type(vector_type, vector_type, vector_type), codegen


def _operator(op, build) -> None:
    @type_callable(op)
    def type_operator(context):
        def typer(a, b):
            return vector_type if isinstance(a, VectorType) and isinstance(b, VectorType) else None
        return typer

    @lower_builtin(op, VectorType, VectorType)
    def lower_operator(context, builder, signature, args):
        return build(builder, *args)


_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))


# -------------------------------------------------------------------------------------------------- tiles


def _flat_data(context, builder, array_type, array):
    return context.make_array(array_type)(context, builder, array).data


def _sums(builder, rows: int, columns: int):
    """rows x columns vectors of zeros; LLVM keeps them in registers since all their uses are known."""
    zero = ir.Constant(VECTOR, [0.0] * LANES)
    sums = [[cgutils.alloca_once(builder, VECTOR) for _ in range(columns)] for _ in range(rows)]
    for row in sums:
        for cell in row:
            builder.store(zero, cell)
    return sums


def make_outer_tile(filters: int, vectors: int):
    """An intrinsic for the sums of `filters` filters at `vectors` vectors of positions, all kept in registers:

        y[y0 + m*y_step + v*LANES ...] = act(bias[first + m] + sum over k < taps of
                                             w[w0 + k*filters + m] * x[x0 + offsets[k] + v*x_step ...])

    with act(s) = s where positive, slope[first + m] * s elsewhere. For each k it loads `vectors` vectors of x and
    broadcasts `filters` weights. All arrays are flat; nothing checks that the positions lie inside them.
    """

    def codegen(context, builder, signature, args):
        x, x0, x_step, offsets, taps, w, w0, bias, slope, first, y, y0, y_step = args
        x, offsets, w, bias, slope, y = (
            _flat_data(context, builder, signature.args[i], args[i]) for i in (0, 3, 5, 7, 8, 10)
        )

        def times(value, factor: int):
            return builder.mul(value, ir.Constant(value.type, factor))

        def scalar(data, index):
            return _splat(builder, builder.load(builder.gep(data, [index])))

        sums = _sums(builder, filters, vectors)
        with cgutils.for_range(builder, taps) as loop:
            start = builder.add(x0, builder.load(builder.gep(offsets, [loop.index])))
            xs = [
                _load_vector(builder, builder.gep(x, [builder.add(start, times(x_step, v))])) for v in range(vectors)
            ]
            weights = builder.gep(w, [builder.add(w0, times(loop.index, filters))])
            for m in range(filters):
                weight = scalar(weights, ir.Constant(I32, m))
                for v in range(vectors):
                    builder.store(_call(builder, "fma", [weight, xs[v], builder.load(sums[m][v])]), sums[m][v])
        for m in range(filters):
            filter_index = builder.add(first, ir.Constant(first.type, m))
            b, a = scalar(bias, filter_index), scalar(slope, filter_index)
            row = builder.add(y0, times(y_step, m))
            for v in range(vectors):
                total = builder.fadd(builder.load(sums[m][v]), b)
                positive = builder.fcmp_ordered(">", total, ir.Constant(VECTOR, [0.0] * LANES))
                total = builder.select(positive, total, builder.fmul(a, total))
                _store_vector(builder, builder.gep(y, [builder.add(row, ir.Constant(row.type, v * LANES))]), total)
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, x, x0, x_step, offsets, taps, w, w0, bias, slope, first, y, y0, y_step):
        index = types.intp
        return types.void(
            x, index, index, offsets, index, w, index, bias, slope, index, y, index, index
        ), codegen

    return tile


def make_dot_tile(rows: int, taps: int):
    """An intrinsic for the products of `rows` rows of g with `taps` shifted copies of x, summed over positions:

        out[out0 + t*rows + m] += sum over i < height, p < width of
                                  g[g0 + m*g_step + i*g_row + p] * x[x0 + offsets[k + t] + i*x_row + q]

    where q goes on by x_step when p goes on by LANES; width is a multiple of LANES. It keeps LANES partial sums
    of each product and adds them up at the end. All arrays are flat and unchecked, as in make_outer_tile.
    """

    def codegen(context, builder, signature, args):
        g, g0, g_step, g_row, x, x0, x_step, x_row, offsets, k, height, width, out, out0 = args
        g, x, offsets, out = (_flat_data(context, builder, signature.args[i], args[i]) for i in (0, 4, 8, 12))

        def plus(value, number: int):
            return builder.add(value, ir.Constant(value.type, number))

        starts = [builder.add(x0, builder.load(builder.gep(offsets, [plus(k, t)]))) for t in range(taps)]
        sums = _sums(builder, rows, taps)
        vectors = builder.sdiv(width, ir.Constant(width.type, LANES))
        with cgutils.for_range(builder, height) as line:
            g_line = builder.add(g0, builder.mul(line.index, g_row))
            x_line = builder.mul(line.index, x_row)
            with cgutils.for_range(builder, vectors) as loop:
                g_at = builder.add(g_line, builder.mul(loop.index, ir.Constant(width.type, LANES)))
                x_at = builder.add(x_line, builder.mul(loop.index, x_step))
                xs = [_load_vector(builder, builder.gep(x, [builder.add(start, x_at)])) for start in starts]
                for m in range(rows):
                    row = builder.add(g_at, builder.mul(g_step, ir.Constant(g_step.type, m)))
                    gradient = _load_vector(builder, builder.gep(g, [row]))
                    for t in range(taps):
                        builder.store(_call(builder, "fma", [gradient, xs[t], builder.load(sums[m][t])]), sums[m][t])
        add_up = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(F32, [F32, VECTOR]), f"llvm.vector.reduce.fadd.v{LANES}f32"
        )
        for t in range(taps):
            for m in range(rows):
                cell = builder.gep(out, [plus(out0, t * rows + m)])
                total = builder.call(add_up, [ir.Constant(F32, 0.0), builder.load(sums[m][t])], fastmath=("reassoc",))
                builder.store(builder.fadd(builder.load(cell), total), cell)
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, g, g0, g_step, g_row, x, x0, x_step, x_row, offsets, k, height, width, out, out0):
        index = types.intp
        return types.void(
            g, index, index, index, x, index, index, index, offsets, index, index, index, out, index
        ), codegen

    return tile


@intrinsic
def transpose(typingctx, x, x0, x_step, y, y0, y_step):
    """y[y0 + j*y_step + i] = x[x0 + i*x_step + j] for i, j < LANES: a square block turned about its diagonal.

    Rows i and i + d swap the halves in which bit d of the column differs, for d = LANES/2, ... 2, 1.
    """
    def codegen(context, builder, signature, args):
        x, x0, x_step, y, y0, y_step = args
        x, y = (_flat_data(context, builder, signature.args[i], args[i]) for i in (0, 3))

        def at(data, start, step, i):
            return builder.gep(data, [builder.add(start, builder.mul(step, ir.Constant(step.type, i)))])

        def shuffle(a, b, picks):
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, LANES), picks))

        rows = [_load_vector(builder, at(x, x0, x_step, i)) for i in range(LANES)]
        d = LANES // 2
        while d:
            upper = [j if j & d == 0 else LANES + j - d for j in range(LANES)]
            lower = [j + d if j & d == 0 else LANES + j for j in range(LANES)]
            for i in range(LANES):
                if i & d == 0:
                    a, b = rows[i], rows[i + d]
                    rows[i], rows[i + d] = shuffle(a, b, upper), shuffle(a, b, lower)
            d //= 2
        for i, row in enumerate(rows):
            _store_vector(builder, at(y, y0, y_step, i), row)
        return context.get_dummy_value()

    index = types.intp
    return types.void(x, index, index, y, index, index), codegen
