# %% [markdown]
# # 01 Autograd in one screen
#
# **Question:** how can a program know its own derivative?
#
# **Papers:** none; all of them rest on it. **Time:** 20 s.
# **Before:** 00 (how a lesson works). What a derivative is, and the chain rule.
#
# **You build:** a class of numbers that remember where they came from, the walk back through them, and the check that
# every gradient in these lessons has to pass.
# **You may skip:** section 6 until lesson 04; nothing else.
#
# Every network here is trained by the same step: ask how the loss would change if each parameter grew a little, and
# move each the other way. This lesson builds the part that answers the question.

# %%
import time

import numpy as np
from solutions import lesson_01 as solution

from minidetect.autograd import Tensor
from minidetect.autograd.gradcheck import GradientError, gradcheck
from minidetect.autograd.graph import Node, draw_graph, trace_graph
from minidetect.checks import lesson_01 as check
from minidetect.data.images import load_image
from minidetect.data.synthetic import DrawnScenes
from minidetect.ops.activation import Softmax, relu, softmax
from minidetect.ops.elementwise import unbroadcast as library_unbroadcast
from minidetect.teach import Lesson
from minidetect.visualize import COLOURS, new_figure

lesson = Lesson("01", "Autograd in one screen")
BLUE, ORANGE = COLOURS[6], COLOURS[5]

# %% [markdown]
# ## 1 A slope, measured
#
# The smallest loss worth having: a prediction `w * x + b` misses zero by an error, and the error is squared.

# %%
def loss_of(w, x, b):
    error = w * x + b
    return error * error


# %%
guess = lesson.predict("At w = 3, x = 2, b = -4 the loss is 4. By how much does it rise if w becomes 3.01?", 0.01)

# %%
lesson.reveal(guess, loss_of(3.01, 2, -4) - loss_of(3, 2, -4))

# %% [markdown]
# About 8 times the step: the slope of the loss in w is 8. By hand: d(error²)/dw = 2 · error · x = 2 · 2 · 2.
#
# A slope can always be measured like this. Two things are wrong with it. It takes one more run of the program for each
# parameter, and the small networks of the FaceCraft paper have half a million. And it is inexact: a long step sees
# the curve bend, a short one drowns in rounding. Here is the slope of exp at 1, from both sides,
# (exp(1 + h) - exp(1 - h)) / 2h, against the true one.

# %%
guess = lesson.predict("Which h is best with float64 numbers? 10 to the power of ...", -12)

# %%
powers = np.arange(-12, 0.0, 0.5)
errors = {}
for kind in (np.float64, np.float32):
    one, h = kind(1), (10**powers).astype(kind)
    slope = (np.exp(one + h) - np.exp(one - h)) / (2 * h)
    errors[kind] = abs(slope / np.exp(1.0) - 1)
lesson.reveal(guess, powers[errors[np.float64].argmin()])

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
for kind, colour in ((np.float64, BLUE), (np.float32, ORANGE)):
    axes.loglog(10**powers, errors[kind] + 1e-17, "o-", color=colour, label=kind.__name__)
axes.set(xlabel="h", ylabel="relative error", ylim=(1e-12, 10))
axes.legend()
lesson.show(figure, "step", "A long step sees the bend, a short one the rounding, which is far coarser in float32")

# %% [markdown]
# The bend's share of the error is about h² / 6, the rounding's about 1e-16 / h; h is best about where they cross,
# between 1e-6 and 1e-5. With float32, which rounds at 1e-7, it is near 3e-3, and five or six digits are all one gets.
# So measured slopes are slow, and exact only if you are careful. They will be our judge at the end (section 7), not
# our method.
#
# ## 2 Each operation knows its own rule
#
# The method: a program is a chain of small operations, and each of them knows a rule. Write g for the derivative of
# the *final* result with respect to an operation's output: "if this output grew by one small unit, the loss would
# grow by g of them". The rule turns g into the same for the operation's inputs. For a sum z = x + y it is plain: a
# step of x is a step of z, so x gets g, and so does y.
#
# ## Exercise 1.1: backward of a product (about 1 line)
#
# z = x · y. `g`, `x`, `y` are numbers, g = d(loss)/dz. Return two: d(loss)/dx, d(loss)/dy. (The same line should work
# for arrays of one shape, element by element; section 6 needs that.)

