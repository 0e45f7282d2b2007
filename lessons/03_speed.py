# %% [markdown]
# # 03 ... and making it run
#
# **Question:** where do the seconds go?
#
# **Papers:** FaceCraft, section 6.5. **Time:** 30 s.
# **Before:** 02, the layer itself.
#
# **You build:** a count of a layer's work and of its traffic with memory, a depthwise convolution, a detector of races
# between threads, and the input gradient in a form that cannot race.
# **You may skip:** exercise 3.3.
#
# Lesson 02 wrote one layer in five ways. They give the same numbers, and the slowest takes more than ten thousand
# times as long as the fastest. Here they run against the clock, and against what the machine could do at most.
#
# All figures are measured while this runs, so yours will differ from those in the text, which are from two cores
# of a server (AMD EPYC), shared with other programs. Where the text says "about ten times", seven or thirty is no
# reason to worry; where two methods differ by less than a factor of two, even their order may change.

# %%
import itertools
import time

import numpy as np
from numba import njit, prange
from solutions import lesson_03 as solution

from minidetect.benchmark.machine import peak_gflops
from minidetect.checks import lesson_03 as check
from minidetect.kernels.conv import conv2d_backward, conv2d_forward
from minidetect.kernels.conv_tile import band_rows, convolve_rows, forward_taps, pack_filters
from minidetect.kernels.depthwise import depthwise_forward
from minidetect.kernels.simd import LANES, TILE_FILTERS, TILE_VECTORS
from minidetect.kernels.threads import max_threads, num_threads, set_num_threads
from minidetect.teach import Lesson
from minidetect.visualize import COLOURS, new_figure

lesson = Lesson("03", "... and making it run")
BLUE, ORANGE, GREEN = COLOURS[6], COLOURS[5], COLOURS[2]

# %% [markdown]
# Until section 10, one thread does all the work; from there on two, if the machine has them.

# %%
threads = min(2, max_threads())  # how many the last sections may use
seeds = range(lesson.amount(smoke=1, lesson=3, full=5))
so_many = "1 thread" if threads == 1 else f"{threads} threads"
set_num_threads(1)

# %% [markdown]
# ## 1 How much there is to do
#
# The unit of this lesson is the **multiply-add**: one weight times one number, added to a sum. A convolution consists
# of nothing else. Before you ask whether a program is fast, count how much it has to do.
#
# ## Exercise 3.1: count the multiply-adds (about 4 lines)
#
# `x_shape` (N, C, H, W), `w_shape` (O, C/G, KH, KW), `stride`, `padding`: return the number of multiply-adds of the
# layer, biases not counted. How many numbers does the layer put out, and how many weights go into each? With G groups
# (lesson 02) a filter has C/G channels, not C. Zeros of the padding are multiplied like any number. With a stride the
# filter may not come to stand at the last pixels: where it no longer fits, there is no output.

# %%
@lesson.exercise(check.multiply_adds, otherwise=solution.multiply_adds)
def multiply_adds(x_shape, w_shape, stride, padding):
    raise NotImplementedError


# %% [markdown]
# The layer for this lesson: 32 channels of 66 x 66 pixels, 32 filters of 3 x 3, no padding, stride 1. That leaves 64 x
# 64 outputs a filter. It is a middling layer of a small network.

# %%
def draw_layer(seed, channels, filters, side=66):
    """x (C, H, W) and w (O, C, 3, 3), float32 as in the library."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(channels, side, side)).astype("f"), rng.normal(size=(filters, channels, 3, 3)).astype("f")


x, w = draw_layer(0, 32, 32)

# %%
guess = lesson.predict("How many million multiply-adds does it take?", 1)

# %%
work = multiply_adds((1, *x.shape), w.shape, 1, 0)
lesson.reveal(guess, work / 1e6)

# %% [markdown]
# ## 2 Python
#
# The loops as they stand in the formula. To wait for all of it would be dull, so this takes a few rows of one filter;
# the speed, in multiply-adds a second, is the same.

# %%
def by_python(x, w, rows):
    """The first `rows` rows of the first filter's output: (rows, PW)."""
    y = np.zeros((rows, x.shape[2] - 2), np.float32)
    for i in range(rows):
        for j in range(y.shape[1]):
            for c in range(x.shape[0]):
                for u in range(3):
                    for v in range(3):
                        y[i, j] += w[0, c, u, v] * x[c, i + u, j + v]
    return y


# %%
guess = lesson.predict("How many seconds would Python need for the whole layer?", 1)

# %% [markdown]
# A clock is read before and after. Everything else that runs on a machine can only make a program slower, so of
# several runs the shortest comes closest to what the program itself takes; and the first run does not count, since
# it finds nothing in the cache. (To compare two programs within a few percent takes more care: see
# `minidetect/benchmark/timing.py`.)

# %%
def seconds(call, times=5):
    """The shortest of several runs, after one that is not timed."""
    call()
    taken = []
    for _ in range(lesson.amount(smoke=1, lesson=times, full=4 * times)):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


