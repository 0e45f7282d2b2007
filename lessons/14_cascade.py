# %% [markdown]
# # 14 A cascade
#
# **Question:** how to say no quickly?
#
# **Papers:** FaceCraft, sections 3 to 4.3 and 6.5. **Time:** 60 s.
# **Before:** 02 (convolution), 05 (overlap, suppression); 04 for section 9.
#
# **You build:** the windows that a sliding net sees, the way from a point of its map to a box in the picture, the
# levels of a pyramid, the expected cost of a cascade, its larger second look, and its thresholds.
# **You may skip:** exercises 14.5 and 14.6, and section 9.
#
# A picture has tens of thousands of places where a face could be, and a handful of faces. Whoever looks at each place
# carefully is late. A cascade looks three times: first cheaply and everywhere, then more carefully at what is left.
#
# All of this lesson uses the cascade that ships with the library, on drawn pictures; nothing is downloaded. The first
# run with an empty cache of compiled kernels needs 30 s more. Times below are taken after that, on one thread, and
# unless the text says otherwise they are seconds that the processor spent on this program (`time.process_time`; lesson
# 23 says why).

# %%
import copy
import time

import numpy as np
from solutions import lesson_14 as solution

import minidetect
from minidetect.autograd import Tensor, no_grad
from minidetect.checks import lesson_14 as check
from minidetect.data.synthetic import draw_crowd, draw_scene
from minidetect.detection.boxes import to_square
from minidetect.detection.losses import cross_entropy
from minidetect.detection.pyramid import ImagePyramid
from minidetect.detection.sampler import sliding_windows
from minidetect.kernels.iou import iou_matrix
from minidetect.kernels.nms import nms
from minidetect.kernels.resize import resize_image
from minidetect.kernels.response_map import response_map_pool
from minidetect.kernels.threads import set_num_threads

# %%
from minidetect.models.cascade import ProposalNet
from minidetect.models.cascade_pipeline import face_probability
from minidetect.models.facecraft import TABLES
from minidetect.nn.optim import SGD, scheduled_lr
from minidetect.ops.conv import conv2d
from minidetect.teach import Lesson
from minidetect.train.patches import Pool, cut, jittered_squares, negatives_among
from minidetect.visualize import COLOURS, new_figure, plot_boxes

lesson = Lesson("14", "A cascade")
BLUE, ORANGE, GREEN = COLOURS[6], COLOURS[5], COLOURS[2]

# %% [markdown]
# ## 1 Too many places
#
# `detector.model` holds three nets that look at squares of 12, 24 and 48 pixels; they are called x12, x24 and x48, and
# each answers with a probability of "face" and with four numbers that move the box (lesson 06).
# `detector.pipeline` is the same detector arranged for speed. Its first call loads the compiled kernels.

# %%
set_num_threads(1)
detector = minidetect.load("facecraft")
model, pipeline = detector.model, detector.pipeline
crowd = draw_crowd(seed=0)  # image (480, 640, 3), boxes (12, 4)
found = pipeline.detect([crowd.image])[0]  # also warms the kernels up
print(len(crowd.boxes), "faces drawn,", len(found.boxes), "found")
axes = plot_boxes(crowd.image, found.boxes, [f"{score:.2f}" for score in found.scores], ORANGE)
lesson.show(axes.figure, "crowd", "What the shipped cascade finds in a drawn crowd")

# %% [markdown]
# A window may stand at every second pixel. Faces may have any size from 24 pixels up, so the picture is shown to the
# 12-pixel net at half the size, and then smaller and smaller, by a third of an octave each time (an **octave** is a
# factor of 2), until only a face as high as the picture would fit.

# %%
guess = lesson.predict("How many windows does x12 look at in 640 x 480 pixels, faces from 24 pixels?", 10000)

# %%
pyramid = ImagePyramid(crowd.image, levels_per_octave=3)
proposals = pipeline.propose(pyramid, min_face=24)
windows = proposals.windows
lesson.reveal(guess, windows)

# %% [markdown]
# Still modest: the paper counts every box of every shape, half of (width x height) squared, which for this picture is
# 5 x 10¹⁰. Squares of a few sizes at a step of a sixth of their side are already the first great saving.
#
# What if we asked x48, the best of the three, about each of them? Try it with five hundred. (`look_again(pyramid,
# squares, stage)` cuts the squares out of the pyramid and shows them to stage 1, x24, or stage 2, x48; the stages count
# from 0.)

# %%
guess = lesson.predict("Seconds for one picture, if x48 looks at every window?", 1)

# %%
some = to_square(proposals.boxes[:512])  # (512, 4)
pipeline.look_again(pyramid, some, 2)  # once untimed
start = time.process_time()
pipeline.look_again(pyramid, some, 2)
alone = (time.process_time() - start) / len(some) * windows
lesson.reveal(guess, alone)

# %%
start = time.process_time()
found, reports = pipeline.detect_with_report(crowd.image, min_face=24)
together = time.process_time() - start
print(f"the whole cascade: {together:.3f} s, {alone / together:.0f} times as fast")

# %% [markdown]
# Where does such a factor come from? The rest of this lesson takes it apart: a net that slides (2), what its answers
# mean (3, 4), three looks (5) and their cost (6), and three details (7, 8, 9).
#
# ## 2 A net that slides
#
# The obvious way to ask x12 about every window: cut all windows out, hand them over as a batch.
#
# ## Exercise 14.1: all windows (about 3 lines)
#
# `image` (H, W, C), `side`, `stride`. Return an array (PH, PW, side, side, C): the window whose upper left pixel is
# row `i * stride`, column `j * stride` stands at [i, j]. Only windows that lie wholly inside count: how many rows and
# columns of them are that? (`side` may be odd, `stride` may be larger than `side`, and the picture need not be square.)

