# %% [markdown]
# # 05 Boxes, overlap, suppression
#
# **Question:** when are two boxes the same?
#
# **Papers:** R-CNN, section 2.2; FaceCraft, section 4.3. **Time:** 15 s.
# **Before:** nothing; 00 shows where the pictures come from.
#
# **You build:** intersection over union, non-maximum suppression, its form for many processors, the cheap version
# on a score map, and the overlap of an ellipse with a box.
# **You may skip:** exercises 5.3 and 5.5.
#
# A detector that looks everywhere finds every face many times. To tidy up, it must decide when two boxes mean the
# same thing, and it must do so for thousands of boxes a picture.

# %%
import time

import numpy as np
from solutions import lesson_05 as solution

from minidetect.checks import lesson_05 as check
from minidetect.data.synthetic import draw_scene
from minidetect.kernels.iou import iou_matrix
from minidetect.kernels.nms import nms as compiled_nms
from minidetect.kernels.response_map import response_map_pool
from minidetect.teach import Lesson
from minidetect.visualize import COLOURS, new_figure, plot_boxes

lesson = Lesson("05", "Boxes, overlap, suppression")
BLUE, ORANGE = COLOURS[6], COLOURS[5]

# %% [markdown]
# ## 1 A box is four numbers
#
# `x1, y1, x2, y2`: the left, top, right and lower edge. Pixel column 0 reaches from 0 to 1, so a box around the
# first three columns has `x1 = 0` and `x2 = 3`, and its width is `x2 - x1`. There is no `+ 1` anywhere.

# %%
a = np.array([1.0, 1.0, 5.0, 4.0])
b = np.array([3.0, 2.0, 6.0, 6.0])
paper = np.full((7, 7, 3), 255, np.uint8)  # 7 x 7 white pixels to draw on
axes = plot_boxes(paper, [a, b], colours=[BLUE, ORANGE])
axes.set_axis_on()
axes.grid(alpha=0.4)
lesson.show(axes.figure, "two_boxes", "Box a (blue) and box b (orange), on squared paper")

# %% [markdown]
# How much do they agree? Compare what both cover with what either covers: **intersection over union**, IoU.
# It is 1 for equal boxes, 0 for boxes that do not meet, and it does not care about the unit: draw both boxes ten times
# as large, and it stays the same. Count squares in the picture before you go on.

# %%
guess = lesson.predict("What is the IoU of a and b?", 0.5)

# %% [markdown]
# The slow way to find out is hard to get wrong: lay a fine grid of points over both, and count.

# %%
x, y = np.meshgrid(np.arange(0.05, 7, 0.1), np.arange(0.05, 7, 0.1))  # 70 x 70 points
in_a = (a[0] < x) & (x < a[2]) & (a[1] < y) & (y < a[3])
in_b = (b[0] < x) & (x < b[2]) & (b[1] < y) & (y < b[3])
by_counting = (in_a & in_b).sum() / (in_a | in_b).sum()
lesson.reveal(guess, by_counting)

# %% [markdown]
# 4 squares are shared, 12 + 12 - 4 = 20 are covered: 0.2, though each box shares a third of itself. Remember that when
# you read "correct if the IoU is above 0.5": it is stricter than it sounds.
#
# ## Exercise 5.1: IoU (about 6 lines)
#
# `a` and `b`: arrays (4,), boxes that have an area. Return one number. What is shared is again a box (or nothing):
# where does it begin, where does it end, and what if it ends before it begins, along one axis or along both?

# %%
@lesson.exercise(check.iou, otherwise=solution.iou)
def iou(a, b):
    raise NotImplementedError


# %%
print("by formula", iou(a, b), "by counting", by_counting)
assert abs(iou(a, b) - by_counting) < 1e-9

# %% [markdown]
# ## 2 How fast does it fall?
#
# Slide a copy of a 40 x 40 box away from itself, to the side and diagonally.

# %%
guess = lesson.predict("By how many of its 40 pixels may a box slide sideways before the IoU drops below 0.5?", 20)

# %%
box = np.array([0.0, 0.0, 40.0, 40.0])
sideways = [iou(box, box + [d, 0, d, 0]) for d in range(41)]
diagonal = [iou(box, box + [d, d, d, d]) for d in range(41)]
lesson.reveal(guess, sum(value >= 0.5 for value in sideways) - 1)

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
axes.plot(sideways, color=BLUE, label="sideways")
axes.plot(diagonal, color=ORANGE, label="diagonally")
axes.axhline(0.5, color="grey", linestyle=":")
axes.set(xlabel="shift in pixels, of a box of 40", ylabel="IoU")
axes.legend()
lesson.show(figure, "shift", "A third of the width, or less than a fifth of width and height, costs half of the IoU")

