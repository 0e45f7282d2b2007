# %% [markdown]
# # 08 R-CNN
#
# **Question:** what if we just classify regions?
#
# **Papers:** R-CNN, section 2, section 3.5 and appendix A. **Time:** 200 s.
# **Before:** 05 (IoU and NMS), 06 (moving a box), 07 (average precision); 04 for training a network.
#
# **You build:** regions that grow out of pixels, how alike two of them are, the cut that a network sees of a region, a
# step of a support vector machine, and the rule by which it collects its hard examples.
# **You may skip:** exercise 8.2.
#
# A classifier says what a picture shows. A detector must also say where. R-CNN takes the shortest way from one to the
# other: find regions that may hold something, whatever it is; cut each out; classify it. This lesson follows one
# picture, and in it one region, from the pixels to a scored box, and asks at each station what the choice made there
# is worth.

# %%
import copy
import time

import numpy as np
from solutions import lesson_08 as solution

from minidetect.checks import lesson_08 as check
from minidetect.detection.proposals import random_boxes, sliding_windows
from minidetect.detection.selective_search import selective_search
from minidetect.detection.svm import LinearSVM
from minidetect.detection.warps import CONTEXT, MODES, warp, warp_sources
from minidetect.evaluate.proposals import proposal_recall
from minidetect.kernels.grouping import colour_bins, describe_regions, group_regions, texture_bins
from minidetect.kernels.iou import iou_matrix
from minidetect.kernels.segmentation import pixel_graph, segment_graph
from minidetect.models.rcnn import CONVS, RCNN, TAPS, CropNet, Windows, label_windows, sample_windows
from minidetect.models.rcnn_fit import fit_boxes, fit_svms, is_negative
from minidetect.teach import Lesson
from minidetect.train.drawn import MEAN_COLOUR, TEST_BANK, drawn_images, mean_ap, pretrain, train_steps
from minidetect.visualize import COLOURS, new_figure, plot_boxes

lesson = Lesson("08", "R-CNN")
BLUE, ORANGE, GREEN, LIGHT = COLOURS[6], COLOURS[5], COLOURS[2], COLOURS[1]
NAMES = ("background", "human", "cat", "robot", "clock")  # by label

# %% [markdown]
# ## 1 Where to look?
#
# The pictures: drawn scenes of 128 x 128 pixels with one to four objects of four kinds. `images` is what a network
# gets of them (mean colour taken away, channels first), `scenes` what we look at. The heads and things of the test
# scenes come from a bank of their own, of which no training sees anything.

# %%
test = drawn_images(lesson.amount(smoke=3, lesson=80, full=200), seed=1000, bank=TEST_BANK)
scene, picture = test.scenes[0], test.scenes[0].image  # (128, 128, 3) uint8: the one that we follow
axes = plot_boxes(picture, scene.boxes, [NAMES[label] for label in scene.labels], GREEN)
lesson.show(axes.figure, "scene", "The scene that we follow, and its ground truth")
print(len(test), "test scenes with", sum(len(target.boxes) for target in test.targets), "objects")

# %% [markdown]
# To classify, something must be cut out. What, if nobody says where the objects are? In the worst case everything:
# every rectangle whose corners lie on the grid of pixels.

# %%
guess = lesson.predict("How many such rectangles has a picture of 128 x 128?", 1e6)

# %%
pairs = 128 * 129 // 2  # a left and a right end, of the 129 lines between pixels
lesson.reveal(guess, pairs**2)

# %% [markdown]
# Nobody classifies 68 million. Earlier detectors thinned them out to a regular grid of windows with a few sizes and
# shapes. R-CNN asks the picture instead: an object differs from what is around it, so its border is a border between
# colours. Cut the picture along such borders, and the pieces, or groups of pieces, are where objects can be. The paper
# takes **selective search**, which grows pieces out of pixels and then joins them step by step.
#
# ## 2 From pixels to pieces
#
# Make the picture a graph: each pixel is joined by an **edge** to its eight neighbours, and the edge's **weight** is
# how far their colours are apart (the length of the difference of the two RGB triples; before, the picture is smoothed
# a little, or its noise would be borders). `pixel_graph` gives the E edges in order of rising weight: their weights
# (E,) and the numbers of the two pixels at their ends, (E,) each. Pixel (row y, column x) has the number 128 y + x.

# %%
graph = pixel_graph(picture, sigma=0.8)
weights = graph.weights.astype(float)  # (E,), rising
print(len(weights), "edges; weights at 10 %, 50 %, 90 %:", np.quantile(weights, [0.1, 0.5, 0.9]).round(1))

# %% [markdown]
# Most edges are light, for most neighbours are alike. Where to stop? A threshold for all would do badly: a rough lawn
# has heavy edges inside, and a smooth sky is left by a light one. Felzenszwalb and Huttenlocher compare an edge with
# what the two pieces have inside. Go through the edges, lightest first. An edge of weight w between two **different**
# pieces A and B joins them if w is at most the **limit** of A and at most the limit of B, where
#
# $$\mathrm{limit}(A) = \mathrm{heaviest}(A) + \frac{k}{|A|}.$$
#
# |A| is the number of pixels of the piece, and heaviest(A) the weight of the heaviest edge that joined two pieces on
# the way to A; since weights rise, that is always the last one. At first every pixel is a piece, with heaviest 0 and
# |A| = 1, so its limit is k: the second term lets small pieces grow until there is something to compare with.
#
# ## Exercise 8.1: grow (about 14 lines)
#
# `weights` (E,), rising; `first`, `second` (E,), the pixels at the ends; `num`, N pixels; `k`. Return (N,): for each
# pixel the number of its piece. Any numbers will do as long as pixels of one piece, and only those, have the same.
#
# How do you know quickly which piece a pixel is in? Let each pixel name a `parent`, itself at first, and go from
# parent to parent until one names itself: the **root**, which speaks for its piece and has its size and its limit. To
# join two pieces, one root names the other as its parent. (This is called union-find.) Traps: compare roots, not
# pixels; an edge whose ends are in the same piece already changes nothing, not even the limit; a weight of exactly the
# limit joins; an edge that joins nothing does not end the loop, for a heavier one may still join two small pieces; the
# new limit has the new size in it; and at the end a pixel's parent need not be its root. There may be no edges at all.

# %%
@lesson.exercise(check.grow, otherwise=solution.grow)
def grow(weights, first, second, num, k):
    raise NotImplementedError


# %%
guess = lesson.predict("Into how many pieces does the picture of 16,384 pixels fall with k = 100?", 100)