# %%
@lesson.exercise(check.cut_windows, otherwise=solution.cut_windows)
def cut_windows(image, side, stride):
    raise NotImplementedError


# %% [markdown]
# Take level 6 of the pyramid (a quarter of the size) and ask about each of its windows, 12 pixels at stride 2.

# %%
def faces_by_x12(pixels):
    """(N, H, W, 3), 0 to 255 -> P(face), (N, PH, PW)."""
    with no_grad():  # logits (N, 2, PH, PW): one for "no face", one for "face"
        logits = model.x12.maps(model.x12.features(model.normalise(pixels))).logits
    return face_probability(logits.data[:, 0], logits.data[:, 1])


# %%
level = pyramid.level(6)  # (120, 160, 3)
cut_out = np.asarray(cut_windows(level, 12, 2))  # (55, 75, 12, 12, 3)
one_by_one = faces_by_x12(cut_out.reshape(-1, 12, 12, 3))  # (4125, 1, 1)
print(level.shape, "->", cut_out.shape, "->", one_by_one.shape)

# %% [markdown]
# Now the same net, and the whole level as if it were one large patch. x12 has nothing but convolutions and a pooling,
# so it does not mind: instead of a 1 x 1 map it returns a larger one.

# %%
guess = lesson.predict("By how much does the map differ from the windows' answers at most?", 0.1)

# %%
slid = faces_by_x12(level[None])[0]  # (55, 75)
lesson.reveal(guess, np.abs(slid - one_by_one.reshape(slid.shape)).max())
assert slid.shape == cut_out.shape[:2]
assert np.allclose(slid, one_by_one.reshape(slid.shape), atol=1e-5)

# %% [markdown]
# They are the same numbers, up to rounding. Two properties of the net make it so:
#
# - It **never pads**. A net with padding sees a border of zeros around a patch, and the neighbours in a picture.
# - Its pooling cuts 2 x 2 blocks that begin at even pixels, in a patch as in a picture, *if the window begins at an
#   even pixel*. So the map has a point for every second pixel: **the stride of the map is the product of all strides
#   inside of the net**, here 2 (the pooling's) x 1 (all others').
#
# How much would padding harm? Give the first convolution a border of one zero and compare its outputs for one window
# with those at the same place of the picture.

# %%
guess = lesson.predict("In how many of the 12 x 12 positions would the first layer's outputs differ?", 12)

# %%
first = model.x12.stack.convs[0]
window, whole = model.normalise(level[None, 40:52, 60:72]), model.normalise(level[None])
padded = conv2d(window, first.weight, first.bias, padding=1).data[0]  # (16, 12, 12)
in_place = conv2d(whole, first.weight, first.bias, padding=1).data[0, :, 40:52, 60:72]
differs = np.abs(padded - in_place).max(axis=0)  # (12, 12)
lesson.reveal(guess, (differs > 1e-4).sum())

# %%
figure = new_figure(3.6, 3)
axes = figure.subplots()
figure.colorbar(axes.imshow(differs, cmap="magma"), ax=axes, label="largest difference")
axes.set_title("padded window against its place")
lesson.show(figure, "rim", "A padded net answers differently all around the rim")

# %% [markdown]
# 12 x 12 - 10 x 10 = 44: the whole rim, and with every further layer the rim grows inwards.
#
# Sliding is not only simpler but cheaper. Neighbouring windows share most of their pixels; cut out, each computes its
# first layer for itself.

# %%
guess = lesson.predict("How many times as fast as the batch of windows is the sliding net?", 10)

# %%
def seconds(call):
    """The fastest of some runs; one run before them is not counted."""
    call()
    times = []
    for _ in range(lesson.amount(1, 5, 9)):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


batch = cut_out.reshape(-1, 12, 12, 3)
lesson.reveal(guess, seconds(lambda: faces_by_x12(batch)) / seconds(lambda: faces_by_x12(level[None])))

# %% [markdown]
# A window of its own costs 10 x 10 positions of 3 x 3 x 3 x 16 multiply-adds in the first layer, 43,200, and 6,496
# in the others. On the map a window adds only 2 x 2 new positions of the first layer, 1,728, and the same 6,496.
# That is 49,696 against 8,224, or 6 times. Whatever you measured beyond that is the price of 4,125 tiny maps.

# %%
figure = new_figure(8, 3.8)
left, right = figure.subplots(1, 2)
plot_boxes(level, np.zeros((0, 4)), ax=left, title="level 6, 120 x 160 pixels")
right.imshow(slid, cmap="magma", vmin=0, vmax=1)
right.set(title="P(face), 55 x 75 points", xlabel="column", ylabel="row")
lesson.show(figure, "map", "What x12 says of each window of one level")

# %% [markdown]
# ## 3 From a point to a box
#
# A bright point says "this window". Which pixels of the picture are that? In the paper a point stands for the window
# whose **upper left corner** it is.
#
# ## Exercise 14.2: the box of a point (about 4 lines)
#
# `row`, `column`: of the map (stride 2, windows of 12 pixels). `level_size` and `image_size`: (height, width) each.
# Return `x1, y1, x2, y2` in pixels of the image, not rounded; x2 - x1 is the width of 12 pixels of the level. Sizes of
# levels are whole numbers, so the exact factor is one size over the other, and may differ a little between x and y.
# Beware: a row is a y.

# %%
@lesson.exercise(check.map_box, otherwise=solution.map_box)
def map_box(row, column, level_size, image_size):
    raise NotImplementedError


# %%
row, column = np.unravel_index(slid.argmax(), slid.shape)
box = np.array(map_box(row, column, level.shape[:2], crowd.image.shape[:2]))
print(f"highest at row {row}, column {column}: {slid.max():.2f}; in the picture {np.round(box)}")
assert iou_matrix(box[None], to_square(crowd.boxes)).max() > 0.5