# %% [markdown]
# The same for all shifts (dx, dy): each line joins those that leave the same IoU. If only the length of a shift
# counted, the lines would be circles. They have corners on the axes: a shift of d to the side and d down costs almost
# as much as one of 2 d to the side alone.

# %%
shifts = np.arange(-40, 41, 2)
surface = np.array([[iou(box, box + [dx, dy, dx, dy]) for dx in shifts] for dy in shifts])  # (41, 41)
figure = new_figure(4, 4)
axes = figure.subplots()
axes.clabel(axes.contour(shifts, shifts, surface, [0.1, 0.3, 0.5, 0.7, 0.9], colors=BLUE))
axes.set(xlabel="shift in x", ylabel="shift in y", aspect="equal")
lesson.show(figure, "level_sets", "IoU of a 40 x 40 box with its shifted copy")

# %% [markdown]
# ## 3 All pairs at once
#
# Your function takes two boxes. A detector has thousands, so the library takes `(N, 4)` and `(M, 4)` and returns the
# `(N, M)` table. It must say the same as yours, up to rounding.

# %%
rng = np.random.default_rng(5)
corners = rng.uniform(0, 100, (300, 2))
boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (300, 2))], axis=1)  # (300, 4)
table = iou_matrix(boxes, boxes)  # (300, 300)

# %%
start = time.perf_counter()
slow = np.array([[iou(p, q) for q in boxes[:60]] for p in boxes[:60]])  # 3,600 pairs in Python
python_seconds = (time.perf_counter() - start) / slow.size
assert np.allclose(table[:60, :60], slow, atol=1e-5)

# %%
guess = lesson.predict("How many times as fast is the compiled table, for a pair?", 30)

# %%
start = time.perf_counter()
iou_matrix(boxes, boxes)
kernel_seconds = (time.perf_counter() - start) / len(boxes) ** 2
lesson.reveal(guess, python_seconds / kernel_seconds)

# %% [markdown]
# Hundreds or more; how many depends on the machine and on how you wrote `iou`. From here on the tables are the
# library's.
#
# ## 4 Too many boxes
#
# Here is a drawn scene with G faces, and what a detector that is neither blind nor sharp would say about it: a dozen
# boxes around each face, every edge off by some 8 percent of the face's size, and ten boxes thrown anywhere. A score is
# seven parts IoU with the nearest face and three parts luck.

# %%
scene = draw_scene("faces_easy", seed=3, index=2)
rng = np.random.default_rng(0)
faces = np.repeat(scene.boxes, 12, axis=0)  # (G, 4) -> (12 G, 4)
sides = np.tile(faces[:, 2:] - faces[:, :2], 2)  # (12 G, 4): width, height, width, height
faces = faces + rng.normal(0, 0.08, faces.shape) * sides

# %%
corners = rng.uniform(0, 120, (10, 2))
nothing = np.concatenate([corners, corners + rng.uniform(20, 40, (10, 1))], axis=1)
boxes = np.concatenate([faces, nothing]).astype(np.float32)  # (N, 4)
scores = 0.3 * rng.random(len(boxes)) + 0.7 * iou_matrix(boxes, scene.boxes).max(axis=1)

# %% [markdown]
# **Greedy non-maximum suppression** (NMS): take the best box; strike out all that overlap it by more than a
# threshold; go on with the best of what is left. "Greedy", because a box once taken is never reconsidered.
#
# ## Exercise 5.2: NMS (about 8 lines)
#
# `boxes` (N, 4), `scores` (N,), `threshold`: return the list of indices that are kept, the best first. Four things
# that go wrong in practice are in the checks: equal scores (the first in the list wins), scores below 0 (some networks
# give such; a struck box cannot be marked by the score 0), an overlap of exactly the threshold (it may stay), and no
# boxes at all.

# %%
@lesson.exercise(check.nms, otherwise=solution.nms)
def nms(boxes, scores, threshold):
    raise NotImplementedError


# %%
guess = lesson.predict(f"How many of these {len(boxes)} boxes survive NMS at 0.4?", 10)

# %%
kept = list(nms(boxes, scores, 0.4))
assert kept == list(compiled_nms(boxes, scores, 0.4))
lesson.reveal(guess, len(kept))