# %%
pieces = grow(weights, graph.first, graph.second, 128 * 128, 100.0)  # (16384,)
lesson.reveal(guess, len(np.unique(pieces)))
by_library = segment_graph(graph, k=100, min_size=0).ravel()
same = np.unique(np.stack([pieces, by_library]), axis=1)  # (2, pairs of names that occur)
assert same.shape[1] == len(np.unique(pieces)) == len(np.unique(by_library))  # each name has one partner

# %% [markdown]
# Many of these are crumbs of a few pixels along the borders. Selective search therefore joins each piece of less than
# k pixels to the neighbour at its lightest edge (`min_size` below). Here are three values of k; every piece has its
# mean colour.

# %%
def painted(labels):
    """labels (H, W) from 0 -> (H, W, 3) uint8: each piece in its mean colour."""
    counts = np.bincount(labels.ravel())
    sums = [np.bincount(labels.ravel(), picture[:, :, c].ravel()) for c in range(3)]
    return (np.stack(sums, axis=1) / counts[:, None])[labels].astype(np.uint8)


# %%
figure = new_figure(10, 3)
for axes, k in zip(figure.subplots(1, 4), (None, 20, 100, 500), strict=True):
    labels = None if k is None else segment_graph(graph, k, min_size=k)
    title = "the picture" if k is None else f"k = {k}: {labels.max() + 1} pieces"
    plot_boxes(picture if k is None else painted(labels), [], ax=axes, title=title)
lesson.show(figure, "pieces", "The picture, and its pieces for three values of k")

# %% [markdown]
# No k is right: with 20 the cat is a dozen pieces, with 500 it is one, but without its ears. That is not the fault of
# k: the eye of a cat is a thing, so is the head; objects lie in one another. So take them all: begin with small pieces
# and join two at a time until only one is left. Every piece that ever existed is a candidate.
#
# ## 3 From pieces to a hierarchy
#
# Which two first? The most alike of all neighbours. For that, a piece carries four things along:
#
# - its size in pixels, a whole number;
# - its box (4,), the tightest;
# - a histogram of its colours (75,): 25 bins for each of 3 channels, counts of pixels;
# - a histogram of its texture (240,): for each channel and each of 8 directions, how steep the picture is there (10
#   bins).
#
# All four of a joined piece follow from those of its parts, without looking at a pixel again. Each channel counts
# every pixel once, so the colour histogram adds up to 3 times the size, and the texture histogram to 24 times.

# %%
labels = segment_graph(graph, k=50, min_size=50)
regions = describe_regions(labels, colour_bins(picture), texture_bins(picture))
leaves = list(zip(*regions[:4], strict=True))  # N pieces: (size, box, colour, texture)
neighbours = [(int(a), int(b)) for a, b in regions.pairs]  # pieces that touch
print(len(leaves), "pieces,", len(neighbours), "pairs of neighbours; piece 0:", leaves[0][0], "pixels,", leaves[0][1])


# %%
def joined(a, b):
    """What a piece is like that consists of two."""
    box = np.append(np.minimum(a[1][:2], b[1][:2]), np.maximum(a[1][2:], b[1][2:]))
    return (a[0] + b[0], box, a[2] + b[2], a[3] + b[3])


# %% [markdown]
# ## Exercise 8.2: how alike are two pieces? (about 8 lines)
#
# `a`, `b`: pieces as above, tuples (size, box (4,), colour (75,), texture (240,)); `area`: pixels of the whole
# picture. Return the sum of four numbers, each from 0 to 1:
#
# - colour: divide each histogram by its own sum, take bin by bin the smaller of the two, add up;
# - texture: the same with the texture histograms;
# - size: 1 - (size of a + size of b) / area, so that small pieces join early and no large one eats everything;
# - fill: 1 - (area of the box around both - size of a - size of b) / area: pieces that fit into one another join
#   early.
#
# Traps: the histograms are counts, and a large piece has larger ones; the box around both is neither of the two boxes;
# what is divided by in size and fill is the area of the whole picture.

# %%
@lesson.exercise(check.similarity, otherwise=solution.similarity)
def similarity(a, b, area):
    raise NotImplementedError


# %% [markdown]
# The loop around it is greedy: take the best pair, join it, forget its members, look at the new piece's neighbours.

# %%
def group(leaves, neighbours, area):
    """Every piece there ever was, the whole picture last, and which two each joined one was made of.

    A piece has its place in the list for a name; pairs: of neighbours that are still there, by name.
    """
    pieces, made_of, pairs = list(leaves), [], sorted(neighbours)
    while pairs:
        a, b = max(pairs, key=lambda pair: similarity(pieces[pair[0]], pieces[pair[1]], area))
        touched = {n for pair in pairs if {a, b} & set(pair) for n in pair} - {a, b}  # their neighbours
        pairs = [pair for pair in pairs if not {a, b} & set(pair)]
        pairs = sorted(pairs + [(n, len(pieces)) for n in touched])  # are now the new piece's
        pieces.append(joined(pieces[a], pieces[b]))
        made_of.append((a, b))
    return pieces, made_of


# %%
pieces, made_of = group(leaves, neighbours, labels.size)
boxes = np.array([piece[1] for piece in pieces])  # (2 N - 1, 4)
assert np.array_equal(boxes, group_regions(regions).boxes)
print(len(leaves), "pieces, joined", len(made_of), "times:", len(boxes), "boxes")

# %% [markdown]
# Stop the joining when `num` pieces are left, and paint them:

# %%
def living(num):
    """labels (H, W) when only `num` pieces are left."""
    now = labels.copy()
    for i, (a, b) in enumerate(made_of[: len(leaves) - num]):
        now[(now == a) | (now == b)] = len(leaves) + i
    return np.unique(now, return_inverse=True)[1].reshape(now.shape)


# %%
figure = new_figure(12, 2.7)
for axes, num in zip(figure.subplots(1, 5), (len(leaves), 24, 12, 7, 3), strict=True):
    plot_boxes(painted(living(num)), [], ax=axes, title=f"{num} pieces")
lesson.show(figure, "pyramid", "The pyramid of regions: from the segmentation until three pieces are left")

# %%
guess = lesson.predict("The IoU of each object with the best of these boxes: what is the mean?", 0.6)

# %%
best = iou_matrix(scene.boxes, boxes.astype(np.float32))  # (G, 2 N - 1)
lesson.reveal(guess, best.max(axis=1).mean())
best_boxes, texts = boxes[best.argmax(axis=1)], [f"{iou:.2f}" for iou in best.max(axis=1)]

# %%
fur = labels == 18  # (H, W) bool: piece 18, most of the cat's fur
axes = plot_boxes(np.where(fur[:, :, None], (213, 94, 0), picture), best_boxes, texts, BLUE)
print("pixels of piece 18 in rows 28 to 48:", fur[28:49].sum(axis=1))
lesson.show(axes.figure, "best_boxes", "For each object the box that fits best, with its IoU; orange: piece 18")