# %% [markdown]
# ## 4 The pyramid
#
# x12 knows faces of about 12 pixels and nothing else. Faces of 48 pixels are found on the level that shows them as 12.
# With L levels an octave, level k shows the picture at scale 2^(-k / L): level 0 as it is, level L at half the size.
#
# ## Exercise 14.3: which levels (about 5 lines)
#
# `height`, `width` of the image, `smallest` face in pixels, `per_octave` = L. Return two whole numbers:
#
# - the **first** level to look at: the last one on which a face of `smallest` pixels still covers 12 pixels or more (it
#   is negative, an enlargement, for faces below 12);
# - the **last** level: the last one whose shorter side, rounded to a whole pixel (halves up), is at least 12 pixels. It
#   does not depend on `smallest`: where no face of that size fits into the picture, it comes before the first.
#
# The image's sides are at least 12.

# %%
@lesson.exercise(check.pyramid_levels, otherwise=solution.pyramid_levels)
def pyramid_levels(height, width, smallest, per_octave):
    raise NotImplementedError


# %%
first_level, last_level = (int(k) for k in pyramid_levels(480, 640, 24, 3))
assert (first_level, last_level) == (pyramid.level_for(24, 12), pyramid.last_level(12))
print(f"levels {first_level} to {last_level}")

# %%
sides = (to_square(crowd.boxes)[:, 2] - to_square(crowd.boxes)[:, 0]).round()
chosen = [sides.argmin(), np.argsort(sides)[6], sides.argmax()]  # a small, a middling and the largest face
figure = new_figure(9, 3)
for axes, face in zip(figure.subplots(1, 3), chosen, strict=True):
    k = pyramid.level_for(sides[face], 12)
    view, shrink = pyramid.level(k), np.divide(pyramid.level_size(k), pyramid.size)
    square = to_square(crowd.boxes[face : face + 1]) * np.tile(shrink[::-1], 2)
    height, width = view.shape[:2]
    plot_boxes(view, square, ax=axes, title=f"face of {sides[face]:.0f} px: level {k}, {width} x {height}")
lesson.show(figure, "pyramid", "Three faces, each on the level that shows it at 12 to 15 pixels")

# %% [markdown]
# How many levels an octave are enough? A face may fall between two levels. Then it is shown a little too large or too
# small, at worst by a factor of 2^(1 / (2 L)) from the nearest: 1.41 for L = 1, 1.12 for L = 3, 1.07 for L = 5.
# The price is the number of windows.

# %%
guess = lesson.predict("How many times as many windows are 5 levels an octave, compared with 3?", 1.2)

# %%
def count_windows(height, width, smallest, per_octave):
    levels = ImagePyramid(np.zeros((height, width, 3), np.uint8), per_octave)
    first, last = (int(k) for k in pyramid_levels(height, width, smallest, per_octave))
    sizes = [levels.level_size(k) for k in range(first, last + 1)]
    return sum(((h - 12) // 2 + 1) * ((w - 12) // 2 + 1) for h, w in sizes)


assert count_windows(480, 640, 24, 3) == windows
print({octave: count_windows(480, 640, 24, octave) for octave in (1, 2, 3, 5)})
lesson.reveal(guess, count_windows(480, 640, 24, 5) / windows)

# %% [markdown]
# The paper speaks of an interval of 5; the shipped cascade uses 3, and its regression corrects the sizes in between.
#
# ## 5 Three looks
#
# Now the whole pipeline. x12 slides over every level; windows above its threshold go on, moved by the regression.
# x24 looks at each of them at 24 pixels, x48 at what is left at 48. A non-maximum suppression ends it. (The shipped
# pipeline also strikes out near copies before x24 and x48; that comes in section 6.)

# %%
guess = lesson.predict(f"How many of the {windows:,} windows go on to x24?", 5000)

# %%
lesson.reveal(guess, reports[0].boxes_out)
for stage in reports:
    print(f"{stage.stage:4} {stage.boxes_in:6} in {stage.boxes_out:5} out {stage.seconds * 1000:6.1f} ms")

# %% [markdown]
# About a thousand after the first stage: the number that the paper gives as its average, on photos. A hundred are left
# after the second (the paper: dozens).

# %%
figure = new_figure(8, 6)
for stages, axes in zip((1, 2, 3, 4), figure.subplots(2, 2).flat, strict=True):  # survivors: after that many stages
    boxes = found.boxes if stages == 4 else pipeline.survivors(pyramid, 24, stages)[0]
    title = f"after {('x12', 'x24', 'x48', 'suppression')[stages - 1]}: {len(boxes)} boxes"
    drawn = boxes[::8] if stages == 1 else boxes
    plot_boxes(crowd.image, drawn, colours=ORANGE, ax=axes, title=title)
lesson.show(figure, "survivors", "What each stage leaves of 45,488 windows (of the first, every eighth is drawn)")

# %% [markdown]
# And where does the time go? The paper says: the first stage takes the most of the three, and the later two together
# about half. Guess for ours, then look at three pictures. (The pipeline takes these times itself, on the wall.)

# %%
guess = lesson.predict("Which share of the time do x24 and x48 take together?", 0.5)

# %%
STAGES = ("x12", "x24", "x48", "suppression")


def stage_times(seed):
    """Seconds of each stage on a crowd, (4,): the fastest of some runs, which other programs disturb least."""
    image = draw_crowd(seed=seed).image
    runs = [pipeline.detect_with_report(image, 24)[1] for _ in range(lesson.amount(1, 12, 30))]
    return np.min([[stage.seconds for stage in run] for run in runs], axis=0)


times = np.array([stage_times(seed) for seed in range(lesson.amount(1, 3, 3))])  # (3, 4)
later = times[:, 1:3].sum(axis=1) / times.sum(axis=1)
lesson.reveal(guess, later.mean())

# %%
figure = new_figure(6, 2.6)
axes = figure.subplots()
for n, (name, colour) in enumerate(zip(STAGES, (BLUE, ORANGE, GREEN, "grey"), strict=True)):
    axes.barh(range(len(times)), times[:, n] * 1000, left=times[:, :n].sum(axis=1) * 1000, color=colour, label=name)
axes.set(xlabel="milliseconds", yticks=range(len(times)), yticklabels=[f"crowd {seed}" for seed in range(len(times))])
axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.25), frameon=False)
lesson.show(figure, "time", "Time of the stages on three drawn crowds")