# %%
figure = new_figure(8, 4)
before, after = figure.subplots(1, 2)
plot_boxes(scene.image, boxes, ax=before)
before.set_title(f"{len(boxes)} boxes", loc="left")  # on the right a score stands above the picture
plot_boxes(scene.image, boxes[kept], [f"{s:.2f}" for s in scores[kept]], ax=after)
after.set_title(f"{len(kept)} after NMS", loc="left")
lesson.show(figure, "nms", "Before and after NMS at 0.4")

# %% [markdown]
# NMS removes doubles: of the dozen around each face one is left. It does not remove boxes around nothing; those need
# a better score, which is what most other lessons are about. And its threshold is a bet about how close two real
# objects may stand: set it low, and the better of two overlapping faces strikes out the other.

# %%
thresholds = np.arange(0.05, 1.0, 0.05)
survivors = [len(nms(boxes, scores, t)) for t in thresholds]
figure = new_figure(6, 3)
axes = figure.subplots()
axes.plot(thresholds, survivors, "o-", color=BLUE)
axes.axhline(len(scene.boxes), color="grey", linestyle=":")
axes.set(xlabel="NMS threshold", ylabel="boxes kept")
lesson.show(figure, "threshold", f"Survivors against the threshold; there are {len(scene.boxes)} faces (dotted)")

# %% [markdown]
# From 0.25 to 0.55 it hardly matters. No threshold leaves three, since some boxes around nothing meet no better box.
# And 0.05 leaves one box *more* than 0.1. There, the lower face's best box strikes out that of the upper face, which
# it overlaps by 0.06: a face is lost. Two boxes around nothing, which the upper face's box had struck out at 0.1, now
# live. A lower threshold strikes out more at each step, but a struck box strikes nobody.
#
# ## 5 The same for ten thousand processors
#
# Your loop is serial: whether a box may strike depends on whether it was struck. But the expensive part, the overlaps,
# is not serial at all. So on a GPU the work is split: first every pair at once, `mask[i, j]` = "box i, if it is kept,
# strikes out box j"; then a cheap serial walk over the rows of that mask.
#
# ## Exercise 5.3: the mask (about 5 lines)
#
# `boxes` (N, 4), already sorted by falling score; `threshold` as in 5.2. Return an (N, N) array of bools, with every
# pair judged by itself: that box i may be struck out later does not matter here. Who may strike whom? Not everybody
# everybody: see what the walk below does with a row.

# %%
@lesson.exercise(check.suppression_mask, otherwise=solution.suppression_mask)
def suppression_mask(boxes, threshold):
    raise NotImplementedError


# %%
order = np.argsort(-scores, kind="stable")
mask = np.asarray(suppression_mask(boxes[order], 0.4), bool)
struck = np.zeros(len(boxes), bool)
for i in range(len(boxes)):  # the serial walk
    if not struck[i]:  # i is kept, so all whom it may strike go
        struck |= mask[i]  # one OR of a row of bits
assert list(order[~struck]) == kept

# %% [markdown]
# ## 6 Not even looking at the overlaps
#
# FaceCraft's first network slides a window of 12 pixels over the picture in steps of 2 and leaves a map of scores,
# one a window. Windows that are neighbours on the map overlap a lot, so a maximum over the map can stand in for
# NMS: cut the map into blocks of k x k points and keep each block's highest. No overlap is ever computed.

# %%
window, stride = 12, 2
neighbour = np.array([0.0, 0, window, window])
guess = lesson.predict("What is the smallest IoU of two windows in the same 2 x 2 block?", 0.5)

# %%
lesson.reveal(guess, iou(neighbour, neighbour + stride))  # one step to the right and one step down

# %% [markdown]
# 10 x 10 shared of 2 x 144 - 100 covered: 0.532. Whatever a 2 x 2 block throws away, the block's winner overlaps it by
# at least 0.532: enough for NMS at 0.5 to strike it out, too. The paper says "comparative to NMS 0.5".
#
# ## Exercise 5.4: the highest of each block (about 7 lines)
#
# `scores` (H, W), numbers from 0 to 1; `k`: return an (H, W) array with the maximum of each k x k block in its place
# and zeros elsewhere. The first block begins at (0, 0); those at the right and lower border may be cut off. Of equal
# scores in a block the first in reading order stays, alone. `scores` is not yours: write into a new array.

# %%
@lesson.exercise(check.block_maxima, otherwise=solution.block_maxima)
def block_maxima(scores, k):
    raise NotImplementedError


# %% [markdown]
# A map to try it on: twelve round hills, as faces leave them on such a map, a little rough.