# %%
@lesson.exercise(check.multiply_backward, otherwise=solution.multiply_backward)
def multiply_backward(g, x, y):
    raise NotImplementedError


# %% [markdown]
# ## Exercise 1.2: backward of the larger one (about 3 lines)
#
# z = max(x, y). `g`, `x`, `y` are numbers; return d(loss)/dx and d(loss)/dy as before. Only the larger input matters
# for a small step, however little it is larger. At a tie, x == y, there is no derivative; the usual ways out are to
# pick one of the two or to share, and we share: each gets half.

# %%
@lesson.exercise(check.maximum_backward, otherwise=solution.maximum_backward)
def maximum_backward(g, x, y):
    raise NotImplementedError


# %% [markdown]
# Now a number that remembers where it came from: its value, the inputs it was computed from, and the rule that turns
# its `grad` (the g of above) into theirs. A number typed in by hand has no inputs and an empty rule.

# %%
class Record:
    def __init__(self, data, inputs=(), rule=lambda g: ()):
        self.data, self.inputs, self.rule = data, inputs, rule
        self.grad = 0.0  # d(loss)/d(this), as far as it is known


# %%
def add(x, y):
    return Record(x.data + y.data, (x, y), lambda g: (g, g))


def multiply(x, y):
    return Record(x.data * y.data, (x, y), lambda g: multiply_backward(g, x.data, y.data))


# %% [markdown]
# The loss of section 1 with these. `error` is used twice, and that is the point of the example. Here is the graph that
# the records make. The library draws it, from tensors of its own: a `Tensor` is its record (section 6), and
# `requires_grad=True` says that we want its gradient. The next cell is only about drawing.

# %%
def picture_of(graph):
    file = lesson.out / "01_drawn.png"
    draw_graph(graph, file)
    picture = load_image(file)  # (H, W, 3)
    file.unlink()
    return picture


# %%
w, x, b = (Tensor(v, requires_grad=True, name=name) for name, v in (("w", 3.0), ("x", 2.0), ("b", -4.0)))
graph = picture_of(loss_of(w, x, b))
caption = "What was computed from what: a box is a value (a scalar is one number), a rounded box an operation"
lesson.show(graph, "forward", caption)


# %%
def make():
    w, x, b = Record(3.0), Record(2.0), Record(-4.0)
    product = multiply(w, x)
    error = add(product, b)
    loss = multiply(error, error)
    return w, x, b, product, error, loss


w, x, b, product, error, loss = make()
print("loss", loss.data, " its rule for g = 1:", loss.rule(1.0))

# %% [markdown]
# The rule gives two numbers, 2 for the left factor and 2 for the right, and both factors are `error`. A step of error
# changes the loss through both, so its derivative is the sum, 4. This is all of the chain rule for many variables:
# **what arrives from several uses is added**.
#
# ## 3 Three ways to do it wrong
#
# The rest is to visit every value and apply its rule. It is worth seeing the three ways in which that fails, since
# each of them gives a number and no error message. (The third needs an engine and comes in section 4.)
#
# **The first: assign instead of adding.** Walk from the loss back to the inputs and store what each rule says.

# %%
guess = lesson.predict("The slope in w is 8. What comes out if the gradients are assigned, not added?", 8)

# %%
loss.grad = 1.0  # d(loss)/d(loss)
for node in (loss, error, product):
    for source, g in zip(node.inputs, node.rule(node.grad), strict=True):
        source.grad = g  # wrong: should be +=
lesson.reveal(guess, w.grad)