# %% [markdown]
# The cat is met badly, and not for want of a good order: in the pyramid, at 7 pieces, it is whole but for a line in one
# ear, and apart from the hair. But one of the 38 pieces was wrong from the start. Number 18, the dark fur, has a
# thread, one pixel wide, that climbs up the edge of the dark hair, and since nothing that is joined is ever cut again,
# the cat's box reaches up to the end of the thread. No segmentation and no similarity is right everywhere, so selective
# search makes several hierarchies, which look at different things: two colour spaces (HSV and Lab, where distances are
# more like those that we see), two values of k (50 and 100), with and without colour in the similarity: eight
# hierarchies. All boxes together, doubles and boxes under 20 pixels left out, are the **proposals**. How good are they
# before anybody classifies them? **Recall** at a threshold: the share of objects for which some proposal has at least
# that IoU. For comparison: as many random boxes, and a grid of windows of three sizes and three shapes.

# %%
test_proposals = [selective_search(one.image) for one in test.scenes]  # (R, 4) each, R different for each
rng, gt_boxes = np.random.default_rng(8), [target.boxes for target in test.targets]
at_random = [random_boxes((128, 128), len(found), rng) for found in test_proposals]
grid = sliding_windows((128, 128), sides=(28, 45, 72), ratios=(0.5, 1.0, 2.0))  # step: a quarter of the window
rows = {"selective search": test_proposals, "grid": [grid] * len(test), "random": at_random}

# %%
thresholds = np.linspace(0.3, 1, 71)
figure = new_figure(6, 3.2)
axes = figure.subplots()
for (name, found), colour in zip(rows.items(), (BLUE, LIGHT, ORANGE), strict=True):
    judged = proposal_recall(found, gt_boxes)
    axes.plot(thresholds, judged.curve(thresholds), color=colour, label=f"{name}, {judged.num_boxes:.0f} boxes")
axes.set(xlabel="IoU", ylabel="recall")
axes.legend(fontsize=8)
lesson.show(figure, "recall", "Which share of the objects is met, and how exactly")

# %% [markdown]
# The grid reaches the objects, too, but with six times as many boxes, each of which must be classified, and less
# exactly: see IoU 0.7. Three seeds, each with training scenes of its own, which the rest of the lesson uses.

# %%
seeds = range(lesson.amount(smoke=1, lesson=3, full=5))
trains = [drawn_images(lesson.amount(smoke=4, lesson=60, full=150), seed) for seed in seeds]
proposals = [[selective_search(one.image) for one in train.scenes] for train in trains]

# %%
lesson.claim(
    "08-a",
    "selective search meets nearly all objects with an IoU of at least 0.5, in percent",
    [
        100 * proposal_recall(found, [target.boxes for target in train.targets]).recall(0.5)
        for found, train in zip(proposals, trains, strict=True)
    ],
    above=90,
    paper="about 98 % on VOC (section 4.2)",
    asserted=True,
)

# %% [markdown]
# ## 4 From a region to a square
#
# A network wants an input of fixed size, S x S (227 in the paper, 32 here), and a region has any shape. R-CNN's answer
# is as blunt as possible: **warp** it, width and height each by its own factor, until it fills the square. With one
# refinement: p pixels of the input, on each side, are to show what is around the region. p = 16 in the paper; in an
# input of 32 the same share is 16 / 227 x 32 = 2.26.
#
# Here is the region that we follow: proposal 74. It lies on the cat, but ends in the middle of the right ear.

# %%
cat_box = scene.boxes[scene.labels == 2]  # (1, 4)
on_cat = iou_matrix(test_proposals[0], cat_box)[:, 0]  # (R,), the IoU of each proposal with the cat
followed = 74
region = test_proposals[0][followed : followed + 1]  # (1, 4)
print(f"proposal {followed} of {len(on_cat)}: {region[0]}, IoU {on_cat[followed]:.2f} with the cat")

# %%
guess = lesson.predict("A box is 40 pixels wide; S = 32, p = 4. How many pixels of the picture are shown?", 48)

# %% [markdown]
# ## Exercise 8.3: the source box (about 4 lines)
#
# `boxes` (N, 4); `side`, S; `padding`, p, counted in pixels of the **input**. The box is to fill the middle S - 2 p
# pixels of the input, across and down. Return (N, 4): for each box the rectangle of the picture that must be spread
# over the whole input. Traps: a pixel of the input is not a pixel of the picture, and across it is not what it is
# down; the rectangle may reach outside of the picture; boxes may be whole numbers, and halves must not be lost; N may
# be 0.

# %%
@lesson.exercise(check.source_boxes, otherwise=solution.source_boxes)
def source_boxes(boxes, side, padding):
    raise NotImplementedError


# %%
x1, _, x2, _ = source_boxes(np.array([[0.0, 0, 40, 40]]), 32, 4)[0]
lesson.reveal(guess, x2 - x1)

# %% [markdown]
# 40 x 32 / (32 - 8) = 53.3: not 40 + 2 x 4. Once the source is known, each pixel of the input looks up its place in
# it. Slowly, and with the nearest pixel only; outside of the picture the mean colour, which is 0 once the mean is
# taken away:

# %%
def warp_slowly(image, source, side):
    """image (3, H, W), source (4,) -> (3, side, side)"""
    out, (x1, y1, x2, y2) = np.zeros((3, side, side), np.float32), source
    for i in range(side):
        for j in range(side):
            y, x = y1 + (i + 0.5) * (y2 - y1) / side, x1 + (j + 0.5) * (x2 - x1) / side  # the middle of pixel i, j
            if 0 <= y < image.shape[1] and 0 <= x < image.shape[2]:
                out[:, i, j] = image[:, int(y), int(x)]
    return out


# %%
side, padding = 32, CONTEXT * 32  # CONTEXT = 16 / 227
source = source_boxes(region, side, padding)  # (1, 4)
assert np.allclose(source, warp_sources(region, side, "warp", padding)[0])
slowly = warp_slowly(test.images[0], source[0], side)
quickly = warp(test.images[0].transpose(1, 2, 0), region, side, "warp", padding)[0]  # the library's
print("source:", source[0].round(1), " correlation of the two:", np.corrcoef(slowly.ravel(), quickly.ravel())[0, 1])

# %% [markdown]
# The library takes means where it shrinks and blends neighbours where it enlarges, so the two are alike and not equal.
# Where neither happens, they are:

# %%
unscaled = np.array([[40.0, 50, 72, 82]])  # 32 x 32 pixels: nothing to shrink or to enlarge
assert np.allclose(
    warp_slowly(test.images[0], unscaled[0], 32), warp(test.images[0].transpose(1, 2, 0), unscaled, 32)[0], atol=1e-5
)