# %%
lesson.claim(
    "FC-31",
    "how far the later two stages' share of the time is from one half",
    np.abs(later - 0.5),
    below=0.1,
    paper="the later two stages take about half",
)

# %% [markdown]
# FC-31 **does not come out**: here the later two take three quarters and more. A crowd leaves them more to do than a
# photo (on photos it is 64 %, see the README), and sliding over whole levels is the easiest part of all to make fast:
# long rows, every pixel used many times (lesson 23).
#
# ## 6 What a look costs
#
# Let stage s cost c_s for one window, and pass a share p_s of what reaches it. Then a window costs c_1 in any case;
# with probability p_1 also c_2; and so on.
#
# ## Exercise 14.4: the expected cost (about 2 lines)
#
# `costs` and `passes`: (S,) each, in the order of the stages. Return the mean cost of one window of the first stage.

# %%
@lesson.exercise(check.expected_cost, otherwise=solution.expected_cost)
def expected_cost(costs, passes):
    raise NotImplementedError


# %% [markdown]
# Measure the three costs: of x12 for a window of its sweep over all levels, of x24 and x48 for one box of five hundred.

# %%
levels = range(first_level, last_level + 1)
cost12 = seconds(lambda: [pipeline.look_everywhere(pyramid, k) for k in levels]) / windows
cost24 = seconds(lambda: pipeline.look_again(pyramid, some, 1)) / len(some)
cost48 = seconds(lambda: pipeline.look_again(pyramid, some, 2)) / len(some)
costs = np.array([cost12, cost24, cost48])
print("microseconds for a window:", np.round(costs * 1e6, 2))

# %% [markdown]
# A box in x24 costs one to two hundred times as much as a window in x12's sweep, and x48 six to ten times as much
# again.
#
# For the shares, take the pipeline as the paper describes it. The shipped one has two further sieves, suppression
# between the stages and a "second look" into x12's maps (`models/cascade_pipeline.py`), which we switch off for this.

# %%
as_paper = copy.copy(pipeline)
as_paper.stage_nms, as_paper.second_look = None, None
paper_reports = as_paper.survivors(pyramid, 24)[2]
passes = np.array([stage.boxes_out / stage.boxes_in for stage in paper_reports])
print("shares that pass:", np.round(passes, 4))

# %%
guess = lesson.predict("Milliseconds that the formula expects for the picture?", 50)

# %%
expected = expected_cost(costs, passes) * windows
lesson.reveal(guess, expected * 1000)
print(f"measured: {seconds(lambda: as_paper.survivors(pyramid, 24)) * 1000:.0f} ms")

# %% [markdown]
# Close, though the pyramid, the moving of boxes and the suppression are not in it. And it answers questions without
# running anything. What if x24 were left out, so that x48 had to look at all that x12 lets through? (It would not be
# the same detector: x48 would also pass boxes that x24 turns away.)

# %%
guess = lesson.predict("How many times as dear would the cascade be without x24?", 2)

# %%
lesson.reveal(guess, expected_cost(costs[[0, 2]], passes[[0, 2]]) * windows / expected)

# %% [markdown]
# And what would a stricter first threshold be worth? `p_1` of the formula is ours to choose:

# %%
shares = np.geomspace(1e-4, 1, 50)
figure = new_figure(6, 3)
axes = figure.subplots()
for c, p, name, colour in ((costs, passes, "x12, x24, x48", BLUE), (costs[[0, 2]], passes[[0, 2]], "x12, x48", ORANGE)):
    curve = [expected_cost(c, np.array([share, *p[1:]])) * windows for share in shares]
    axes.loglog(shares, np.array(curve) * 1000, color=colour, label=name)
axes.axvline(passes[0], color="grey", linestyle=":")
axes.set(xlabel="share of windows that x12 lets through", ylabel="milliseconds a picture")
axes.legend()
lesson.show(figure, "cost", "Expected cost against the first stage's strictness; dotted: ours on the crowd")

# %% [markdown]
# To the left the curves flatten: once the first stage is strict enough, its own sweep is all there is, and to make it
# stricter would buy nothing. Ours, on a crowd, stands well to the right of that bend: ten times the cost of the
# sweep. A stricter x12 would help, if it did not lose faces; section 9 measures that.
#
# Why cheap before dear? If three tests were **independent** (what one says tells nothing about another), any order
# would leave the same windows at the end, but not at the same price.
#
# ## Exercise 14.5: the cheapest order (about 1 line)
#
# `costs` and `passes` (all below 1) of independent tests, (S,) each. Return the order, as a list of indices, in which
# the expected cost is lowest. Think of two neighbours first: a before b costs c_a + p_a c_b, b before a costs
# c_b + p_b c_a. When is the first less? Sort by that.

# %%
@lesson.exercise(check.cheapest_order, otherwise=solution.cheapest_order)
def cheapest_order(costs, passes):
    raise NotImplementedError


# %%
rng = np.random.default_rng(0)
corners = rng.uniform(0, (560, 400), (512, 2))
anywhere = np.concatenate([corners, corners + rng.uniform(24, 80, (512, 1))], axis=1).astype(np.float32)
pass24, pass48 = ((pipeline.look_again(pyramid, anywhere, s)[0] > pipeline.thresholds[s]).mean() for s in (1, 2))
alone_passes = np.array([passes[0], pass24, pass48])
print("each asked about windows anywhere:", np.round(alone_passes, 4))
order = [int(stage) for stage in cheapest_order(costs, alone_passes)]
print("cheapest order:", order)
assert order == [0, 1, 2]

