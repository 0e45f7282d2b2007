# %% [markdown]
# # 21 Counting
#
# **Question:** what does it cost?
#
# **Papers:** Group Sampling, section 6.2 and tables 11 and 15; EXTD, section 4; Faster R-CNN, section 3.1; Fast R-CNN,
# sections 3.1 and 4.4; the multi-output cascade, section 1.
# **Time:** 15 s.
# **Before:** 02 (convolution), 10 (RoIs), 12 (anchors), 17 (multiply-adds of a chain), 19 (layouts of anchors).
#
# **You build:** a counter for any convolution, the price of a proposal network's head for any layout of anchors, the
# number of RoIs from which the fully connected layers cost most, and how much memory a network holds while it runs.
# **You may skip:** section 6, section 9 with exercise 21.4.
#
# Papers compare costs in one column: "GFLOPs", "MB". Such a number is arithmetic on shapes, so anybody can do it again,
# and it is worth doing. In this lesson nine published figures are counted anew. Most of them come out to the last
# digit, some only after one has found out what they leave in and what they leave out, one does not come out at
# all, and none of them is a time.

# %%
import time

import numpy as np
from solutions import lesson_21 as solution

from minidetect.checks import lesson_21 as check
from minidetect.detection.anchor_layout import FPN, FPN_FINEST, FPN_FINEST_STRIDE
from minidetect.kernels.conv import conv2d_forward as library_conv
from minidetect.kernels.threads import set_num_threads
from minidetect.models.counting import (
    VIEWS,
    conv_multiply_adds,
    count_table,
    head_multiply_adds,
    makers,
    memory,
    module_walk,
    total,
)
from minidetect.models.extd import EXTD
from minidetect.models.feature_pyramid import FeaturePyramid
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.mtcnn import SETTINGS
from minidetect.models.multi_output_cascade import MultiOutputCascade
from minidetect.models.s3fd import S3FD
from minidetect.models.shape_trace import trace
from minidetect.teach import Lesson
from minidetect.visualize import COLOURS, new_figure

lesson = Lesson("21", "Counting")
LIGHT, BLUE, ORANGE, GREEN = COLOURS[1], COLOURS[6], COLOURS[5], COLOURS[2]

# %% [markdown]
# ## 1 Every product of a convolution
#
# A **multiply-add** is a product that is added to a sum. A convolution consists of nothing else (the bias is one more
# addition for each output; we leave it out). To count them there is no need of a formula: write the loops, and count
# how often the innermost line runs.
#
# C channels come in and O go out, in G groups; an output reads the C / G channels of its own group. The kernel has
# KH x KW weights for each of these. With **dilation** d they stand d cells apart, so that a kernel of 3 reaches over
# 2 d + 1 cells.

