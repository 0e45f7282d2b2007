# %% [markdown]
# # 17 Small networks
#
# **Question:** how little is enough?
#
# **Papers:** EXTD, sections 3.1, 3.2, 4.2 and 4.3, appendix B; tables 1 and 2. **Time:** 35 s.
# **Before:** 01 (gradients), 02 (convolution, groups, receptive fields), 04 (batch norm), 12 (anchors).
#
# **You build:** a counter of parameters, the inverted residual, the gradient of a weight that is used six times, a
# counter of multiply-adds, and the receptive fields of a network that runs in a circle.
# **You may skip:** section 5, exercise 17.5 with section 8, section 10.
#
# S3FD, a face detector of 2017, has 22 million parameters. EXTD (for "extremely tiny") has 63 thousand, 357 times
# fewer, and on the hardest faces of the photographs that both were measured on (WIDER FACE) its average precision is
# 82.5 % where S3FD's is 85.9. Two ideas make it so small: convolutions taken apart into cheap pieces, and one set of
# weights that is used again and again. This lesson builds both. Then it counts what they save, and what they don't: a
# network has a size, an amount of work, a memory and a field of view, and these are four different numbers.

# %%
import time

import numpy as np
from solutions import lesson_17 as solution

from minidetect.autograd import Tensor, no_grad
from minidetect.checks import lesson_17 as check
from minidetect.data.synthetic import draw_scene
from minidetect.kernels.conv import conv2d_forward as library_conv
from minidetect.kernels.threads import set_num_threads
from minidetect.models.counting import count_table, memory, module_walk, total
from minidetect.models.extd import EXTD
from minidetect.models.receptive_fields import receptive_fields
from minidetect.models.s3fd import S3FD
from minidetect.nn.blocks import InvertedResidual
from minidetect.nn.fuse import fuse
from minidetect.ops.elementwise import mul
from minidetect.ops.reduce import sum as sum_over
from minidetect.teach import Lesson
from minidetect.visualize import COLOURS, new_figure, plot_boxes

lesson = Lesson("17", "Small networks")
BLUE, ORANGE, GREEN = COLOURS[6], COLOURS[5], COLOURS[2]

# %% [markdown]
# ## 1 A convolution in two pieces
#
# A 3 x 3 convolution with C channels in and O out does two things at once: it looks at a neighbourhood, and it mixes
# channels. It has O * C * 9 weights. Take the two apart:
#
# - **depthwise** 3 x 3: each channel gets a kernel of its own and stays by itself, C * 9 weights;
# - **pointwise**, 1 x 1: every output is a mixture of the C channels at one place, O * C weights.
#
# Put one after the other, with nothing in between, they are a 3 x 3 convolution of a special kind. If `d[c]` is the
# kernel of channel c and `p[o, c]` its weight in output o, then output o sees channel c through `p[o, c] * d[c]`.

# %%
rng = np.random.default_rng(17)
x = rng.normal(size=(2, 5, 9, 8))  # (N, C, H, W)
d = rng.normal(size=(5, 1, 3, 3))  # depthwise
p = rng.choice([-1.0, 1.0], (6, 5, 1, 1)) * rng.uniform(0.4, 1.5, (6, 5, 1, 1))  # pointwise, O = 6

# %%
pair = library_conv(library_conv(x, d, None, 1, 1, 1, 5), p, None, 1, 0, 1, 1)  # stride, padding, dilation, groups
dense = p * d[:, 0]  # (6, 5, 1, 1) * (5, 3, 3) -> (6, 5, 3, 3)
print("largest difference:", abs(library_conv(x, dense, None, 1, 1, 1, 1) - pair).max())

# %% [markdown]
# So this is what the pair gives up. In a dense layer every output has a kernel of its own for each channel. In the
# pair, all outputs see a channel through the same kernel, weaker, stronger or with the sign turned:

# %%
figure = new_figure(9, 2.8)
panels = figure.subplots(2, 6)
for row, weights in enumerate((rng.normal(size=(6, 5, 3, 3)), dense)):
    for o, axes in enumerate(panels[row]):
        axes.imshow(weights[o, 0], cmap="RdBu", vmin=-2.5, vmax=2.5)
        axes.set(xticks=[], yticks=[], title=f"output {o}" if row == 0 else "")
    panels[row, 0].set_ylabel(("dense", "pair")[row])
lesson.show(figure, "kernels", "How six outputs see channel 0: six kernels, or one kernel six times")

# %% [markdown]
# From here on a network is a table, one row a layer. A row is a tuple that begins with its kind:
#
#     ("conv", inputs, outputs, kernel, stride, padding, groups, bias)    the first two: channels; bias: True or False
#     ("norm", channels)                                                  batch norm
#     ("prelu", slopes)                                                   PReLU, lesson 02, with that many slopes
#     ("relu",)                                                           ReLU
#
# ## Exercise 17.1: how many parameters (about 8 lines)
#
# `layers`: a list of such rows. Return how many numbers are learned. A filter has a square kernel for each channel of
# its own group and no others. `groups` may be anything that divides inputs and outputs. Batch norm learns a scale and
# a shift for each channel; its running averages are measured, not learned.

# %%
@lesson.exercise(check.parameters, otherwise=solution.parameters)
def parameters(layers):
    raise NotImplementedError


# %% [markdown]
# A helper to write rows: 3 x 3 kernels are padded by 1 here, 1 x 1 kernels by 0. Then 64 channels in and out, both
# ways:

