# %% [markdown]
# # 22 On the GPU
#
# **Question:** what changes with 10,000 threads?
#
# **Papers:** none of ours; Fast R-CNN, section 2.3, for the gradient in section 6. **Time:** 30 s.
# **Before:** 02 (convolution), 03 (races), 05 (overlaps, the mask of NMS), 10 (RoI pooling).
#
# **You build:** six kernels in the language of numba.cuda: an elementwise map, a table of overlaps, a sum in shared
# memory, a convolution with a tile, the gradient of RoI pooling, and NMS as a mask of bits.
# **You may skip:** section 2; exercise 22.6 and section 7.
#
# A processor runs a few threads, and each walks through an array. A GPU keeps tens of thousands of threads under way
# at once, and each does next to nothing: one element, one pair of boxes, one number of the output. So the loops
# disappear. What takes their place are three questions: which element is mine, who else touches this cell, and who
# has already fetched what I need? This lesson is a row of puzzles about them.
#
# **You need no GPU.** The kernels are real ones, but they run on a model of a GPU, which is written in Python
# (`minidetect/checks/gpu_puzzle.py`). It plays some thousand threads a second, so everything here is tiny. In return
# it notes every access to memory, so that you can count them, and it stops at mistakes that a GPU answers with wrong
# numbers. In section 8 the same sources go through Numba: to its own simulator, or to your GPU if you have one.

# %%
import os

os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")  # read once, when Numba is imported

import numpy as np
from numba import config, cuda, float32, uint64
from solutions import lesson_22 as solution

from minidetect.checks import lesson_22 as check
from minidetect.checks.gpu_puzzle import Fault, launch
from minidetect.kernels.iou import iou_matrix
from minidetect.kernels.nms import nms as library_nms
from minidetect.kernels.roi_pool import roi_pool_backward, roi_pool_forward
from minidetect.reference.nn_ops import conv2d as slow_conv
from minidetect.teach import Lesson
from minidetect.visualize import COLOURS, new_figure

lesson = Lesson("22", "On the GPU")
BLUE, ORANGE, GREEN = COLOURS[6], COLOURS[5], COLOURS[2]

# %% [markdown]
# The second line asks Numba for its CUDA simulator. It must stand before anything imports Numba, and so before
# anything of minidetect. The library's compiled kernels for the processor work as usual beside it.
#
# ## 1 Which element is mine?
#
# A **kernel** is a function that every thread runs, with the same arguments. Threads come in **blocks** of equal
# size, and all blocks together are the **grid**. A thread knows its place: `cuda.threadIdx.x` in its block,
# `cuda.blockIdx.x` of its block, `cuda.blockDim.x` threads in a block. From these it finds its own element,
# `blockIdx.x * blockDim.x + threadIdx.x`, for which there is a short form, `cuda.grid(1)`.
#
# First the specification, in NumPy: `out = 2 * x`. Then the kernel. It returns nothing; it writes.

# %%
def double(x, out):
    i = cuda.grid(1)
    out[i] = 2 * x[i]


# %%
x = np.arange(12, dtype=np.float32)
out = np.zeros_like(x)
launch(double, 3, 4, x, out)  # 3 blocks of 4 threads; in Numba's words cuda.jit(double)[3, 4](x, out)
print(out)

# %% [markdown]
# Every block has the same number of threads. Now ten elements.

# %%
guess = lesson.predict("10 elements, blocks of 4: how many threads run the kernel, at least?", 10)