# %%
def conv_by_loops(x, w, stride, padding, dilation, groups):
    """One image: x (C, H, W), w (O, C/G, KH, KW) -> y (O, PH, PW), and how many products were added up."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    outputs, part, kh, kw = w.shape
    ph, pw = ((n - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(x.shape[1:], (kh, kw), strict=True))
    y, count = np.zeros((outputs, ph, pw)), 0
    for o, i, j in np.ndindex(y.shape):
        first = o // (outputs // groups) * part  # of the channels that this output reads
        for c, a, b in np.ndindex(part, kh, kw):
            y[o, i, j] += w[o, c, a, b] * x[first + c, i * stride + a * dilation, j * stride + b * dilation]
            count += 1
    return y, count


# %%
rng = np.random.default_rng(21)
x, w = rng.normal(size=(4, 7, 9)), rng.normal(size=(6, 2, 3, 2))  # C = 4, O = 6, two groups
guess = lesson.predict("7 x 9 cells, stride 2, padding 1, dilation 2: how many products?", 800)

# %%
y, count = conv_by_loops(x, w, stride=2, padding=1, dilation=2, groups=2)
assert np.allclose(y, library_conv(x[None], w, None, 2, 1, 2, 2)[0])  # stride, padding, dilation, groups
print("output", y.shape)
lesson.reveal(guess, count)

# %% [markdown]
# The output has 6 * 3 * 5 = 90 numbers, and each is a sum of 2 * 3 * 2 = 12 products. Which cells of the input took
# part, and how often? Here for a kernel of 3 x 3, with its border of padding:

# %%
def uses(size, stride, padding, dilation):
    """How often each cell of a padded map (H + 2 padding, W + 2 padding) is multiplied by a kernel of 3 x 3."""
    found = np.zeros([n + 2 * padding for n in size], int)
    rows, columns = (range(0, n - 2 * dilation, stride) for n in found.shape)
    for i in rows:
        for j in columns:
            found[i : i + 2 * dilation + 1 : dilation, j : j + 2 * dilation + 1 : dilation] += 1
    return found


# %%
figure = new_figure(9, 2.9)
for axes, (stride, padding, dilation) in zip(figure.subplots(1, 3), ((1, 1, 1), (2, 1, 1), (1, 2, 2)), strict=True):
    found = uses((7, 9), stride, padding, dilation)
    axes.imshow(found, cmap="Blues", vmin=0, vmax=12)
    for (i, j), times in np.ndenumerate(found):
        axes.text(j, i, times, ha="center", va="center", fontsize=8)
    ends = padding - 0.5
    axes.plot(ends + 9 * np.array([0, 1, 1, 0, 0]), ends + 7 * np.array([0, 0, 1, 1, 0]), color=ORANGE)
    axes.set(xticks=[], yticks=[], title=f"stride {stride}, dilation {dilation}")
lesson.show(figure, "uses", "How often each cell is multiplied, 3 x 3; outside of the orange frame it is padding")

# %% [markdown]
# Products with the zeros of the padding are counted like all others, by us and by everybody else, since most programs
# do compute them. On large maps they are few; on small ones they are not:

# %%
for side in (5, 25, 200):
    found = uses((side, side), 1, 1, 1)
    with_padding = 1 - found[1:-1, 1:-1].sum() / found.sum()
    print(f"{side:3} x {side:<3} cells: {with_padding:.3f} of all products are with padding")

# %% [markdown]
# ## Exercise 21.1: the work of a convolution (about 4 lines)
#
# `inputs`, `outputs`: channels C and O; `kernel`: (KH, KW); `size`: (H, W) of the input; `stride`, `padding`,
# `dilation`, `groups`: whole numbers, the first three the same along both axes. Return three numbers: the
# multiply-adds, and PH and PW of the output. Traps: dilation moves weights apart and makes no new ones; groups divide
# the channels that an output reads, not the outputs; the work is done at the places of the output.

# %%
@lesson.exercise(check.conv_work, otherwise=solution.conv_work)
def conv_work(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    raise NotImplementedError


# %%
assert conv_work(4, 6, (3, 2), (7, 9), 2, 1, 2, 2) == (count, *y.shape[1:])
for stride, dilation, groups in ((1, 1, 4), (3, 1, 2), (2, 3, 1)):
    x, w = rng.normal(size=(4, 11, 12)), rng.normal(size=(8, 4 // groups, 3, 3))
    _, counted = conv_by_loops(x, w, stride, 2, dilation, groups)
    print("loops", counted, "formula", conv_work(4, 8, (3, 3), (11, 12), stride, 2, dilation, groups))

# %% [markdown]
# ## 2 What a paper calls a FLOP
#
# A FLOP is one operation with a real number, so a multiply-add should be two of them. Whether a paper means that is
# seldom said. But S3FD, the face detector that lesson 17 measured EXTD by, is in two of our papers: EXTD gives it 128 G
# (thousands of millions), calls them multiply-adds, and has images of 640 x 640. Group Sampling gives it 201.0
# "GFLOPs", for images of 800 x 800.

# %%
guess = lesson.predict("S3FD at 800 x 800: how many G multiply-adds?", 100)

# %%
s3fd = S3FD(np.random.default_rng(0))
s3fd_640, s3fd_800 = (total(count_table(s3fd, (side, side))).multiply_adds / 1e9 for side in (640, 800))
print(f"640 x 640: {s3fd_640:.1f} G")
lesson.reveal(guess, s3fd_800)

# %% [markdown]
# 201: so Group Sampling's FLOPs are multiply-adds, and its 201.0 and EXTD's 128 say the same, for 1.5625 times as many
# pixels. When two papers' columns differ, look at the size of the images first, then for a factor of two.
#
# The next figure is from its Table 11: 52.42 for "feature extraction" by ResNet-50. This network, in a few words: a
# 7 x 7 convolution of stride 2, pooling of stride 2, then 16 blocks in four stages, of which each makes maps that are
# half as large as the one before (the first stage's stay as they are). A block is 1 x 1 to few channels, 3 x 3, and
# 1 x 1 to four times as many. The first block of a stage has a further 1 x 1 beside it, to bring x to the new shape.
# Each of the 53 convolutions is followed by batch norm.

# %%
def square(inputs, outputs, kernel, size, stride=1):
    """A layer with a square kernel that keeps the size, but for its stride -> multiply-adds, numbers made, size."""
    work, *size = conv_work(inputs, outputs, (kernel, kernel), size, stride, kernel // 2, 1, 1)
    return work, outputs * size[0] * size[1], size


# %%
def bottleneck(inputs, inner, size, stride, early):
    """The layers of a block, the last one with its size. early: the stride is in the first 1 x 1, not in the 3 x 3."""
    first = square(inputs, inner, 1, size, stride if early else 1)
    middle = square(inner, inner, 3, first[2], 1 if early else stride)
    beside = [square(inputs, 4 * inner, 1, size, stride)] if inputs != 4 * inner else []
    return [first, middle, *beside, square(inner, 4 * inner, 1, middle[2])]


# %%
def resnet50(side, early=False):
    """-> a list of 53 layers (multiply-adds, numbers made, size), and the sizes of C2 to C5."""
    layers = [square(3, 64, 7, (side, side), 2)]
    size, channels, sizes = [-(-n // 2) for n in layers[0][2]], 64, []  # pooled
    for inner, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(blocks):
            layers += bottleneck(channels, inner, size, stride if i == 0 else 1, early)
            size, channels = layers[-1][2], 4 * inner
        sizes.append(size)
    return layers, sizes


# %% [markdown]
# There are two ways to place the stride of a stage: in the block's first 1 x 1, as in the first publication, or in its
# 3 x 3, as in the networks that most people use today. Both, without and with batch norm, which costs two operations
# for each number (a factor and a summand):

# %%
for early in (True, False):
    layers, map_sizes = resnet50(800, early)
    work, numbers = (sum(layer[k] for layer in layers) / 1e9 for k in (0, 1))
    print(f"stride in the {'1 x 1' if early else '3 x 3'}: {work:.3f} G, with batch norm {work + 2 * numbers:.3f} G")
resnet_convs, resnet = work, work + 2 * numbers  # of the second
assert len(layers) == 53

# %% [markdown]
# 52.415, and the paper says 52.42. A number of four digits has told what the text does not: it is the second variant,
# batch norm is in the count, and the column "feature extraction" has nothing but the ResNet. The feature pyramid,
# which is also a part of the network, must be counted elsewhere or not at all. Remember that for section 6.
#
# A count can also be wrong. Lesson 17 found that EXTD's table comes from a walk over modules that meets the shared
# backbone once where it is used six times. One of its six rows again, and S3FD, whose layers are used once, so that the
# walk is nearly right:

# %%
extd = EXTD(np.random.default_rng(0), "fpn", 32)
walked, extd_true = module_walk(extd) / 1e9, total(count_table(extd)).multiply_adds / 1e9
print(f"EXTD-FPN-32: the walk {walked:.3f} G, every use counted {extd_true:.3f} G, the paper 4.52 G")
print(f"S3FD:        the walk {module_walk(s3fd) / 1e9:.1f} G, every use counted {s3fd_640:.1f} G, the paper 128 G")

# %%
bars = {
    "S3FD, 640 x 640 (EXTD)": 128 / s3fd_640,
    "S3FD, 800 x 800 (Group S.)": 201.0 / s3fd_800,
    "ResNet-50 (Group S.)": 52.42 / resnet_convs,
    "EXTD-FPN-32 (EXTD)": 4.52 / extd_true,
}
figure = new_figure(8, 2.4)
axes = figure.subplots()
axes.barh(list(bars), list(bars.values()), color=[BLUE, BLUE, BLUE, ORANGE])
for i, ratio in enumerate(bars.values()):
    axes.text(max(ratio, 1) + 0.02, i, f"{ratio:.3f}", va="center")
for times in (1, 2):
    axes.axvline(times, color="grey", linestyle=":")
axes.set(xlabel="published number over multiply-adds of the convolutions", xlim=(0, 2.1))
axes.invert_yaxis()
lesson.show(figure, "flops", "Neither paper counts a multiply-add as two operations. Orange: a walk that misses uses")

# %%
lesson.claim(
    "21-flops",
    "published and counted differ by so many percent: S3FD at 640, S3FD at 800, ResNet-50 with batch norm",
    [100 * abs(a / b - 1) for a, b in ((128, s3fd_640), (201.0, s3fd_800), (52.42, resnet))],
    below=0.5,
    paper="128 G (EXTD, table 1), 201.0 and 52.42 GFLOPs (Group Sampling, tables 15 and 11)",
    asserted=True,
)

# %% [markdown]
# ## 3 A count is no time
#
# Eight layers that do exactly the same work, 58,982,400 multiply-adds each. In the rows: channels in and out, kernel,
# side of the map, groups. The last one is a fully connected layer, 7680 numbers to 7680, for one RoI.

# %%
EQUAL = {
    "1x1, 256 to 256, 30 x 30": (256, 256, 1, 30, 1),
    "3x3, 64 to 64, 40 x 40": (64, 64, 3, 40, 1),
    "3x3, 8 to 8, 320 x 320": (8, 8, 3, 320, 1),
    "1x1, 64 to 9, 320 x 320": (64, 9, 1, 320, 1),
    "3x3 depthwise, 256, 160 x 160": (256, 256, 3, 160, 256),
    "3x3, 64 to 1, 320 x 320": (64, 1, 3, 320, 1),
    "3x3, 512 to 512, 5 x 5": (512, 512, 3, 5, 1),
}

# %%
for inputs, outputs, k, side, groups in EQUAL.values():
    assert conv_work(inputs, outputs, (k, k), (side, side), 1, k // 2, 1, groups)[0] == 7680 * 7680

# %% [markdown]
# The clock is that of the processor, the best of several tries, on one core:

# %%
def milliseconds(call):
    times = []
    for _ in range(lesson.amount(2, 10, 30)):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times[1:])  # the first may compile


# %%
def timed(inputs, outputs, k, side, groups):
    """-> milliseconds of a layer, and how many numbers it reads and writes: input, weights, output."""
    x = rng.random((1, inputs, side, side), np.float32)
    w = rng.random((outputs, inputs // groups, k, k), np.float32)
    y = library_conv(x, w, None, 1, k // 2, 1, groups)
    ms = milliseconds(lambda: library_conv(x, w, None, 1, k // 2, 1, groups))
    return ms, x.size + w.size + y.size


# %%
guess = lesson.predict("Equal work: the depthwise layer takes how many times as long as the first 1x1 layer?", 1)

# %%
set_num_threads(1)
tries = [{name: timed(*row) for name, row in EQUAL.items()} for _ in range(lesson.amount(1, 3, 3))]
full, roi = np.ones((7680, 7680), np.float32), np.ones((1, 7680), np.float32)
fully = "fully connected, one RoI"
tries[0][fully] = milliseconds(lambda: roi @ full.T), full.size + 2 * roi.size

# %%
for name, (ms, numbers) in tries[0].items():
    print(f"{name:30} {ms:6.2f} ms, {58.9824 / ms:5.1f} G a second, {7680**2 / numbers:5.1f} products a number")
ratios = [one["3x3 depthwise, 256, 160 x 160"][0] / one["1x1, 256 to 256, 30 x 30"][0] for one in tries]
lesson.reveal(guess, ratios[0])

# %% [markdown]
# On the machine where this was written, the same count takes 1.3 milliseconds or ten times as many, and the ratio of
# the prediction was between 3.4 and 5.5 in several runs. Look at the last column: the products divided by the numbers
# that are read and written, input, weights and output. The three quick layers do more than 30 with each number, the
# depthwise layer 4.5, and the fully connected layer reads 59 million weights for a single product each: they wait for
# memory. That does not explain all. The layer on 5 x 5 cells has 25 products a number and is slow; it is a shape that
# the library's loops were not written for. And for dense 3 x 3 layers the library has a trick that gets by with half of
# the products (lesson 17): not even what is computed need be what is counted.
#
# And if only the size of the map changes, is the count a good forecast then?

# %%
KINDS = {"3x3": (3, 1), "1x1": (1, 1), "3x3 depthwise": (3, 64)}  # kernel, groups; 64 channels
sides = lesson.amount((20, 40), (20, 40, 80, 160), (20, 40, 80, 160, 320))
growing = {kind: [timed(64, 64, k, side, g)[0] for side in sides] for kind, (k, g) in KINDS.items()}

# %%
figure = new_figure(10, 3.4)
left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
colours = [GREEN, BLUE, BLUE, GREEN, ORANGE, BLUE, BLUE, "grey"]
left.barh(list(tries[0]), [ms for ms, _ in tries[0].values()], color=colours)
left.invert_yaxis()
left.set(xlabel="ms for 59 M multiply-adds")
for (kind, (k, groups)), colour in zip(KINDS.items(), (BLUE, GREEN, ORANGE), strict=True):
    counts = [conv_work(64, 64, (k, k), (side, side), 1, k // 2, 1, groups)[0] / 1e6 for side in sides]
    right.loglog(counts, growing[kind], "o-", color=colour, label=kind)
right.set(xlabel="M multiply-adds, 64 channels", ylabel="ms")
right.legend()
lesson.show(figure, "times", "Left: equal work, unequal times. Right: three kinds of layers on growing maps")

# %%
lesson.claim(
    "21-times",
    "depthwise over 1x1 with equally many multiply-adds: ratio of times, three tries",
    ratios,
    above=1.5,
    paper="no figure; compares by multiply-adds",
)

# %% [markdown]
# The dense layer follows its count all the way. The other two take about one and a half times as long for each product
# from 80 x 80 to 160 x 160 cells, where input and output are 6.6 MB each and too large for the processor's nearer
# memories. So a count compares networks of the same make, roughly. It does not say which of two networks is quicker.
#
# ## 4 The price of an anchor
#
# Lesson 12's proposal network has a head that slides over a map: a 3 x 3 convolution from c channels to c' hidden ones,
# and from these two 1 x 1 convolutions, to 2 logits and to 4 deltas for each anchor of a cell. Lesson 19 had heads on
# several maps, and anchors that do not stand in every cell of theirs. Two rules hold for all:
#
# - the hidden numbers are made once for each **map**, in all its cells, no matter how many anchors read them;
# - the 6 numbers of an anchor are made where it **stands**.
#
# ## Exercise 21.2: the head of any layout (about 4 lines)
#
# `rows`: a list of (map_stride, stride, anchors): pixels a cell of the map that these anchors read; pixels between the
# places where they stand, a multiple of it; how many there are in such a place. Rows with the same map_stride are on
# the same map. `size`: (height, width) of the image; `channels`: c; `features`: c'. Return the multiply-adds of the
# head. A map has ceil(height / map_stride) rows of cells, and places are rounded up as well.

# %%
@lesson.exercise(check.head_work, otherwise=solution.head_work)
def head_work(rows, size, channels, features):
    raise NotImplementedError


# %% [markdown]
# Faster R-CNN, on VGG-16: c = c' = 512, a map of stride 16, images of 600 x 1000, nine anchors in each cell. Nine, and
# not one: three sizes times three ratios.

# %%
guess = lesson.predict("With nine anchors a cell, the head costs how many times as much as with one?", 5)

# %%
nine, one = (head_work([(16, 16, num)], (600, 1000), 512, 512) for num in (9, 1))
print(f"nine {nine / 1e9:.3f} G, one {one / 1e9:.3f} G; output weights {512 * 6 * 9:,} of {9 * 512**2 + 512 * 6 * 9:,}")
lesson.reveal(guess, nine / one)

# %% [markdown]
# One percent more. An anchor is 6 * 512 products at a place where 9 * 512 * 512 are done anyway, which is 1/768 of
# them. (And 2.4 million weights in all, 27,648 of them in the outputs, are what the paper says in its section 3.1.)
# This head is cheap altogether, 5.7 G beside the 184 G of the convolutions below it, which we count in section 7.
#
# ## 5 Four maps or one
#
# Group Sampling puts anchors of 16, 32, 64 and 128 pixels on the maps of a feature pyramid, in these three ways among
# others, and works out the cost of two of them. P2 to P5 have strides of 4, 8, 16, 32 pixels.

# %%
LAYOUTS = {
    "FPN": [(4, 4, 1), (8, 8, 1), (16, 16, 1), (32, 32, 1)],  # each size on a map of its own
    "FPN-finest-stride": [(4, 4, 1), (4, 8, 1), (4, 16, 1), (4, 32, 1)],  # all on P2, each as far apart as before
    "FPN-finest": [(4, 4, 4)],  # all on P2, all in every cell
}

# %%
image = (800, 800)
for name, rows in LAYOUTS.items():
    print(f"{name:18} {sum((800 // stride) ** 2 * num for _, stride, num in rows):7,} anchors")

# %%
guess = lesson.predict("The head of FPN-finest, with three times the anchors, costs how many times that of FPN?", 3)

# %%
work_of = {name: head_work(rows, image, 256, 256) for name, rows in LAYOUTS.items()}
for name, count in work_of.items():
    print(f"{name:18} {count / 1e9:.2f} G")
lesson.reveal(guess, work_of["FPN-finest"] / work_of["FPN"])

# %% [markdown]
# A quarter **less**. With P2 of h x w cells, the paper's section 6.2 has
#
#     S1 = 9 c' c h w + 4 (4 c' h w + 2 c' h w)                          FPN-finest
#     S2 = (9 c' c h w + 4 c' h w + 2 c' h w) (1 + 1/4 + 1/16 + 1/64)    FPN
#
# FPN makes hidden numbers on four maps, and these have 1.328 times as many cells as P2 alone. FPN-finest makes them on
# P2 only, and there all four anchors of a cell read the same ones; that its outputs are three times as many hardly
# matters. Is it true of a network that one can run? The library's detector, with 256 channels, counted layer by layer:

# %%
layouts = {"FPN": FPN, "FPN-finest-stride": FPN_FINEST_STRIDE, "FPN-finest": FPN_FINEST}
nets = {name: LayoutDetector(np.random.default_rng(0), layout, width=256, features=256)
        for name, layout in layouts.items()}  # fmt: skip
tables = {name: count_table(net, image) for name, net in nets.items()}

# %%
lesson.claim(
    "GS-18",
    "your count of the head and that of the library's detector differ by so many multiply-adds; three layouts",
    [abs(work_of[name] - total(tables[name], "heads").multiply_adds) for name in LAYOUTS],
    below=0.5,
    paper="S1 and S2 by formula (section 6.2)",
    asserted=True,
)
assert all(head_multiply_adds(layouts[name], image) == work for name, work in work_of.items())

# %%
parts = {}
for name, rows in LAYOUTS.items():
    hidden = head_work([(map_stride, stride, 0) for map_stride, stride, _ in rows], image, 256, 256)
    parts[name] = np.array([hidden, work_of[name] - hidden]) / 1e9
    print(f"{name:18} hidden {parts[name][0]:.3f} G, outputs {parts[name][1]:.3f} G")

# %%
figure = new_figure(7, 2.6)
axes = figure.subplots()
for k, (label, colour) in enumerate((("hidden numbers, 3 x 3", BLUE), ("2 + 4 numbers an anchor, 1 x 1", ORANGE))):
    axes.barh(list(parts), [part[k] for part in parts.values()], left=[part[:k].sum() for part in parts.values()],
              color=colour, label=label)  # fmt: skip
axes.set(xlabel="G multiply-adds", xlim=(0, 60))
axes.legend(loc="center right")
axes.invert_yaxis()
lesson.show(figure, "heads", "The head at 800 x 800, c = c' = 256: cells cost, anchors don't")

# %% [markdown]
# What FPN-finest-stride saves is the thin orange part: a third of the anchors for 0.7 % less work. It needs P2 in all
# its cells all the same, for the smallest anchors stand in each of them.
#
# The difference of the two formulas is S1 - S2 = (1026 - 189 c) c' h w / 64. Its sign depends on c alone:

# %%
guess = lesson.predict("From how many channels c on is one map cheaper than four?", 64)

# %%
cells = 200 * 200


def difference(c, features=256):
    """S1 - S2 at 800 x 800, by your count."""
    one_map, four_maps = (head_work(LAYOUTS[name], image, c, features) for name in ("FPN-finest", "FPN"))
    return one_map - four_maps


lesson.reveal(guess, next(c for c in range(1, 1000) if difference(c) < 0))
print("G, for c = 5, 6 and 256:", [round(difference(c) / 1e9, 4) for c in (5, 6, 256)])

# %%
lesson.claim(
    "GS-18, difference",
    "S1 - S2 by your count and by (1026 - 189 c) c' h w / 64 differ by so much; c = 1, 5, 6, 256",
    [abs(difference(c) - (1026 - 189 * c) * 256 * cells / 64) for c in (1, 5, 6, 256)],
    below=0.5,
    paper="(1026 - 189 c) c' h w / 64, below 0 as long as c > 5",
    asserted=True,
)

# %% [markdown]
# For c = 5 four maps are still cheaper, for 6 one: the root is at 1026 / 189 = 5.43. At 256 the one map saves 7.58 G.

# %%
figure = new_figure(6, 2.8)
axes = figure.subplots()
cs = [1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64, 128, 256, 512]
heads = [[head_work(LAYOUTS[name], image, c, 256) for c in cs] for name in ("FPN-finest", "FPN")]
axes.semilogx(cs, np.divide(*heads), "o-", color=BLUE)
axes.axhline(1, color="grey", linestyle=":")
axes.axhline(64 / 85, color="grey", linestyle=":")
axes.set(xlabel="c", ylabel="S1 / S2", ylim=(0, 2))
lesson.show(figure, "channels", "FPN-finest over FPN. The lower line: 1 / (1 + 1/4 + 1/16 + 1/64)")

# %% [markdown]
# ## 6 Table 11, taken apart
#
# The paper also measured. Its Table 11, from a tool that counts (named in a footnote), for ResNet-50 at 800 x 800:
#
#     G                 feature extraction    RPN head     total
#     FPN                      52.42            36.50      88.92
#     FPN-finest               52.42            28.91      81.33
#
# The difference of the two heads, 7.59, is what we have. But 36.50 and 28.91 are not S2 = 31.42 and S1 = 23.84: both
# are larger by about 5. What is in them? Section 2 left something over, the feature pyramid. Its ways up and across:
# a 1 x 1 convolution from each of C2 to C5 (256, 512, 1024, 2048 channels) to 256, the **laterals**; and on the way up
# three maps are made twice as large by bilinear interpolation, to the sizes of C4, C3 and C2.

# %%
laterals = sum(conv_work(256 * 2**k, 256, (1, 1), size, 1, 0, 1, 1)[0] for k, size in enumerate(map_sizes))
pyramid = FeaturePyramid((256, 512, 1024, 2048), 256, np.random.default_rng(0))  # the library's, for comparison
assert laterals == sum(conv_multiply_adds(layer, size) for layer, size in zip(pyramid.laterals, map_sizes, strict=True))
print("C2 to C5:", map_sizes, f"laterals {laterals / 1e9:.3f} G")

# %% [markdown]
# 4.915 of the missing 5.07. An interpolated number is a weighted mean of four; the tool puts it at 11 operations, six
# products and five sums. (So its "FLOPs" are multiply-adds for convolutions and single operations for all the rest.)

# %%
resized = 11 * 256 * sum(height * width for height, width in map_sizes[:3])
PAPER = {"FPN": 36.50, "FPN-finest": 28.91}
rest = {}
for name, published in PAPER.items():
    rebuilt = (work_of[name] + laterals + resized) / 1e9
    rest[name] = published - rebuilt
    print(f"{name:10} {work_of[name] / 1e9:.3f} + {laterals / 1e9:.3f} + {resized / 1e9:.3f} = {rebuilt:.3f} G, "
          f"the paper {published:.2f}: {rest[name]:.3f} are left")  # fmt: skip

# %%
lesson.claim(
    "21-table11",
    "head, laterals and interpolation miss the published number by so many percent; FPN, FPN-finest, the backbone",
    [100 * abs(rest["FPN"]) / 36.50, 100 * abs(rest["FPN-finest"]) / 28.91, 100 * abs(52.42 - resnet) / 52.42],
    below=0.1,
    paper='"RPN head" 36.50 and 28.91, "feature extraction" 52.42 GFLOPs',
    asserted=True,
)

# %% [markdown]
# The paper does not say that its column "RPN head" holds this. It is our reading: one sum, 5.063 G, fits both rows.
#
# What is left are 21 and 8 millions. The tool also counts an operation for every number that a bias is added to. S3FD
# has biases in all its convolutions:

# %%
biased = sum(row.channels[1] * height * width for row in count_table(s3fd, image) if "x" in row.kind
             for height, width in row.maps)  # fmt: skip
print(f"S3FD at 800 x 800: {s3fd_800:.2f} G, with biases {s3fd_800 + biased / 1e9:.2f} G, the paper 201.0 G")

# %% [markdown]
# That is 201.0, to the digit. If the layers of the head have biases, too:

# %%
for name, rows in LAYOUTS.items():
    if name in PAPER:
        hidden = 256 * sum((800 // stride) ** 2 for stride in {row[0] for row in rows})
        outputs = sum(6 * num * (800 // stride) ** 2 for _, stride, num in rows)
        print(f"{name:10} with biases, still missing: {rest[name] - (hidden + outputs) / 1e9:+.4f} G")

# %%
figure = new_figure(8, 2.6)
axes = figure.subplots()
columns = {
    f"{name}, {who}": row
    for name in PAPER
    for who, row in (
        ("here", (resnet, work_of[name] / 1e9, laterals / 1e9, resized / 1e9, 0, 0)),
        ("Table 11", (0, 0, 0, 0, 52.42, PAPER[name])),
    )
}
labels = ("ResNet-50", "head", "laterals", "interpolation", "feature extraction (paper)", "RPN head (paper)")
for k, (label, colour) in enumerate(zip(labels, (LIGHT, BLUE, ORANGE, "black", "silver", "grey"), strict=True)):
    axes.barh(list(columns), [row[k] for row in columns.values()], color=colour, label=label,
              left=[sum(row[:k]) for row in columns.values()])  # fmt: skip
axes.set(xlabel="G", xlim=(0, 140))
axes.legend(fontsize=8, loc="center right")
axes.invert_yaxis()
lesson.show(figure, "table11", "Table 11 from its parts: the laterals were counted with the head")

# %% [markdown]
# For FPN-finest that closes it: 3 millions too many are within the table's rounding, which is 5. For FPN 7 millions are
# open, 0.02 % of its number, and we have not found what they are. And one thing is **not** in the table: FPN, as it was
# first published, has a 3 x 3 convolution on each map after its sum. Here it is, in the library's detector:

# %%
for name, table in tables.items():
    print(f"{name:18}", {part: f"{total(table, part).multiply_adds / 1e9:.2f} G" for part in ("pyramid", "heads")})
print(f"a 3 x 3 on four maps: {9 * 256 * 256 * sum(h * w for h, w in map_sizes) / 1e9:.1f} G")

# %% [markdown]
# 31.3 G for four maps, as much as the whole head. There is no room for it in Table 11, so that pyramid has none. (The
# library's has, for the maps that are needed; so its FPN-finest saves twice, 7.6 G in the head and 7.7 in the pyramid.)
#
# ## 7 The price of a region
#
# In Fast R-CNN the convolutions run once an image, the fully connected layers once a RoI. VGG-16 on 600 x 1000 pixels;
# its maps are halved by pooling, and the last 7 x 7 cells of 512 channels are a RoI's 25,088 numbers:

# %%
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


# %%
def vgg_convs(height, width):
    """Multiply-adds of each of VGG-16's 13 convolutions of 3 x 3."""
    size, channels, work = [height, width], 3, []
    for part in VGG:
        for outputs in part:
            work.append(square(channels, outputs, 3, size)[0])
            channels = outputs
        size = [-(-n // 2) for n in size]  # pooled; the last time nobody reads it
    return work


# %%
FULL = [(25088, 4096, None), (4096, 4096, None), (4096, 21 + 80, None)]  # fc6, fc7; 21 logits and 80 deltas
convs, each = sum(vgg_convs(600, 1000)), sum(inputs * outputs for inputs, outputs, _ in FULL)
print(f"convolutions {convs / 1e9:.1f} G, a RoI {each / 1e9:.3f} G: fc6 has {25088 * 4096 / each:.0%} of it")

# %% [markdown]
# Where the weights are there is no work, and the other way round. For the image, and one RoI:

# %%
channels = [3, *(n for part in VGG for n in part)]
weights = [9 * a * b for a, b in zip(channels, channels[1:], strict=False)] + [i * o for i, o, _ in FULL]
work = vgg_convs(600, 1000) + [i * o for i, o, _ in FULL]

# %%
figure = new_figure(9, 2.8)
for axes, counts, label in zip(figure.subplots(1, 2), (weights, work), ("M weights", "G multiply-adds"), strict=True):
    unit = 1e6 if label[0] == "M" else 1e9
    axes.bar(range(1, 17), [count / unit for count in counts], color=[BLUE] * 13 + [ORANGE] * 3)
    axes.set(xlabel="layer", ylabel=label)
lesson.show(figure, "vgg16", "VGG-16 at 600 x 1000: convolutions (blue), fully connected layers for one RoI (orange)")

# %% [markdown]
# A RoI costs a fifteen-hundredth of the image, so for one of them nobody would care. The paper has 2000.
#
# **Truncated SVD** (lesson 11) replaces a layer of u outputs and v inputs by two with t numbers in between, t (u + v)
# products instead of u v. It saves something if t is below u v / (u + v): 3521 for fc6, 2048 for fc7.
#
# ## Exercise 21.3: how many RoIs? (about 3 lines)
#
# `share`: at least 0, less than 1; `convs`: multiply-adds of the convolutions, for the image; `layers`: a list of
# (inputs, outputs, rank), what a RoI goes through; rank t, or None for a layer as it was. Return the smallest whole
# number of RoIs with which the layers have at least that share of all multiply-adds, those of the convolutions
# included. A given rank is used even where it saves nothing. Traps: the share is of the whole, not of the convolutions;
# without any RoI the layers have a share of 0, even if there are no convolutions.

# %%
@lesson.exercise(check.rois_for, otherwise=solution.rois_for)
def rois_for(share, convs, layers):
    raise NotImplementedError


# %%
guess = lesson.predict("With how many RoIs do the fully connected layers cost as much as the convolutions?", 100)

# %%
lesson.reveal(guess, rois_for(0.5, convs, FULL))
TRUNCATED = [(25088, 4096, 1024), (4096, 4096, 256), (4096, 21 + 80, None)]  # the paper's ranks
print("with truncated layers:", rois_for(0.5, convs, TRUNCATED))

# %% [markdown]
# 1533, fewer than the paper's 2000, and 3.7 times as many with the ranks that it takes. So without SVD the larger part
# of its work is behind the pooling, and SVD should help much:

# %%
def roi_work(layers):
    return sum(i * o if rank is None else rank * (i + o) for i, o, rank in layers)


# %%
guess = lesson.predict("2000 RoIs: truncated SVD saves how many percent of all multiply-adds?", 30)

# %%
before, after = (convs + 2000 * roi_work(layers) for layers in (FULL, TRUNCATED))
lesson.reveal(guess, 100 * (1 - after / before))
print(f"share of the fully connected layers, 2000 RoIs: before {1 - convs / before:.3f}, after {1 - convs / after:.3f}")

# %% [markdown]
# The same for any number of RoIs. At the dotted lines both parts are equal.

# %%
figure = new_figure(7, 3)
axes = figure.subplots()
rois = np.geomspace(1, 20_000, 200)
for layers, label, colour in ((FULL, "as they are", ORANGE), (TRUNCATED, "truncated to ranks 1024 and 256", BLUE)):
    axes.semilogx(rois, rois * roi_work(layers) / (convs + rois * roi_work(layers)), color=colour, label=label)
    axes.axvline(rois_for(0.5, convs, layers), color=colour, linestyle=":")
axes.axhline(0.5, color="grey", linewidth=0.8)
axes.axvline(2000, color="black", linewidth=0.8)
axes.set(xlabel="RoIs (black line: 2000)", ylabel="share of multiply-adds", ylim=(0, 1))
axes.legend()
lesson.show(figure, "shares", "VGG-16 at 600 x 1000: what share the fully connected layers have")

# %%
shares = [2000 * each / (sum(vgg_convs(600, width)) + 2000 * each) for width in (800, 900, 1000)]
lesson.claim(
    "21-fc",
    "share of the fully connected layers in VGG-16's multiply-adds: 2000 RoIs, 600 x 800, 600 x 900, 600 x 1000",
    shares,
    above=0.5,
    paper="45 % of the time for fc6 and fc7; SVD takes more than 30 % off the time of detection",
    asserted=True,
)

# %% [markdown]
# By counting, 57 to 62 % is in the fully connected layers, and SVD saves 41 %. By the clock it was 45 % and a little
# more than 30 %. The order is right and the digits are not. Section 3 offers a reason: 2000 RoIs together are one
# product of two large matrices, the kind of work that is done quickest. One RoI alone is the opposite:

# %%
guess = lesson.predict("64 RoIs through section 3's fully connected layer take how many times as long as one?", 64)

# %%
many = np.ones((64, 7680), np.float32)
lesson.reveal(guess, milliseconds(lambda: many @ full.T) / tries[0][fully][0])

# %% [markdown]
# About nine times: a weight that has been fetched serves all 64.
#
# ## 8 "2 MB"
#
# The multi-output cascade gives no table of its layers, only a total: three nets in 2 MB. The library takes their
# layers from MTCNN, a cascade of the same shape. That is a guess, but one that can be counted. A parameter is four
# bytes. MTCNN's first two nets say face or not and where, and the third gives landmarks, too; in the paper all three
# do.

# %%
mtcnn = MultiOutputCascade(np.random.default_rng(0), **SETTINGS)
cascades = {"MTCNN": mtcnn, "landmarks in all three": MultiOutputCascade(np.random.default_rng(0))}
counts = {name: [net.num_parameters() for net in cascade.branches] for name, cascade in cascades.items()}
for name, count in counts.items():
    print(f"{name:22} {count}: {sum(count):,} parameters, {4 * sum(count) / 1e6:.2f} MB")

# %%
lesson.claim(
    "21-2mb",
    "parameters of x12, x24 and x48, and what was counted in MTCNN's files: the difference",
    [abs(got - want) for got, want in zip(counts["MTCNN"], (6_632, 100_178, 389_040), strict=True)],
    below=0.5,
    paper="2 MB for the three nets together",
    asserted=True,
)
assert round(4 * sum(counts["MTCNN"]) / 1e6, 2) == 1.98

# %% [markdown]
# 1.98 or 1.99 MB: it fits, and does not prove anything: many tables of layers have half a million parameters. (A count
# rules out more than it proves. With parameters of two bytes, or nets of twice the width, it would not be 2 MB.) Four
# fifths are in the third net, which sees the fewest windows. The same sentence of the paper gives VGG-16 "about 510MB":

# %%
of_vgg = sum(weights[:13]) + sum(channels[1:])  # with the biases
of_vgg += sum(inputs * outputs + outputs for inputs, outputs in ((25088, 4096), (4096, 4096), (4096, 1000)))
print(f"VGG-16: {of_vgg:,} parameters, {4 * of_vgg / 1e6:.0f} MB, or {4 * of_vgg / 2**20:.0f} times 2^20 bytes")

# %% [markdown]
# That is neither. (It may be a file of another VGG-16, or rounded from memory; here counting can only say no.)
#
# ## 9 Memory while it runs
#
# Weights are one thing that must be in memory, maps the other. In training **all** maps are kept, since the backward
# pass will need them. In a test a map can be dropped as soon as its last reader is done. Lesson 17's bound for that was
# the single operation that reads and writes most. But a map may have to wait for a reader that comes late: C2 of a
# feature pyramid is made first, and its lateral is needed last.
#
# ## Exercise 21.4: what must be held (about 4 lines)
#
# `sizes`: bytes of each map; map 0 is the image, the others are made in the order of their numbers. `reads`: for each
# map the list of those that it is made from, all with smaller numbers; `reads[0]` is empty. Return a list with, for
# maps 1, 2, ..., the bytes that are in memory while this map is being made: the map itself, all maps that it or a later
# one reads, and **results**, earlier maps that nobody ever reads: they are what the network was run for. The image is a
# map like the others. Traps: a map that is read twice is in memory once; the last reader counts, not the first.

# %%
@lesson.exercise(check.held, otherwise=solution.held)
def held(sizes, reads):
    raise NotImplementedError


# %% [markdown]
# A small pyramid by hand: image, C2, C3, then the lateral of C3, its enlargement, the lateral of C2, and their sum.

# %%
print(held([12, 64, 32, 16, 64, 64, 64], [[], [0], [1], [2], [3], [1], [4, 5]]))

# %% [markdown]
# C2 is read for C3 and then waits three steps for its lateral, where the most memory is needed. Now real models. The
# library traces a model without computing it (lesson 17) and knows of every map what it was made from:

# %%
def steps_of(model, size):
    """sizes and reads of a model. A view (another look at the same numbers) is no map of its own."""
    made = makers(trace(model, size).outputs)
    number = {id(y): k for k, (y, _) in enumerate(made, start=1)}

    def owner(x):
        while x.creator is not None and isinstance(x.creator, VIEWS):
            x = x.creator.inputs[0]
        return number.get(id(x), 0)  # 0: the image

    sizes = [4 * 3 * size[0] * size[1]] + [4 * y.size for y, _ in made]
    return sizes, [[]] + [[owner(x) for x in function.inputs] for _, function in made]


# %%
guess = lesson.predict("A test of S3FD: at its worst moment, how many percent of the maps that training keeps?", 10)

# %%
models = {"S3FD": s3fd, "FPN": nets["FPN"], "FPN-finest": nets["FPN-finest"]}
running = {}
for name, model in models.items():
    sizes, reads = steps_of(model, image)
    running[name] = np.array(held(sizes, reads)) / 1e6
    used = memory(model, image)
    assert used.training == sum(sizes[1:]) and used.inference <= 1e6 * running[name].max() + 1
    print(f"{name:10} weights {used.weights / 1e6:5.1f} MB; maps, training {used.training / 1e6:6.1f}, test "
          f"{running[name].max():5.1f} (a single operation: {used.inference / 1e6:.1f})")  # fmt: skip
lesson.reveal(guess, 100 * 1e6 * running["S3FD"].max() / memory(s3fd, image).training)

# %% [markdown]
# (FPN here: the pyramid and the head with 256 channels, on a backbone much smaller than ResNet-50.) In all three the
# maps outweigh the weights, in training by 17 to 65 times, for a single image. And S3FD, with 22 million weights, needs
# most where it has the fewest: on the first two maps, of 64 channels and 800 x 800 cells.

# %%
figure = new_figure(10, 3)
left, right = figure.subplots(1, 2)
for k, (name, model) in enumerate(models.items()):
    used = memory(model, image)
    amounts = (used.weights / 1e6, used.training / 1e6, running[name].max())
    left.bar(np.arange(3) + 0.27 * (k - 1), amounts, 0.25, color=(ORANGE, GREEN, BLUE)[k], label=name)
    right.plot(np.linspace(0, 1, len(running[name])), running[name], color=(ORANGE, GREEN, BLUE)[k])
left.set(yscale="log", ylabel="MB", xticks=range(3), xticklabels=("weights", "maps, training", "maps, test"))
left.legend()
right.set(xlabel="from the first map to the last", ylabel="MB held in a test")
lesson.show(figure, "memory", "800 x 800 pixels. Left: three kinds of memory. Right: what a test holds, step by step")

# %% [markdown]
# For S3FD the worst moment is at the beginning, and no map waits there: what a single operation touches is all. For FPN
# it is near the end, at the sum for P2: 136 MB are held where the sum alone needs 123, since the hidden maps of the
# coarser heads wait for their deltas to be made. (Every order in which each map comes after those that it is made from
# will do. This one walks the graph from the coarsest head to the finest, and makes all deltas last. Another order holds
# other amounts.)
#
# ## What you can do now
#
# - count the multiply-adds of any convolution and of any head, and check the formula against loops;
# - read a column "GFLOPs": look for the size of the image, for a factor of two, for batch norm, for parts that are used
#   more than once, and for parts that were counted under another name;
# - say where the work of a detector is: in cells, not in anchors; in RoIs, from some number on that you can compute;
# - tell work from time, and weights from maps.
#
# In the library: `minidetect/models/counting.py` and `shape_trace.py`; `benchmarks/extd_counts.py` prints all models of
# EXTD. Next: 22, where the same work is done by a graphics card.

# %%
lesson.finish()