# %%
def conv(inputs, outputs, kernel, stride=1, groups=1, bias=False):
    return ("conv", inputs, outputs, kernel, stride, kernel // 2, groups, bias)


whole = [conv(64, 64, 3)]
apart = [conv(64, 64, 3, groups=64), conv(64, 64, 1)]
print(f"dense {parameters(whole):,}; depthwise {parameters(apart[:1])} + pointwise {parameters(apart[1:]):,}")

# %% [markdown]
# By hand: 64 * 64 * 9 = 36,864 against 64 * 9 + 64 * 64 = 4,672, a ratio of 7.9. In general the pair has 1/O + 1/9 of
# the weights: it can never save more than a factor of 9, and nearly all of what is left is the pointwise layer.
#
# ## 2 Widen, filter, narrow
#
# If a single kernel a channel is too little, then give each channel several. The **inverted residual** (from a
# network called MobileNetV2, 2018) does that where it is cheap: it first makes more channels, each a mixture of those
# of x, and gives each of these its kernel.
#
#     1. pointwise, C -> t * C, batch norm, activation       "t" for times: 2 or 4 in EXTD
#     2. depthwise 3 x 3 on the t * C channels, batch norm, activation
#     3. pointwise, t * C -> O, batch norm
#     4. and x is added, if it fits
#
# The wide maps exist only inside. What goes from block to block is narrow: 32 channels in the smallest EXTD.
# "Residual" is the older name of what is added to x, "inverted" because older blocks were narrow inside and wide
# outside.
#
# Three variants occur in EXTD. With t = 1 the first layer is left out. With stride 2 in the depthwise layer the map
# is halved, and then x does not fit. And the block may have an activation after its last norm, or none. That last one
# looks like a detail; section 9 shows what hangs on it.
#
# Norm and activation, for the exercise: batch norm as in training, its scale still 1 and its shift 0; PReLU with the
# slope of 0.25 that it begins with.

# %%
def normalise(y):
    """y (N, C, H, W): each channel to mean 0 and variance 1, as lesson 04 does it."""
    mean, var = (f(y, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
    return (y - mean) / np.sqrt(var + 1e-5)


# %%
def activate(y):
    return np.where(y > 0, y, 0.25 * y)


# %% [markdown]
# ## Exercise 17.2: the inverted residual (about 7 lines)
#
# `x` (N, C, H, W); `widen` (T, C, 1, 1) with T = t * C, or None for t = 1; `filters` (T, 1, 3, 3), the depthwise
# weights, of stride `stride` and padding 1; `narrow` (O, T, 1, 1); `ends`: True for an activation after the last norm.
# No layer has a bias. Return the block's output, (N, O, H, W) or half as high and wide. The calls, with the N maps as
# `y`: `library_conv(y, weights, None, stride, padding, dilation, groups)`.
#
# x is added, as the very last step, if the stride is 1 **and** O = C. Don't let the shapes decide: a map of 1 x 1
# stays one under stride 2, and NumPy gladly adds one channel to three. Add into a new array, for x is not yours.

# %%
@lesson.exercise(check.inverted_residual, otherwise=solution.inverted_residual)
def inverted_residual(x, widen, filters, narrow, stride, ends):
    raise NotImplementedError


# %% [markdown]
# The library's block of t = 2, in training mode, with its own weights. (Its depthwise layer has a bias, as in EXTD's
# code. It begins at 0, and it could be left out: batch norm subtracts it again.)

# %%
block = InvertedResidual(5, 5, 2, np.random.default_rng(0))
block.train()
weights = [layer.weight.data for layer in block.body.layers if hasattr(layer, "settings")]  # the convolutions
theirs = block(Tensor(x.astype(np.float32))).data
print("largest difference:", abs(theirs - inverted_residual(x, *weights, stride=1, ends=False)).max())

# %%
guess = lesson.predict("A block of t = 4 on 32 channels has how many parameters, in thousands?", 5)

# %% [markdown]
# The same block as rows of our table, with a PReLU of one slope, as EXTD uses it:

# %%
def block_rows(inputs, outputs, t, stride=1, ends=False):
    inner, prelu = t * inputs, ("prelu", 1)
    widen = [conv(inputs, inner, 1), ("norm", inner), prelu] if t > 1 else []
    filters = [conv(inner, inner, 3, stride, groups=inner, bias=True), ("norm", inner), prelu]
    narrow = [conv(inner, outputs, 1), ("norm", outputs)]
    return widen + filters + narrow + [prelu] * ends


lesson.reveal(guess, parameters(block_rows(32, 32, 4, ends=True)) / 1000)

# %% [markdown]
# 10,051. Where they are, with the channels of the maps between the layers:

# %%
inside = [row for row in block_rows(32, 32, 4, ends=True) if row[0] == "conv"]
layers = ["widen, 1 x 1", "depthwise, 3 x 3", "narrow, 1 x 1"]
figure = new_figure(8, 2.6)
axes = figure.subplots()
axes.bar(range(4), [32, 128, 128, 32], 0.3, color=[BLUE, ORANGE, ORANGE, BLUE])
for i, (name, row) in enumerate(zip(layers, inside, strict=True)):
    axes.annotate(f"{name}\n{parameters([row]):,}", (i + 0.5, 64), ha="center", va="center", fontsize=9)
axes.set(xticks=range(4), xticklabels=["x", "wide", "wide, filtered", "y"], ylabel="channels")
lesson.show(figure, "block", "Channels through a block of t = 4, and the parameters of its convolutions")

# %% [markdown]
# A dense 3 x 3 convolution with 32 channels has 9,216. So for the price of one ordinary layer you get three,
# with 128 channels inside.
#
# ## 3 EXTD as a table
#
# The network is short. `x` is the image, f and g are maps:
#
#     x -> E -> block 1 -> F -> f1 -> F -> f2 -> F -> f3 -> F -> f4 -> F -> f5 -> F -> f6
#
# - **E**: a 3 x 3 convolution of stride 2, 3 -> 64 channels, batch norm, PReLU.
# - **block 1**: an inverted residual of t = 1, from 64 channels to the network's width: 32, 48 or 64.
# - **F**: six inverted residuals for width 32 (t = 2, 2, 4, 4, 2, 2), four for the others (t = 2, 2, 4, 4). The last
#   has stride 2. So F takes a map and returns one of half the height and width, **with as many channels**.
#
# That makes the trick possible: what comes out of F can be put into it again. An image of 640 x 640 becomes maps of
# 160, 80, 40, 20, 10 and 5 cells a side. On each of them two **heads** look for faces of one size, with one anchor a
# cell (lesson 12): four cells wide, which is 16 pixels on f1, 512 on f6. A head is a single 3 x 3 convolution: one
# gives the 4 deltas, the other 2 logits; on the finest map 4, three for the background and one for the face (lesson
# 18).
#
# If the heads look at the f's, the paper calls it **SSD**, after a detector that does so. In the other version,
# **FPN** (feature pyramid network), a second path goes up again: g1 = f6, and then the coarser map is enlarged, sent
# through U (depthwise, pointwise, batch norm, ReLU), and the f of that size is added. The heads look at the g's.
# There are five different U's; only F is shared.

# %%
WIDEN = {32: (2, 2, 4, 4, 2, 2), 48: (2, 2, 4, 4), 64: (2, 2, 4, 4)}  # t of F's blocks, by width

# %%
def extd_rows(structure, width):
    """The parts of the network, by name, as rows. Only at width 32 do blocks end with an activation."""
    ends, steps = width == 32, WIDEN[width]
    parts = {"E": [conv(3, 64, 3, stride=2), ("norm", 64), ("prelu", 1)]}
    parts["block 1"] = block_rows(64, width, 1, ends=ends)
    for i, t in enumerate(steps, start=1):
        parts[f"F {i}"] = block_rows(width, width, t, 2 if i == len(steps) else 1, ends)
    up = [conv(width, width, 3, groups=width), conv(width, width, 1), ("norm", width), ("relu",)]
    parts["U, five"] = up * 5 if structure == "fpn" else []
    logits = [conv(width, outputs, 3, bias=True) for outputs in (4, 2, 2, 2, 2, 2)]
    parts["heads"] = logits + [conv(width, 4, 3, bias=True)] * 6
    return parts


# %%
for name, rows in extd_rows("fpn", 32).items():
    print(f"{name:8} {parameters(rows):7,}")

# %% [markdown]
# Now the six models of the paper. It gives their sizes in millions with two or three digits (tables 1 and 2); the
# published code builds them, and the library's models are built after that code.

# %%
PAPER_M = {("fpn", 32): 0.063, ("fpn", 48): 0.10, ("fpn", 64): 0.16}
PAPER_M |= {("ssd", 32): 0.056, ("ssd", 48): 0.086, ("ssd", 64): 0.14}
models = {key: EXTD(np.random.default_rng(0), *key) for key in PAPER_M}

# %%
sizes = {key: sum(parameters(rows) for rows in extd_rows(*key).values()) for key in PAPER_M}
for key, size in sizes.items():
    print(f"{key[0]} {key[1]}: {size:7,}   the paper: {PAPER_M[key]} million")

# %%
lesson.claim(
    "EX-6",
    "your count and the library's models differ by so many parameters, six models",
    [abs(sizes[key] - model.num_parameters()) for key, model in models.items()],
    below=0.5,
    paper="0.063, 0.10, 0.16 (FPN), 0.056, 0.086, 0.14 (SSD) million",
    asserted=True,
)
assert list(sizes.values()) == [62_939, 100_160, 162_352, 56_059, 86_000, 138_352]

# %%
figure = new_figure(9, 3.2)
for axes, width in zip(figure.subplots(1, 3, sharey=True), WIDEN, strict=True):
    counts = {name: parameters(rows) for name, rows in extd_rows("fpn", width).items()}
    colours = [BLUE if name.startswith("F") else ORANGE if name == "heads" else "grey" for name in counts]
    axes.bar(list(counts), [count / 1000 for count in counts.values()], color=colours)
    axes.set(title=f"EXTD-FPN-{width}: {sum(counts.values()):,}", ylabel="thousands" if width == 32 else "")
    axes.tick_params(axis="x", rotation=90)
lesson.show(figure, "parameters", "Parameters of each part. Blue: the shared F")

# %% [markdown]
# Nowhere is there a layer that outweighs the others. At width 32 the twelve heads together, with so few outputs each,
# weigh more than the largest block of F. How much does the sharing save? Six F's instead of one:

# %%
guess = lesson.predict("With six separate F's, EXTD-FPN-32 would be how many times as large?", 6)

# %%
f_size = sum(parameters(rows) for name, rows in extd_rows("fpn", 32).items() if name.startswith("F"))
lesson.reveal(guess, (sizes["fpn", 32] + 5 * f_size) / sizes["fpn", 32])
assert EXTD(np.random.default_rng(0), shared=False).num_parameters() == sizes["fpn", 32] + 5 * f_size

# %% [markdown]
# Even then it would be 85 times smaller than S3FD. Narrow maps and cheap blocks do the larger part, the sharing a
# factor of 4 more.
#
# ## 4 One weight, six uses
#
# This is what goes round in the circle: channel 0 of the six maps of a drawn picture, in a network that has not
# learned anything yet. (Each map is enlarged to the same size.)

# %%
scenes = [draw_scene("faces_hard", 17, i, side=(20, 96)) for i in range(lesson.amount(1, 4, 8))]
images = np.stack([models["ssd", 32].planes(scene.image) for scene in scenes])  # (N, 3, 160, 160)
models["ssd", 32].train()  # batch norm by the maps themselves
with no_grad():
    maps = [f.data for f in models["ssd", 32].iterate(Tensor(images))]

# %%
figure = new_figure(9, 1.7)
panels = figure.subplots(1, 7)
panels[0].imshow(scenes[0].image)
for i, (axes, f) in enumerate(zip(panels[1:], maps, strict=True), start=1):
    axes.imshow(f[0, 0], cmap="gray")
    axes.set_title(f"f{i}: {f.shape[2]} x {f.shape[3]}", fontsize=9)
for axes in panels:
    axes.set_axis_off()
lesson.show(figure, "maps", "A picture of 160 x 160 pixels, and channel 0 of f1 to f6")

# %% [markdown]
# Training needs the gradient of F's weights, and each of them is used six times. Lesson 01 had this case: a value
# that is used twice gets two gradients, and they are **added**. Think of six copies of F, each of which could be
# moved by itself. The loss changes with copy 1 at some rate, with copy 2 at another... Sharing means that all six
# move together, so the rates add up. There is no mean in it, and nothing special to do.
#
# Small enough to do by hand: maps of C numbers, F is one matrix `w` and an activation,
#
#     f_i = activate(w f_(i-1)),  i = 1, ..., n            loss = the sum of gs[i - 1] @ f_i over all i
#
# Every f_i has heads of its own, so the loss hears from each of them, and `gs[i - 1]` is what the heads of f_i say
# directly: how the loss changes with f_i if no other map moves. But f_i matters in a second way: f_(i+1), and all that
# follow, are made from it.
#
# ## Exercise 17.3: the gradient of a shared weight (about 9 lines)
#
# `w` (C, C), `f0` (C,), `gs` (n, C) as above; `activate` has slope 1 for numbers above 0 and 0.25 otherwise. Return
# the gradient with respect to `w`, (C, C). Go forward and keep what you will need; then go backward and carry along
# what the later passes say of f_i. For z = w f and a gradient gz at z: w gets `np.outer(gz, f)`, f gets `w.T @ gz`.
# With n = 0 it is all zeros.

# %%
@lesson.exercise(check.shared_gradient, otherwise=solution.shared_gradient)
def shared_gradient(w, f0, gs):
    raise NotImplementedError


# %% [markdown]
# Test the idea itself: six copies of w, of which only one is moved. The six rates of change must add up to yours.

# %%
w, f0, gs = 0.6 * rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=(6, 3))


# %%
def loss_of(copies):
    f, loss = f0, 0.0
    for copy, g in zip(copies, gs, strict=True):
        f = activate(copy @ f)
        loss += g @ f
    return loss


# %%
step = np.zeros((3, 3))
step[1, 2] = 1e-6

# %%
rates = []
for k in range(6):
    up, down = ([w + sign * step if i == k else w for i in range(6)] for sign in (1, -1))
    rates.append((loss_of(up) - loss_of(down)) / 2e-6)

# %%
print("rates of the copies:", np.round(rates, 3), "sum", round(sum(rates), 6))
print("your gradient:      ", round(shared_gradient(w, f0, gs)[1, 2], 6))
assert np.isclose(sum(rates), shared_gradient(w, f0, gs)[1, 2], rtol=1e-4)

# %% [markdown]
# The same in earnest: a narrow EXTD, once shared and once with six separate F's that hold the same weights, batch
# norm in training mode, and random gradients at f1 to f6. All in float64, so that rounding hides nothing.

# %%
narrow_net = dict(structure="ssd", width=8, stem=8, blocks=((2, 1), (2, 2)))  # stem: of E; F's (t, stride)


# %%
def copies_of(shared):
    """The same network with a backbone of its own for each pass."""
    net, state = EXTD(np.random.default_rng(0), shared=False, **narrow_net), shared.state_dict()
    names = {name: name.split(".") for name in net.state_dict()}  # such as backbones.3.layers.0.body...
    names = {name: [*parts[:1], "0", *parts[2:]] if parts[0] == "backbones" else parts for name, parts in names.items()}
    net.load_state_dict({name: state[".".join(parts)] for name, parts in names.items()})
    return net


# %%
def gradients_of(net, x, gs):
    """Backward from random gradients at f1 to f6 -> one row for each F that the network has."""
    net.train()
    for parameter in net.parameters():
        parameter.data = parameter.data.astype(np.float64)
    losses = [sum_over(mul(f, g)) for f, g in zip(net.iterate(Tensor(x)), gs, strict=True)]
    sum(losses[1:], losses[0]).backward()
    return np.array([np.concatenate([p.grad.ravel() for p in f.parameters()]) for f in net.backbones])


# %%
def one_and_six(seed):
    rng = np.random.default_rng(seed)
    shared = EXTD(rng, **narrow_net)
    x = rng.normal(size=(2, 3, 256, 256))  # f6 has 2 x 2 cells
    gs = [rng.normal(size=(2, 8, s, s)) / s for s in (64, 32, 16, 8, 4, 2)]  # / s: about as long for each map
    return gradients_of(shared, x, gs)[0], gradients_of(copies_of(shared), x, gs)


# %% [markdown]
# Three seeds, each with its own weights, images and gradients:

# %%
seeds = range(lesson.amount(smoke=1, lesson=3, full=5))
both = [one_and_six(seed) for seed in seeds]  # (parameters,), (6, parameters)

# %%
lesson.claim(
    "EX-1",
    "six separate gradients add up to the shared one: largest difference, relative",
    [abs(six.sum(axis=0) - one).max() / abs(one).max() for one, six in both],
    below=1e-12,
    paper="",
    asserted=True,
)

# %%
axes = new_figure(6, 2.8).subplots()
for one, six in both:
    axes.plot(range(1, 7), np.linalg.norm(six, axis=1) / np.linalg.norm(one), "o-", color=BLUE)
axes.set(xlabel="pass", ylabel="of the shared gradient's length", ylim=(0, None), xticks=range(1, 7))
lesson.show(axes.figure, "passes", "How long the gradient of each pass is; a line a seed")

# %% [markdown]
# The first pass has most to say: it changes all six maps, the last only one. And the six lengths add up to more than
# 1, since the passes don't pull in the same direction.
#
# ## 5 One batch norm, six maps
#
# F's batch norms are shared, too. In training every pass is normalised by its own maps, so sharing does no harm. But
# a test uses running averages, and there is one set of them for six passes. A step of training moves it six times, by
# a tenth each time: `running = 0.9 * running + 0.1 * of this pass`. The last pass comes last.

# %%
guess = lesson.predict("After many steps, what share of the running averages is from the last pass?", 1 / 6)

# %%
shares = 0.9 ** np.arange(5, -1, -1.0)
shares /= shares.sum()
lesson.reveal(guess, shares[-1])
print("passes 1 to 6:", shares.round(3))

# %% [markdown]
# The smallest maps weigh most, and they are odd ones: on 2 x 2 cells, more than half of what a 3 x 3 kernel sees is
# padding. Watch two untrained EXTD-SSD-32 on drawn pictures, one as it is and one with six separate F's, whose batch
# norms are then separate, too. First in training mode, many times over, so that the averages settle (twice as often
# for the six, where a step moves each average only once); then in test mode. The numbers are the standard deviations
# of f1 to f6.

# %%
def spread_of_maps(net, training):
    net.train(training)
    with no_grad():
        return np.array([f.data.std() for f in net.iterate(Tensor(images))])


# %%
for shared in (True, False):
    net = EXTD(np.random.default_rng(0), "ssd", 32, shared=shared)
    in_training = [spread_of_maps(net, True) for _ in range(lesson.amount(2, 20, 40) * (1 if shared else 2))]
    print("one F" if shared else "six F's")
    print("  training:", in_training[-1].round(2))
    print("  test:    ", spread_of_maps(net, False).round(2))

# %% [markdown]
# In training all six are alike, and with averages of their own they nearly stay so in a test. With one F the mixture
# fits none of them, and each pass hands its error to the next, so that it grows. Our maps are of 40 to 2 cells a side
# and untrained; how bad it is in earnest depends on both. (The published weights were made this way and work.) But
# remember it when a shared network does well in training mode and badly in a test.
#
# ## 6 Work
#
# A parameter costs memory once. Work is another matter: a weight of a convolution is multiplied at every place of the
# output. The field counts **multiply-adds** (MAdds): one is a product and its sum. Norms, activations and biases are
# left out; they are few, which does not mean that they are quick (section 10).
#
# ## Exercise 17.4: how much work (about 7 lines)
#
# `layers`: rows as before, one after the other; `height`, `width` of the first one's input. Return three numbers: the
# multiply-adds, the height and the width of what comes out. A convolution works at the places of its **output**; how
# many there are along an axis you know from lesson 02: (size + 2 * padding - kernel) // stride + 1. A product with a
# zero of the padding counts like any other.

# %%
@lesson.exercise(check.multiply_adds, otherwise=solution.multiply_adds)
def multiply_adds(layers, height, width):
    raise NotImplementedError


# %% [markdown]
# Section 1's two ways first, on a map of 160 x 160. The ratio of work is that of the weights, since every weight is
# used at as many places. The ratio of times? (On one core from here on, so that times can be compared.)

# %%
guess = lesson.predict("The pair has 7.9 times less to multiply. By what factor is it faster?", 7.9)


# %%
def milliseconds(call):
    """Of the processor, the best of a few tries; the first is not timed, since it may compile."""
    times = []
    for _ in range(lesson.amount(2, 12, 30)):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1000 * min(times[1:])


# %%
set_num_threads(1)
maps = rng.normal(size=(1, 64, 160, 160)).astype(np.float32)
w3, d3, p1 = (rng.normal(size=s).astype(np.float32) for s in ((64, 64, 3, 3), (64, 1, 3, 3), (64, 64, 1, 1)))

# %%
taken = [milliseconds(lambda w=w, g=g: library_conv(maps, w, None, 1, len(w[0, 0]) // 2, 1, g))
         for w, g in ((w3, 1), (d3, 64), (p1, 1))]  # fmt: skip
work = [multiply_adds([conv(64, 64, k, groups=g)], 160, 160)[0] for k, g in ((3, 1), (3, 64), (1, 1))]

# %%
for name, ms, count in zip(("dense", "depthwise", "pointwise"), taken, work, strict=True):
    print(f"{name:10} {count / 1e6:6.0f} M multiply-adds in {ms:5.1f} ms: {count / ms / 1e6:5.1f} G a second")
lesson.reveal(guess, taken[0] / (taken[1] + taken[2]))

# %% [markdown]
# On the machine where this was written: between 2.4 and 2.8 times in several runs, not 7.9. A dense layer does a lot
# with every number that it fetches from memory, a depthwise one nine products and no more. And there is a trick for
# dense 3 x 3 layers that the library uses: it gets by with half of the products
# (`minidetect/kernels/conv_points.py`), and has nothing to offer to the pair. Work is not time, either.
#
# Now EXTD. The chain E, block 1, F, F, F, F, F, F, and on the way the sizes of the six maps; then each U at the size
# of the map that it makes, and each head where it stands.

# %%
def true_work(structure, width):
    """Multiply-adds of each part for one image of 640 x 640."""
    parts = extd_rows(structure, width)
    counts = {}
    counts["E, block 1"], *size = multiply_adds(parts["E"] + parts["block 1"], 640, 640)
    f = [row for name, rows in parts.items() if name.startswith("F") for row in rows]
    sizes = []
    for i in range(1, 7):
        counts[f"F, pass {i}"], *size = multiply_adds(f, *size)
        sizes.append(size)
    up = parts["U, five"][: len(parts["U, five"]) // 5]
    counts["U, five"] = sum(multiply_adds(up, *size)[0] for size in sizes[:5])  # f6 is where it begins
    heads = zip(parts["heads"], sizes * 2, strict=True)  # six for logits, six for deltas
    counts["heads"] = sum(multiply_adds([head], *size)[0] for head, size in heads)
    return counts


# %%
guess = lesson.predict("Of all multiply-adds of EXTD-FPN-32, which share is in the first pass of F?", 0.3)

# %%
counts = true_work("fpn", 32)
lesson.reveal(guess, counts["F, pass 1"] / sum(counts.values()))

# %%
for name, count in counts.items():
    print(f"{name:10} {count / 1e6:7.1f} M")
print(f"together   {sum(counts.values()) / 1e9:.3f} G; the library counts "
      f"{total(count_table(models['fpn', 32])).multiply_adds / 1e9:.3f}")  # fmt: skip

# %% [markdown]
# Each pass has a quarter of the work of the one before, for a quarter of the cells. So the six passes together cost
# 1 + 1/4 + 1/16 + ..., a third more than the first: sharing saves a factor of 6 in F's parameters, and nothing in work.
#
# But the paper says 4.52 G for this model, not 5.40. Where does that come from? Its published code counts by a walk
# over the **modules** in the order in which they are defined: E, block 1, F, the U's, the heads. It keeps one size of
# the map and halves it at each stride of 2. But F is defined once. What does your counter say if it takes everything
# as one long chain?

# %%
PAPER_G = {("fpn", 32): 4.52, ("fpn", 48): 6.67, ("fpn", 64): 11.2}
PAPER_G |= {("ssd", 32): 4.35, ("ssd", 48): 6.63, ("ssd", 64): 10.6}


def walk(structure, width):
    """Each module once, as if all stood one after the other."""
    return multiply_adds([row for rows in extd_rows(structure, width).values() for row in rows], 640, 640)[0]


# %%
true = {key: sum(true_work(*key).values()) / 1e9 for key in PAPER_G}
walked = {key: walk(*key) / 1e9 for key in PAPER_G}

# %%
for key, said in PAPER_G.items():
    print(f"{key[0]} {key[1]}: the paper {said:5.2f}   walk {walked[key]:6.3f}   true {true[key]:6.3f}")
    assert np.isclose(walked[key], module_walk(models[key]) / 1e9)
    assert np.isclose(true[key], total(count_table(models[key])).multiply_adds / 1e9)

# %%
s3fd = S3FD(np.random.default_rng(0))
s3fd_work = total(count_table(s3fd)).multiply_adds / 1e9
print(f"S3FD:   the paper 128      true {s3fd_work:.1f}, {s3fd_work / true['fpn', 32]:.1f} times EXTD-FPN-32's")

# %% [markdown]
# That is it, to the last digit given, but for one cell: SSD-48, where the paper's 6.63 looks like a slip for 6.32. So
# the column is wrong in two directions. Passes 2 to 6 of F are missing. And since the map stays at 160 x 160 after F,
# all five U's and all twelve heads are counted there, of which only the finest stand there. (Parameters are not
# affected: those are rightly counted once.) In sum the true work is 18 to 25 % more. For S3FD, which shares nothing,
# the paper's 128 G is right (128.5 by our count), so that its "28.3 times lighter" is 24 times in truth.

# %%
lesson.claim(
    "EX-18, walk",
    "the paper's multiply-adds come from a walk that meets F once: difference in G, FPN of width 32, 48, 64",
    [abs(walked["fpn", width] - PAPER_G["fpn", width]) for width in WIDEN],
    below=0.06,
    paper="4.52, 6.67, 11.2 G",
    asserted=True,
)

# %%
lesson.claim(
    "EX-18, true",
    "true multiply-adds over those of the paper's table, six models",
    [true[key] / PAPER_G[key] for key in PAPER_G],
    above=1.1,
    paper="4.52, 6.67, 11.2 (FPN), 4.35, 6.63, 10.6 (SSD) G",
    asserted=True,
)

# %%
def walked_parts(structure, width):
    """The walk's count, sorted into the parts of `true_work`."""
    counts, size = dict.fromkeys(true_work(structure, width), 0), (640, 640)
    for name, rows in extd_rows(structure, width).items():
        part = "E, block 1" if name in ("E", "block 1") else "F, pass 1" if name.startswith("F") else name
        count, *size = multiply_adds(rows, *size)
        counts[part] += count
    return counts


# %%
figure = new_figure(9, 3)
axes = figure.subplots()
for offset, (label, parts) in enumerate((("true", true_work("fpn", 32)), ("walk", walked_parts("fpn", 32)))):
    places = np.arange(len(parts)) + 0.4 * offset - 0.2
    axes.bar(places, [count / 1e9 for count in parts.values()], 0.38, color=(BLUE, ORANGE)[offset], label=label)
axes.set(xticks=range(len(parts)), ylabel="G multiply-adds", title="EXTD-FPN-32, 640 x 640")
axes.set_xticklabels(parts, rotation=20)
axes.legend()
lesson.show(figure, "work", "Where the work is, and where the walk over modules sees it")

# %% [markdown]
# ## 7 Memory
#
# The weights of EXTD-FPN-32 take a quarter of a megabyte, with 4 bytes each. What about the maps? In training, all
# outputs of all layers must be kept until the backward pass has used them. The library's `memory` runs through a model
# without computing anything and adds up the bytes of the maps, for one image of 640 x 640.

# %%
guess = lesson.predict("EXTD-FPN-32 is 357 times smaller than S3FD. Its maps: how many times less memory?", 20)

# %%
of_s3fd, of_extd = memory(s3fd), {width: memory(models["fpn", width]) for width in WIDEN}

# %%
print(f"S3FD: weights {of_s3fd.weights / 1e6:.1f} MB, maps in training {of_s3fd.training / 1e6:.0f} MB an image")
for width, used in of_extd.items():
    print(f"EXTD-FPN-{width}: weights {used.weights / 1e6:.2f} MB, maps {used.training / 1e6:.0f} MB")
print(f"in a test, at least: {of_s3fd.inference / 1e6:.0f} MB and {of_extd[32].inference / 1e6:.0f} MB (width 32)")
lesson.reveal(guess, of_s3fd.training / of_extd[32].training)

# %% [markdown]
# Not less at all: it keeps 2.2 times **more**. Every dense layer has become three, each with its batch norm and its
# activation, with maps of up to four times the width between them. And nearly all of F's first pass happens at
# 320 x 320 cells, sixteen of its eighteen convolutions, where S3FD has two. A test needs less: a map can be dropped as
# soon as nobody reads it any more. The least that it needs is room for what one layer reads and writes, at the layer
# where that is most; there EXTD-FPN-32 has half of S3FD's. What is 357 times smaller is the file.

# %%
lesson.claim(
    "EX-18, memory",
    "bytes of maps kept in training over those of S3FD, FPN of width 32, 48, 64",
    [used.training / of_s3fd.training for used in of_extd.values()],
    above=1.5,
    paper="no figure; says that S3FD needs hugely more memory (section 4.2)",
    asserted=True,
)

# %%
ratios = {
    "parameters": s3fd.num_parameters() / sizes["fpn", 32],
    "multiply-adds,\nthe paper's": 128 / PAPER_G["fpn", 32],
    "multiply-adds,\ntrue": s3fd_work / true["fpn", 32],
    "memory\nof maps": of_s3fd.training / of_extd[32].training,
}
figure = new_figure(7, 2.8)
axes = figure.subplots()
axes.barh(list(ratios), [ratio - 1 for ratio in ratios.values()], left=1, color=[ORANGE, "grey", BLUE, GREEN])
for i, ratio in enumerate(ratios.values()):
    axes.text(1.1 * max(ratio, 1), i, f"{ratio:.3g}", va="center")
axes.set(xscale="log", xlabel="S3FD over EXTD-FPN-32", xlim=(0.3, 1000))
axes.axvline(1, color="black", linewidth=0.8)
axes.invert_yaxis()
lesson.show(figure, "smaller", "How many times smaller is it? It depends on what you count. Left of 1: larger")

# %% [markdown]
# ## 8 What it sees
#
# f1 comes after one pass of F, f6 after six. How much of the image does a cell see? Exercise 2.5 followed two numbers
# through the layers: the **size** of what a cell sees, in pixels, and the **jump**, by how many pixels neighbouring
# cells are apart.
#
# ## Exercise 17.5: fields of view (about 7 lines)
#
# `start`, `body`: lists of rows; `passes`: how often `body` is run after `start`. Return a list with the pair (size,
# jump) after each pass, so `passes` pairs; the one after `start` is not asked for. Both are 1 for the image itself. A
# layer's own stride moves its cells apart, but does not widen what they see. Only convolutions count; adding x at the
# end of a block does not widen anything, for x sees less than what is added. And padding only moves a field.

# %%
@lesson.exercise(check.fields, otherwise=solution.fields)
def fields(start, body, passes):
    raise NotImplementedError


# %%
guess = lesson.predict("How many pixels does a cell of f6 see along each axis, in EXTD-SSD-32?", 640)

# %%
def body_of(width):
    """The rows of E with block 1, and of F."""
    parts = extd_rows("ssd", width)
    return parts["E"] + parts["block 1"], [row for name in parts if name.startswith("F") for row in parts[name]]


# %%
seen = fields(*body_of(32), 6)
print("width 32:", seen)
print("width 48:", fields(*body_of(48), 6))
lesson.reveal(guess, seen[-1][0])

# %% [markdown]
# At width 32 the second pass adds 48 pixels, the third 96, the fourth 192: the same kernels of 3, each time on a map
# twice as coarse. A head adds another 3 x 3 convolution. Beside the anchors:

# %%
at_heads = {f"EXTD-SSD-{width}": [size + 2 * jump for size, jump in fields(*body_of(width), 6)] for width in (32, 48)}
others = {"EXTD-FPN-32": models["fpn", 32], "S3FD": s3fd}
library_fields = {name: [field.of_head for field in receptive_fields(model)] for name, model in others.items()}

# %%
assert at_heads["EXTD-SSD-32"] == [field.of_head for field in receptive_fields(models["ssd", 32])]
for name, sizes_seen in (at_heads | library_fields).items():
    print(f"{name:12}", " ".join(f"{s:5} ({s / a:5.1f})" for s, a in zip(sizes_seen, s3fd.sides, strict=True)))

# %% [markdown]
# In brackets: how many anchors wide. In S3FD it is between 1.4 and 3.6, by design. EXTD-SSD-32 has 2.4 to 3.5,
# without any design: F does the same at every size. And in the FPN version all maps are made from f6, so that an
# anchor of 16 pixels is judged by 2,031 x 2,031 of them, more than the whole image. That the path upwards is worth
# having, the paper's tables show: 82.5 % on hard faces for FPN-32, 75.7 for SSD-32.

# %%
scene = draw_scene("faces_easy", 3, 12, size=(512, 512), num_faces=(1, 1), side=(66, 70))
cx, cy = (scene.boxes[0, :2] + scene.boxes[0, 2:]) / 2
figure = new_figure(9, 3.4)
for axes, i, anchor in zip(figure.subplots(1, 3), (0, 2, 3), (16, 64, 128), strict=True):
    sides = np.array([anchor, at_heads["EXTD-SSD-32"][i], library_fields["S3FD"][i]])[:, None] / 2
    squares = np.concatenate([[cx, cy] - sides, [cx, cy] + sides], axis=1)  # (3, 4)
    plot_boxes(scene.image, squares, colours=[ORANGE, BLUE, GREEN], ax=axes, title=f"anchor of {anchor}")
    axes.set(xlim=(0, 512), ylim=(512, 0))
lesson.show(figure, "fields", "Anchor (orange), what EXTD-SSD-32 (blue) and S3FD (green) see of 512 x 512 pixels")

# %% [markdown]
# Do these numbers hold? Ask the network: the gradient of one cell in the middle of f_i with respect to the image is
# zero wherever the cell does not look. (In test mode, as a new network of the library is. In training mode batch norm
# makes every cell depend on every pixel of the batch, through the mean.)

# %%
def seen_pixels(seed, i):
    """(256,): how strongly the rows of an image move a cell in the middle of f_i."""
    net = EXTD(np.random.default_rng(seed), "ssd", 32)
    x = Tensor(np.random.default_rng(seed).normal(size=(1, 3, 256, 256)).astype(np.float32), requires_grad=True)
    f = net.iterate(x)[i - 1]
    ask = np.zeros(f.shape, np.float32)
    ask[0, :, f.shape[2] // 2, f.shape[3] // 2] = 1
    f.backward(ask)
    return np.linalg.norm(x.grad[0], axis=(0, 2))


# %%
profiles = {i: [seen_pixels(seed, i) for seed in seeds] for i in (1, 2, 3)}
for i, rows in profiles.items():
    lesson.claim(
        f"17-a, f{i}",
        f"pixels along an axis that a cell of f{i} was seen to depend on, and your number: the difference",
        [abs(np.ptp(np.flatnonzero(row)) + 1 - seen[i - 1][0]) for row in rows],
        below=0.5,
        paper="",
        asserted=True,
    )

# %%
figure = new_figure(8, 2.6)
for axes, (i, rows) in zip(figure.subplots(1, 3), profiles.items(), strict=True):
    ends = np.flatnonzero(rows[0])[[0, -1]]
    part = rows[0][ends[0] : ends[1] + 1]
    axes.fill_between(np.arange(len(part)), part / part.max(), color=BLUE)
    axes.set(title=f"f{i}: {len(part)} rows", xlabel="row of the field", yticks=[])
lesson.show(figure, "profiles", "How strongly each row of its field moves a cell")

# %% [markdown]
# The field is all that **can** matter. What does matter is mostly its middle: a pixel there has many paths to the
# cell, one at the border a single path. That is why anchors should be much smaller than the field (S3FD's argument).
#
# ## 9 What ReLU does to a circle
#
# Table 2 of the paper has a surprise. EXTD-FPN-32 with PReLU reaches 82.5 % on WIDER FACE's hard faces, with leaky
# ReLU (a PReLU whose slope is fixed at 0.25) 82.4 %, with ReLU 64.2 %. At width 48 ReLU loses 2 points, at width 64
# one. Its guess (section 4.3): ReLU sets what is negative to zero, the maps become sparse, information is lost, and
# more so where there are few channels.
#
# But width is not the only thing that differs. In the published code, blocks of width 32 end with an activation,
# those of 48 and 64 do not. So only there does what goes from pass to pass, f_i, come out of an activation itself.
# Without any training it can be seen what that does.

# %%
guess = lesson.predict("ReLU, activated ends, random weights: what share of the numbers of f6 is exactly 0?", 0.9)


# %%
def maps_of(act, ends, seed):
    net = EXTD(np.random.default_rng(seed), "ssd", 32, act, activated_ends=ends)
    net.train()  # each pass normalised by its own maps
    with no_grad():
        return net, [f.data for f in net.iterate(Tensor(images))]


# %%
settings = [(act, ends) for act in ("relu", "prelu") for ends in (True, False)]
zeros = {key: np.array([[(f == 0).mean() for f in maps_of(*key, seed)[1]] for seed in seeds]) for key in settings}
lesson.reveal(guess, zeros["relu", True][0, -1])  # (seeds, 6)

# %%
words = {key: f"{key[0]}, {'activated' if key[1] else 'linear'} ends" for key in settings}
for key, share in zeros.items():
    print(f"{words[key]:22} zeros in f1 to f6:", share[0].round(3))

# %%
figure = new_figure(7, 3)
axes = figure.subplots()
for key, colour, marker in zip(settings, (ORANGE, GREEN, BLUE, "grey"), "o^sx", strict=True):
    lines = axes.plot(range(1, 7), zeros[key].T, color=colour, marker=marker, fillstyle="none")
    lines[0].set_label(words[key])
axes.legend()
axes.set(xlabel="pass", ylabel="share of exact zeros", ylim=(-0.05, 1), xticks=range(1, 7))
lesson.show(figure, "zeros", "Exact zeros in f1 to f6, no training; a line a seed. Three settings lie at 0")

# %% [markdown]
# Half of every map is zero, in every pass, and with PReLU or with linear ends nothing is. It is not surprising:
# after batch norm about half of the numbers are below zero. It does not get worse from pass to pass, either; the
# circle does not dry out.

# %%
lesson.claim(
    "EX-M1 probe",
    "ReLU, activated ends: the smallest share of exact zeros in any of f1 to f6",
    zeros["relu", True].min(axis=1),
    above=0.4,
    paper="ReLU makes the maps too sparse (a conjecture, no figure)",
    asserted=True,
)

# %%
rest = [key for key in settings if key != ("relu", True)]
lesson.claim(
    "EX-M1 probe, others",
    "PReLU or linear ends: the largest share of exact zeros in any of f1 to f6",
    np.max([zeros[key].max(axis=1) for key in rest], axis=0),
    below=0.01,
    paper="PReLU and leaky ReLU lose less information (a conjecture, no figure)",
    asserted=True,
)

# %% [markdown]
# There is a second effect, one that is easy to miss. In a block that adds x, what is added has been through the
# activation. After a ReLU it cannot be negative: the block can raise a number and never lower it. Follow f1 through
# the second pass, through the five blocks of F that add:

# %%
def lowered(act, ends, seed):
    """Of all numbers that a block of F adds something to, the share that becomes smaller."""
    net, maps = maps_of(act, ends, seed)
    f, shares = Tensor(maps[0]), []
    with no_grad():
        for block in net.backbones[0].layers:
            y = block(f)
            shares += [(y.data < f.data).mean()] if block.skip else []
            f = y
    return np.mean(shares)


# %%
for key in settings:
    print(f"{words[key]:22} numbers that a block lowers: {lowered(*key, seed=0):.3f}")

# %% [markdown]
# So with ReLU and activated ends neither the map nor what is added to it is ever negative: a number that a block has
# made too large stays too large to the end of the pass. With linear ends ReLU still works inside of the blocks, and
# what goes from block to block is spared. That is where the paper's numbers break: 18 points lost at width 32, whose
# ends are activated, 2 and 1 at widths 48 and 64, whose ends are linear (in the SSD version 13, 3 and 3). Whether it is
# the width, as the paper says, or the ends, its table cannot tell, since both change at once, and F has six blocks at
# width 32 and four at the others. What this probe shows is a mechanism, not its effect on accuracy: for that one has
# to train (lesson 18).
#
# ## 10 Making it quick
#
# After training, batch norm is a scale s and a shift with fixed numbers, and these can be put into the convolution
# before it: `s * (conv(x, w) + b) + shift` is `conv(x, s * w) + (s * b + shift)`, with an s for each filter. The
# activation can be applied to a sum before it is stored. What is left of the block are three convolutions, and the
# library's `fuse` runs them strip by strip, so that the wide maps inside never go to memory as a whole. No product is
# saved: it is the same work.

# %%
block = InvertedResidual(32, 32, 4, np.random.default_rng(0))
fused = fuse(block)
block_maps = Tensor(rng.normal(size=(1, 32, 160, 160)).astype(np.float32))
with no_grad():
    print("largest difference:", abs(fused(block_maps).data - block(block_maps).data).max())

# %%
guess = lesson.predict("Layer by layer, the block takes how many times as long as fused?", 1.3)

# %%
gains = []
with no_grad():
    for _ in range(lesson.amount(1, 3, 3)):
        slow, fast = milliseconds(lambda: block(block_maps)), milliseconds(lambda: fused(block_maps))
        gains.append(slow / fast)
        print(f"layer by layer {slow:.1f} ms, fused {fast:.1f} ms")
lesson.reveal(guess, np.median(gains))

# %%
lesson.claim(
    "17-b",
    "a block of t = 4 on 160 x 160 cells, layer by layer over fused: ratio of times, three tries",
    gains,
    above=1.5,
    paper="no figure",
)

# %% [markdown]
# 2.3 to 2.9 times, on the machine where this was written, for the same products. Small networks are made of layers
# that do little with each number, so what they wait for is memory. It is the same reason for which the pair of
# section 6 was less quick than its count.
#
# ## What you can do now
#
# - take a convolution apart, and say what the pieces cannot do that the whole could;
# - write an inverted residual, and know when x is added;
# - count parameters and multiply-adds by hand, and read a paper's table with suspicion: ask what was counted how
#   often;
# - derive the gradient of a weight that is used many times, and know what shared batch norms do in a test;
# - keep four things apart that "small" may mean: the file, the work, the memory, the time.
#
# In the library: `minidetect/nn/blocks.py` and `fuse.py`; `minidetect/models/extd.py` is the detector, `counting.py`
# and `receptive_fields.py` in the same folder count it; `benchmarks/extd_counts.py` prints all eighteen models. Next:
# 18, which trains it.

# %%
lesson.finish()