# %%
few = 2 * 64 * 32 * 9  # multiply-adds in two rows of one filter
python_rate = few / seconds(lambda: by_python(x, w, 2), 2)
speed = {"Python loops": python_rate / 1e9}  # in GMAC/s: 10**9 multiply-adds (multiply-accumulates) a second
lesson.reveal(guess, work / python_rate)

# %% [markdown]
# Twenty seconds on a quiet machine, minutes on a busy one. A processor could do ten or more multiply-adds in each of
# its two to four billion cycles a second. Python takes a thousand cycles and more for one: it looks up what `x` is,
# builds a tuple of three indices, finds out which types `*` is given, makes an object for the product, another for
# the sum, and counts who still uses them. The arithmetic is the least of it.
#
# ## 3 NumPy: give it whole pictures
#
# The way out that every user of NumPy knows: let one call do much. Here the fourth view of lesson 02, a sum of shifted
# pictures: one call a filter, channel and tap.

# %%
def by_slices(x, w):
    y = np.zeros((len(w), x.shape[1] - 2, x.shape[2] - 2), np.float32)
    for o, c, u, v in np.ndindex(w.shape):
        y[o] += w[o, c, u, v] * x[c, u : u + y.shape[1], v : v + y.shape[2]]
    return y


right = by_slices(x, w)  # (32, 64, 64)
assert np.allclose(right[0, :2], by_python(x, w, 2), atol=1e-3)

# %%
guess = lesson.predict("How many times as fast as the Python loops?", 10)

# %%
speed["NumPy slices"] = work / seconds(lambda: by_slices(x, w), 3) / 1e9
lesson.reveal(guess, speed["NumPy slices"] / speed["Python loops"])

# %% [markdown]
# Hundreds of times. And yet each call reads a picture, writes the product to memory, reads it again and adds it to
# another that it reads and writes: for one multiply-add, much moving about.
#
# ## 4 im2col: give it one product
#
# The third view. `sliding_window_view` gives all patches without copying; `reshape` then copies them into a matrix of
# C * 9 rows and a column for each place, and one product does all the arithmetic. NumPy hands it to a BLAS, a library
# of matrix routines whose authors have spent decades on this one problem.

# %%
def by_im2col(x, w):
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))  # (C, PH, PW, 3, 3)
    matrix = windows.transpose(0, 3, 4, 1, 2).reshape(len(x) * 9, -1)  # (C * 9, PH * PW)
    return (w.reshape(len(w), -1) @ matrix).reshape(len(w), *windows.shape[1:3])


assert np.allclose(by_im2col(x, w), right, atol=1e-3)

# %%
guess = lesson.predict("How many times as fast as the slices?", 2)

# %%
speed["im2col + BLAS"] = work / seconds(lambda: by_im2col(x, w)) / 1e9
lesson.reveal(guess, speed["im2col + BLAS"] / speed["NumPy slices"])

# %% [markdown]
# It copies every pixel nine times, and is still fifty or two hundred times as fast, because each number, once fetched,
# is used many times over. Keep that in mind for section 8. So far:

# %%
def draw_ladder(dotted=None):
    figure = new_figure(8, 0.6 + 0.35 * len(speed))
    axes = figure.subplots()
    bars = axes.barh(list(speed), list(speed.values()), color=BLUE)
    axes.bar_label(bars, [f" {value:.2g}" for value in speed.values()], fontsize=8)
    axes.set(xscale="log", xlabel="GMAC/s", xlim=(3e-5, 500))
    if dotted:
        axes.axvline(dotted, color=ORANGE, linestyle=":")
    axes.invert_yaxis()
    return figure


lesson.show(draw_ladder(), "python_numpy", "Billions of multiply-adds a second, on an axis in factors of ten")

# %% [markdown]
# ## 5 Numba: compile the loops
#
# Numba translates a Python function into machine code, at the first call with arguments of a new type. Types are known
# then, objects and tuples vanish, and the loops of the formula become the few instructions that they look like.

# %%
@njit
def compiled(x, w, y):
    for o in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                total = np.float32(0)
                for c in range(x.shape[0]):
                    for u in range(3):
                        for v in range(3):
                            total += w[o, c, u, v] * x[c, i + u, j + v]
                y[o, i, j] = total


# %%
guess = lesson.predict("How many seconds does the first call take?", 0.1)

# %%
y = np.empty_like(right)
start = time.perf_counter()
compiled(x, w, y)
lesson.reveal(guess, time.perf_counter() - start)
assert np.allclose(y, right, atol=1e-3)

# %% [markdown]
# Nearly all of that is the compiler at work: a price to pay once in a process. The library keeps its machine code on
# disk, so that it is paid once on a machine; `minidetect warmup` does it ahead. From the second call on:

# %%
guess = lesson.predict("How many times as fast as Python is it then?", 10)

# %%
speed["Numba, as in the formula"] = work / seconds(lambda: compiled(x, w, y), 3) / 1e9
lesson.reveal(guess, speed["Numba, as in the formula"] / speed["Python loops"])