# %% [markdown]
# Warping makes a wide cat and a narrow cat the same cat. Appendix A of the paper tries gentler ways:
#
# - A, `original`: at its own scale, in the middle of the input; what does not fit is cut off (our reading of a picture
#   in the paper, which tells no result for it);
# - B, `square_context`: the tightest square around the region, with everything in it;
# - C, `square`: the same square, but around the region there is nothing;
# - D, `warp`.
#
# Each with p = 0 and with p = 16 of 227. Here they are for a region that is not square.

# %%
wide = on_cat.argmax()  # the proposal that fits the cat best
figure = new_figure(9, 4.8)
for row, p in zip(figure.subplots(2, 4), (0, CONTEXT * 96), strict=True):
    for axes, mode in zip(row, MODES, strict=True):
        crop = warp(picture, test_proposals[0][[wide]], 96, mode, p, mean=MEAN_COLOUR)[0]  # (3, 96, 96)
        shown = (crop.transpose(1, 2, 0) + MEAN_COLOUR).clip(0, 255).astype(np.uint8)
        plot_boxes(shown, [], ax=axes, title=f"{mode}, p = {'16 of 227' if p else 0}")
lesson.show(figure, "warps", "Four ways into a square, without context (above) and with context (below)")

# %% [markdown]
# Which is best? That can only be told with a network behind it.
#
# ## 5 A network for crops
#
# `CropNet`: five convolutions that shrink 32 x 32 to 4 x 4, maximum pooling to 2 x 2 with 64 channels (**pool5**, 256
# numbers), two fully connected layers of 64 (**fc6**, **fc7**), and 5 numbers for background and the four classes
# (logits, whose softmax are probabilities). The paper's AlexNet has the same stations and 60 million parameters.
#
# It is trained twice. **Pre-training**, on another task with plenty of data: the paper's is ImageNet, ours to say
# which kind of object fills a drawn patch, or none. Then **fine-tuning** for detection: the last layer is new, and the
# input is warped proposals. A proposal with an IoU of at least 0.5 with an object is an example of its class, every
# other one of background; the objects' own boxes count as proposals.

# %%
base = CropNet(4, np.random.default_rng(0), side=side, features=64)
log = pretrain(
    base,
    lesson.amount(smoke=3, lesson=300, full=600),
    np.random.default_rng(0),
    patches=lesson.amount(smoke=32, lesson=2000, full=4000),
)
losses = [step["class"] for step in log]
first, last = losses[0], np.mean(losses[-20:])
print(f"{base.num_parameters()} parameters; loss {first:.2f} at first (ln 5 = 1.61), {last:.2f} at the end")

# %%
windows = [label_windows(found, train.targets) for found, train in zip(proposals, trains, strict=True)]
print(len(windows[0].labels), "windows of seed 0: image", windows[0].image.shape, "boxes", windows[0].boxes.shape)
guess = lesson.predict("Which share of them is background?", 0.9)

# %%
lesson.reveal(guess, (windows[0].labels == 0).mean())

# %% [markdown]
# In the paper's photos, with 2000 proposals each, it is far more than that, and a mini-batch of 128 windows is made of
# 32 positives and 96 of background, whatever their shares are. Ours: 16 and 48, drawn from all training images. To
# save time, everything that a training will see is drawn and cut out beforehand, image by image.

# %%
steps = lesson.amount(smoke=1, lesson=100, full=300)


def cut_out(model, train, windows, rng):
    """The crops of all mini-batches (64 steps, 3, S, S), and their labels."""
    drawn = [sample_windows(windows, rng, num_positive=16, num_background=48) for _ in range(steps)]
    together = Windows(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))
    return model.window_crops(train.images, together), together.labels


# %%
def fine_tune(mode, padding, seed):
    """An R-CNN whose network is a fine-tuned copy of `base`, and the losses on the way."""
    net = copy.deepcopy(base)
    net.replace_classifier(4, np.random.default_rng(seed))
    model = RCNN(4, np.random.default_rng(seed), net, mode=mode, padding=padding, scorer="softmax", regress=False)
    crops, labels = cut_out(model, trains[seed], windows[seed], np.random.default_rng(seed))
    num = len(labels) // steps
    batches = iter([slice(i * num, (i + 1) * num) for i in range(steps)])

    def losses(_):
        rows = next(batches)
        return net.losses(crops[rows], labels[rows])

    return model, train_steps(net, losses, steps, np.random.default_rng(seed), lr=0.05)


# %% [markdown]
# `scorer="softmax"` and `regress=False`: for now the network's own probabilities are the scores, and boxes stay where
# they are. What becomes of the region that we follow?

# %%
model, log = fine_tune("warp", padding, seed=0)
print(f"loss of fine-tuning: {log[0]['class']:.2f} at first, {np.mean([s['class'] for s in log[-10:]]):.2f} at the end")
found = model.taps(test.images[0], region, (*TAPS, "logits"))  # by name (1, D)
for name, values in found.items():
    print(f"{name:6} {values.shape}  {(values > 0).sum()} of them above 0, the largest {values.max():.2f}")

# %%
figure = new_figure(9.5, 2.6)
left, middle, right, bars = figure.subplots(1, 4)
plot_boxes(picture, region, colours=ORANGE, ax=left, title="the region")
crop = model.crops(test.images[0], region)[0]  # (3, 32, 32)
plot_boxes((crop.transpose(1, 2, 0) * 64 + MEAN_COLOUR).clip(0, 255).astype(np.uint8), [], ax=middle, title="the crop")
right.imshow(found["pool5"].reshape(16, 16), cmap="magma")
right.set(xticks=[], yticks=[])
right.set_title("pool5: 256 numbers", fontsize=10)
bars.barh(NAMES, np.exp(found["logits"][0]) / np.exp(found["logits"][0]).sum(), color=BLUE)
bars.set(xlim=(0, 1))
bars.set_title("probabilities", fontsize=10)
lesson.show(figure, "followed", "The region on its way through the network")

# %% [markdown]
# All regions go this way, one by one. Then each class by itself: the boxes above a low score, thinned out by NMS
# (lesson 05; threshold 0.3). `model.detect` does all this. What is left of our picture's 179 proposals?

# %%
scored = model.score(test.images[0], test_proposals[0])  # boxes (R, 4, 4): one a class; scores (R, 4)
detected = model.detect([test.images[0]], [test_proposals[0]])[0]
num = (scored.scores > model.min_score).sum()
print(f"{scored.scores.size} scores, {num} of them above {model.min_score}; {len(detected.scores)} boxes after NMS")

# %% [markdown]
# The measure is mean average precision (**mAP**, lesson 07) over the four classes, in points: a box is right if its
# IoU with an object of its class is at least 0.5.