# %% [markdown]
# All three turn away nearly everything, so the order is that of the costs. They are far from independent: in its
# training x48 has seen what x12 let through, and the share that passes depends on what comes in (above, x48 passed
# three quarters of what x24 sent it, and 2 % of windows from anywhere).
#
# ## 7 Cheaper than suppression
#
# Between x12 and x24 the paper does not use non-maximum suppression. It keeps the highest point of each 2 x 2 block
# of the map (lesson 05 built it: exercise 5.4). Lesson 05 tried that on hills; here are real maps of a real net.
# "block" and "slide" are lesson 05's two readings: the highest of its block, or higher than all of its neighbours.
# For each way: how many boxes are left, and how many faces still have a box with an IoU of at least 0.5?

# %%
def thinned(face_map, boxes, way):
    """Which of the map's points above the threshold stay, (N,) bools."""
    i, j = np.nonzero(face_map)
    if way == "NMS 0.5":
        stay = np.zeros(len(i), bool)
        stay[nms(boxes, face_map[i, j], 0.5)] = True
        return stay
    if way == "all":
        return np.ones(len(i), bool)
    return response_map_pool(face_map, 2, way)[i, j] > 0


# %% [markdown]
# On one level of the crowd, what stays?

# %%
WAYS = ("all", "block", "slide", "NMS 0.5")
face_map, deltas = pipeline.face_map(pyramid, 6)
i, j = np.nonzero(face_map)
boxes = pipeline.map_boxes(pyramid, np.full(len(i), 6), np.stack([i, j], axis=1), deltas[:, i, j].T)
figure = new_figure(9, 2)
for axes, way in zip(figure.subplots(1, 4), WAYS, strict=True):
    stay = thinned(face_map, boxes, way)
    axes.imshow(pyramid.level(6)[6:-6, 6:-6], alpha=0.5)  # a pixel is the middle of its window
    axes.scatter(2 * j[stay], 2 * i[stay], s=3, color=ORANGE)
    axes.set_title(f"{way}: {stay.sum()}", fontsize=10)
    axes.set_axis_off()
lesson.show(figure, "thinned", "Middles of the windows that stay on level 6: of all above 0.1, three thinnings")

# %% [markdown]
# Now all levels, on scenes that are harder than the crowd: faces of 24 to 160 pixels, three of ten behind a bar.

# %%
def maps_and_boxes(image, min_face=24):
    """Of each level: x12's map above its threshold, (PH, PW), and the boxes of its points, (N, 4)."""
    levels, each = ImagePyramid(image, 3), []
    for k in range(levels.level_for(min_face, 12), levels.last_level(12) + 1):
        face_map, deltas = pipeline.face_map(levels, k)
        i, j = np.nonzero(face_map)
        corners = np.stack([i, j], axis=1)
        each.append((face_map, pipeline.map_boxes(levels, np.full(len(i), k), corners, deltas[:, i, j].T)))
    return each


# %%
def scenes_of(seed, num):
    """Crowded scenes; three faces of ten are partly behind a bar, which makes them hard."""
    settings = {"size": (360, 480), "side": (24.0, 160.0), "num_faces": (6, 10), "occlusion": 0.3, "crowd": 0.0}
    return [draw_scene("faces_scales", seed, index, **settings) for index in range(num)]


def pooling_against_nms(seed, num):
    """Totals over scenes: faces, and for each way (boxes, faces covered)."""
    totals, faces = {way: np.zeros(2) for way in WAYS}, 0
    for scene in scenes_of(seed, num):
        each = maps_and_boxes(scene.image)
        faces += len(scene.boxes)
        for way in WAYS:
            left = np.concatenate([boxes[thinned(face_map, boxes, way)] for face_map, boxes in each])
            overlap = iou_matrix(scene.boxes, left)
            totals[way] += (len(left), (overlap.max(axis=1, initial=0) >= 0.5).sum())
    return faces, totals


# %%
guess = lesson.predict("Boxes that 2 x 2 blocks leave, for each one that NMS at 0.5 leaves?", 1.0)

# %%
num = lesson.amount(1, 8, 30)
pooling = [pooling_against_nms(seed, num) for seed in range(lesson.amount(1, 3, 3))]
faces = sum(f for f, _ in pooling)
totals = {way: sum(t[way] for _, t in pooling) for way in WAYS}
for way, (boxes, covered) in totals.items():
    print(f"{way:8} {boxes / len(pooling) / num:5.0f} boxes a picture, {covered:.0f} of {faces} faces")
lesson.reveal(guess, totals["block"][0] / totals["NMS 0.5"][0])

# %% [markdown]
# The paper says two things about it: the result is comparable to that of NMS at 0.5, and it is faster. First the
# result.

# %%
lesson.claim(
    "FC-M4",
    "recall of stage one with 2 x 2 blocks, less that with NMS at 0.5",
    [(t["block"][1] - t["NMS 0.5"][1]) / f for f, t in pooling],
    above=-0.01,
    paper="comparable to NMS at 0.5",
    asserted=True,
)

# %% [markdown]
# The blocks leave half as many boxes again as NMS does, and lose no face that NMS keeps but for one or two either way;
# most of the faces that are lost were not above the threshold to begin with ("all"). The other reading of the paper's
# sentence, where a point must beat its whole neighbourhood ("slide"), leaves the fewest boxes, and on faces it does
# hardly worse: lesson 05 counted lost *windows*, and a face has dozens of them.
#
# Then the speed, for all levels of the crowd:

# %%
each = maps_and_boxes(crowd.image)
for way in WAYS[1:]:
    spent = seconds(lambda way=way: [thinned(face_map, boxes, way) for face_map, boxes in each])
    print(f"{way:8} {spent * 1000:.2f} ms, {spent / together:.1%} of the time of the whole cascade")

# %% [markdown]
# Faster it is, by a tenth to a third (in turns on five pictures, while this was written; one run on a busy machine,
# as above, may say the opposite). But both are compiled here and take about a hundredth of a picture's time. The
# paper calls NMS time consuming; a compiled NMS of a thousand boxes is not. What either of them really saves is
# looks: without the blocks, x24 gets about twice as many boxes (lesson 23 measures what that costs). The shipped
# cascade uses the blocks **and** an NMS at 0.7 before x24, since every box that it strikes out spares a look that
# costs more.
#
# ## 8 A larger look, for free
#
# x24 wants 24 pixels of a face that x12 has seen as 12. The pyramid already holds them: the level an octave larger (L
# levels before) shows everything at twice the size. Finding the patch there is cheaper than resizing, says the paper,
# and it is: nothing is computed, only copied.
#
# ## Exercise 14.6: the larger view (about 2 lines)
#
# `larger` (H, W, 3): a level exactly twice as large as the one on which x12 made its map. `row`, `column`: a point of
# that map (stride 2, windows of 12). Return what it shows in `larger`: (24, 24, 3).

# %%
@lesson.exercise(check.look_closer, otherwise=solution.look_closer)
def look_closer(larger, row, column):
    raise NotImplementedError


# %% [markdown]
# Is that the same place? Halve a picture by averaging 2 x 2 blocks. Then the mean of 2 x 2 pixels of the larger view
# must be the 12-pixel window, exactly and everywhere.

# %%
large = crowd.image.astype(np.float64)
small = large.reshape(240, 2, 320, 2, 3).mean(axis=(1, 3))  # (240, 320, 3)
for i, j in ((0, 0), (7, 100), (114, 154)):
    view = np.reshape(look_closer(large, i, j), (12, 2, 12, 2, 3)).mean(axis=(1, 3))
    assert np.array_equal(view, small[2 * i : 2 * i + 12, 2 * j : 2 * j + 12])

# %% [markdown]
# What does the closer view add? Three ways to 24 pixels, for one face: enlarge the 12 pixels that x12 has seen;
# look it up in the larger level; shrink the face's own pixels out of the picture.

# %%
k = pyramid.level_for(sides[chosen[2]], 12)  # the level that shows the largest face as 12 pixels
target = to_square(crowd.boxes[chosen[2] : chosen[2] + 1])[0] * np.tile(
    np.divide(pyramid.level_size(k), pyramid.size)[::-1], 2)  # fmt: skip
j, i = (target[:2] / 2).round().astype(int)
seen = pyramid.level(k)[2 * i : 2 * i + 12, 2 * j : 2 * j + 12]
x1, y1, x2, y2 = np.round(map_box(i, j, pyramid.level_size(k), pyramid.size)).astype(int)
views = {
    "12 pixels, enlarged": resize_image(np.ascontiguousarray(seen), (24, 24)),
    "looked up": np.asarray(look_closer(pyramid.level(k - 3), i, j), np.uint8),
    "shrunk from the picture": resize_image(np.ascontiguousarray(crowd.image[y1:y2, x1:x2]), (24, 24)),
}

# %%
def face_by_x24(view):
    with no_grad():
        return float(model.classify(1, model.normalise(view[None])).face_probs()[0])


figure = new_figure(8, 3)
for axes, (name, view) in zip(figure.subplots(1, 3), views.items(), strict=True):
    plot_boxes(view, np.zeros((0, 4)), ax=axes, title=f"{name}: {face_by_x24(view):.3f}")
lesson.show(figure, "views", "Three ways to 24 pixels, and what x24 says of each")

# %% [markdown]
# The number above each is P(face) by x24. Enlarging adds pixels but nothing that x12 had not seen. The other two agree
# to a few thousandths: the lookup loses nothing against shrinking the picture anew.
#
# Is the lookup exact for every level? Only if the larger level is exactly twice as large. Sizes are whole pixels:

# %%
for k in range(first_level, first_level + 6):
    ratio = np.divide(pyramid.level_size(k - 3), pyramid.level_size(k))
    drift = np.abs(ratio - 2) * np.array(pyramid.level_size(k))
    print(f"level {k} {pyramid.level_size(k)}, larger {pyramid.level_size(k - 3)}: off by up to {drift.max():.0f} px")

# %% [markdown]
# At the far border of a level, a view may stand one pixel beside its place: harmless, but not exact. And there is a
# second catch. The regression has moved the boxes before x24 looks; do they still begin at whole pixels of a level?

# %%
guess = lesson.predict("Which share of the boxes after x12 still begins at a whole pixel (to 0.02)?", 0.5)

# %%
squares = to_square(proposals.boxes)
nearest = np.round(3 * np.log2((squares[:, 2] - squares[:, 0]) / 24)).clip(0)  # the level that shows it as about 24
on_level = squares[:, :2] / 2 ** (nearest[:, None] / 3)
whole = np.abs(on_level - on_level.round()).max(axis=1) < 0.02
lesson.reveal(guess, whole.mean())

# %% [markdown]
# None. So the library takes the level in which a box is nearest to 24 pixels, and interpolates (`crop`, in
# `detection/pyramid.py`). What is left of the paper's idea is the choice of the level, and it is worth having:

# %%
guess = lesson.predict("How many times as fast as shrinking each box out of the picture is `crop`?", 3)

# %%
inside = np.clip(squares, 0, (640, 480, 640, 480)).round().astype(int)[:200]