# %% [markdown]
# Half: the second use of `error` overwrote the first. As long as nothing is used twice, the mistake does not show.
#
# **The second: walk by recursion.** It seems natural: apply my rule, hand each input its share, go on with that input.

# %%
def backward_by_recursion(node):
    for source, g in zip(node.inputs, node.rule(node.grad), strict=True):
        source.grad += g
        backward_by_recursion(source)


w, x, b, product, error, loss = make()
loss.grad = 1.0
backward_by_recursion(loss)
print("w", w.grad, "instead of 8;  b", b.grad, "instead of 4")

# %% [markdown]
# `error` was visited twice. The first time it had 2 and sent 2 on; the second time it had 4 and sent 4 on, though 2 of
# those were sent before. b is wrong by a factor of 1.5, w, one step farther away, by 2: not even the *direction* of
# the step would be right. It gets worse with depth. Double a number ten times, each time by adding it to itself:

# %%
def doubled(times):
    start = end = Record(1.0)
    for _ in range(times):
        end = add(end, end)
    end.grad = 1.0
    return start, end


# %%
guess = lesson.predict("Ten doublings: the slope is 1024. Recursion finds a number how many times as large?", 2)

# %%
start, end = doubled(10)
backward_by_recursion(end)
lesson.reveal(guess, start.grad / 1024)
factors = []
for times in range(11):
    start, end = doubled(times)
    backward_by_recursion(end)
    factors.append(start.grad / 2**times)

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
axes.semilogy(factors, "o-", color=ORANGE)
axes.axhline(1, color="grey", linestyle=":")
axes.set(xlabel="number of doublings", ylabel="gradient by recursion / slope")
lesson.show(figure, "recursion", "How many times too large: recursion, from a chain of doublings")

# %% [markdown]
# Three hundred million times. Could each visit send on only what is new? Then the sum comes out right, but every path
# from the loss to an input is walked on its own: ten doublings have 1024 paths, and 2047 visits to 11 values.
#
# What is needed: visit each value **once, after everything that uses it**. In other words, list the values so that
# each comes after its inputs, and walk the list from the end. Such a list is a **topological order**.
#
# ## Exercise 1.3: a topological order (about 10 lines)
#
# `root`: a node; `node.inputs` is a tuple of nodes, possibly empty, possibly with the same node twice. Return a list
# of all nodes that root was computed from and root itself, each once, each after its inputs. Mostly there are several
# such orders; any of them is right. Compare nodes by identity (`id(node)`, or a set of them). Two traps. A node that
# you meet for the first time cannot go to the list yet: its inputs come first. And a recursive solution is the
# natural one and passes all but the last case, a chain of 5000 nodes, where Python runs out of calls within calls:
# keep an ordinary list of what is still to do instead. Do not walk every path either, there is a graph of forty
# doublings.

# %%
@lesson.exercise(check.topological_order, otherwise=solution.topological_order)
def topological_order(root):
    raise NotImplementedError


# %%
w, x, b, product, error, loss = make()
print("values in order:", [node.data for node in topological_order(loss)])

# %% [markdown]
# ## 4 The whole engine, on one screen
#
# The record from above with Python's own signs for plus and times (`x + y` calls `x.__add__(y)`), a maximum, and the
# walk back. `op` is a name for the picture, nothing more.

# %%
class Value:
    def __init__(self, data, inputs=(), rule=lambda g: (), op=""):
        self.data, self.inputs, self.rule, self.op, self.grad = data, inputs, rule, op, 0.0

    def __add__(self, y):
        return Value(self.data + y.data, (self, y), lambda g: (g, g), "Add")

    def __mul__(self, y):
        return Value(self.data * y.data, (self, y), lambda g: multiply_backward(g, self.data, y.data), "Mul")

    def maximum(self, y):
        return Value(max(self.data, y.data), (self, y), lambda g: maximum_backward(g, self.data, y.data), "Max")

    def backward(self):
        self.grad = 1.0
        for node in reversed(topological_order(self)):
            for source, g in zip(node.inputs, node.rule(node.grad), strict=True):
                source.grad += g


