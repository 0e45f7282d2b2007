# %% [markdown]
# # 02 Convolution, five ways to see it
#
# **Question:** what is a convolutional layer, and what is its gradient?
#
# **Papers:** R-CNN, sections 2.1 and 3.1. **Time:** 20 s.
# **Before:** 01, where gradients come from.
#
# **You build:** a convolution and its backward pass, groups, a calculator of receptive fields, the backward passes of
# max pooling and of PReLU.
# **You may skip:** exercises 2.4 and 2.7.
#
# Every network in the papers begins with convolutions, and nearly all of its arithmetic is in them. The operation can
# be seen as a sliding template, as seven loops, as a matrix product, as a sum of shifted pictures and as one large,
# mostly empty matrix. All five give the same numbers, and each makes something else easy to see.

# %%
import numpy as np
from solutions import lesson_02 as solution

from minidetect.autograd import Tensor
from minidetect.checks import lesson_02 as check
from minidetect.data.synthetic import draw_patches
from minidetect.kernels.conv import conv2d_backward as library_conv_backward
from minidetect.kernels.conv import conv2d_forward as library_conv
from minidetect.kernels.pool import max_pool_forward
from minidetect.ops import activation, conv, pool
from minidetect.teach import Lesson
from minidetect.visualize import COLOURS, new_figure

lesson = Lesson("02", "Convolution, five ways to see it")
BLUE, ORANGE = COLOURS[6], COLOURS[5]

# %% [markdown]
# ## 1 A template that slides
#
# Cut a small piece out of a picture, lay it on the picture at every place, multiply what lies on top of each other
# and add up. Where the picture looks like the piece, the sum is large. With the picture `x` (H, W) and the piece, the
# **kernel** `w` (KH, KW):
#
#     y[i, j] = sum over u, v of  w[u, v] * x[i + u, j + v]
#
# i and j are the row and column of a place, where the kernel's upper left corner lies; u and v are a row and column of
# the kernel. The kernel fits in at H - KH + 1 places from top to bottom and W - KW + 1 from left to right.

# %%
def slide(x, w):
    height, width = x.shape[0] - w.shape[0] + 1, x.shape[1] - w.shape[1] + 1
    y = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            y[i, j] = (w * x[i : i + w.shape[0], j : j + w.shape[1]]).sum()
    return y


# %% [markdown]
# Here is a drawn face, in grey, and its left eye (as you see it) as the template. The mean is taken off the template,
# so that its numbers sum to zero: then a bright, even wall gives 0 like a dark, even wall.

# %%
faces, _ = draw_patches(5, 64, seed=0, classes=("human",), background=0.0)  # (5, 64, 64, 3) uint8
face = faces[4].mean(axis=2) / 255  # (64, 64), 0 to 1
eye = face[29:37, 17:28] - face[29:37, 17:28].mean()  # (8, 11)

# %%
figure = new_figure(7, 3.5)
left, right = figure.subplots(1, 2)
left.imshow(face, cmap="gray")
left.set(xticks=range(0, 64, 8), yticks=range(0, 64, 8))
left.grid(alpha=0.4)
right.imshow(eye, cmap="gray")
lesson.show(figure, "template", "The face, with a line every 8 pixels, and the template, enlarged")

# %% [markdown]
# The best match will be where the template was cut out. What comes second?

# %%
guess = lesson.predict("The second-best match lies how many pixels to the right of the best?", 5)

# %%
matches = slide(face, eye)  # (57, 54)
row, column = np.unravel_index(matches.argmax(), matches.shape)
others = matches.copy()
others[row - 4 : row + 5, column - 4 : column + 5] = 0  # strike out the best and what is close to it
second = np.unravel_index(others.argmax(), others.shape)
print(f"best at row {row}, column {column}; second at row {second[0]}, column {second[1]}")
hair = matches[25, 41]  # a place on the edge of the hair
print(f"parts of the best: second {others.max() / matches.max():.2f}, hair {hair / matches.max():.2f}")
lesson.reveal(guess, second[1] - column)

# %% [markdown]
# The other eye, in the same row: 14 pixels are the distance of the eyes. This is a detector already, of one kind of
# eye, at one size, and it is easily fooled: the edge of the hair gets 0.69 of the best answer, not much less than the
# other eye with its 0.78. A large contrast makes a large sum, whatever its shape: in the first panel below, the edges
# of the hair shine beside the eyes. Smaller kernels look for simpler things.

# %%
across = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4  # brighter on the right?
filters = {"brighter to the right": across, "brighter below": across.T, "mean of 5 x 5": np.full((5, 5), 0.04)}

# %%
figure = new_figure(10, 3.1)
pictures = {"left eye": matches} | {name: slide(face, w) for name, w in filters.items()}
for axes, (name, picture) in zip(figure.subplots(1, 4), pictures.items(), strict=True):
    axes.imshow(picture, cmap="gray")
    axes.set(title=name, xticks=[], yticks=[])