# %% [markdown]
# A great step, and still no more than a few times as fast as the slices, and far behind the matrix product. Why? A
# modern processor has instructions that do the same to a whole **vector** of numbers, 4, 8 or 16 of them at once. In
# the innermost loops above each product is added to the same `total`. To use a vector, the compiler would have to
# keep several totals and add them up at the end. That changes how the sum is rounded, and it is not allowed to.
#
# ## 6 The order of the loops
#
# Put the places inside: along a row of outputs each has its own sum, neighbours in memory, and nothing forbids doing
# sixteen at once. The loops are the same; only their order has changed. Here is where in memory they read their first
# 72 numbers of x, for the formula's order and for the new one (a small x of 3 channels of 8 x 26, so that it fits).

# %%
places = np.arange(3 * 8 * 26).reshape(3, 8, 26)  # the address of each number
inside = [places[c, u, j + v] for j in range(3) for c in range(3) for u in range(3) for v in range(3)]
along = [places[0, 0, j + v] for v in range(3) for j in range(24)]

# %%
figure = new_figure(7, 2.8)
for axes, order, title in zip(figure.subplots(1, 2), (inside, along), ("taps inside", "rows inside"), strict=True):
    axes.plot(order[:72], ".", color=BLUE)
    axes.set(title=title, xlabel="step", ylabel="address", ylim=(-20, 640))
lesson.show(figure, "orders", "Left: hops through memory, all for one sum. Right: along a row, a sum for each number")

# %%
@njit
def by_rows(x, w, y):
    y[:] = 0
    for o in range(y.shape[0]):
        for c in range(x.shape[0]):
            for u in range(3):
                for v in range(3):
                    for i in range(y.shape[1]):
                        for j in range(y.shape[2]):
                            y[o, i, j] += w[o, c, u, v] * x[c, i + u, j + v]


# %%
guess = lesson.predict("How many times as fast as before is it in this order?", 1)

# %%
speed["Numba, rows inside"] = work / seconds(lambda: by_rows(x, w, y)) / 1e9
assert np.allclose(y, right, atol=1e-3)
lesson.reveal(guess, speed["Numba, rows inside"] / speed["Numba, as in the formula"])

# %% [markdown]
# About ten times, for a change that no reader of the formula would notice.
#
# ## 7 The library: keep the sums in registers
#
# What is left to gain? In `by_rows` every multiply-add loads a number of x, loads a sum, and stores the sum again. The
# arithmetic units wait for the memory, even though it is the nearest cache. The processor has a few places that cost
# nothing to reach: its 16 or 32 vector **registers**. So the library (`minidetect/kernels/simd.py` and `conv_tile.py`)
# works in **tiles**: the sums of a few filters at a few vectors of places stay in registers until they are complete.
# For each channel and tap it loads the vectors of x, once, for all those filters, and the filters' weights, once, for
# all those vectors.

# %%
loaded = TILE_VECTORS * LANES + TILE_FILTERS  # numbers: vectors of x, and one weight a filter
done = TILE_FILTERS * TILE_VECTORS * LANES  # multiply-adds with them
print(f"tile of {TILE_FILTERS} filters x {TILE_VECTORS} vectors of {LANES}: {done / loaded:.1f} multiply-adds a number")

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
axes.pcolormesh(np.ones((TILE_FILTERS, TILE_VECTORS)), cmap="Blues", vmin=0, vmax=2, edgecolors="white")
for o, v in np.ndindex(TILE_FILTERS, TILE_VECTORS):
    axes.text(v + 0.5, o + 0.5, f"{LANES} sums", ha="center", va="center", fontsize=8)
filters, vectors = range(TILE_FILTERS), range(TILE_VECTORS)
axes.set_yticks([o + 0.5 for o in filters], [f"a weight of filter {o}" for o in filters], color=ORANGE)
axes.set_xticks([v + 0.5 for v in vectors], [f"{LANES} numbers of x" for v in vectors], color=ORANGE)
axes.tick_params(length=0)
axes.invert_yaxis()
lesson.show(figure, "tile", "A tile: what is orange is loaded for each channel and tap; each cell stays in a register")

# %% [markdown]
# In `by_rows` it was about one third of a multiply-add for each number that goes to or from memory.

# %%
guess = lesson.predict("How many times as fast as the best loops so far are the tiles?", 2)

# %%
def by_tiles(x, w):
    """(A machine whose vectors the library does not know has no tiles: there it takes plain loops.)"""
    y = np.empty((1, len(w), x.shape[1] - 2, x.shape[2] - 2), np.float32)
    if LANES == 1:
        return conv2d_forward(x[None], w, None, 1, 0, 1, 1)[0]
    taps = forward_taps(3, 3, 1, 0, 1, *y.shape[2:])
    band, one = band_rows(len(x), taps.geometry), np.ones(len(w), np.float32)
    packed = pack_filters(w, taps)  # the weights in the order in which the tile reads them
    convolve_rows(x[None], taps.geometry, taps.row, taps.column, band, packed, False, False, y, one, y)
    return y[0]