# %%
w, x, b = Value(3.0), Value(2.0), Value(-4.0)
loss = loss_of(w, x, b)  # the function of section 1, unchanged
loss.backward()
print("slopes in w, x, b:", w.grad, x.grad, b.grad)

# %% [markdown]
# `loss_of` was written for numbers and knows nothing of derivatives. That is the trick of the whole subject: the
# operations record themselves while the program runs, so loops and conditions need no treatment of their own.
#
# The picture again, now with gradients. The library draws its own tensors, so turn each `Value` into one of its nodes
# (for the picture only; you need not read the cell).

# %%
def nodes_of(root, names):
    nodes = {}
    for value in topological_order(root):
        tensor = Tensor(np.float64(value.data), requires_grad=True, name=names.get(value, ""))
        tensor.grad = np.float64(value.grad).reshape(())
        inputs = [nodes[source] for source in value.inputs]
        nodes[value] = Node(tensor, value.op, inputs, 1 + max((n.layer for n in inputs), default=-1))
    return list(nodes.values())


# %%
graph = picture_of(nodes_of(loss, {w: "w", x: "x", b: "b"}))
lesson.show(graph, "graph", "The loss of section 1: values, and gradients after backward")

# %% [markdown]
# Read it from the right: the loss has gradient 1; both edges into the last `Mul` come from the error, whose gradient
# is 2 + 2; the sum hands its 4 to both inputs; and the product gives w 4 times x, which is 8, and x 4 times w, 12.
#
# Does the engine agree with measured slopes, for a program with a maximum in it as well?

# %%
def program(w, x, b):
    return (w * x + b).maximum(w) * x + w


# %%
def measured_slopes(numbers, h=1e-6):
    moves = h * np.eye(len(numbers))
    ends = [[program(*map(Value, numbers + sign * move)).data for sign in (1, -1)] for move in moves]
    return [(right - left) / (2 * h) for right, left in ends]


# %%
numbers = np.array([3.0, 2.0, -4.0])
leaves = [Value(v) for v in numbers]
program(*leaves).backward()
print("engine  ", np.array([leaf.grad for leaf in leaves]))
print("measured", np.round(measured_slopes(numbers), 6))

# %% [markdown]
# They agree. b has no influence: here w is larger than w · x + b, so the maximum passes nothing on to the other side.
#
# **The third way to do it wrong: call backward twice.** A training loop adds up gradients over several losses, so
# `+=` into the inputs is wanted. But what if the same graph is walked a second time? Take a chain: x + 0 + 0 + ...,
# ten sums. Its slope is 1, so two walks should leave 2.

# %%
guess = lesson.predict("Two calls of backward on a chain of ten sums leave which gradient at its beginning?", 2)

# %%
chain = [Value(1.0)]
for _ in range(10):
    chain.append(chain[-1] + Value(0.0))
walks = []
for _ in range(3):
    chain[-1].backward()
    walks.append([value.grad for value in chain])
lesson.reveal(guess, walks[1][0])

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
for number, gradients_left in enumerate(walks, start=1):
    axes.plot(gradients_left, "o-", color=COLOURS[number + 3], label=f"after walk {number}")
axes.set(xlabel="place in the chain", ylabel="gradient left there", yscale="log")
axes.legend()
lesson.show(figure, "twice", "Gradients along a chain of slope 1, after one, two and three walks over the same graph")

# %% [markdown]
# The values *in between* kept their gradients from the first walk. The second walk starts with 1 at the end, finds
# 1 + 1 one step before, sends those 2 on to find 1 + 2 before that, and so on: 11 after ten sums, 66 after a third
# walk. The library's answer is to forget the graph after one walk and to refuse a second:

# %%
t = Tensor([3.0], requires_grad=True)
result = t * t
result.backward()
try:
    result.backward()