lesson.show(figure, "filters", "The face under four kernels: black is low, white is high")

# %% [markdown]
# In mathematics this is called cross-correlation, and a convolution would turn the kernel by half a turn first (both
# its rows and its columns in reverse). Networks learn their kernels, so it makes no difference to them, and the field
# calls it convolution all the same.
#
# ## 2 Where a kernel may stand: stride, padding, dilation
#
# Three numbers change the places. Each holds for both axes, rows and columns; here is one axis.
#
# - **Stride** S: go on by S pixels, not by one. Fewer outputs.
# - **Padding** P: lay P zeros around the picture first, so that the kernel may hang over the border. More outputs.
# - **Dilation** D: leave gaps in the kernel; its taps (the single weights) are D pixels apart. A wider view, for no
#   more weights.
#
# Output i then reads, through its tap u, the pixel i * S - P + u * D, both counted from 0. Each panel below shows one
# row of input pixels (bottom) and which of them each output (top) reads. Grey pixels are padding. The two colours of
# the lines only tell neighbours apart.

# %%
def draw_places(axes, size, kernel, stride, padding, dilation):
    first_taps = range(-padding, size + padding - dilation * (kernel - 1), stride)
    for i, first in enumerate(first_taps):
        axes.scatter(first + dilation * (kernel - 1) / 2, 1, color=ORANGE, zorder=2)
        for u in range(kernel):
            ends = [first + dilation * (kernel - 1) / 2, first + u * dilation]
            axes.plot(ends, [1, 0], color=ORANGE if i % 2 else BLUE, linewidth=1)
    pixels = np.arange(-padding, size + padding)
    inside = (pixels >= 0) & (pixels < size)
    axes.scatter(pixels, 0 * pixels, c=["black" if real else "lightgrey" for real in inside], marker="s", zorder=2)
    axes.set_title(f"stride {stride}, padding {padding}, dilation {dilation}: {len(first_taps)} outputs", fontsize=8)
    axes.set(xlim=(-1.7, size + 0.7), ylim=(-0.3, 1.3))
    axes.set_axis_off()


# %%
figure = new_figure(9, 3.2)
for axes, settings in zip(figure.subplots(2, 2).ravel(), [(1, 0, 1), (2, 0, 1), (1, 1, 1), (1, 0, 2)], strict=True):
    draw_places(axes, 8, 3, *settings)
lesson.show(figure, "places", "A kernel of 3 over 8 pixels")

# %% [markdown]
# With stride 2 the last pixel is read by nobody: another step would not fit. That is not an error; the size is
# rounded down.
#
# ## Exercise 2.1: how many outputs (about 2 lines)
#
# `size`, `kernel`, `stride`, `padding`, `dilation`, all whole numbers: return the number of outputs along the axis, as
# an `int` (arrays are made of that size below). The kernel fits in at least once. Two questions lead to the answer:
# over how many pixels does the kernel reach, from its first tap to its last? And how far can it move from its first
# place?

# %%
@lesson.exercise(check.output_size, otherwise=solution.output_size)
def output_size(size, kernel, stride, padding, dilation):
    raise NotImplementedError


# %% [markdown]
# R-CNN's network, the one that Krizhevsky and others won ImageNet with in 2012, takes 227 x 227 pixels. Its first layer
# has kernels of 11 x 11 at stride 4, without padding.

# %%
guess = lesson.predict("How many outputs has it along each axis?", 57)

# %%
lesson.reveal(guess, output_size(227, 11, 4, 0, 1))

# %% [markdown]
# ## 3 Seven loops
#
# A layer is more than one template. Its input has several **channels** (three of a colour photo, dozens later on), it
# has several kernels, here called filters, and it is given several images at once. The letters, for all lessons:
#
#     x (N, C, H, W)     N images of C channels
#     w (O, C, KH, KW)   O filters; each has a kernel for each channel
#     b (O,)             a bias, a number that is added, one a filter
#     y (N, O, PH, PW)   O maps an image, each of PH rows and PW columns; exercise 2.1 says how many
#
#     y[n, o, i, j] = b[o] + sum over c, u, v of  w[o, c, u, v] * x[n, c, i*S - P + u, j*S - P + v]
#
# S and P are the stride and padding of section 2 (the P of PH and PW is not that P); the dilation is 1. A pixel outside
# of the image counts as 0. Seven indices take part, and so there are seven loops: n, o, i, j choose the output, c, u, v
# are summed over. The inner three may be one `sum` over a patch, as in `slide`.
#
# ## Exercise 2.2: the layer (about 10 lines)
#
# `x`, `w`, `b` as above, `stride` and `padding`: return `y`, in float64, as NumPy makes it by itself. Padding first
# leaves fewer cases (`np.pad` can do it; pad rows and columns, not images and channels). Neither the image nor the
# kernel needs to be square, and the bias is added once, not once a channel.

# %%
@lesson.exercise(check.conv2d, otherwise=solution.conv2d)
def conv2d(x, w, b, stride, padding):
    raise NotImplementedError