# %%
guess = lesson.predict("What is the mAP on the test scenes, in points?", 50)

# %%
lesson.reveal(guess, mean_ap(model.detect(test.images, test_proposals), test.targets))

# %% [markdown]
# ## 6 Which cut is best?
#
# Now the question of section 4: eight ways to cut, three seeds. A seed sets the training scenes, the mini-batches and
# the new layer, and all eight ways share them, so that they differ in the cut alone. The measure was fixed before: mAP
# at IoU 0.5. (At 0.7 it is printed as well.) The paper compares with the SVMs of the next section behind the network;
# we do without them here, to save time. (One thing favours the last way: the number of steps and the rate were chosen
# with it, on seed 0 and these test scenes, before the others were tried.)

# %%
ways = [(mode, p) for mode in MODES for p in (0.0, padding)]
guess = lesson.predict("By how many points is warp with context better than warp without?", 3)

# %%
tuned, table = [], {0.5: [], 0.7: []}  # tuned: one a seed; table: a row of eight for each seed
for seed in seeds:
    models = [fine_tune(mode, p, seed)[0] for mode, p in ways]
    found = [one.detect(test.images, test_proposals) for one in models]
    for iou, rows in table.items():
        rows.append([mean_ap(boxes, test.targets, iou_threshold=iou) for boxes in found])
    tuned.append(models[-1])  # the last way: warp with context
table = {iou: np.array(rows) for iou, rows in table.items()}  # (seeds, 8)

# %%
for iou, rows in table.items():
    print(f"mAP at {iou}, a row for each seed")
    print("   " + "  ".join(f"{mode[:8]:>8} {'p' if p else '0'}" for mode, p in ways))
    print("\n".join("   " + "  ".join(f"{value:10.1f}" for value in row) for row in rows))
lesson.reveal(guess, (table[0.5][:, 7] - table[0.5][:, 6]).mean())

# %%
figure = new_figure(8, 3.2)
for axes, (iou, rows) in zip(figure.subplots(1, 2), table.items(), strict=True):
    for row in rows:
        axes.plot(row, "o", color=BLUE, alpha=0.6)
    axes.plot(rows.mean(axis=0), "_", color=ORANGE, markersize=18)
    axes.set_xticks(range(8), [f"{m}{' p' if p else ''}" for m, p in ways], rotation=40, ha="right", fontsize=8)
    axes.set(ylabel="mAP", title=f"IoU {iou}")
lesson.show(figure, "cuts", "mAP of eight cuts: a point for each seed, the mean as a line; p: with context")

# %% [markdown]
# Warp beats the other three in every seed: by 5.6, 2.1 and 2.3 points over the best of them, always a square. That is
# the paper's order. What goes wrong in a square: an object twice as wide as high gets half of the input's height, and
# the rest is lost to context or to nothing. `original` is far behind, since an object of 88 pixels does not fit into
# 32.
#
# Context is another matter. With warp it changes the mAP at 0.5 by +2.2, -1.1 and +0.2. There are 179 test objects,
# one of them is worth about half a point, and in the squares context goes up and down as well. So nothing is shown.
# (The claim below comes out by the letter, with two of three seeds above 0; we would not bet on it.) At 0.7 context
# with warp is ahead in every seed, by 3.0, 5.6 and 0.7 points, which would make sense: to see that a box ends too
# early one must look beyond its edge, and at 0.5 that hardly matters. But this was not the measure that was fixed
# before. Nor was it planned to judge mode and context apart. "Warp with context beats all seven others" is the second
# claim, since the best of the others is warp without context in each seed.

# %%
at_half = table[0.5]
lesson.claim(
    "RC-M1",
    "warp with context beats the best of the three other modes, all with context (mAP)",
    at_half[:, 7] - at_half[:, [1, 3, 5]].max(axis=1),
    above=0,
    paper="3 to 5 points better than the alternatives",
    asserted=True,
)
lesson.claim(
    "RC-M1, context",
    "warp with context beats warp without (mAP)",
    at_half[:, 7] - at_half[:, 6],
    above=0,
    paper="3 to 5 points better than the alternatives",
)

# %% [markdown]
# ## 7 A classifier of one line
#
# R-CNN does not use the network's own last layer. It takes the features (fc7) and trains for each class a **linear
# support vector machine** (SVM) on them. Let x (D,) be the features of a window with a 1 appended, w (D,) the weights,
# s = +1 for an object of the class and -1 for none. The score is w.x (a dot product), and the **margin** s (w.x)
# should be at least 1: right, and clearly so. What is missing costs, in proportion (**hinge loss**):
#
# $$\frac{1}{2}|w|^2 + \sum_n C_n \max(0,\ 1 - s_n\,(w \cdot x_n))$$
#
# $C_n$ is the price of example n. The first term wants small weights; without it nothing would stop w from growing.
#
# It can be minimised one example at a time. The best w is a sum of examples, $w = \sum_n α_n s_n x_n$, with numbers
# $α_n$ from 0 to $C_n$; and they are those that make $\sum_n α_n - \frac{1}{2}|w|^2$ largest (this is called the
# **dual**; we take it as given and test the outcome). Hold all α but one. Changing $α_n$ by d changes w by
# $d\,s_n x_n$, so along d the dual is a parabola with its top at
#
# $$d = \frac{1 - s_n (w \cdot x_n)}{|x_n|^2}.$$
#
# Read it: whoever is short of its margin gets more weight, exactly as much as it takes to reach the margin.
#
# ## Exercise 8.4: one step (about 3 lines)
#
# `w` (D,), `alpha` (a number), `x` (D,), `s` (+1 or -1), `price`: return the new w and the new alpha, best for this
# example. Traps: alpha stays between 0 and the price, and w must move by what alpha **really** moved; an example far
# beyond its margin may have to give back what it once got; w is not yours to write into.

# %%
@lesson.exercise(check.dual_step, otherwise=solution.dual_step)
def dual_step(w, alpha, x, s, price):
    raise NotImplementedError


# %% [markdown]
# Forty points in a plane, two kinds that overlap a little. Go through them in random order, again and again.

# %%
rng = np.random.default_rng(8)
sides = np.repeat([1.0, -1.0], 20)  # (40,)
points = rng.normal(0, 0.9, (40, 2)) + np.where(sides[:, None] > 0, 1.0, -1.0)  # (40, 2)
x = np.concatenate([points, np.ones((40, 1))], axis=1)  # (40, 3): the last column is for the bias
guess = lesson.predict("How many of the 40 points end with an alpha above 0?", 20)

# %%
w, alpha = np.zeros(3), np.zeros(40)
for _ in range(200):
    for n in rng.permutation(40):
        w, alpha[n] = dual_step(w, alpha[n], x[n], sides[n], 1.0)