except RuntimeError as error_message:
    print(error_message)

# %% [markdown]
# ## 5 It learns
#
# A program that knows its slopes can improve itself. Task: how high is a head, given the distance of its eyes? Take a
# line, w · distance + b, fitted to the drawn faces of lesson 00. Lengths are in units of ten pixels, and of the
# distances their mean is subtracted: then b is the mean height, and the same step size suits both parameters.

# %%
def eyes_and_heads(seed):
    distances, heights = [], []
    for scene in DrawnScenes("faces_easy", 12, seed):
        eyes = scene.landmarks[:, 1] - scene.landmarks[:, 0]  # (G, 2): from the left eye to the right one
        distances.extend(np.hypot(*eyes.T) / 10)
        heights.extend((scene.boxes[:, 3] - scene.boxes[:, 1]) / 10)
    return np.array(distances) - np.mean(distances), np.array(heights)


# %% [markdown]
# The loss is the mean of the squared errors. A step of training: build the graph, walk it back, move each parameter
# against its gradient, by `rate` times as much. This is **gradient descent**. The parameters then become *new*
# values, with gradient 0; a library that keeps them must set the gradients to zero instead, or the next step would
# add to them.

# %%
def fit(distances, heights, steps, rate=0.3):
    w, b, losses = Value(0.0), Value(0.0), []
    for _ in range(steps):
        loss = Value(0.0)
        for distance, height in zip(distances, heights, strict=True):
            loss = loss + loss_of(w, Value(distance), b + Value(-height)) * Value(1 / len(heights))
        loss.backward()
        losses.append(loss.data)
        w, b = Value(w.data - rate * w.grad), Value(b.data - rate * b.grad)
    return w.data, b.data, losses


# %%
guess = lesson.predict("How many times as high as its eye distance is such a head?", 2)

# %%
steps = lesson.amount(smoke=20, lesson=100, full=300)
distances, heights = eyes_and_heads(seed=0)
start = time.perf_counter()
slope, mean, losses = fit(distances, heights, steps)
print(f"{steps} steps with {len(heights)} faces in {time.perf_counter() - start:.2f} s")
lesson.reveal(guess, slope)

# %%
figure = new_figure(8, 3)
left, right = figure.subplots(1, 2)
left.semilogy(losses, color=BLUE)
left.set(xlabel="step", ylabel="loss")
right.plot(10 * distances, 10 * heights, "o", color=BLUE)
right.plot(10 * distances, 10 * (slope * distances + mean), color=ORANGE)
right.set(xlabel="eye distance less its mean, pixels", ylabel="height of the head, pixels")
lesson.show(figure, "fit", f"The loss of {steps} steps, and the line they end with")

# %% [markdown]
# The eyes are drawn 0.32 of a head's height apart, so about 1 / 0.32 = 3.1 was to be expected. The loss stops falling
# at what no line can explain: turned heads have their eyes closer together. For a line the best answer is known
# without any steps (least squares), so we can say how far from it the engine ended, for three seeds.

# %%
def distance_to_least_squares(seed):
    distances, heights = eyes_and_heads(seed)
    best = np.polyfit(distances, heights, 1)  # slope, then mean
    return np.abs(fit(distances, heights, steps)[:2] - best).max()


# %%
lesson.claim(
    "01-a",
    "gradient descent with the scalar engine ends where least squares does: largest difference of w or b",
    [distance_to_least_squares(seed) for seed in range(3)],
    below=1e-3,
    paper="",
    asserted=True,
)

# %% [markdown]
# ## 6 From numbers to arrays
#
# One record for every number is too slow for pictures: Python would do nothing but keep records. So the library's
# `Tensor` holds an array, with one record for all its elements. The rules stay what they were; `multiply_backward`
# works on arrays too. One thing is new. NumPy stretches axes of length 1 and adds missing ones in front, so that
# (2, 3) plus (3,) works: the row is *used twice*. And what is used several times collects a sum.