# %%
def hills(seed, height=60, width=80):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    tops = rng.uniform(0, 1, (12, 2)) * (height, width)
    hill = [np.exp(-((y - top[0]) ** 2 + (x - top[1]) ** 2) / 18) for top in tops]
    return np.max(hill, axis=0) * rng.uniform(0.8, 1, (height, width))  # (H, W), 0 to 1


# %%
score_map = hills(0)
pooled = block_maxima(score_map, 2)
assert np.allclose(pooled, response_map_pool(score_map, 2))

# %%
figure = new_figure(8, 3)
for axes, picture, title in zip(figure.subplots(1, 2), (score_map, pooled), ("scores", "block maxima"), strict=True):
    axes.imshow(np.where(picture > 0.5, picture, 0), cmap="magma")
    axes.set_title(f"{title}: {(picture > 0.5).sum()} above 0.5")
lesson.show(figure, "response_map", "A score map above 0.5, and what is left of it")

# %% [markdown]
# Does it do what NMS does? For three maps: take all windows above 0.5, thin them out both ways, and ask which share of
# what NMS keeps has a block's winner near it (IoU of at least 0.5).

# %%
def windows_above(score_map, threshold=0.5):
    rows, columns = np.nonzero(score_map > threshold)
    corners = np.stack([columns, rows], axis=1) * stride  # (N, 2)
    return np.concatenate([corners, corners + window], axis=1).astype(np.float32), score_map[rows, columns]


# %%
def share_covered(seed):
    score_map = hills(seed)
    boxes, scores = windows_above(score_map)
    by_nms = boxes[compiled_nms(boxes, scores, 0.5)]
    by_blocks, _ = windows_above(block_maxima(score_map, 2))
    print(f"seed {seed}: {len(boxes)} windows, NMS keeps {len(by_nms)}, blocks keep {len(by_blocks)}")
    return (iou_matrix(by_nms, by_blocks).max(axis=1) >= 0.5).mean()


# %%
lesson.claim(
    "FC-M4",
    "2 x 2 blocks keep a window near each one that NMS at 0.5 keeps",
    [share_covered(seed) for seed in range(3)],
    above=0.99,
    paper="k = 2 is comparative to NMS at 0.5",
    asserted=True,
)

# %% [markdown]
# All are covered, and by the argument above it could not be otherwise: every window has its block's winner near it.
# What the argument does not say is the price. The blocks keep 40 to 50 percent more windows: winners on two sides of
# a block's border may overlap by far more than 0.5. A cascade can afford that, since the next network looks at each
# of them again (lesson 14).
#
# ## 7 When the truth is not a box
#
# FDDB, the set on which FaceCraft is measured, outlines faces with ellipses. The overlap of an ellipse with a box has
# no short formula, but counting points works for any shape. (FDDB's ellipses may lean to a side; ours stand upright.)
#
# ## Exercise 5.5: an ellipse against a box (about 6 lines)
#
# `ellipse`: (cx, cy, half its width, half its height), its centre first; `box`: as ever. Both lie where x and y are
# between 0 and 10. Return the IoU, to 0.02. A point (x, y) is in the ellipse if
# ((x - cx) / half width)² + ((y - cy) / half height)² is at most 1. A grid of 8 x 8 points a pixel is fine enough if
# each point is the *middle* of its small square, at 1/16, 3/16, 5/16, ... as in section 1: points at 0, 1/8, 2/8, ...
# fall on the very edges of the box, and a row of points too many there is an error of 0.05.

# %%
@lesson.exercise(check.ellipse_iou, otherwise=solution.ellipse_iou)
def ellipse_iou(ellipse, box):
    raise NotImplementedError


# %%
guess = lesson.predict("What is the IoU of an ellipse with the tightest box around it?", 0.9)

# %%
lesson.reveal(guess, ellipse_iou((5, 5, 2, 3), (3, 2, 7, 8)))

# %% [markdown]
# π/4 = 0.785 but for the grid, for every upright ellipse: a perfect box already loses a fifth. FDDB asks for more than
# 0.5, so little room is left, and detectors trained on boxes fit an ellipse into each box before they are scored
# (lesson 07).
#
# ## What you can do now
#
# - compute and estimate IoU, and say which shift halves it;
# - write NMS, know what its threshold decides and what it cannot repair;
# - split it into a parallel and a serial part;
# - say why a maximum over a score map may replace it, and at which price.
#
# In the library: `minidetect/kernels/iou.py`, `nms.py`, `response_map.py`; the slow twins you can trust are in
# `minidetect/reference/boxes.py`. Next: 06, how a network moves a box.

# %%
lesson.finish()