# %%
blocks = -(-10 // 4)  # rounded up
lesson.reveal(guess, 4 * blocks)
try:
    launch(double, blocks, 4, x[:10], out[:10])
except Fault as fault:
    print("Fault:", fault)

# %% [markdown]
# Two threads have no element. They run all the same, and `x[10]` is somebody else's memory: a GPU reads it, and
# overwrites it, without a word. (Numba's simulator would notice `x[10]`, but not `x[-1]`, which in Python is the last
# cell; the model stops at both.) Hence the first rule of every kernel, the **guard**: who has nothing to do does
# nothing.

# %%
figure = new_figure(8, 1.2)
axes = figure.subplots()
for i in range(4 * blocks):
    axes.bar(i, 1, 0.9, color=COLOURS[1:4][i // 4] if i < 10 else "#DDDDDD")
    text = f"block {i // 4}\nthread {i % 4}\n" + (f"x[{i}]" if i < 10 else "-")
    axes.text(i, 0.5, text, ha="center", va="center", fontsize=7, clip_on=True)
axes.set_axis_off()
lesson.show(figure, "guard", "12 threads for 10 elements: two must keep still")

# %% [markdown]
# ## Exercise 22.1: a map with a guard (about 3 lines)
#
# PReLU: `x` and `out` arrays (N,), `slope` a number; `out[i]` becomes `x[i]` where that is above 0, else
# `slope * x[i]`. There may be many more threads than elements, and there are several blocks. The length of an array
# is `x.size` or `x.shape[0]`. Write the body only, without `@cuda.jit` above it: the check and section 8 wrap it.

# %%
@lesson.exercise(check.prelu, otherwise=solution.prelu)
def prelu(x, slope, out):
    raise NotImplementedError


# %%
x = np.random.default_rng(22).normal(size=1000).astype(np.float32)
out = np.full_like(x, np.nan)
report = launch(prelu, 8, 128, x, 0.25, out)  # 1,024 threads
assert np.array_equal(out, np.where(x > 0, x, np.float32(0.25) * x)) and not report.races()
print("writes:", report.count("write", "out"), "of", 8 * 128, "threads")

# %% [markdown]
# `launch` returns a report, which knows every access (`report.log`): how many there were, to which cells, and whether
# two threads got in each other's way. 1,024 is also the most threads that a block may have; real kernels take 128 or
# 256. The library's arithmetic between arrays on the GPU is made of such maps (`minidetect/kernels/device_math.py`).
#
# ## 2 Who stands beside me?
#
# Threads do not run one by one: 32 of them, a **warp**, carry out the same instruction at the same time. If it reads
# memory, all 32 addresses go out at once, and memory answers in lines of 128 bytes, 32 numbers of float32. So it
# matters which cells neighbouring threads touch *at the same moment*. Two ways to add up a matrix of 32 x 32, one
# thread each:

# %%
def add_columns(x, out):
    t = cuda.grid(1)
    total = float32(0)
    for k in range(x.shape[0]):
        total += x[k, t]  # thread t stays in column t
    out[t] = total


# %%
def add_rows(x, out):
    t = cuda.grid(1)
    total = float32(0)
    for k in range(x.shape[1]):
        total += x[t, k]  # thread t stays in row t
    out[t] = total


# %% [markdown]
# Both read each of the 1,024 cells once. A thread that walks along a row walks along its own line of memory, which is
# how a processor likes it.

# %%
guess = lesson.predict("add_rows: how many lines does a warp ask for with one instruction?", 1)

# %%
x = np.random.default_rng(0).random((32, 32), np.float32)
asked = {}
for kernel in (add_columns, add_rows):
    report = launch(kernel, 1, 32, x, np.zeros(32, np.float32))
    asked[kernel.__name__] = report
    lines, requests = report.lines("x")
    print(f"{kernel.__name__}: {report.count('read', 'x')} reads, {requests} requests, {lines} lines of 128 bytes")
lesson.reveal(guess, lines / requests)

# %%
figure = new_figure(7, 3.2)
for axes, (name, report) in zip(figure.subplots(1, 2), asked.items(), strict=True):
    touched = np.zeros((32, 32))
    for access in report.requests("x")[3]:  # the fourth
        touched[access.cell] = 1
    axes.imshow(np.where(touched > 0, 2, touched.any(axis=1)[:, None]), cmap="Blues", vmin=0, vmax=2)
    axes.set(title=name, xticks=[], yticks=[], ylabel="one row = one line of 128 bytes")
lesson.show(figure, "lines", "One request of a warp, dark: what it needs; light: the lines that it touches")

# %% [markdown]
# The cache may still hold a line when the warp comes back for the next cell, and then not all is lost; but with
# thousands of threads it often does not. The rule is called **coalescing**: let neighbouring threads touch
# neighbouring cells. On a processor one thread should go along the row; here the *threads* should lie along it.

# %%
def lines_a_request(kernel, width):
    lines, requests = launch(kernel, 1, 32, np.zeros((32, width), np.float32), np.zeros(32, np.float32)).lines("x")
    return lines / requests


# %%
lesson.claim(
    "22-lines",
    "lines of memory for a column of 32 cells over those for 32 cells of a row; matrices 32, 64 and 96 wide",
    [lines_a_request(add_rows, width) / lines_a_request(add_columns, width) for width in (32, 64, 96)],
    above=31,
    paper="",
    asserted=True,
)

# %% [markdown]
# ## 3 Two axes
#
# Blocks and grids may have two axes (or three); `x, y = cuda.grid(2)`. Warps are cut along x, so x should run along
# the rows of what is written. The specification, as loops; `iou` is that of lesson 05:
#
# ```python
# for i in range(N):
#     for j in range(M):
#         out[i, j] = iou(a[i], b[j])
# ```
#
# ## Exercise 22.2: a thread for each pair (about 9 lines)
#
# `a` (N, 4), `b` (M, 4): boxes x1, y1, x2, y2 with an area; `out` (N, M). The grid covers the table: x goes over the
# M columns, y over the N rows, and both may reach beyond. `min`, `max` and plain arithmetic are all that you need.
# Traps: which index comes first, two guards, and lengths below zero.

# %%
@lesson.exercise(check.iou_table, otherwise=solution.iou_table)
def iou_table(a, b, out):
    raise NotImplementedError


# %%
def some_boxes(rng, num, room=100.0):
    corners = rng.uniform(0, room, (num, 2))
    return np.concatenate([corners, corners + rng.uniform(8, 30, (num, 2))], axis=1).astype(np.float32)


rng = np.random.default_rng(1)
a, b = some_boxes(rng, 6), some_boxes(rng, 37)

# %%
guess = lesson.predict("6 x 37 pairs in blocks of 32 x 4: how many threads have no pair?", 34)

# %%
out = np.full((6, 37), np.nan, np.float32)
report = launch(iou_table, (2, 2), (32, 4), a, b, out)
assert np.allclose(out, iou_matrix(a, b), atol=1e-6)
lesson.reveal(guess, 2 * 2 * 32 * 4 - report.count("write", "out"))

# %%
figure = new_figure(7, 2)
axes = figure.subplots()
table = np.pad(out, ((0, 2), (0, 27)), constant_values=np.nan)  # to 8 x 64, the grid
picture = axes.imshow(table, cmap="Blues", aspect="auto")
axes.set_facecolor("#DDDDDD")
axes.axvline(31.5, color=ORANGE)
axes.axhline(3.5, color=ORANGE)
axes.set(xlabel="x: box of b", ylabel="y: box of a")
figure.colorbar(picture, label="IoU")
lesson.show(figure, "pairs", "The table, cut into 2 x 2 blocks of 32 x 4 threads; in the grey part threads idle")

# %% [markdown]
# More than half of the threads idle, since the table is so small; on a table of 1,000 x 10,000 it is less than one in
# a hundred. In the library: `minidetect/kernels/iou_cuda.py`.
#
# ## 4 Who else writes there?
#
# So far each thread had a cell of its own. Now all want the same: the sum of an array. The loop is
# `for i in range(N): out[0] += x[i]`, and the obvious kernel is

# %%
def add_all(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[0] += x[i]


# %% [markdown]
# `+=` on a cell of memory is three things: read, add, write. The threads of a warp do each of them together, so the
# model has a mode for that, `lockstep=True`: everybody makes one access, then everybody makes the next.

# %%
guess = lesson.predict("32 threads of a block each add 1 in lockstep. What is in out[0]?", 32)

# %%
ones, one_by_one, together = np.ones(32, np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32)
launch(add_all, 1, 32, ones, one_by_one)
report = launch(add_all, 1, 32, ones, together, lockstep=True)
print("one after the other:", one_by_one[0])
lesson.reveal(guess, together[0])
print(report.races()[0])

# %% [markdown]
# All read 0, all write 1. That is the race of lesson 03, with 32 in it. Note that one after the other the sum is
# right: a program that plays the threads in turn, as Numba's simulator mostly does, does not show the mistake. Hence
# the model does not judge by the result. It looks at the log, for two threads that touch the same cell, at least one
# of them to write, with nothing to say who is first.

# %%
figure = new_figure(8, 2.4)
for axes, lockstep in zip(figure.subplots(1, 2), (False, True), strict=True):
    report = launch(add_all, 1, 4, np.ones(4, np.float32), np.zeros(1, np.float32), lockstep=lockstep)
    moves = [(k, a.thread.x, a.kind) for k, a in enumerate(a for a in report.log if a.array == "out")]
    for kind, colour, marker in (("read", BLUE, "o"), ("write", ORANGE, "s")):
        steps, threads, _ = zip(*(m for m in moves if m[2] == kind), strict=True)
        axes.scatter(steps, threads, color=colour, marker=marker, label=kind)
    title = "all in step: every read comes first" if lockstep else "one after the other"
    axes.set(title=title, xlabel="accesses to out[0], in time", ylabel="thread", yticks=range(4))
axes.legend()
lesson.show(figure, "race", "Four threads, out[0] += 1: left 4, right 1")

# %% [markdown]
# One way out is an **atomic** addition: `cuda.atomic.add(array, index, value)` reads, adds and writes in one piece.

# %%
def add_atomically(x, out):
    i = cuda.grid(1)
    if i < x.size:
        cuda.atomic.add(out, 0, x[i])


total = np.zeros(1, np.float32)
report = launch(add_atomically, 1, 32, ones, total, lockstep=True)
print(total[0], "races:", len(report.races()))

# %% [markdown]
# Right, but 32 threads now queue for one cell. Better if they work in pairs: 16 threads add two numbers each, then 8
# add two of these sums, then 4, 2, 1: a tree of five steps. For that the threads must read what others wrote, and
# need two more things:
#
# - **shared memory**, which a block has to itself, close by and fast, 48 KB of it. One asks for some with
#   `cuda.shared.array(THREADS, float32)`; the size must be a constant of the source, here the global `THREADS`. It is
#   full of rubbish at first, and its contents end with the block.
# - a **barrier**, `cuda.syncthreads()`: nobody of the block goes on until all have come. What was written before it,
#   all can read after it. *All* means all: a thread that has returned, or that skips the barrier by an `if`, leaves
#   the others waiting.

# %%
THREADS = 8  # of a block that adds up
TILE, SIDE = 4, 6  # for section 5; SIDE is TILE + 2
WORD = 64  # for section 7


def turn_around(x, out):
    """Each block writes its elements in the reverse order."""
    part = cuda.shared.array(THREADS, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    part[t] = x[i]
    cuda.syncthreads()
    out[i] = part[THREADS - 1 - t]  # written by another thread


# %%
out = np.zeros(16, np.float32)
report = launch(turn_around, 2, THREADS, np.arange(16, dtype=np.float32), out)
print(out, "races:", len(report.races()))
print("shared memory:", report.count("write", "shared"), "writes,", report.count("read", "shared"), "reads")

# %% [markdown]
# Take the barrier out and run it again: the model tells you which thread reads a cell that nobody has written.
#
# ## Exercise 22.3: a sum for each block (about 11 lines)
#
# `x` (N,), `out` (number of blocks,); block b sums the `THREADS` elements of x that its threads stand at, and one
# thread writes the sum to `out[b]`. `THREADS` is a power of two (the check sets it to other ones). Each element may
# be read once, and no thread may do all the work: at each step of the tree the lower half of the threads add what the
# upper half has. The last block may be cut off by the end of x. Where does a thread without an element go, and what
# does it leave in shared memory? How many barriers does a step need?

# %%
@lesson.exercise(check.block_sums, otherwise=solution.block_sums)
def block_sums(x, out):
    raise NotImplementedError


# %%
x = np.arange(8, dtype=np.float32)
out = np.zeros(1, np.float32)
report = launch(block_sums, 1, THREADS, x, out)
print("sum", out[0], "busiest thread:", report.busiest(), "accesses")

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
for access in report.log:
    cell, thread, phase = access.cell[0], access.thread.x, access.phase
    if access.shared and access.kind == "read":
        axes.plot([cell, thread], [phase - 0.9, phase - 0.1], color=BLUE)
    elif access.shared:
        axes.scatter(cell, phase, color=ORANGE, zorder=3)
axes.set(xlabel="cell of shared memory", ylabel="barriers passed", yticks=range(4))
axes.invert_yaxis()
lesson.show(figure, "tree", "Blue: who reads which cell; orange: who writes. A row is what happens between barriers")

# %% [markdown]
# Blocks cannot wait for each other, so a sum over all blocks takes another launch: the end of a kernel is the barrier
# of the grid.

# %%
guess = lesson.predict("How many launches does it take to add 512 numbers in blocks of 8?", 2)

# %%
numbers = np.random.default_rng(2).integers(0, 100, 512).astype(np.float32)
left, launches = numbers, 0
while left.size > 1:
    out = np.zeros(-(-left.size // THREADS), np.float32)
    launch(block_sums, out.size, THREADS, left, out)
    left, launches = out, launches + 1
assert left[0] == numbers.sum()
lesson.reveal(guess, launches)

# %% [markdown]
# With 256 threads a block, three launches add up 16 million numbers. Softmax, batch norm and every loss contain such
# a tree. (Real ones let the last five steps go through registers of the warp, without shared memory.)
#
# ## 5 Who has already fetched it?
#
# A convolution, 3 x 3, without padding: `x` (C, H, W), `w` (C, 3, 3), one filter, so `out` is (H - 2, W - 2). Lesson
# 02 has the specification. The plain kernel is a map over the outputs:

# %%
def conv_plain(x, w, out):
    j, i = cuda.grid(2)
    if i < out.shape[0] and j < out.shape[1]:
        total = float32(0)
        for c in range(x.shape[0]):
            for u in range(3):
                for v in range(3):
                    total += w[c, u, v] * x[c, i + u, j + v]
        out[i, j] = total


# %%
def run_conv(kernel, size, tile, channels=1, seed=0):
    """-> the report, and the output (height, width of `size`), checked against the slow one."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(channels, size[0] + 2, size[1] + 2)).astype(np.float32)
    w = rng.normal(size=(channels, 3, 3)).astype(np.float32)
    out = np.full(size, np.nan, np.float32)
    blocks = (-(-size[1] // tile), -(-size[0] // tile))
    report = launch(kernel, blocks, (tile, tile), x, w, out, TILE=tile, SIDE=tile + 2)  # globals of the kernel
    assert np.allclose(out, slow_conv(x[None], w[None])[0, 0], atol=1e-5)
    return report, out


# %%
guess = lesson.predict("How often is a pixel in the middle of x read?", 1)

# %%
plain, out = run_conv(conv_plain, (12, 16), 4)
lesson.reveal(guess, plain.heat("x")[0, 6, 8])
print(plain.count("read", "x"), "reads of x for", out.size, "outputs")

# %% [markdown]
# Nine threads fetch the same pixel, each for itself. But the 16 threads of a 4 x 4 block stand together, and what
# they need overlaps: 6 x 6 pixels. Let them fetch these once, into shared memory, and read from there. The ring of
# pixels around, which belongs to outputs of other blocks, is the **halo**.
#
# ## Exercise 22.4: a convolution with a tile (about 18 lines)
#
# Arguments as above; blocks are `TILE` x `TILE` threads, one an output. The tile is `SIDE` x `SIDE` with the global
# `SIDE` = TILE + 2 (Numba takes no sum for a constant), and holds one channel at a time. The check changes both, so
# use the names. 36 cells, 16 threads: each loads several; the easiest way is to number the cells, and to go through
# them in steps of `TILE * TILE`. Each cell of x may be read once a block. Traps: blocks that reach over the end of
# the map (whom may you send home, and when?); the tile of the next channel (who is still reading the old one?).

# %%
@lesson.exercise(check.conv_tile, otherwise=solution.conv_tile)
def conv_tile(x, w, out):
    raise NotImplementedError


# %%
tiled, _ = run_conv(conv_tile, (12, 16), 4)
print(tiled.count("read", "x"), "reads of x;", tiled.count("read", "shared"), "reads of shared memory")

# %%
figure = new_figure(9, 3.2)
for axes, (title, report) in zip(figure.subplots(1, 2), (("plain", plain), ("tile", tiled)), strict=True):
    heat = report.heat("x")[0]
    axes.imshow(heat, cmap="Oranges", vmin=0, vmax=9)
    for (i, j), times in np.ndenumerate(heat):
        axes.text(j, i, times, ha="center", va="center", fontsize=7, color="white" if times > 5 else "black")
    axes.set(title=f"{title}: {heat.sum()} reads", xticks=[], yticks=[])
lesson.show(figure, "heat", "How often each pixel of x is read from global memory, for 12 x 16 outputs")

# %% [markdown]
# 1,728 reads become 432; what is read twice or four times are the halos. A block of T x T outputs reads (T + 2)²
# pixels, so it takes (T + 2)² / T² for an output instead of 9, a channel. Predicted and counted, for several T:

# %%
counted = {}
for tile in (2, 4, 8):
    report, out = run_conv(conv_tile, (16, 16), tile)
    counted[tile] = report.count("read", "x") / out.size
for tile in (2, 4, 8, 16, 32):
    formula = f"{(tile + 2) ** 2 / tile**2:.3f}"
    seen = f", counted {counted[tile]:.3f}" if tile in counted else ""
    print(f"T {tile:2}: {tile**2:4} threads, {4 * (tile + 2) ** 2:4} bytes shared; reads an output {formula}{seen}")

# %%
figure = new_figure(6, 2.8)
axes = figure.subplots()
tiles = np.arange(1, 33)
axes.plot(tiles, (tiles + 2) ** 2 / tiles**2, color=BLUE, label="(T + 2)² / T²")
axes.scatter(list(counted), list(counted.values()), color=ORANGE, zorder=3, label="counted")
axes.axhline(9, color="grey", linestyle=":", label="plain")
axes.set(xlabel="T", ylabel="reads of x an output", ylim=(0, 10))
axes.legend()
lesson.show(figure, "reads", "A tile of 8 or 16 has nearly all that there is to save")

# %%
def saved(size, seed):
    """Reads of x, plain over tile, with 8 x 8 outputs a block; two channels."""
    plain, tiled = (run_conv(kernel, size, 8, 2, seed)[0].count("read", "x") for kernel in (conv_plain, conv_tile))
    return plain / tiled


maps = lesson.amount(smoke=1, lesson=3, full=3)
lesson.claim(
    "22-tile",
    "a tile of 8 x 8 outputs saves more than four of five reads of x: plain over tile, three maps",
    [saved(size, seed) for seed, size in enumerate(((16, 16), (8, 24), (15, 23))[:maps])],
    above=5,
    paper="",
    asserted=True,
)

# %% [markdown]
# (8 + 2)² / 8² gives 9 / 1.5625 = 5.76 where the map is cut without rest, and a little less where blocks hang over
# the end. Two things that the count does not say. A GPU has a cache, which catches a part of the nine reads by
# itself, so the time will not fall by 5.76; and shared memory is limited, so larger tiles leave room for fewer blocks
# at once. Which T is best is for a clock to say. With several filters the pixels of a tile also serve all of them,
# which is where most is saved.
#
# A 1 x 1 convolution has no halo, it is a product of matrices, and tiles work there even better: plainly, each output
# reads K numbers from each of two matrices, 2 K in all; a block of T x T outputs that loads T x T of each at a time
# reads 2 K / T an output. In the library: `minidetect/kernels/conv_cuda.py`, `products_cuda.py`; pooling, the same
# without weights, is in `pool_cuda.py`.
#
# ## 6 When nobody owns the cell
#
# RoI pooling (lesson 10): each region is cut into PH x PW bins, and a bin keeps the highest cell of the map that it
# sees. Forward, an output has one owner, so it is a map, with a thread for each bin. Here for one channel; `rois` (R,
# 4) in whole cells, left, top, right, bottom. `argmax` remembers which cell won, and is -1 for a bin that lies off
# the map.

# %%
def roi_pool(x, rois, out, argmax):
    k = cuda.grid(1)
    down, across = out.shape[1], out.shape[2]
    if k < out.size:
        r, i, j = k // (down * across), k // across % down, k % across
        left, top = rois[r, 0], rois[r, 1]
        width, height = rois[r, 2] - left, rois[r, 3] - top
        best, where = float32(0), -1
        for row in range(max(top + i * height // down, 0), min(top - (-(i + 1) * height // down), x.shape[0])):
            for col in range(max(left + j * width // across, 0), min(left - (-(j + 1) * width // across), x.shape[1])):
                if where < 0 or x[row, col] > best:
                    best, where = x[row, col], row * x.shape[1] + col
        out[r, i, j] = best
        argmax[r, i, j] = where


# %%
def draw_rois(seed, num=20, size=(8, 9)):
    """A map, regions of 3 to 7 cells that may reach beyond it, and gradients of their 3 x 3 bins."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(-2, 5, (num, 2))
    rois = np.concatenate([corners, corners + rng.integers(3, 8, (num, 2))], axis=1)
    return rng.normal(size=size).astype(np.float32), rois, rng.normal(size=(num, 3, 3)).astype(np.float32)


# %%
def pool(x, rois):
    """-> out, argmax (R, 3, 3), by the kernel above."""
    out, argmax = np.zeros((len(rois), 3, 3), np.float32), np.zeros((len(rois), 3, 3), np.int64)
    launch(roi_pool, -(-out.size // 32), 32, x, rois, out, argmax)
    return out, argmax


# %%
x, rois, gy = draw_rois(0)
out, argmax = pool(x, rois)
with_image = np.insert(rois.astype(np.float32), 0, 0, axis=1)  # (R, 5): the library's begin with the image
by_library, argmax_library = roi_pool_forward(x[None, None], with_image, (3, 3), 1.0, False)
assert np.array_equal(out, by_library[:, 0]) and np.array_equal(argmax, argmax_library[:, 0])

# %% [markdown]
# Backward, each bin gives its gradient to the cell that won. Regions overlap, so one cell may win in many bins.

# %%
guess = lesson.predict("180 bins, a map of 72 cells: how many bins does the luckiest cell win?", 3)

# %%
wins = np.bincount(argmax[argmax >= 0], minlength=x.size).reshape(x.shape)
lesson.reveal(guess, wins.max())

# %%
figure = new_figure(8, 3)
values, counts = figure.subplots(1, 2)
values.imshow(x, cmap="Greys")
values.set(title="x, and three of 20 regions", xticks=[], yticks=[], xlim=(-2.7, 11.5), ylim=(11.5, -2.7))
for colour, (x1, y1, x2, y2) in zip((BLUE, ORANGE, GREEN), rois, strict=False):
    values.plot(np.array([x1, x2, x2, x1, x1]) - 0.5, np.array([y1, y1, y2, y2, y1]) - 0.5, color=colour)
counts.imshow(wins, cmap="Oranges")
for (i, j), times in np.ndenumerate(wins):
    counts.text(j, i, times or "", ha="center", va="center", fontsize=7)
counts.set(title="bins won", xticks=[], yticks=[])
lesson.show(figure, "wins", "A cell's gradient is the sum over all bins that it won")

# %% [markdown]
# ## Exercise 22.5: the gradient, scattered (about 3 lines)
#
# One thread a bin. `gy` (K,), `argmax` (K,): all bins of all regions in a row; `gx` (H W,): the map, row after row,
# zeros at first. Add each bin's gradient to the cell that won. Who else adds there? And a bin that nobody won has
# argmax -1, which in Python (and in Numba) is the last cell.

# %%
@lesson.exercise(check.roi_scatter, otherwise=solution.roi_scatter)
def roi_scatter(gy, argmax, gx):
    raise NotImplementedError


# %%
def gradient(kernel, gy, argmax, threads, order=None):
    """-> gx (H W,) and the report; at least `threads` threads, in the order given."""
    gx = np.zeros(72, np.float32)
    report = launch(kernel, -(-threads // 32), 32, gy.ravel(), argmax.ravel(), gx, order=order)
    return gx, report


# %%
scattered, report = gradient(roi_scatter, gy, argmax, gy.size)
right = roi_pool_backward(gy[:, None], argmax_library, with_image, (1, 1, *x.shape))
print("largest difference from the library:", np.abs(scattered - right.ravel()).max(), "races:", len(report.races()))

# %% [markdown]
# Correct, and no race. But atomics promise that every number gets in, not *when*. On a GPU the order of the threads
# changes from run to run; the model draws it from a seed. Sums of float32 are rounded at each step, so
# (a + b) + c need not be a + (b + c).

# %%
guess = lesson.predict("10 runs with the same gradients in 10 orders: how many different results?", 1)

# %%
def results(kernel, gy, argmax, threads):
    """Of 10 runs, each in another order: gx (10, H W)."""
    orders = [np.random.default_rng(seed) for seed in range(10)]
    return np.array([gradient(kernel, gy, argmax, threads, order)[0] for order in orders])


# %%
runs = results(roi_scatter, gy, argmax, gy.size)
lesson.reveal(guess, len(np.unique(runs, axis=0)))
print("largest difference between two of them:", np.ptp(runs, axis=0).max())

# %% [markdown]
# The differences are in the last digits, no worse than any rounding. But training amplifies them: two runs with the
# same seed end with different networks, and a bug that shows up in one run of ten is hard to find. The other way
# round is as in lesson 03: every *cell* has a thread, which gathers what belongs to it, always in the same order.

# %%
def roi_gather(gy, argmax, gx):
    cell = cuda.grid(1)
    if cell < gx.size:
        total = float32(0)
        for k in range(gy.size):
            if argmax[k] == cell:
                total += gy[k]
        gx[cell] = total


# %%
gathered, by_gathering = gradient(roi_gather, gy, argmax, 72)
assert np.allclose(gathered, scattered, atol=1e-5)
same = results(roi_gather, gy, argmax, 72)
print("different results in 10 orders:", len(np.unique(same, axis=0)))

# %%
def steps_away(values):
    """How far values lie from the first, in steps between neighbouring numbers of float32."""
    return (values - values[0]) / np.spacing(np.abs(values[0]))


busy = wins.argmax()
figure = new_figure(6, 2.6)
axes = figure.subplots()
axes.plot(steps_away(runs[:, busy]), "o", color=ORANGE, label="atomics")
axes.plot(steps_away(same[:, busy]), ".-", color=BLUE, label="gathered")
axes.set(xlabel="run", ylabel="steps away from run 0")
axes.legend()
lesson.show(figure, "orders", f"The gradient of the cell that won {wins.max()} bins, in 10 orders of the threads")

# %%
seeds = range(lesson.amount(1, 3, 5))
drawn = [draw_rois(seed) for seed in seeds]
bins = [(gy, pool(x, rois)[1]) for x, rois, gy in drawn]
lesson.claim(
    "22-atomics",
    "different gradients in 10 orders of the threads, with atomics, on three sets of regions",
    [len(np.unique(results(roi_scatter, *one, 180), axis=0)) for one in bins],
    above=1,
    paper="",
    asserted=True,
)

# %%
lesson.claim(
    "22-gather",
    "different gradients in 10 orders of the threads, where each cell gathers",
    [len(np.unique(results(roi_gather, *one, 72), axis=0)) for one in bins],
    below=1.5,
    paper="",
    asserted=True,
)

# %% [markdown]
# The price of gathering as plainly as this: every cell looks through the whole list.

# %%
print("reads of argmax: scattered", report.once("argmax"), "gathered", by_gathering.once("argmax"))

# %% [markdown]
# 72 cells x 180 bins, where 180 would do. In the library (`minidetect/kernels/roi_pool_cuda.py`) you have the choice:
# `roi_pool_backward_atomic`, or `roi_pool_backward`, in which a block owns a whole channel of the map and goes
# through the bins in their order, so many at a time, with barriers between. That one is the default.
#
# ## 7 Sixty-four answers in a word
#
# NMS again. Lesson 05 split it in two: a table of all pairs, `mask[i, j]` = "box i, if kept, strikes out box j",
# which has no order and suits a GPU; and a walk over its rows, which has nothing but order. A table of bools is
# large, so the answers go into bits: word `w` of row `i` is a uint64 whose bit b stands for box 64 w + b. The walk
# then strikes out 64 boxes with one `|`.

# %%
guess = lesson.predict("10,000 boxes: how many megabytes does the mask take, as words?", 100)

# %%
lesson.reveal(guess, 10_000 * -(-10_000 // 64) * 8 / 1e6)

# %% [markdown]
# As bools it would be 100. The boxes come sorted by falling score, so only j > i may be struck: the upper triangle.
#
# ## Exercise 22.6: the mask (about 12 lines)
#
# One thread a word: x of the grid is the word, y the box i. `boxes` (N, 4) float64, sorted; `threshold`; `mask` (N,
# words) uint64, full of rubbish. Bit b of `mask[i, w]` is set if box j = w * WORD + b comes after box i and overlaps
# it by more than the threshold. Collect the bits in a variable, `bits = uint64(0)`, and write once, zeros too; a bit
# is `uint64(1) << uint64(b)` (with other types a GPU's 1 << 63 may not be what you think). The last word may be cut
# off by the end. Pairs below the diagonal are not to be looked at: the check counts reads, without those that a
# thread repeats. `WORD` is a global, 64; the check makes it smaller.

# %%
@lesson.exercise(check.suppression_words, otherwise=solution.suppression_words)
def suppression_words(boxes, threshold, mask):
    raise NotImplementedError


# %%
def crowd(seed, num=150):
    """Boxes around a dozen places, by falling score: (num, 4) float64."""
    rng = np.random.default_rng(seed)
    middles = rng.uniform(0, 100, (12, 2))[rng.integers(0, 12, num)] + rng.normal(0, 4, (num, 2))
    halves = rng.uniform(8, 14, (num, 1))
    return np.concatenate([middles - halves, middles + halves], axis=1)


# %%
def mask_of(boxes, threshold=0.4):
    words = -(-len(boxes) // WORD)
    mask = np.full((len(boxes), words), 99, np.uint64)
    report = launch(suppression_words, (words, -(-len(boxes) // 8)), (1, 8), boxes, threshold, mask)
    return mask, report


boxes = crowd(0)
mask, report = mask_of(boxes)
bits = np.unpackbits(mask.view(np.uint8), axis=1, bitorder="little")[:, : len(boxes)]  # (150, 150)
print("mask", mask.shape, "bits set:", bits.sum())

# %%
figure = new_figure(4.6, 4.2)
axes = figure.subplots()
axes.imshow(1 - 0.15 * np.tri(len(boxes)) - bits, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
for border in (WORD - 0.5, 2 * WORD - 0.5):
    axes.axvline(border, color=ORANGE)
axes.set(xlabel="box j", ylabel="box i")
lesson.show(figure, "mask", "Row i: whom box i may strike (black). Three words; the grey triangle is never looked at")

# %% [markdown]
# Now the walk. One block, a thread for each word, and a word of shared memory each, in which the struck boxes are
# collected. Step i needs one bit that another thread may just have changed; hence two barriers a box.

# %%
WORDS = 3  # of 150 boxes


def walk(mask, kept):
    struck = cuda.shared.array(WORDS, uint64)
    t = cuda.threadIdx.x
    struck[t] = uint64(0)
    for i in range(mask.shape[0]):
        cuda.syncthreads()  # all have struck for box i - 1
        is_struck = struck[i // WORD] >> uint64(i % WORD) & uint64(1)
        cuda.syncthreads()  # all have looked at box i
        if is_struck == 0:
            struck[t] |= mask[i, t]
        if t == 0:
            kept[i] = 1 - int(is_struck)


# %%
kept = np.zeros(len(boxes), np.int64)
report = launch(walk, 1, WORDS, mask, kept)
falling = np.arange(len(boxes), 0, -1.0)  # any scores that fall
assert np.array_equal(np.flatnonzero(kept), library_nms(boxes, falling, 0.4)) and not report.races()
print(f"{kept.sum()} of {len(boxes)} kept; barriers: {report.log[-1].phase}")

# %% [markdown]
# 300 barriers for 150 boxes, and no number of threads makes them fewer. The pairs go with the square of the number of
# boxes, the walk with the number itself, so for thousands of boxes the first part is most of the work; but its work is
# done side by side, and the walk's steps one after the other. The library lets one thread walk through the 64 boxes
# of a word before the others join in: two barriers a word instead of a box.

# %%
def boxes_judged_otherwise(seed):
    """By how many boxes the two halves and the library's NMS on the processor disagree."""
    boxes, kept = crowd(seed), np.zeros(150, np.int64)
    launch(walk, 1, WORDS, mask_of(boxes)[0], kept)
    return len(set(np.flatnonzero(kept)) ^ set(library_nms(boxes, falling, 0.4)))


lesson.claim(
    "22-nms",
    "boxes that NMS by bits and the library's greedy NMS judge differently, three crowds of 150",
    [boxes_judged_otherwise(seed) for seed in seeds],
    below=0.5,
    paper="",
    asserted=True,
)

# %% [markdown]
# In the library: `minidetect/kernels/nms_cuda.py`. There a block also loads its 64 boxes j into shared memory first,
# as you did with the tile.
#
# ## 8 The same source, through Numba
#
# `cuda.jit` makes of the same functions what Numba calls kernels. With `NUMBA_ENABLE_CUDASIM=1`, as set in the first
# cell, its simulator runs them: a Python thread for each thread, without counts, without a look at races or at types.
# With a GPU and NVIDIA's package, `pip install "numba-cuda[cu12]"`, they are compiled and run there if you start the
# lesson like this:
#
# ```sh
# NUMBA_ENABLE_CUDASIM=0 python lessons/22_on_the_gpu.py
# ```
#
# (Numba 0.68 still brings a CUDA target of its own, which fails at `min` and `max` of two numbers; the library mends
# that in `minidetect/kernels/gpu.py`.)

# %%
def difference_in_numba(kernel, blocks, threads, *arguments):
    """Run by Numba and by the model, from the same arrays; the largest difference in the last one, the output."""
    by_numba, by_model = ([v.copy() if isinstance(v, np.ndarray) else v for v in arguments] for _ in range(2))
    cuda.jit(kernel)[blocks, threads](*by_numba)
    launch(kernel, blocks, threads, *by_model)
    return np.abs(by_numba[-1].astype(np.float64) - by_model[-1].astype(np.float64)).max()


# %%
rng = np.random.default_rng(8)
line, pixels, weights = (rng.normal(size=size).astype("f") for size in (19, (2, 9, 8), (2, 3, 3)))
PUZZLES = (
    (prelu, 3, 8, line, 0.25, np.zeros(19, "f")),
    (iou_table, (2, 2), (4, 4), a, b[:7], np.zeros((6, 7), "f")),
    (block_sums, 3, THREADS, line, np.zeros(3, "f")),
    (conv_tile, (2, 2), (TILE, TILE), pixels, weights, np.zeros((7, 6), "f")),
    (roi_scatter, 3, 32, gy.ravel()[:90], argmax.ravel()[:90], np.zeros(72, "f")),
    (suppression_words, (2, 9), (1, 8), boxes[:70], 0.4, np.zeros((70, 2), np.uint64)),
    (walk, 1, WORDS, mask[:40], np.zeros(40, np.int64)),
)

# %%
if not (config.ENABLE_CUDASIM or cuda.is_available()):
    raise RuntimeError("NUMBA_ENABLE_CUDASIM is 0 and Numba finds no GPU: unset it, and start Python anew")
print("The kernels run in", "Numba's simulator" if config.ENABLE_CUDASIM else "Numba, on this machine's GPU")
for kernel, *rest in PUZZLES:
    difference = difference_in_numba(kernel, *rest)
    print(f"{kernel.__name__:18} largest difference: {difference:.3g}")
    assert difference < 1e-4

# %% [markdown]
# In the simulator all differences are 0 or in the last digit: the sums of atomics depend on who came first. On a GPU
# a product and a sum become one instruction that rounds once, so more of them differ in the last digit. Where that
# could decide whether a box is struck, the library forbids it.
#
# What puzzles cannot show is time. Here a thread costs a tenth of a millisecond and more, whatever it does, and which
# kernel is faster on a GPU, and by how much, nobody should guess from counts alone: `benchmarks/gpu_kernels.py` times
# the library's kernels where there is a GPU. Nor did we copy anything: on a GPU each array must first come over, which
# can take longer than the kernel itself. So the library keeps arrays there, from the image to the loss, as a
# `DeviceArray` (`minidetect/kernels/device.py`): after `model.to("cuda")`, or for a single kernel in
# `use_device("cuda")`.
#
# ## What you can do now
#
# - give every thread its element, and keep those without one from doing harm;
# - lay threads along memory, so that a warp asks for one line and not for 32;
# - see a race before it happens, and choose between an owner, an atomic and a tree;
# - share what neighbours have fetched, with barriers where they belong, and predict the reads by a formula;
# - say why two trainings with the same seed differ on a GPU, and what it costs to make them equal;
# - split NMS into a mask of bits and a walk.
#
# In the library: the files named above, each beside its twin for the processor. Next: 23, where the time goes
# in a whole detector.

# %%
lesson.finish()