# %%
row = np.array([10.0, 20.0, 30.0])  # (3,)
table = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # (2, 3)
print(table + row)

# %% [markdown]
# ## Exercise 1.4: un-broadcasting (about 3 lines)
#
# `g`: an array of the stretched shape. `shape`: the tuple of the input's own shape. Return the gradient of the input,
# an array of exactly that shape: sum over the axes that were added in front, and over those of length 1 (they stay,
# with length 1: `keepdims=True`). `g.sum(axis=...)` takes a tuple of axes; the empty tuple sums over none.

# %%
@lesson.exercise(check.unbroadcast, otherwise=solution.unbroadcast)
def unbroadcast(g, shape):
    raise NotImplementedError


# %%
rng = np.random.default_rng(0)
for shape in ((4,), (3, 1), (1, 4), (2, 3, 4), ()):
    g = rng.normal(size=(2, 3, 4))
    assert np.allclose(unbroadcast(g, shape), library_unbroadcast(g, shape))

# %%
row_tensor = Tensor(row, requires_grad=True)
(Tensor(table) * row_tensor).sum().backward()
print("library", row_tensor.grad, " by your functions", unbroadcast(multiply_backward(1.0, table, row)[1], (3,)))

# %% [markdown]
# A layer of a network in the library's tensors: `@` is the matrix product, `relu` is max(x, 0). There are 5 samples,
# each with 3 numbers in and 2 out. The graph is drawn with the length of each gradient, |grad|, the root of the sum of
# its squares; `retain_all=True` keeps also those in between, which are otherwise dropped.

# %%
inputs = Tensor(rng.normal(size=(5, 3)), name="inputs")
weight = Tensor(rng.normal(size=(3, 2)), requires_grad=True, name="weight")
bias = Tensor(np.array([-0.5, 0.3]), requires_grad=True, name="bias")
mean_of_squares = ((relu(inputs @ weight + bias) - 1.0) ** 2).mean()  # how far from 1

# %%
graph = trace_graph(mean_of_squares)  # before backward, which forgets the graph
mean_of_squares.backward(retain_all=True)
lesson.show(picture_of(graph), "layer", "A layer and a loss; yellow: parameters, grey: data, blue: computed")

# %% [markdown]
# On its way back the gradient shrinks at the relu: where its input was negative, nothing passes. That is your
# `maximum_backward` with 0 as the other input.
#
# Do your engine and the library's say the same? Test it on programs that nobody has thought out: take four numbers,
# and twelve times add or multiply two of those you have. Many are used several times. The function works with both
# classes, because both have `+` and `*`.

# %%
def random_program(leaves, seed):
    rng, made = np.random.default_rng(seed), list(leaves)
    for _ in range(12):
        i, j = rng.integers(len(made), size=2)
        made.append(made[i] + made[j] if rng.random() < 0.6 else made[i] * made[j])
    return made[-1] + made[-2] + made[-3]


# %%
def gradients(seed):
    numbers = np.random.default_rng(seed).uniform(-1.2, 1.2, 4)
    ours, wrong = [Value(v) for v in numbers], [Value(v) for v in numbers]
    theirs = [Tensor(v, requires_grad=True) for v in numbers]
    random_program(ours, seed).backward()
    random_program(theirs, seed).backward()
    end = random_program(wrong, seed)
    end.grad = 1.0
    backward_by_recursion(end)
    library = [0.0 if t.grad is None else t.grad.item() for t in theirs]  # None: the leaf was not used
    return np.array([v.grad for v in ours]), np.array(library), np.array([v.grad for v in wrong])


# %%
def largest_difference(seed):
    ours, theirs, _ = zip(*(gradients(100 * seed + i) for i in range(20)), strict=True)  # 20 programs a seed
    return np.abs(np.subtract(ours, theirs)).max() / np.abs(theirs).max()