assert np.allclose(by_tiles(x, w), right, atol=1e-3)

# %%
speed["tiles"] = work / seconds(lambda: by_tiles(x, w), 10) / 1e9
lesson.reveal(guess, speed["tiles"] / speed["Numba, rows inside"])

# %% [markdown]
# One more step is possible, of another kind: do less. Take two neighbouring outputs of a filter of three taps,
# `d0*g0 + d1*g1 + d2*g2` and `d1*g0 + d2*g1 + d3*g2`. That is six multiplications. Four are enough:

# %%
d0, d1, d2, d3 = 2.0, -1.0, 4.0, 3.0  # four neighbouring numbers of x
g0, g1, g2 = 5.0, 1.0, -2.0  # three taps
sum_g, difference_g = (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2  # of the filter alone: once for the whole picture
p, q, r, s = (d0 - d2) * g0, (d1 + d2) * sum_g, (d2 - d1) * difference_g, (d1 - d3) * g2  # four
print("with four:", p + q + r, q - r - s, " with six:", d0 * g0 + d1 * g1 + d2 * g2, d1 * g0 + d2 * g1 + d3 * g2)

# %% [markdown]
# This is Winograd's method; `minidetect/kernels/conv_points.py` has it for four outputs, with six multiplications in
# place of twelve. The price is some additions, and there must be enough channels to share them. With 32 there are, so
# this is what the library's own function does in this layer. We go on counting the multiply-adds of the definition, as
# everybody does, though half of them are never carried out.

# %%
def by_library():
    return conv2d_forward(x[None], w, None, 1, 0, 1, 1)[0]


assert np.allclose(by_library(), right, atol=1e-3)
speed["library"] = work / seconds(by_library, 10) / 1e9

# %% [markdown]
# How far is the top? `peak_gflops` measures the most multiply-adds that one core can do when it loads nothing at all
# (it counts a multiplication and an addition as two, hence the half).

# %%
peak = max(peak_gflops(1).values()) / 2
print(f"peak of one core: {peak:.0f} GMAC/s; the tiles reach {speed['tiles'] / peak:.0%} of it")

# %%
lesson.show(draw_ladder(peak), "ladder", "The same layer in seven ways, on one core; dotted: the machine's peak")

# %% [markdown]
# The axis is logarithmic, and it has to be: on an ordinary one the first bars could not be seen. The largest steps
# are the first ones. To leave Python's loops is worth hundreds, to arrange the work for the caches and the vectors
# some tens more. The last two bars, several times the best loops and up to three times the matrix product, cost the
# library more code than all that came before. The saved multiplications show little here, and the library may even
# come out behind the tiles, since a single call must first prepare the filters (the sums `sum_g` and `difference_g`
# above); a detector does that once for all its pictures.
#
# The claim asks for far less than what comes out, so that it holds on any machine.

# %%
def library_over_python(seed):
    x, w = draw_layer(seed, 32, 32)
    python = few / seconds(lambda: by_python(x, w, 2), 1)
    return work / seconds(lambda: conv2d_forward(x[None], w, None, 1, 0, 1, 1)) / python


lesson.claim(
    "03-a",
    "the library is more than 100 times as fast as loops in Python",
    [library_over_python(seed) for seed in seeds],
    above=100,
    paper="gives no figure",
    asserted=True,
)

# %% [markdown]
# Is the matrix product always better than plain compiled loops? Its copying is the same work for 2 filters as for 64,
# and with few filters there is little arithmetic to repay it.

# %%
def rates(seed, channels):
    """GMAC/s of loops by rows, im2col and the library, for as many filters as channels."""
    x, w = draw_layer(seed, channels, channels)
    y, total = np.empty((channels, 64, 64), "f"), multiply_adds((1, *x.shape), w.shape, 1, 0)
    calls = (
        lambda: by_rows(x, w, y), lambda: by_im2col(x, w), lambda: conv2d_forward(x[None], w, None, 1, 0, 1, 1)
    )  # fmt: skip
    return [total / seconds(call) / 1e9 for call in calls]


# %%
counts = lesson.amount(smoke=[2, 16], lesson=[2, 4, 8, 16, 32, 64], full=[2, 4, 8, 16, 32, 64, 128])
by_channels = np.array([rates(0, channels) for channels in counts])  # one row a count

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
for line, name, colour in zip(by_channels.T, ("Numba rows", "im2col", "library"), (BLUE, ORANGE, GREEN), strict=True):
    axes.plot(counts, line, "o-", color=colour, label=name)
axes.set(xscale="log", xticks=counts, xticklabels=counts, xlabel="channels and filters", ylabel="GMAC/s", ylim=0)
axes.minorticks_off()
axes.legend()
lesson.show(figure, "channels", "Speed against the number of channels: the matrix product needs many")

# %%
ratios = [rates(seed, 16) for seed in seeds]
lesson.claim(
    "03-b",
    "with 16 channels the matrix product beats plain compiled loops",
    [im2col / rows for rows, im2col, _ in ratios],
    above=1,
    paper="gives no figure",
)

# %% [markdown]
# That one is not enforced. It depends on the width of the vectors, on which BLAS came with NumPy, and on who else uses
# the machine: where this was written, the lines of the loops and of im2col cross between 4 and 16 channels.
# (The library's line has the saved multiplications in it from 32 channels on. If all lines fall at the right end, the
# machine is busy: the longer a call takes, the less likely it is to run undisturbed even once.)
#
# ## 8 Work and traffic
#
# Peak speed is only to be had if numbers arrive fast enough. So there is a second thing to count. At the least, x
# and w must come from memory once and y must go there once. The multiply-adds that are done for each byte of this
# are the layer's **intensity**.
#
# ## Exercise 3.2: the intensity (about 4 lines)
#
# The same arguments as in 3.1. Return multiply-adds divided by bytes. All numbers are float32, four bytes each. Mind
# that y has another size than x.

# %%
@lesson.exercise(check.intensity, otherwise=solution.intensity)
def intensity(x_shape, w_shape, stride, padding):
    raise NotImplementedError


# %%
guess = lesson.predict("A depthwise 3 x 3 layer: how many multiply-adds a byte?", 9)

# %%
large = (1, 32, 256, 256)  # 8 MB: more than fits into the caches near the core
lesson.reveal(guess, intensity(large, (32, 1, 3, 3), 1, 1))

# %% [markdown]
# Nine multiply-adds for one number read and one written, which are 8 bytes: 9 / 8. Dense layers share what they load
# among all filters. How fast can memory deliver? Copy something large and see.

# %%
source, target = np.ones(1 << 24, np.float32), np.ones(1 << 24, np.float32)  # 64 MB each
bandwidth = 2 * source.nbytes / seconds(lambda: np.copyto(target, source)) / 1e9
print(f"memory: {bandwidth:.0f} GB/s; arithmetic: {peak:.0f} GMAC/s")
print(f"so a layer needs {peak / bandwidth:.1f} multiply-adds a byte, or it waits for memory")

# %% [markdown]
# Four layers on the same 32 channels of 256 x 256 pixels:

# %%
layers = {  # name: shape of w, groups
    "dense 3 x 3": ((32, 32, 3, 3), 1),
    "8 groups, 3 x 3": ((32, 4, 3, 3), 8),
    "dense 1 x 1": ((32, 32, 1, 1), 1),
    "depthwise 3 x 3": ((32, 1, 3, 3), 32),
}

# %%
rng = np.random.default_rng(3)
big = rng.normal(size=large).astype("f")
points = {}
for name, (shape, groups) in layers.items():
    weights, pad = rng.normal(size=shape).astype("f"), shape[2] // 2
    taken = seconds(lambda w=weights, p=pad, g=groups: conv2d_forward(big, w, None, 1, p, 1, g))
    rate = multiply_adds(large, shape, 1, pad) / taken / 1e9
    points[name] = intensity(large, shape, 1, pad), rate, taken
    print(f"{name:16} {taken * 1000:6.2f} ms, {points[name][0]:5.2f} multiply-adds a byte, {rate:5.1f} GMAC/s")

# %%
figure = new_figure(6, 3.5)
axes = figure.subplots()
line = np.geomspace(0.5, 100, 50)
axes.loglog(line, np.minimum(peak, bandwidth * line), color="black")
for (name, (at, rate, _)), colour in zip(points.items(), (BLUE, ORANGE, GREEN, COLOURS[4]), strict=True):
    axes.plot(at, rate, "o", color=colour, label=name)
axes.set(xlabel="multiply-adds a byte", ylabel="GMAC/s", ylim=(1, 300))
axes.legend(fontsize=8, loc="upper left")
lesson.show(figure, "roofline", "The roofline: memory limits the slope, arithmetic the flat part")

# %% [markdown]
# This picture is called a **roofline**. Nothing can be above the roof, unless parts of its data stay in a cache, or it
# saves multiplications (as dense 3 x 3 does), or the machine was busier when the roof was measured. A point under the
# flat part has more to gain from better arithmetic; a point close under the slope gains nothing from it.
#
# Now the other way round. A depthwise layer has a 32nd of the dense layer's multiply-adds. If only the work counted,
# it would be 32 times as fast.

# %%
guess = lesson.predict("How many times as fast as dense 3 x 3 is depthwise 3 x 3 in fact?", 32)

# %%
lesson.reveal(guess, points["dense 3 x 3"][2] / points["depthwise 3 x 3"][2])

# %%
dense_work, dense_time = multiply_adds(large, (32, 32, 3, 3), 1, 1), points["dense 3 x 3"][2]
share_of_work = [multiply_adds(large, shape, 1, shape[2] // 2) / dense_work for shape, _ in layers.values()]
share_of_time = [points[name][2] / dense_time for name in layers]

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
axes.bar(np.arange(4) - 0.2, share_of_work, 0.4, color=BLUE, label="multiply-adds")
axes.bar(np.arange(4) + 0.2, share_of_time, 0.4, color=ORANGE, label="time")
axes.set_xticks(range(4), list(layers), fontsize=8)
axes.set_ylabel("share of dense 3 x 3")
axes.legend()
lesson.show(figure, "shares", "What a thinner layer saves: multiply-adds, and time")

# %% [markdown]
# A good deal less. "Fewer multiply-adds" is what papers on small networks count; seconds are what a user
# counts. Lesson 17 comes back to that.
#
# ## 9 Depthwise by hand
#
# ## Exercise 3.3: a depthwise layer (about 5 lines)
#
# `x` (C, H, W), `w` (C, KH, KW): return `y` (C, PH, PW), stride 1, no padding. Channel c of `y` is made of channel c
# of `x` and of nothing else.

# %%
@lesson.exercise(check.depthwise, otherwise=solution.depthwise)
def depthwise(x, w):
    raise NotImplementedError


# %%
small, thin = x[:8, :20, :18], w[:8, 0]  # (8, 20, 18), (8, 3, 3)
by_hand = depthwise(small, thin)
assert np.allclose(by_hand, depthwise_forward(small[None], thin[:, None], None, 1, 0, 1)[0], atol=1e-3)

# %% [markdown]
# What does the trick with the matrix product do here? For one channel it is a list of 9 weights times a matrix of 9
# rows: each number of that matrix is made for a single multiply-add.

# %%
def depthwise_by_im2col(x, w):
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    matrices = windows.transpose(0, 3, 4, 1, 2).reshape(len(x), 9, -1)  # (C, 9, PH * PW)
    return (w.reshape(len(x), 1, 9) @ matrices).reshape(len(x), *windows.shape[1:3])


def depthwise_by_rows(x, w):
    y = np.empty((len(x), x.shape[1] - 2, x.shape[2] - 2), np.float32)
    for c in range(len(x)):
        by_rows(x[c : c + 1], w[c : c + 1, None], y[c : c + 1])
    return y


# %%
def loops_over_im2col(seed):
    x, w = draw_layer(seed, 32, 1)
    w = w[0]  # (32, 3, 3)
    assert np.allclose(depthwise_by_rows(x, w), depthwise_by_im2col(x, w), atol=1e-3)
    return seconds(lambda: depthwise_by_im2col(x, w)) / seconds(lambda: depthwise_by_rows(x, w))


lesson.claim(
    "03-c",
    "for a depthwise layer plain compiled loops beat the matrix product",
    [loops_over_im2col(seed) for seed in seeds],
    above=1,
    paper="gives no figure",
)

# %% [markdown]
# Not enforced either, but it is why the library has kernels of their own for depthwise layers
# (`minidetect/kernels/depthwise.py`).
#
# ## 10 Two threads, and a sum that comes out wrong
#
# A processor has several cores, and a program may run in several **threads**, one a core. With Numba that is a matter
# of writing `prange` for `range`: its iterations are shared out among the threads, and run in no particular order.
#
# The weight gradient of lesson 02 adds up over images, so share out the images. One channel, one filter, and all
# numbers are 1, so that the right answer is known without computing it: each weight hears 1 from every place.

# %%
@njit(parallel=True)
def racing_gradient(gy, x, gw):
    """gy (N, PH, PW), x (N, PH + 2, PW + 2); adds to gw (3, 3)."""
    for n in prange(len(gy)):
        for u in range(3):
            for v in range(3):
                total = gw[u, v]
                for i in range(gy.shape[1]):
                    for j in range(gy.shape[2]):
                        total += gy[n, i, j] * x[n, i + u, j + v]
                gw[u, v] = total


# %%
ones_gy, ones_x = np.ones((1024, 62, 62)), np.ones((1024, 64, 64))


def share_found(kernel):
    """What a kernel finds of all that it should add up: 1 if nothing is missing."""
    gw = np.zeros((3, 3))
    kernel(ones_gy, ones_x, gw)
    return gw.sum() / (9 * ones_gy.size)


print("on one thread:", share_found(racing_gradient))

# %%
runs = lesson.amount(smoke=3, lesson=20, full=100)
guess = lesson.predict(f"With {so_many}, in how many of {runs} runs is something missing?", 0)

# %%
with num_threads(threads):
    found = np.array([share_found(racing_gradient) for _ in range(runs)])
lesson.reveal(guess, (found < 1).sum())
print(f"{so_many}; the smallest share found: {found.min():.3f}, the largest: {found.max():.3f}")

# %%
figure = new_figure(6, 2.5)
axes = figure.subplots()
axes.bar(range(runs), found, color=[BLUE if share == 1 else ORANGE for share in found])
axes.axhline(1, color="grey", linestyle=":")
axes.set(xlabel="run", ylabel="share found", xticks=[])
lesson.show(figure, "race", f"The same sum, {runs} times, on {so_many}; orange: something is missing")

# %% [markdown]
# If you have one thread only, as on a machine with one core (the line above says so), nothing is missing, and you
# will have to trust the next section, which needs no second thread. With two threads, where this was written, all 20
# runs were wrong, each by another amount, from 3 to 11 percent. There is no error and no warning. And with a quarter
# of the images some runs came out right, since threads that happen to take turns do each other no harm: a small test
# may pass, and then fail at work.
#
# ## 11 How a sum gets lost
#
# To add to a number in memory takes two steps: **read** it, then **write** the sum. Let two threads A and B add 1 to a
# cell that holds 0. Each reads, then writes, but which of the four steps comes when is anybody's guess. A's two steps
# may be any two of the four.

# %%
def final_value(steps_of_a):
    cell, in_hand = 0, {}
    for step in range(4):
        who = "A" if step in steps_of_a else "B"
        if who not in in_hand:
            in_hand[who] = cell  # read
        else:
            cell = in_hand[who] + 1  # write
    return cell


# %%
orders = list(itertools.combinations(range(4), 2))
guess = lesson.predict(f"In how many of the {len(orders)} orders is the cell 1 in the end, not 2?", 1)

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
axes.imshow([[step in order for step in range(4)] for order in orders], cmap="coolwarm", vmin=-0.5, vmax=1.5)
for row, order in enumerate(orders):
    for step in range(4):
        axes.text(step, row, "A" if step in order else "B", ha="center", va="center", color="white")
    axes.text(4, row, f"ends as {final_value(order)}", va="center")
axes.set(xticks=range(4), xticklabels=range(1, 5), yticks=[], xlabel="step")
lesson.show(figure, "interleavings", "Six orders of two steps each: the first of a thread reads, the second writes")
lesson.reveal(guess, sum(final_value(order) == 1 for order in orders))

# %% [markdown]
# Only AABB and BBAA are right: one thread must be done before the other begins. In the kernel above a thread reads
# `total`, sums up a whole image, and writes: there is much time for the other thread to come between. To write
# `gw[u, v] += ...` in the innermost loop makes the gap smaller, and the bug rarer and so harder to find. This is
# called a **race**.
#
# So do not look for races in the results; look for them in the program. The rule: **no two iterations may write the
# same cell** (or one write what another reads).
#
# ## Exercise 3.4: find the shared cells (about 5 lines)
#
# `writes`: a list with an entry for each iteration of a loop, the list of cells that it writes, as numbers. Return the
# sorted list of the cells that more than one iteration writes, each named once. An iteration may write its own cell as
# often as it likes.

# %%
@lesson.exercise(check.shared_cells, otherwise=solution.shared_cells)
def shared_cells(writes):
    raise NotImplementedError


# %% [markdown]
# The loop over images has every iteration write all nine weights:

# %%
print("weight gradient, shared out by images:", shared_cells([list(range(9)) for image in range(4)]))

# %% [markdown]
# And the input gradient? There, each output adds to the pixels that it has read:
# `gx[i + u, j + v] += w[u, v] * gy[i, j]`. This is called **scatter**: an output throws its parts at pixels. Take
# 8 x 8 outputs, so 10 x 10 pixels, and share out the rows of outputs.

# %%
def pixels_of_row(i):
    """The pixels (row * 10 + column) to which row i of the outputs adds."""
    return [(i + u) * 10 + j + v for j in range(8) for u in range(3) for v in range(3)]


# %%
guess = lesson.predict("How many of the 100 pixels are shared?", 20)

# %%
shared = shared_cells([pixels_of_row(i) for i in range(8)])
lesson.reveal(guess, len(shared))

# %%
writers = np.zeros(100, int)
for i in range(8):
    writers[np.unique(pixels_of_row(i))] += 1
figure = new_figure(4, 3)
axes = figure.subplots()
shown = axes.imshow(writers.reshape(10, 10), cmap="Blues", vmin=0)
figure.colorbar(shown, label="rows of outputs that write it", ticks=[1, 2, 3])
axes.set(xticks=[], yticks=[])
lesson.show(figure, "writers", "Each pixel, by how many iterations write it")

# %% [markdown]
# All but the first and the last row of pixels. And it would hardly show: each thread is given rows that lie together,
# so they meet in the two rows at the seam, and only if both are there at the same time.
#
# ## 12 The cure: compute what you own
#
# Turn the loop round. Do not ask an output where its parts go; ask a pixel, or a weight, from where its parts come:
# **gather**. Each iteration then owns one number, reads whatever it needs, and writes that number, once. There is
# nothing left to race for.
#
# ## Exercise 3.5: one pixel's gradient, gathered (about 8 lines)
#
# `gy` (PH, PW), `w` (KH, KW), `row`, `column` of a pixel, `stride`; no padding, one channel. Return the number
# gx[row, column]. Output (i, j) read, through its tap (u, v), the pixel (i * stride + u, j * stride + v). So for each
# tap: is there a whole i with i * stride + u = row, and is it an output at all? Mind negative indices, which Python
# takes for places counted from the end, and pixels that no output has read (a stride may leave some over): their
# gradient is 0.

# %%
@lesson.exercise(check.pixel_gradient, otherwise=solution.pixel_gradient)
def pixel_gradient(gy, w, row, column, stride):
    raise NotImplementedError


# %% [markdown]
# Since no pixel waits for another, any order will do. Fill a picture in shuffled order, count how often each pixel is
# written, and compare with the library.

# %%
gy, kernel = rng.normal(size=(4, 5)), rng.normal(size=(3, 3))
gx, written = np.zeros((9, 11)), np.zeros((9, 11), int)  # stride 2: (4 - 1) * 2 + 3 rows
for pixel in rng.permutation(gx.size):
    place = divmod(int(pixel), 11)
    gx[place] = pixel_gradient(gy, kernel, *place, 2)
    written[place] += 1

# %%
library_gx, _ = conv2d_backward(gy[None, None], gx[None, None], kernel[None, None], 2, 0, 1, 1, (True, False))
assert (written == 1).all() and np.allclose(gx, library_gx[0, 0])

# %% [markdown]
# The weight gradient in the same form: an iteration owns a weight, and walks over all images.

# %%
@njit(parallel=True)
def owning_gradient(gy, x, gw):
    for k in prange(9):
        u, v = k // 3, k % 3
        total = 0.0
        for n in range(len(gy)):
            for i in range(gy.shape[1]):
                for j in range(gy.shape[2]):
                    total += gy[n, i, j] * x[n, i + u, j + v]
        gw[u, v] = total


# %%
with num_threads(threads):
    found = np.array([share_found(owning_gradient) for _ in range(runs)])
assert (found == 1).all()
print(f"{so_many}, {runs} runs: the smallest share found is {found.min()}")

# %% [markdown]
# In a real layer there are O * C pairs of filter and channel to own, enough for any number of threads. Where there
# is too little to own, the other cure is to give every thread a `gw` of its own, and add them up at the end. Read
# `_input_gradient` and `_weight_gradient` in `minidetect/kernels/conv.py`: both are gathered, and say in a comment
# what an iteration owns.
#
# ## 13 What threads are worth

# %%
guess = lesson.predict(f"How many times as fast is the library with {so_many}, in this layer?", 2)

# %%
one = seconds(by_library, 10)
with num_threads(threads):
    several = seconds(by_library, 10)
speed[f"library, {so_many}"] = work / several / 1e9
lesson.reveal(guess, one / several)

# %% [markdown]
# With two free cores it comes near 2. With one thread it is about 1, of course, and on a machine whose cores are
# busy with something else it can be far below 1 (a tenth and less, on a bad day here): the threads wait for each
# other at the end of every call, and the slower one decides. Threads are the last factor to go for, not the first.
#
# ## 14 What it means for a detector
#
# FaceCraft finds faces in 640 x 480 pixels ten times a second on one core, so a tenth of a second is all there is. Its
# first network alone, on the largest picture of its pyramid (320 x 240 for faces from 24 pixels):

# %%
x12 = [((1, 3, 240, 320), (16, 3, 3, 3)), ((1, 16, 119, 159), (16, 16, 5, 5))]  # shapes of x and w
total = sum(multiply_adds(x_shape, w_shape, 1, 0) for x_shape, w_shape in x12)
guess = lesson.predict(f"That is {total / 1e6:.0f} million multiply-adds. How many seconds of Python?", 10)

# %%
lesson.reveal(guess, total / (speed["Python loops"] * 1e9))
taken = [total / rate / 1e6 for rate in speed.values()]  # ms

# %%
figure = new_figure(8, 3)
axes = figure.subplots()
bars = axes.barh(list(speed), taken, color=BLUE)
axes.bar_label(bars, [f" {ms:,.0f} ms" for ms in taken], fontsize=8)
axes.axvline(100, color=ORANGE, linestyle=":")
axes.set(xscale="log", xlabel="milliseconds for the first network; dotted: all that ten pictures a second allow")
axes.set_xlim(1, 5e6)
axes.invert_yaxis()
lesson.show(figure, "detector", "What each way would mean for a detector")

# %% [markdown]
# A minute and more for Python, a few milliseconds for the tiles, for the same numbers. (The bars assume that each
# way keeps its speed in these layers. The first has 3 channels only and will be slower.) Everything that the lessons
# train from here on uses the library's.
#
# ## What you can do now
#
# - count a layer's multiply-adds and its traffic, and tell which of the two limits it;
# - explain what Python, NumPy, a matrix product and compiled loops each spend their time on;
# - measure a speed so that it means something;
# - see a race in a loop before it has cost you a day, and turn scatter into gather.
#
# In the library: `minidetect/kernels/simd.py` (vectors and tiles), `conv_tile.py`, `depthwise.py`, `threads.py`, and
# `minidetect/benchmark` for measurements that stand up. Next: 04, where these layers learn to tell faces from
# everything else.

# %%
lesson.finish()