lesson.reveal(guess, (alpha > 1e-6).sum())

# %% [markdown]
# Is this w the best? For every w and every allowed α the dual is at most the cost; so where the two are equal, nothing
# better is possible. The library's SVM must agree. (It has two settings from the published code, switched off here: an
# error on a positive costs double, and 10 is appended instead of 1.)

# %%
cost = w @ w / 2 + np.maximum(0, 1 - sides * (x @ w)).sum()
dual = alpha.sum() - w @ w / 2
print(f"cost {cost:.6f}, dual {dual:.6f}")
assert np.isclose(cost, dual) and np.allclose(w, (alpha * sides) @ x)  # w is a sum of examples

# %%
settings = dict(c=1.0, positive_weight=1.0, bias_multiplier=1.0, tolerance=1e-6)
svm = LinearSVM(**settings).fit(points, sides > 0, rng)
print("by steps", w.round(3), " by the library", svm.weight.round(3), round(svm.bias, 3))
assert np.allclose(w, [*svm.weight, svm.bias], atol=0.01)

# %%
figure = new_figure(5.5, 4)
axes = figure.subplots()
axes.scatter(*points.T, c=np.where(sides > 0, BLUE, ORANGE), s=25)
axes.scatter(*points[alpha > 1e-6].T, facecolors="none", edgecolors="black", s=90)
ends = np.array([-3.5, 3.5])
for score, style in ((0, "-"), (1, ":"), (-1, ":")):
    axes.plot(ends, (score - w[2] - w[0] * ends) / w[1], style, color="grey")
axes.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))
lesson.show(figure, "svm", "Score 0 (line), both margins (dotted), and the points that hold them (ringed)")

# %% [markdown]
# Only points on their margin or short of it hold the line (the **support vectors**). Take all others away, and nothing
# changes. That is the key to the next problem.
#
# ## 8 Ten thousand negatives
#
# Who is positive, who negative? For fine-tuning an IoU of 0.5 decided. For the SVMs the paper is stricter on one side:
# positives are the objects' own boxes and nothing else, negatives are windows that have an IoU **below 0.3** with
# every object of the class, and what lies between is not used at all.
#
# Features first. They do not change any more, so each window goes through the network once, and what comes out is
# remembered (in the paper on disk). They are scaled to a mean length of 20, for the price C to mean something; the
# constants are those of the published code but for C = 0.01, since we have dozens of objects of a class, not a
# thousand.

# %%
def remember(model):
    """From now on model.taps looks a set of windows up if it was there before."""
    memory, compute = {}, model.taps

    def taps(image, boxes, names=TAPS):
        key = (id(image), boxes.tobytes())
        if key not in memory:
            memory[key] = compute(image, boxes, (*TAPS, "logits"))
        return {name: memory[key][name] for name in names}

    model.taps = taps


# %%
def with_svms(seed, negative_iou, trained):
    """An R-CNN with the network of another one, `trained`, and SVMs fitted to this seed's scenes; and their miners."""
    model = RCNN(4, np.random.default_rng(seed), trained.net, regress=False)
    model.taps = trained.taps  # with its memory
    train, rng = trains[seed], np.random.default_rng(seed)
    miners = fit_svms(model, train.images, train.targets, proposals[seed], rng, negative_iou, LinearSVM(c=0.01))
    return model, miners


# %%
for one in tuned:
    remember(one)
model, miners = with_svms(0, 0.3, tuned[0])

# %% [markdown]
# What is in there? Take the class cat (label 2) apart by hand. All its negatives of seed 0, image by image
# (`model.scales[0]` is the factor that makes the mean length 20):

# %%
train, cat = trains[0], 2
is_far = [  # one (R,) an image
    is_negative(found, target.boxes[target.labels == cat], 0.3)
    for found, target in zip(proposals[0], train.targets, strict=True)
]
owner = np.concatenate([np.full(rows.sum(), i) for i, rows in enumerate(is_far)])  # (M,), the image of each
features = [model.features(image, found) for image, found in zip(train.images, proposals[0], strict=True)]  # (R, 64)
negatives = np.concatenate([f[rows] for f, rows in zip(features, is_far, strict=True)]) * model.scales[0]  # (M, 64)
positives = miners[cat - 1].positives  # (P, 64), scaled already
print(f"{len(positives)} cats, {len(negatives)} negatives of {negatives.shape[1]} numbers")

# %% [markdown]
# 64 numbers times some thousands would fit into memory. The paper's 4096 times ten million (VOC's 5,000 training
# images) would not. But the SVM only needs its support vectors, the **hard** negatives, and one finds them by trying:
# train on a few negatives, look at more images, keep what the SVM gets wrong, forget what has become easy, train
# again.
#
# ## Exercise 8.5: who stays, who comes? (about 4 lines)
#
# `kept` (m,): numbers of the windows that are kept; `shown` (n,): numbers of the windows of the images that are looked
# at now; `scores` (M,): the present SVM's scores of all windows, by number; `add_above`, `evict_below`: two
# thresholds. A kept window goes if its score is below `evict_below`. A shown window comes in if its score is above
# `add_above`. Return the numbers of all that are kept then, rising, each once. Traps: a window can be kept and shown;
# windows that are kept are judged whether they are shown or not; exactly on a threshold nothing happens; kept or shown
# may be empty.

# %%
@lesson.exercise(check.refresh, otherwise=solution.refresh)
def refresh(kept, shown, scores, add_above, evict_below):
    raise NotImplementedError


# %% [markdown]
# The published values: add above -1.0001, evict below -1.2. A negative with a score of -1 is on its margin; so whoever
# is on it or short of it comes in, and goes only when it is well beyond. Between the two, whoever is in stays in: else
# windows on the margin would come and go for ever.

# %%
def trained_on(rows):
    x = np.concatenate([positives, negatives[rows]])
    return LinearSVM(c=0.01).fit(x, np.arange(len(x)) < len(positives), np.random.default_rng(0))


# %%
rounds = np.array_split(np.arange(len(train)), 6)  # the images of each round
shown = [np.flatnonzero(np.isin(owner, images)) for images in rounds]
kept, history = shown[0], []  # of the first images all are taken
for news in [*shown[1:], np.zeros(0, int)]:
    svm = trained_on(kept)
    history.append((kept, svm))
    kept = refresh(kept, news, svm.score(negatives), -1.0001, -1.2)
print("negatives that each training saw:", [len(rows) for rows, _ in history], "of", len(negatives))

# %%
guess = lesson.predict("How well do its scores of all negatives correlate with those of an SVM trained on all?", 0.9)

# %%
everything = trained_on(np.arange(len(negatives)))
mined = history[-1][1]
lesson.reveal(guess, np.corrcoef(mined.score(negatives), everything.score(negatives))[0, 1])
print("negatives with alpha above 0, trained on all:", (everything.alpha[len(positives) :] > 0).sum())