# %%
lesson.claim(
    "01-b",
    "the engine on one screen against the library's, 20 random programs: largest difference, relative",
    [largest_difference(seed) for seed in range(3)],
    below=1e-12,
    paper="",
    asserted=True,
)

# %% [markdown]
# Not a digit differs (or only the last one, if your topological order adds in another sequence than the library's).
# And how often would recursion have gone wrong in these programs? Leaves that a program did not use are not counted.

# %%
def share_wrong(seed):
    ours, _, wrong = zip(*(gradients(100 * seed + i) for i in range(20)), strict=True)
    used = np.array(ours) != 0
    return (~np.isclose(ours, wrong))[used].mean()


# %%
lesson.claim(
    "01-c",
    "of these gradients, the share that recursion gets wrong",
    [share_wrong(seed) for seed in range(3)],
    above=0.5,
    paper="",
    asserted=True,
)

# %%
ours, _, wrong = (np.ravel(part) for part in zip(*(gradients(i) for i in range(100)), strict=True))
figure = new_figure(4.5, 4)
axes = figure.subplots()
axes.plot(ours, wrong, ".", color=ORANGE)
axes.plot([-40, 40], [-40, 40], color="grey", linestyle=":")
axes.set(xscale="symlog", yscale="symlog", xlabel="gradient", ylabel="gradient by recursion")
lesson.show(figure, "random", "100 random programs: on the dotted line recursion is right (axes logarithmic beyond ±1)")

# %% [markdown]
# ## 7 Trust nobody
#
# Sooner or later you write a backward of your own, and it will be wrong: a factor, a transposed axis, a sum over the
# wrong thing. Training often works all the same, only worse. So every backward is held against measured slopes.
#
# For arrays there would be one slope for each pair of an input's and an output's element. Nobody measures them all.
# Draw a random direction `d` of the input's shape and a random `g` of the output's shape, and compare one number with
# one number:
#
# sum(backward(g) · d)  against  the slope of sum(g · f(x + t · d)) in t, at t = 0.
#
# Why are they equal? Take sum(g · f(x)) as the loss: then g is what arrives at the output of f, and backward(g) holds
# the loss's slope in each element of x. A step t · d moves every element at once, each by t times its d, and for small
# steps the effects add up.
#
# ## Exercise 1.5: a slope along a direction (about 2 lines)
#
# `f`: a function from array to array. `x`, `direction`: arrays of the same shape; `g`: an array of the shape of f(x).
# `eps`: a number. Return the right-hand side, one number, by the central difference with the step eps, from
# x - eps · direction to x + eps · direction. Leave x as it is.

# %%
@lesson.exercise(check.slope_along, otherwise=solution.slope_along)
def slope_along(f, x, direction, g, eps):
    raise NotImplementedError


# %% [markdown]
# Why must g be random? Ones seem good enough. Softmax turns a row of numbers into shares that sum to 1. In the
# library an operation is a class with a `forward` and a `backward`, and `gy` is our g. Here is a softmax whose
# backward returns nothing but zeros.

# %%
class BrokenSoftmax(Softmax):
    def backward(self, gy):
        return (np.zeros_like(gy),)


# %%
x = rng.normal(size=(2, 5))
direction, g = rng.normal(size=x.shape), rng.normal(size=x.shape)
for name, upstream in (("ones", np.ones_like(x)), ("random", g)):
    t = Tensor(x, requires_grad=True)
    BrokenSoftmax(axis=1)(t).backward(upstream)
    truth = slope_along(lambda a: softmax(Tensor(a), axis=1).data, x, direction, upstream, 1e-5)
    print(f"g {name:6}  backward says {np.sum(t.grad * direction):.3f}, measured {truth:.3f}")

# %% [markdown]
# The sum of a softmax is always 1, so with g = ones its slope is 0, and zeros pass. (As for the direction: one that
# moves a single element tests the slope in that element only.) The library's `gradcheck` does what you did, draws
# both at random, and returns the relative error, or raises `GradientError`. It computes in float64 whatever it is
# given.