# %% [markdown]
# The library's function must say the same. It also takes a dilation and a number of groups, of which more below.

# %%
rng = np.random.default_rng(2)
x, w, b = rng.normal(size=(2, 3, 11, 14)), rng.normal(size=(4, 3, 3, 2)), rng.normal(size=4)
y = conv2d(x, w, b, 2, 1)  # (2, 4, 6, 8)
assert y.shape == (2, 4, output_size(11, 3, 2, 1, 1), output_size(14, 2, 2, 1, 1))
print("largest difference:", abs(y - library_conv(x, w, b, 2, 1, 1, 1)).max())

# %% [markdown]
# ## 4 One matrix product
#
# An output is a sum of products: the dot product of a filter and a patch, both read as plain lists of C * KH * KW
# numbers. So write down all patches, one a row, and the whole layer becomes one matrix product. The first half has a
# name, **im2col**, "image to columns": many programs write the patches down as columns, not as rows.

# %%
def im2col(x, kernel_h, kernel_w):
    """x (C, H, W) -> (PH * PW, C * KH * KW), stride 1, no padding."""
    rows, columns = x.shape[1] - kernel_h + 1, x.shape[2] - kernel_w + 1
    patches = [x[:, i : i + kernel_h, j : j + kernel_w].ravel() for i in range(rows) for j in range(columns)]
    return np.array(patches)


# %%
numbered = np.arange(1.0, 21).reshape(1, 4, 5)  # C = 1: the pixels 1 to 20
matrix = im2col(numbered, 3, 3)  # (6, 9)

# %%
def write_numbers(axes, table, title, top):
    axes.imshow(table, cmap="viridis", vmin=0, vmax=top)
    for (i, j), value in np.ndenumerate(table):
        axes.text(j, i, f"{value:.0f}", ha="center", va="center", color="white", fontsize=8)
    axes.set(title=title, xticks=[], yticks=[])


figure = new_figure(8, 3)
left, right = figure.subplots(1, 2, width_ratios=[5, 9])
write_numbers(left, numbered[0], "a picture of 4 x 5 pixels", 30)
write_numbers(right, matrix, "its 2 x 3 patches of 3 x 3, one a row", 30)
lesson.show(figure, "im2col", "im2col: the pixel 8 is written down six times")

# %%
guess = lesson.predict("How many times as large as a 64 x 64 picture is its matrix of 3 x 3 patches?", 3)

# %%
lesson.reveal(guess, im2col(face[None], 3, 3).size / face.size)

# %% [markdown]
# Nearly nine times: away from the border each pixel lies in nine patches. That is the price. What it buys: matrix
# products are the most carefully tuned programs there are, and lesson 03 measures what that is worth.

# %%
patches = im2col(x[0], 3, 2)  # (9 * 13, 3 * 3 * 2)
product = patches @ w.reshape(4, -1).T + b  # (117, 18) @ (18, 4) -> (117, 4)
as_maps = product.T.reshape(1, 4, 9, 13)
assert np.allclose(as_maps, conv2d(x[:1], w, b, 1, 0))

# %% [markdown]
# ## 5 A sum of shifted pictures
#
# Change the order of the loops: u and v outside, the pixels inside. For one tap (u, v) the inner loops multiply a
# whole picture, shifted by u and v, by one number. So a layer adds up shifted copies of its input. (In the cell below
# `np.einsum` multiplies the weights o, c with the pixels n, c, i, j and sums over c, the letter missing on the right.)

# %%
def conv_by_shifts(x, w, b):
    """Stride 1, no padding."""
    rows, columns = x.shape[2] - w.shape[2] + 1, x.shape[3] - w.shape[3] + 1
    y = np.zeros((len(x), len(w), rows, columns)) + b[:, None, None]
    for u, v in np.ndindex(w.shape[2:]):
        shifted = x[:, :, u : u + rows, v : v + columns]  # (N, C, PH, PW)
        y += np.einsum("oc,ncij->noij", w[:, :, u, v], shifted)
    return y


assert np.allclose(conv_by_shifts(x, w, b), conv2d(x, w, b, 1, 0))

# %% [markdown]
# With a picture one can watch it. The kernel here has one row of five taps, -1, 0, 0, 0, 1: brighter four pixels to the
# right?

# %%
figure = new_figure(9, 2.6)
terms = {"shifted left, times 1": face[:, 4:], "unshifted, times -1": -face[:, :-4]}
terms["sum"] = sum(terms.values())
for axes, (name, picture) in zip(figure.subplots(1, 3), terms.items(), strict=True):
    axes.imshow(picture, cmap="gray")
    axes.set(title=name, xticks=[], yticks=[])
lesson.show(figure, "shifts", "Two taps, four pixels apart: what stays the same cancels, edges remain")