def by_shrinking():
    return [resize_image(np.ascontiguousarray(crowd.image[y1:y2, x1:x2]), (24, 24)) for x1, y1, x2, y2 in inside]


lesson.reveal(guess, seconds(by_shrinking) / seconds(lambda: pyramid.crop(squares[:200], 24)))

# %% [markdown]
# (Part of that is the Python loop of the slow way.)
#
# ## 9 Where to draw the lines
#
# A face that stage one turns away is lost. So its threshold is not a matter of taste: take faces that were not trained
# on, note the best score that x12 gives to any window on each, and choose the highest threshold that keeps, say, 99 %.
#
# ## Exercise 14.7: a threshold that keeps the faces (about 3 lines)
#
# `scores` (N,) of faces, in any order, and a `share`. A face passes when its score is **above** the threshold, not
# equal to it, as in the pipeline. Return a threshold as high as it can be while at least `share` of the faces pass.
# Equal scores and shares that are not a whole number of faces are in the checks. (`np.nextafter(t, -1)` is the number
# just below t. Any threshold that lets the same faces pass is as good, and accepted.)

# %%
@lesson.exercise(check.keeping_threshold, otherwise=solution.keeping_threshold)
def keeping_threshold(scores, share):
    raise NotImplementedError


# %%
everything = copy.copy(pipeline)
everything.thresholds = (0.0, *pipeline.thresholds[1:])
everything.max_proposals = 10**6


def first_scores(seed, num):
    """The best score of each face (G,), and the scores of all windows of all pictures, after pooling."""
    best, every = [], []
    for scene in scenes_of(seed, num):
        found = everything.propose(ImagePyramid(scene.image, 3), 24)
        near = iou_matrix(scene.boxes, found.boxes) >= 0.5  # (G, N)
        best += [found.scores[row].max(initial=0) for row in near]
        every.append(found.scores)
    return np.array(best), np.concatenate(every)


# %%
num = lesson.amount(1, 24, 60)
(to_choose, all_scores), (to_test, _) = first_scores(10, num), first_scores(11, num)
print(len(to_choose), "faces to choose from,", len(to_test), "others")
for share in (0.9, 0.95, 0.99):
    t, exchanged = keeping_threshold(to_choose, share), keeping_threshold(to_test, share)
    kept, left, back = (to_test > t).mean(), (all_scores > t).sum() / num, (to_choose > exchanged).mean()
    print(f"keep {share:.0%}: threshold {t:.4f}, {left:.0f} windows left a picture; of other faces it keeps {kept:.1%} "
          f"(with the two sets exchanged {back:.1%})")  # fmt: skip

# %%
thresholds = np.geomspace(1e-3, 0.99, 100)
figure = new_figure(6, 3)
axes = figure.subplots()
axes.semilogx(thresholds, [(to_test > t).mean() for t in thresholds], color=BLUE)
axes.set(xlabel="threshold of x12", ylabel="faces kept (blue)")
axes.axvline(pipeline.thresholds[0], color="grey", linestyle=":")
other = axes.twinx()
other.loglog(thresholds, [(all_scores > t).sum() / num for t in thresholds], color=ORANGE)
other.set_ylabel("windows left (orange)")
lesson.show(figure, "threshold", "What a threshold keeps and what it lets through; dotted: the shipped 0.1")

# %% [markdown]
# Two things to take away. The last percent is dear: to keep 99 % instead of 95 % of the faces, more than ten times as
# many windows must go on, because the threshold then hangs on the one or two hardest faces of two hundred. And a
# threshold does not keep of other faces what it promised: 95 % became 90 %. Is it too hopeful? No: with the sets
# exchanged, 95 % became 98 %. One set of scenes is harder than the other, and two hundred faces are few. Over all 30
# ordered pairs of six such sets (tried while this was written) the mean was 94.3 %, and a single pair was off by 3.5
# points as a rule. Whoever reports a recall at a threshold should choose that threshold on other faces, and on many.
#
# ## 10 What to teach the first stage
#
# The paper trains x12 with only 5 % faces, on purpose, so that it lets little through. Do you believe that? Train two
# small first stages from the same initial weights for the same number of steps, one with 5 % faces in each batch and
# one with 50 %. Drawn faces on drawn clutter; patches of 12 pixels.

# %%
def small_scenes(seed, num):
    settings = {"size": (120, 160), "side": (18.0, 100.0), "crowd": 0.0}
    return [draw_scene("faces_scales", seed, index, **settings) for index in range(num)]


def patches_of(scenes, rng):
    """Squares around faces and random windows without one: two arrays (N, 12, 12, 3)."""
    faces, others = [], []
    for scene in scenes:
        levels, target = ImagePyramid(scene.image, 3), scene.target()
        faces.append(cut(levels, jittered_squares(target.boxes, 12, 0.7, rng)[0]))
        everywhere = sliding_windows((120, 160), 12, 4, 3, max_upscale=0.75, rng=rng)
        others.append(cut(levels, negatives_among(everywhere, target, 80, rng)))
    return (Pool.join(pools).shrunk(12).patches for pools in (faces, others))


# %%
def as_input(pixels):
    return Tensor(np.ascontiguousarray((pixels.transpose(0, 3, 1, 2) - np.float32(128)) / np.float32(128)))


def train_first(faces, others, share, seed, steps, batch=192):
    rng, net = np.random.default_rng([seed, 14]), ProposalNet(TABLES[0], np.random.default_rng(seed), dropout=0.0)
    optimiser, k = SGD(net, 0.02, momentum=0.9, weight_decay=5e-4), round(share * batch)
    labels = np.repeat([1, 0], [k, batch - k])
    for step in range(steps):
        picks = faces[rng.integers(len(faces), size=k)], others[rng.integers(len(others), size=batch - k)]
        optimiser.lr = scheduled_lr(step, steps, 0.02, warm_up=20)
        optimiser.zero_grad()
        cross_entropy(net.predict(net.features(as_input(np.concatenate(picks)))).logits, labels).backward()
        optimiser.step()
    return net