# %%
print(f"the library's: relative error {gradcheck(lambda t: softmax(t, axis=1), x, rng=rng):.1g}")
try:
    gradcheck(lambda t: BrokenSoftmax(axis=1)(t), x, rng=rng)
except GradientError as error_message:
    print(error_message)

# %% [markdown]
# One trap is left: **kinks**. relu(x) = max(x, 0) has slope 0 on the left of 0 and 1 on the right.

# %%
guess = lesson.predict("What does a central difference say is the slope of relu at exactly 0?", 0)

# %%
zero, one = np.zeros(1), np.ones(1)
lesson.reveal(guess, slope_along(lambda a: np.maximum(a, 0), zero, one, one, 1e-6))
leaf, t = Value(0.0), Tensor(zero, requires_grad=True)
leaf.maximum(Value(0.0)).backward()
relu(t).backward()
print("your maximum says", leaf.grad, " the library's relu says", t.grad[0])

# %% [markdown]
# One half, the mean of left and right, whatever the step. Your maximum agrees, since you share at a tie, and the
# library's relu says 0, which is as good: at a kink there is no derivative that either could miss. But beside the
# kink, nearer to it than the step, there is one, and it is the measured slope that is wrong:

# %%
points = np.linspace(-2e-6, 2e-6, 81)
measured = [slope_along(lambda a: np.maximum(a, 0), np.array([p]), one, one, 1e-6) for p in points]

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
axes.plot(points, measured, color=ORANGE, label="measured with a step of 1e-6")
axes.step(points, points > 0, color=BLUE, linestyle=":", where="pre", label="true")
axes.set(xlabel="x", ylabel="slope of relu")
axes.legend()
lesson.show(figure, "kink", "Within a step of the kink, the central difference is a ramp")

# %% [markdown]
# A check must not call that an error of the backward. So gradcheck looks whether the measured slope depends on the
# step or on the side; if it does, it moves the point a little and draws anew.

# %%
near = np.array([1e-9, 6e-7, -3e-7, 0.5])
print(f"gradcheck of relu at {near}: relative error {gradcheck(relu, near, rng=rng):.1g}")

# %% [markdown]
# Three rules to keep for every check of a gradient, in these lessons and elsewhere: random direction and random g;
# float64; never at zero, at a tie, or at anything else that is special, where a wrong rule can look right.

# %%
def error_of(backward, seed):
    rng = np.random.default_rng(seed)
    x, y, direction, g = rng.normal(size=(4, 3, 4))  # four arrays (3, 4)
    says = np.sum(backward(g, x, y)[0] * direction)
    truth = slope_along(lambda a: a * y, x, direction, g, 1e-5)
    return abs(says - truth) / max(abs(says), abs(truth))


# %%
lesson.claim(
    "01-d",
    "relative error of your product's backward, on arrays",
    [error_of(multiply_backward, seed) for seed in range(3)],
    below=1e-7,
    paper="",
    asserted=True,
)
print("with each its own factor:", [f"{error_of(lambda g, x, y: (g * x, g * y), seed):.2f}" for seed in range(3)])

# %% [markdown]
# Ten equal digits if it is right, not one for the usual mistake g · x, g · y. With such a check there is no "nearly
# right", which is why every operation of the library has to pass it.
#
# ## What you can do now
#
# - explain a gradient as rules applied once each, in reverse topological order, adding what arrives;
# - recognise the three failures: a use that was overwritten, a visit too many, a second walk;
# - sum a gradient back to the shape of a broadcast input;
# - check any backward by one random direction and one random g, and keep away from kinks.
#
# In the library: `minidetect/autograd/tensor.py` (the same engine for arrays), `gradcheck.py`, `graph.py`; the rules
# are in `minidetect/ops`. Next: 02, where the operation is a convolution.

# %%
lesson.finish()