# %% [markdown]
# ## 6 The gradient
#
# In lesson 01 a program found its derivatives. At its end there is one number, the loss L. Each operation is told
# `gy`, how much L changes with each of its outputs, and must tell how much L changes with each of its inputs. `gy` has
# the shape of `y`; `gx` has the shape of `x`, `gw` of `w`, `gb` of `b`.
#
# Look at a single product, `w[o, c, u, v] * x[n, c, p, q]`, which was added to `y[n, o, i, j]` (so p = i*S - P + u and
# q = j*S - P + v). If the pixel grows by a little, the output grows by `w` times as much, and L by `gy * w` times as
# much. If the weight grows, L grows by `gy * x` times as much. Now collect, since a pixel takes part in many products
# and a weight in even more:
#
#     gx[n, c, p, q]   sums  gy * w  over all outputs that read this pixel
#     gw[o, c, u, v]   sums  gy * x  over all images and all places, since all use the same weight
#     gb[o]            sums  gy      over all images and all places
#
# Nobody has to work out which outputs read a pixel. Run the forward loops again, and wherever they read `x` and `w` to
# make an output, add that output's share to `gx` and `gw`.
#
# ## Exercise 2.3: the backward pass (about 11 lines)
#
# `gy` (N, O, PH, PW), `x`, `w`, `stride`, `padding`: return `gx, gw, gb`. Add, never assign: each pixel hears from
# several outputs. With padding, work on a padded copy and cut the frame off at the end, since nobody asks for the
# gradient of the zeros in it. (Without padding there is no frame, and a slice `p:-p` with p = 0 is empty.)

# %%
@lesson.exercise(check.conv2d_backward, otherwise=solution.conv2d_backward)
def conv2d_backward(gy, x, w, stride, padding):
    raise NotImplementedError


# %%
gy = rng.normal(size=y.shape)
gx, gw, gb = conv2d_backward(gy, x, w, 2, 1)
library_gx, library_gw = library_conv_backward(gy, x, w, 2, 1, 1, 1)
print("largest differences:", abs(gx - library_gx).max(), abs(gw - library_gw).max())

# %% [markdown]
# Two programs may share a mistake; the definition of a derivative does not. Move one weight by a little, both ways, and
# see how the loss moves. The loss here is `(gy * y).sum()`: its derivative with respect to `y` is `gy`.

# %%
step = np.zeros_like(w)
step[1, 2, 0, 1] = 1e-5
change = conv2d(x, w + step, b, 2, 1) - conv2d(x, w - step, b, 2, 1)
print("by moving the weight", (gy * change).sum() / 2e-5, "by the backward pass", gw[1, 2, 0, 1])

# %% [markdown]
# ## 7 What it is good for: learning a filter
#
# Somebody has put a picture through a 3 x 3 filter, and all you have is the picture and the result. Begin with zeros
# and walk downhill: subtract `gw` times a small number, the **rate**, again and again. L is half the mean square of the
# error, so `gy` is the error divided by the number of outputs. The picture is first shifted to mean 0 and scaled to
# standard deviation 1, so that one rate means the same for all pictures.

# %%
def learn_filter(picture, steps, rate):
    """picture (H, W) -> the largest error of a weight after each step; the filter to find is `across`."""
    x = picture[None, None] - picture.mean()
    x, w, b = x / x.std(), np.zeros((1, 1, 3, 3)), np.zeros(1)
    target = conv2d(x, across[None, None], b, 1, 0)
    errors = []
    for _ in range(steps):
        error = conv2d(x, w, b, 1, 0) - target
        w = w - rate * conv2d_backward(error / error.size, x, w, 1, 0)[1]  # [1]: of gx, gw, gb
        errors.append(abs(w - across).max())
    return np.array(errors)


# %% [markdown]
# Try it on noise first, where each pixel is drawn by itself, then on a piece of the face.

# %%
guess = lesson.predict("After how many steps are all nine weights right to 0.01, on noise?", 200)

# %%
steps = lesson.amount(smoke=20, lesson=100, full=400)
on_noise = learn_filter(np.random.default_rng(7).normal(size=(20, 20)), steps, 0.5)
lesson.reveal(guess, np.argmax(on_noise < 0.01) + 1)

# %%
guess = lesson.predict(f"How large is the largest error on the face after {steps} steps?", 0.01)

# %%
on_face = learn_filter(face[24:44, 14:34], steps, 0.1)
lesson.reveal(guess, on_face[-1])

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
axes.semilogy(on_noise, color=BLUE, label="noise, steps of 0.5")
axes.semilogy(on_face, color=ORANGE, label="face, steps of 0.1")
axes.set(xlabel="step", ylabel="largest error of a weight")
axes.legend()
lesson.show(figure, "learning", "The same filter, learned from noise and from a face")