# %% [markdown]
# Nearly the same classifier, from a fraction of the negatives. (The library's `HardNegativeMiner` does it image by
# image and trains whenever 2000 have come together.) And what do they look like? The eight that each round's SVM finds
# hardest of those it was trained on:

# %%
boxes_of = np.concatenate([found[rows] for found, rows in zip(proposals[0], is_far, strict=True)])  # (M, 4)


def crop_of(n):
    """Window n as the network sees it, as a picture (32, 32, 3)."""
    crop = model.crops(train.images[owner[n]], boxes_of[[n]])[0]
    return (crop.transpose(1, 2, 0) * 64 + MEAN_COLOUR).clip(0, 255).astype(np.uint8)


# %%
figure = new_figure(8, 4.8)
for axes, r in zip(figure.subplots(4, 1), (0, 1, 2, 5), strict=True):
    rows, svm = history[r]
    hardest = rows[np.argsort(-svm.score(negatives[rows]))[:8]]
    strip = np.concatenate([np.pad(crop_of(n), ((0, 0), (0, 2), (0, 0)), constant_values=255) for n in hardest], axis=1)
    said = "  ".join(f"{value:.1f}" for value in svm.score(negatives[hardest]))
    plot_boxes(strip, [], ax=axes, title=f"training {r + 1}, on {len(rows)} negatives; scores {said}")
lesson.show(figure, "mined", "The hardest negatives for the class cat, training by training")

# %% [markdown]
# The first training sees all negatives of ten images, 1854. After it no more than fifty are left, newcomers included,
# and from then on a few come and a few go. The hardest of all are windows with two cats in them: full of cat, and yet
# no cat's box. Then there are heads that are not a cat's, several things at once, and parts of cats.
#
# Now the threshold of 0.3, which the paper found important: 0 (only windows that do not touch an object of the class
# at all) cost 4 points, 0.5 cost 5. The positives are the same each time, and so are network, scenes and constants.

# %%
guess = lesson.predict("By how many points does 0.3 beat 0?", 4)

# %%
by_threshold, fitted = [], []
for seed in seeds:
    models = [with_svms(seed, negative_iou, tuned[seed])[0] for negative_iou in (0.0, 0.3, 0.5)]
    by_threshold.append([mean_ap(one.detect(test.images, test_proposals), test.targets) for one in models])
    fitted.append(models[1])
by_threshold = np.array(by_threshold)  # (seeds, 3)
print("mAP with negatives below 0, 0.3, 0.5\n", by_threshold.round(1))
lesson.reveal(guess, (by_threshold[:, 1] - by_threshold[:, 0]).mean())

# %%
for column, other in ((0, "0"), (2, "0.5")):
    lesson.claim(
        f"RC-M3, {other}",
        f"SVMs whose negatives lie below an IoU of 0.3 beat those with {other} (mAP)",
        by_threshold[:, 1] - by_threshold[:, column],
        above=0,
        paper=f"{other} costs {4 if other == '0' else 5} points",
    )

# %% [markdown]
# It does not come out (the second claim does by the letter, and means as little). The three thresholds are within 1.5
# points in each seed: 0 is better than 0.3 by 0.6, 0.1 and 0.2, and 0.3 is better than 0.5 by 0.9, 1.3 and 0.0. Both
# differences are as small as chance may make them, and the first has the wrong sign. Why would a choice that was worth
# 4 to 5 points matter so little here? One suspect is fine-tuning: the network has already learned which windows are
# objects, and the SVM only reads that off. Then it should matter with the features of `base`, which was not fine-tuned.
# The same table, without fine-tuning, a row for each seed. (This was not planned; it is a look, not a claim.)

# %%
plain = RCNN(4, np.random.default_rng(0), base, regress=False)
remember(plain)
for seed in seeds:
    models = [with_svms(seed, negative_iou, plain)[0] for negative_iou in (0.0, 0.3, 0.5)]
    print([round(mean_ap(one.detect(test.images, test_proposals), test.targets), 1) for one in models])

# %% [markdown]
# Now 0.3 is ahead of 0 by +1.5, -1.3 and +1.6 points, and of 0.5 by 0.0, -5.0 and -0.4: no help either. Another suspect
# is the scenes, where an object has the same look all over, few are in each other's way, and NMS at 0.3 takes off what
# lies half on an object anyway. We do not know.
#
# Are the SVMs worth their trouble at all? Compare the middle column with the last of the table in section 6, where the
# same networks used their own last layer: 88.4, 83.6, 88.1 against 90.0, 84.4, 88.2. Here they are not. (In the paper
# they were; that comparison is in an appendix which our text of it lacks. Fast R-CNN drops them again: lesson 11.)
#
# ## 9 A last nudge
#
# Regions end where colours change, which is not always where objects end. So R-CNN moves each box at the end: ridge
# regression (lesson 06) from pool5 to the four deltas, one for each class, learned from proposals with an IoU above
# 0.6.

# %%
def near_objects(model):
    """IoU of the proposals above 0.5 with their objects, before and after the regression of the object's class."""
    before, after = [], []
    for image, target, found in zip(test.images, test.targets, test_proposals, strict=True):
        overlap = iou_matrix(found, target.boxes)  # (R, G)
        rows, best = np.flatnonzero(overlap.max(axis=1) > 0.5), overlap.argmax(axis=1)
        moved = model.score(image, found).boxes[rows, target.labels[best[rows]] - 1]
        before.append(overlap[rows, best[rows]])
        after.append(iou_matrix(moved, target.boxes)[np.arange(len(rows)), best[rows]])
    return np.concatenate(before), np.concatenate(after)


# %%
guess = lesson.predict("Proposals near objects have a mean IoU of about 0.7. After the regression?", 0.75)

# %%
gains, overlaps = [], []
for seed, model in zip(seeds, fitted, strict=True):
    fit_boxes(model, trains[seed].images, trains[seed].targets, proposals[seed], np.random.default_rng(seed))
    found = []
    for moves in (False, True):
        model.regress = moves
        found.append(model.detect(test.images, test_proposals))
    gains.append([[mean_ap(one, test.targets, iou_threshold=iou) for one in found] for iou in (0.5, 0.7)])
    overlaps.append([values.mean() for values in near_objects(model)])
gains, overlaps = np.array(gains), np.array(overlaps)  # (seeds, 2 IoUs, off and on), (seeds, before and after)

# %%
lesson.reveal(guess, overlaps[:, 1].mean())
print("mean IoU before and after\n", overlaps.round(3))
print("mAP at 0.5, off and on\n", gains[:, 0].round(1), "\nmAP at 0.7, off and on\n", gains[:, 1].round(1))