# %%
def score_windows(net, scenes):
    """Scores of all windows (a list of arrays), and the best on each face."""
    every, best = [], []
    for scene in scenes:
        levels, boxes, scores = ImagePyramid(scene.image, 3), [], []
        for k in range(levels.level_for(18, 12), levels.last_level(12) + 1):
            with no_grad():
                logits = net.maps(net.features(as_input(levels.level(k)[None])))[0].data[0]
            scores.append(face_probability(*logits).ravel())
            i, j = np.indices(logits.shape[1:]).reshape(2, -1)
            corner = np.stack([j, i], axis=1) * 2.0
            boxes.append(levels.to_image(np.concatenate([corner, corner + 12], axis=1), k))
        every.append(np.concatenate(scores))
        near = iou_matrix(to_square(scene.boxes), np.concatenate(boxes)) >= 0.5
        best += [every[-1][row].max(initial=0) for row in near]
    return np.concatenate(every), np.array(best)


# %% [markdown]
# Compare the two on scenes with other faces, once at the threshold that the paper uses for both, 0.1, and once at
# thresholds at which each net keeps 95 % of the faces.

# %%
guess = lesson.predict("Windows the 5 % net lets through at threshold 0.1, for each one of the 50 % net?", 0.5)

# %%
def few_or_many_faces(seed, steps, num):
    """Ratio of survivors, 5 % over 50 %: at the same threshold, and at the same recall of 95 %."""
    faces, others = patches_of(small_scenes(seed, num), np.random.default_rng(seed))
    test, survivors = small_scenes(1000 + seed, num), []
    for share in (0.05, 0.5):
        every, best = score_windows(train_first(faces, others, share, seed, steps), test)
        recall, t = (best > 0.1).mean(), keeping_threshold(best, 0.95)
        survivors.append([(every > 0.1).sum(), (every > t).sum()])
        print(f"seed {seed}, {share:.0%} faces: at 0.1 {survivors[-1][0] / num:.0f} windows a picture, recall "
              f"{recall:.3f}; at recall 0.95 {survivors[-1][1] / num:.0f} windows, threshold {t:.3f}")  # fmt: skip
    return np.array(survivors) / num  # (2, 2): net, way to choose the threshold


# %%
steps, num = lesson.amount((10, 6), (250, 40), (2000, 100))
counts = np.array([few_or_many_faces(seed, steps, num) for seed in range(lesson.amount(1, 3, 3))])  # (seeds, 2, 2)
ratios = counts[:, 0] / counts[:, 1]  # (seeds, 2)
lesson.reveal(guess, ratios[:, 0].mean())

# %%
figure = new_figure(7, 2.6)
panels = figure.subplots(1, 2, sharey=True)
for axes, way, title in zip(panels, (0, 1), ("at threshold 0.1", "at recall 95 %"), strict=True):
    for net, label, colour in ((0, "5 % faces", BLUE), (1, "50 % faces", ORANGE)):
        axes.bar(np.arange(len(counts)) + 0.4 * net, counts[:, net, way], 0.38, color=colour, label=label)
    axes.set(title=title, xlabel="seed", xticks=np.arange(len(counts)) + 0.2, xticklabels=range(len(counts)))
panels[0].set_ylabel("windows left a picture")
panels[1].legend(loc="upper right")
lesson.show(figure, "five_percent", "The same two nets, compared in two ways")

# %% [markdown]
# The verdict depends on the comparison.

# %%
lesson.claim(
    "14-b",
    "survivors at the same threshold, 5 % faces over 50 %",
    ratios[:, 0],
    below=1,
    paper="few positives decrease the false positives",
    asserted=True,
)
lesson.claim(
    "FC-M3",
    "survivors at the same recall, 5 % faces over 50 %",
    ratios[:, 1],
    below=1,
    paper="few positives decrease the false positives",
)

# %% [markdown]
# At the same threshold the paper is right, by a factor of 2 to 3. But look at the recall in the printed lines: the net
# that saw few faces also turns more of them away. All its scores are lower, because it was taught that a face is rare.
# In odds, 5 to 95 is 1/19 of 50 to 50, and Bayes' rule moves every score by that factor: 0.1 of the one net, odds of
# 1 to 9, means the same as odds of 19 to 9, a score of 0.68, of the other. The thresholds at recall 0.95 bear that out
# roughly: times 19, the odds of seed 2's 0.14 become those of 0.76, and the other net has 0.70. Moving a threshold
# would have done the same without any training.
#
# So compare at the same recall, each net at its own threshold. There FC-M3 **does not come out**: the net with 5 %
# faces lets *more* windows through on all three seeds. One guess at why: it has seen ten faces a batch, the other
# ninety-six. Longer training fits that guess, but does not prove it: with batches of 256 and four times as many
# negatives (tried while this was written, on the same three seeds) the ratios were 1.5, 1.8, 1.7 after 400 steps and
# 0.9, 1.7, 1.1 after 1,500. What is left of the advice is practical: with 5 % faces the fixed threshold 0.1 is a strict
# one, and the next stages are spared.
#
# ## What you can do now
#
# - say when a net may slide, what the stride of its map is, and where a point of the map lies in the picture;
# - choose the levels of a pyramid, and count the windows before you run anything;
# - compute what a cascade costs from its stages' costs and pass shares, and see which stage is worth improving;
# - choose a stage's threshold from faces that were not trained on, and compare two stages fairly: at equal recall.
#
# In the library: `models/cascade_pipeline.py` (`propose`, `map_boxes`, `refine`), `detection/pyramid.py`,
# `kernels/response_map.py`. Next: 15, where the three nets are trained as one.

# %%
lesson.finish()