# %% [markdown]
# On noise every step roughly halves the error. On the face it is a crawl: its neighbouring pixels are nearly equal, so
# a weight can be traded for its neighbour and the result hardly changes. As a function of the weights, the loss is a
# long, flat valley. And the steps must be small, or they overshoot across the valley: at a rate of 0.5 the weights
# explode (try it). Much of what follows in these lessons, momentum, normalisation, good initial weights, is about such
# valleys.
#
# ## 8 One large matrix
#
# The fifth view. Without its bias a layer is linear in `x`: twice the picture gives twice the result, and the sum of
# two pictures the sum of their results. Any linear map is a matrix. Write the picture as a list of H * W numbers and
# the result as a list of PH * PW, and there is a matrix A with `y = A x`. To get A, send in a picture with a single 1:
# what comes out is the column of that pixel.

# %%
height, width = 6, 7
kernel = np.arange(1.0, 10).reshape(1, 1, 3, 3)
A = np.empty((4 * 5, height * width))  # (PH * PW, H * W) = (20, 42)
for k in range(height * width):
    pixel = np.zeros(height * width)
    pixel[k] = 1
    A[:, k] = conv2d(pixel.reshape(1, 1, height, width), kernel, np.zeros(1), 1, 0).ravel()

# %%
guess = lesson.predict("Which share of this matrix is not zero?", 0.5)

# %%
lesson.reveal(guess, (A != 0).mean())

# %%
figure = new_figure(8, 4)
axes = figure.subplots()
shown = axes.imshow(np.where(A != 0, A, np.nan), cmap="viridis")
figure.colorbar(shown, label="weight", shrink=0.7)
axes.set(xlabel="pixel of x, in reading order", ylabel="output", yticks=range(0, 20, 5))
lesson.show(figure, "matrix", "A 3 x 3 convolution of a 6 x 7 picture as a matrix of 20 x 42; white is zero")

# %% [markdown]
# Nine of 42 weights in every row, in the same order, one pixel further on than in the row above (three, where a new
# line of the picture begins). That is all that sets a convolution apart from a layer whose matrix may be anything, a
# *fully connected* one: most of the matrix is zero (an output sees its surroundings only), and the rest is the same
# nine numbers over and over (it does the same everywhere).
#
# And the gradient? If `y = A x`, a pixel's column says what it gave to each output, so L changes with it by the column
# times `gy`, summed: `gx = A.T @ gy`. **The input gradient is the same matrix, transposed.**

# %%
small_gy = rng.normal(size=(1, 1, 4, 5))
small_gx = conv2d_backward(small_gy, np.zeros((1, 1, height, width)), kernel, 1, 0)[0]
assert np.allclose(A.T @ small_gy.ravel(), small_gx.ravel())

# %% [markdown]
# Your loops multiply by `A.T` and never write it down. Seen from the other side, the transposed matrix makes a large
# picture out of a small one, and is used for that as a layer of its own, the "transposed convolution".
#
# It also gives a very sharp test, the **adjoint** test (adjoint: another word for transposed). For any matrix and any
# `x` and `y`, `<A x, y> = <x, A.T y>`, where `<a, b>` is the sum of all products `a * b`. Both sides are sums of the
# same products in another order, so they agree to the last of sixteen digits or so. A finite difference has perhaps
# nine or ten right, for one number at a time; here a single wrong border pixel among thousands shows. What it cannot
# show is a mistake that forward and backward share: it tests that they fit each other.