# %%
for name, k, known in (("RC-M5", 0, False), ("RC-M5, 0.7", 1, True)):
    lesson.claim(
        name,
        f"box regression raises mAP at IoU {(0.5, 0.7)[k]}; the gain",
        gains[:, k, 1] - gains[:, k, 0],
        above=0,
        paper="3 to 4 points at IoU 0.5",
        asserted=known,
    )
lesson.claim(
    "RC-M5, IoU",
    "box regression raises the mean IoU of proposals near objects; the gain",
    overlaps[:, 1] - overlaps[:, 0],
    above=0.02,
    paper="3 to 4 points of mAP",
    asserted=True,
)

# %% [markdown]
# The boxes do get better: from 0.71 to 0.77 on average, in every seed. The paper's measure does not notice: -0.1, -0.7
# and +1.1 points at IoU 0.5. We think that it has little to notice: nearly every object is met with more than 0.5
# already, and above 0.5 a box is right, however exact it is. At 0.7, where exactness counts, the regression brings
# 4.9, 2.5 and 7.6 points. (That claim was added when the table was known.)
#
# And our region? Its last stations: 64 features, four scores, and a box that moved. Beside it the proposal that fits
# the cat best.

# %%
model = fitted[0]
scored = model.score(test.images[0], test_proposals[0])
for n in (followed, wide):
    moved = scored.boxes[n, cat - 1]  # (4,)
    print(f"proposal {n}: " + ", ".join(f"{NAMES[k + 1]} {score:.2f}" for k, score in enumerate(scored.scores[n])))
    print(f"   moved to {moved.round(1)}: IoU {on_cat[n]:.2f} -> {iou_matrix(moved[None], cat_box)[0, 0]:.2f}")
print("the highest score for a cat has proposal", scored.scores[:, cat - 1].argmax())

# %%
figure = new_figure(11, 3.9)
for axes, i in zip(figure.subplots(1, 3), (0, 1, 2), strict=True):
    detected = model.detect([test.images[i]], [test_proposals[i]])[0]
    sure = detected.scores > 0
    texts = [f"{NAMES[k]} {s:.1f}" for k, s in zip(detected.labels[sure], detected.scores[sure], strict=True)]
    plot_boxes(test.scenes[i].image, detected.boxes[sure], texts, [COLOURS[k] for k in detected.labels[sure]], ax=axes)
lesson.show(figure, "detections", "All detections with a score above 0 in three test scenes")

# %% [markdown]
# Two mistakes first: in the middle a window with half a clock and half a face passes for a cat, and on the right the
# small clock is missed.
#
# Our region has won: of all 179 it has the highest score for a cat, and so it becomes the detection on the left. But
# look whom it has beaten. The other one fits the cat with an IoU of 0.90, and has the lower score, so NMS strikes it
# out. A score says "cat", it does not say "exactly": nobody has ever asked the SVM which of two windows on a cat is
# the better one. The regression, which moves the winner only a little, cannot make up for that.
#
# ## 10 Where do the seconds go?
#
# Three parts an image: proposals; warps and network for each proposal; SVMs, regression and NMS. Processor time, the
# mean over twenty images, the best of three runs.

# %%
timed = lesson.amount(smoke=1, lesson=20, full=20)


def milliseconds(work):
    """Of processor time for one image: work(i) is called for some images, three times."""
    runs = []
    for _ in range(3):
        start = time.process_time()
        for i in range(timed):
            work(i)
        runs.append((time.process_time() - start) * 1000 / timed)
    return min(runs)


# %%
fresh = RCNN(4, np.random.default_rng(0), tuned[0].net)  # without a memory
features = [fresh.features(test.images[i], test_proposals[i]) for i in range(timed)]
spent = {
    "proposals": milliseconds(lambda i: selective_search(test.scenes[i].image)),
    "warps": milliseconds(lambda i: fresh.crops(test.images[i], test_proposals[i])),
    "network": milliseconds(lambda i: fresh.features(test.images[i], test_proposals[i])),
    "SVMs": milliseconds(lambda i: features[i] @ model.svm_weight.T + model.svm_bias),
    "SVMs, boxes, NMS": milliseconds(lambda i: model.detect([test.images[i]], [test_proposals[i]])),  # from memory
}
spent["network"] -= spent["warps"]
spent["boxes, NMS"] = spent.pop("SVMs, boxes, NMS") - spent["SVMs"]

# %%
guess = lesson.predict("How many seconds does an image take, all in all?", 0.1)

# %%
print(", ".join(f"{name} {value:.2f} ms" for name, value in spent.items()))
lesson.reveal(guess, sum(spent.values()) / 1000)

# %%
size, channels, products = side, 3, 0
for after, stride in CONVS:
    size //= stride
    products += size**2 * 9 * channels * after  # 3 x 3 weights for each pair of channels
    channels = after
num = np.mean([len(found) for found in test_proposals])
print(f"{num:.0f} proposals an image; the convolutions multiply {products / 1e6:.1f} million times a crop")

# %% [markdown]
# When this was written: 20 to 28 ms for the proposals, 18 to 21 for warps and network, about half a
# millisecond for all the rest, so 0.04 to 0.05 s an image. The SVMs of all classes are one product of two matrices and
# cost nothing; section 2.2 of the paper makes much of that, since it would stay so with thousands of classes. What
# does not cost nothing is the network, once for each region. Ours multiplies 1.9 million times a crop; AlexNet does so
# some 700 million times, and for 2000 crops, not 178. That is about 4000 times the 15 ms of our network, a minute; the
# paper gives 53 s an image on a CPU and 13 s on a GPU.
#
# And most of it is done again and again, because regions overlap:

# %%
guess = lesson.predict("How often does an average pixel of a test scene go through the network?", 10)

# %%
areas = [(found[:, 2:] - found[:, :2]).prod(axis=1).sum() / 128**2 for found in test_proposals]
lesson.reveal(guess, np.mean(areas))

# %% [markdown]
# Each time the same pixels go through the same convolutions, a little shifted and stretched. To compute them once for
# the whole image and cut afterwards is the step to Fast R-CNN, in lesson 10.
#
# ## What you can do now
#
# - grow regions out of pixels, and say what its one constant decides;
# - make a hierarchy of them, and say why one is not enough;
# - compute which part of a picture a network sees of a box, with context;
# - train a support vector machine example by example, and with more negatives than you can hold;
# - say which of R-CNN's choices show their worth on these scenes, and which do not;
# - follow a region from pixels to a scored box.
#
# In the library: `minidetect/detection/selective_search.py`, `warps.py`, `svm.py`, `ridge.py`, and
# `minidetect/models/rcnn.py` with `rcnn_fit.py`. Next: 09, what the network has learned.

# %%
lesson.finish()