# %%
def adjoint_gap(seed):
    """How far <conv(x), y> and <x, conv_T(y)> are apart, in parts of the lengths of conv(x) and y."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(2, 3, 9, 8)), rng.normal(size=(4, 3, 3, 2))
    forward = conv2d(x, w, np.zeros(4), 2, 1)
    y = rng.normal(size=forward.shape)
    back = conv2d_backward(y, x, w, 2, 1)[0]
    return abs((forward * y).sum() - (x * back).sum()) / (np.linalg.norm(forward) * np.linalg.norm(y))


lesson.claim(
    "02-a",
    "the input gradient is the transposed convolution",
    [adjoint_gap(seed) for seed in range(3)],
    below=1e-12,
    paper="",
    asserted=True,
)

# %% [markdown]
# `minidetect.autograd.gradcheck.check_adjoint` does this for every linear operation of the library.
#
# ## 9 Wider for nothing, and thinner
#
# **Dilation** needs no new code. A kernel with gaps is a larger kernel in which the gaps are zeros. With D = 2, the
# 3 x 2 kernels of `w` become 5 x 3: 2 * (3 - 1) + 1 rows and 2 * (2 - 1) + 1 columns.

# %%
wide = np.zeros((4, 3, 5, 3))
wide[:, :, ::2, ::2] = w
assert np.allclose(conv2d(x, wide, b, 1, 0), library_conv(x, w, b, 1, 0, 2, 1))

# %% [markdown]
# **Groups** cut the channels into G packs of C/G, and the filters into G packs of O/G. The filters of a pack see the
# channels of the same pack and no others, so `w` is (O, C/G, KH, KW): a G-th of the weights and of the work. With
# G = C = O every channel has one filter to itself: a **depthwise** convolution. Below, a square is blue where a filter
# reads a channel.

# %%
figure = new_figure(8, 2.6)
for axes, groups in zip(figure.subplots(1, 3), (1, 2, 8), strict=True):
    reads = np.kron(np.eye(groups), np.ones((8 // groups, 8 // groups)))
    axes.pcolormesh(reads, cmap="Blues", vmin=0, vmax=1.6, edgecolors="white")
    axes.set(title=f"groups = {groups}", xlabel="channel", aspect="equal", xticks=[], yticks=[])
    axes.set_ylabel("filter")
    axes.invert_yaxis()
lesson.show(figure, "groups", "Eight channels, eight filters: dense, two groups, depthwise")

# %% [markdown]
# ## Exercise 2.4: groups (about 6 lines)
#
# `x` (N, C, H, W), `w` (O, C/G, KH, KW), `b` (O,), `groups` (G, which divides C and O): return `y` (N, O, PH, PW), at
# stride 1 and without padding. Use `conv2d`. The first O/G filters read the first C/G channels, and so on, in order.
# O and C may differ.

# %%
@lesson.exercise(check.grouped_conv2d, otherwise=solution.grouped_conv2d)
def grouped_conv2d(x, w, b, groups):
    raise NotImplementedError


# %%
many = rng.normal(size=(1, 6, 7, 5))
thin = rng.normal(size=(6, 1, 3, 3))  # depthwise: one kernel a channel
assert np.allclose(grouped_conv2d(many, thin, np.zeros(6), 6), library_conv(many, thin, None, 1, 0, 1, 6))

# %% [markdown]
# A depthwise layer mixes no channels, so a dense 1 x 1 layer usually follows that does nothing else. Together they
# stand in for one dense 3 x 3 layer; lesson 17 builds networks from the pair.

# %%
guess = lesson.predict("64 channels in, 64 out: dense 3 x 3 has how many times the weights of the pair?", 2)

# %%
lesson.reveal(guess, (64 * 64 * 9) / (64 * 9 + 64 * 64))

# %% [markdown]
# ## 10 What one output sees
#
# An output of one 3 x 3 layer sees 3 x 3 pixels. On top of a second such layer it sees 3 x 3 outputs of the first,
# which see 5 x 5 pixels between them. The **receptive field** of an output is the square of pixels that can change it.
# Two numbers follow it through the layers:
#
# - its **size** in pixels; 1 for the input itself;
# - the **jump**: how many pixels two neighbouring outputs are apart, or rather what they see; 1 for the input itself,
#   and every stride multiplies it.
#
# ## Exercise 2.5: the receptive field (about 5 lines)
#
# `layers`: a list of `(kernel, stride, dilation)`, the one at the picture first. Return `size, jump` after the last.
# A layer's taps lie on outputs of the layer below, which are how many pixels apart? Does its own stride change what it
# sees?

# %%
@lesson.exercise(check.receptive_field, otherwise=solution.receptive_field)
def receptive_field(layers):
    raise NotImplementedError


# %% [markdown]
# R-CNN takes its features from "pool5", and says how much of the 227 x 227 pixels one of its units sees. The layers up
# to there, as (kernel, stride, dilation); pooling is included, since a pooling window is a kernel as far as this is
# concerned. The padding is not needed: it moves what an output sees, and does not make it larger.

# %%
krizhevsky = [(11, 4, 1), (3, 2, 1), (5, 1, 1), (3, 2, 1), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 1)]
guess = lesson.predict("How many pixels wide is the field of a unit in pool5?", 50)

# %%
size, jump = receptive_field(krizhevsky)
lesson.reveal(guess, size)
print("neighbours in pool5 are", jump, "pixels apart")

# %% [markdown]
# 195 pixels, at a stride of 32: the two figures that R-CNN gives. That was its authors' reason not to slide a window
# over the map: a unit sees almost everything, in steps so large that it cannot say where it saw it.
#
# A formula can be measured. Put a gradient of 1 on one output and 0 on all others, and run the backward pass: pixels
# that get a gradient can change that output, the others cannot. The weights are positive here, so that nothing
# cancels. The first network has five 3 x 3 layers, the second four with a stride and a dilation among them.

# %%
def pixel_gradients(layers, seed, side):
    """|d(middle output) / d(pixel)|, (side, side), through minidetect's Tensor."""
    rng = np.random.default_rng(seed)
    x = Tensor(np.zeros((1, 2, side, side)), requires_grad=True)
    y = x
    for kernel, stride, dilation in layers:
        y = conv.conv2d(y, Tensor(rng.uniform(0.5, 1, (2, 2, kernel, kernel))), stride=stride, dilation=dilation)
    gradient = np.zeros(y.shape)
    gradient[0, 0, y.shape[2] // 2, y.shape[3] // 2] = 1
    y.backward(gradient)
    return abs(x.grad[0]).sum(axis=0)


# %%
plain, mixed = [(3, 1, 1)] * 5, [(3, 1, 1), (2, 2, 1), (3, 1, 1), (3, 1, 2)]
fields = [pixel_gradients(layers, 0, 32) for layers in (plain, mixed)]

# %%
figure = new_figure(7, 3.5)
for axes, seen, layers in zip(figure.subplots(1, 2), fields, (plain, mixed), strict=True):
    axes.imshow(np.where(seen > 0, seen, np.nan), cmap="viridis")
    axes.set(title=f"{len(layers)} layers, by formula {receptive_field(layers)[0]} pixels", xticks=[], yticks=[])
lesson.show(figure, "field", "Pixels that one output sees, coloured by how much they count; white: not at all")

# %% [markdown]
# The claim holds the formula against the measured width for three networks drawn at random.

# %%
def field_gap(seed):
    rng = np.random.default_rng(seed)
    layers = rng.integers([1, 1, 1], [5, 3, 4], (4, 3)).tolist()  # four layers of kernel, stride, dilation
    columns = np.flatnonzero(pixel_gradients(layers, seed, 120).any(axis=0))
    measured, formula = columns[-1] - columns[0] + 1, receptive_field(layers)[0]
    print(f"{layers}: measured {measured}, by formula {formula}")
    return abs(measured - formula)


lesson.claim(
    "02-b",
    "the measured receptive field is as wide as the formula says",
    [field_gap(seed) for seed in range(3)],
    below=0.5,
    paper="195 pixels for pool5, which the formula gives exactly",
    asserted=True,
)

# %% [markdown]
# The left picture shows something else: the field has a bright middle and a dark rim. Pixels in the middle reach the
# output along many paths, a corner along one. (On the right, the gaps of the dilated layer leave the very middle fewer
# paths than four places around it.)

# %%
guess = lesson.predict("Five 3 x 3 layers: which share of the gradient is in the middle 5 x 5 of 11 x 11?", 0.2)

# %%
seen = fields[0]
row, column = (int(np.flatnonzero(seen.any(axis=axis)).mean()) for axis in (1, 0))
lesson.reveal(guess, seen[row - 2 : row + 3, column - 2 : column + 3].sum() / seen.sum())

# %% [markdown]
# A fifth of the area has more than two thirds of the influence. The formula tells what an output can see, not what it
# looks at.
#
# ## 11 Max pooling, and its switches
#
# Between convolutions, networks often keep only the largest value of each k x k window. That makes maps smaller, and a
# feature may move a little without changing the result. The backward pass needs to know **which** pixel won, so the
# forward pass leaves a note: the winner's place in reading order, row * W + column. R-CNN's successors call these
# notes switches.

# %%
def max_pool(x, kernel, stride):
    """x (N, C, H, W) -> y, switches (N, C, PH, PW)."""
    sizes = [output_size(n, kernel, stride, 0, 1) for n in x.shape[2:]]
    y, switches = np.empty((*x.shape[:2], *sizes)), np.empty((*x.shape[:2], *sizes), int)
    for n, c, i, j in np.ndindex(y.shape):
        window = x[n, c, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
        u, v = np.unravel_index(window.argmax(), window.shape)
        y[n, c, i, j] = window[u, v]
        switches[n, c, i, j] = (i * stride + u) * x.shape[3] + j * stride + v
    return y, switches


# %%
maps = rng.normal(size=(1, 3, 7, 9))
y, switches = max_pool(maps, 3, 2)  # (1, 3, 3, 4)
library_y, library_switches = max_pool_forward(maps, 3, 2, 0, False)
assert np.array_equal(y, library_y) and np.array_equal(switches, library_switches)

# %% [markdown]
# Near x, the output is the winner itself: if the winner grows by a little, so does the output, and the others do not
# matter. So the whole gradient goes to the winner.
#
# ## Exercise 2.6: back through the switches (about 5 lines)
#
# `gy` and `switches` (N, C, PH, PW), `height`, `width` of the input: return `gx` (N, C, height, width). A switch is a
# place within its own image and channel. Where windows overlap, a pixel may win several: it gets the sum of their
# gradients. There is a trap in NumPy here: `a[places] += values` adds only once to a place that is named twice
# (`np.add.at`, or a loop, adds each time).

# %%
@lesson.exercise(check.max_pool_backward, otherwise=solution.max_pool_backward)
def max_pool_backward(gy, switches, height, width):
    raise NotImplementedError


# %%
ones = np.ones(y.shape)
routed = max_pool_backward(ones, switches, 7, 9)  # (1, 3, 7, 9)
print("gradient in", ones.sum(), "gradient out", routed.sum(), "most for one pixel", routed.max())

# %%
figure = new_figure(8, 3)
left, right = figure.subplots(1, 2)
left.imshow(maps[0, 0], cmap="gray")
winners = np.divmod(switches[0, 0].ravel(), 9)
left.scatter(winners[1], winners[0], color=ORANGE)
write_numbers(right, routed[0, 0], "gradient of each pixel, of 1 for each window", 4)
left.set(title="winners of 3 x 3 windows at stride 2", xticks=[], yticks=[])
lesson.show(figure, "switches", "Twelve windows, fewer winners: some pixels won more than once")

# %%
guess = lesson.predict("2 x 2 windows, stride 2: which share of the pixels gets a gradient?", 0.5)

# %%
_, pairs = max_pool(maps[:, :, :6, :8], 2, 2)  # (1, 3, 3, 4)
lesson.reveal(guess, (max_pool_backward(np.ones(pairs.shape), pairs, 6, 8) > 0).mean())

# %% [markdown]
# A quarter, always: one of four. The rest of the map hears nothing in this step.
#
# ## 12 PReLU: a slope that is learned
#
# Without something between them that is not linear, two convolutions would be one (a product of two matrices is a
# matrix). The usual something is max(x, 0), called **ReLU**, a rectified linear unit. **PReLU**, P for "parametric",
# keeps a part of the negative side, and the part is learned, one `slope` a channel:
#
#     y = x where x > 0, else slope[c] * x
#
# Seen as a function of x, its derivative is 1 or slope[c]. Seen as a function of the slope, it is 0 or x. The slope is
# shared by a whole channel of all images, so, like a weight, it sums what it hears from all of them.
#
# ## Exercise 2.7: PReLU backward (about 3 lines)
#
# `gy` and `x` (N, C, H, W), `slope` (C,), of either sign: return `gx` like `x` and the slope's gradient (C,). No entry
# of `x` is 0.

# %%
@lesson.exercise(check.prelu_backward, otherwise=solution.prelu_backward)
def prelu_backward(gy, x, slope):
    raise NotImplementedError


# %%
def prelu(x, slope):
    return np.where(x > 0, x, slope[:, None, None] * x)


line = np.linspace(-2, 2, 101).reshape(1, 1, 1, 101)
figure = new_figure(5, 2.8)
axes = figure.subplots()
for colour, a in ((BLUE, 0.0), (ORANGE, 0.25), (COLOURS[2], 0.7)):
    axes.plot(line.ravel(), prelu(line, np.array([a])).ravel(), color=colour, label=f"slope {a}")
axes.set(xlabel="x", ylabel="y")
axes.legend()
lesson.show(figure, "prelu", "PReLU with three slopes; slope 0 is ReLU")

# %% [markdown]
# A small thing to learn with it: there is a slope that makes PReLU the absolute value |x|. Which one? Walk downhill
# from 0.25 and see. Two channels, each with its own slope; L is half the mean square error of a channel.

# %%
guess = lesson.predict("Which slope does it find?", 0)

# %%
slope, samples = np.full(2, 0.25), rng.normal(size=(4, 2, 5, 5))
for _ in range(100):
    error = prelu(samples, slope) - abs(samples)
    slope = slope - 0.5 * prelu_backward(error / samples[:, 0].size, samples, slope)[1]
lesson.reveal(guess, slope[0])

# %% [markdown]
# ## 13 All together
#
# A layer of a real network: convolution, PReLU, max pooling. Backward is the three backward passes in the opposite
# order, each fed with what the one above returns.

# %%
w, b, slope = rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4), np.array([0.1, 0.2, 0.3, 0.4])
hidden = conv2d(x, w, b, 1, 1)  # (2, 4, 11, 14)
y, switches = max_pool(prelu(hidden, slope), 3, 2)  # (2, 4, 5, 6)
gy = rng.normal(size=y.shape)

# %%
pooled = max_pool_backward(gy, switches, 11, 14)
activated, gslope = prelu_backward(pooled, hidden, slope)
gx, gw, gb = conv2d_backward(activated, x, w, 1, 1)

# %% [markdown]
# The same with minidetect's `Tensor`, which calls its own backward functions by itself:

# %%
inputs = {"x": x, "w": w, "b": b, "slope": slope}
t = {name: Tensor(value, requires_grad=True) for name, value in inputs.items()}
pool.max_pool2d(activation.prelu(conv.conv2d(t["x"], t["w"], t["b"], padding=1), t["slope"]), 3, 2).backward(gy)

# %%
for name, mine in zip(inputs, (gx, gw, gb, gslope), strict=True):
    print(f"gradient of {name}: shape {mine.shape}, largest difference {abs(mine - t[name].grad).max():.1e}")
    assert np.allclose(mine, t[name].grad)

# %% [markdown]
# ## What you can do now
#
# - say the size of a layer's output, and what one of its outputs sees;
# - write a convolution in five ways, and choose the one in which a question is easy;
# - derive its gradients from a single product, and test them to the last digits by the adjoint;
# - say what groups, dilation, pooling and PReLU change, forward and backward.
#
# In the library: `minidetect/ops/conv.py`, `pool.py` and `activation.py` keep the books, `minidetect/kernels/conv.py`
# has the loops, and the slow twins you can trust are in `minidetect/reference/nn_ops.py`. Next: 03, the same loops
# thousands of times as fast.

# %%
lesson.finish()
