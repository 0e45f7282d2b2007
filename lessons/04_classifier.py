# %% [markdown]
# # 04 Learning a patch classifier
#
# **Question:** can 12 x 12 pixels say "face"?
#
# **Papers:** FaceCraft, sections 4.1 and 4.2. **Time:** 90 s.
# **Before:** 01 (what a gradient is, `Tensor`) and 02 (what a convolution does).
#
# **You build:** cross entropy and its gradient, a step of gradient descent with momentum, batch normalisation forward
# and backward, and the correction of a probability for a world in which faces are rare.
# **You may skip:** exercises 4.4 and 4.5 (section 9), which the rest does not need.
#
# This is the lesson about training itself: what to check before it starts, what to look at while it runs, and what a
# loss that does not fall is telling you.

# %%
import numpy as np
from solutions import lesson_04 as solution

from minidetect.autograd import Function, Tensor, no_grad
from minidetect.autograd.gradcheck import GradientError, gradcheck
from minidetect.checks import lesson_04 as check
from minidetect.data.synthetic import draw_patches
from minidetect.data.synthetic.sprites import HARD_NEGATIVES
from minidetect.detection.losses import cross_entropy as library_cross_entropy
from minidetect.models.cascade import ConvStack, ProposalNet
from minidetect.models.facecraft import TABLES
from minidetect.nn.layers import Conv2d, Linear
from minidetect.nn.module import Module
from minidetect.nn.normalize import BatchNorm2d
from minidetect.nn.optim import SGD, scheduled_lr
from minidetect.ops.activation import relu, softmax
from minidetect.ops.dropout import dropout
from minidetect.ops.pool import max_pool2d
from minidetect.ops.shape import flatten
from minidetect.teach import Lesson
from minidetect.visualize import COLOURS, new_figure, plot_curves, running_mean

lesson = Lesson("04", "Learning a patch classifier")

# %% [markdown]
# ## 1 Faces, and what only looks like one
#
# A drawn patch holds one head, or something else. Half of ours are faces. A quarter are background, and a quarter are
# **hard negatives**: faces with their parts in the wrong places (`scrambled`), upside down (`inverted`), without eyes
# (`eyeless`), without any feature (`blob`), and wall sockets, which have two dark dots (`socket`).

# %%
BLUE, ORANGE, GREEN = COLOURS[6], COLOURS[5], COLOURS[2]


def draw(num, seed, bank):
    """num patches (num, 48, 48, 3); labels, 1 for a face; kinds: -1 face, 0 background, 1.. hard negatives."""
    half = num // 2
    faces, _ = draw_patches(half, 48, seed=2 * seed, classes=("human",), background=0, bank=bank)
    others, kinds = draw_patches(half, 48, seed=2 * seed + 1, classes=HARD_NEGATIVES, background=0.5, bank=bank)
    kinds = np.concatenate([np.full(half, -1), kinds])
    return np.concatenate([faces, others]), (kinds == -1).astype(np.int64), kinds


# %% [markdown]
# `bank` says which heads. We train on one bank and test on another, of people that training never saw; else a net
# that knows 48 heads by heart would look like one that knows what a face is.

# %%
amount, other = lesson.amount((80, 0), (2000, 777), (6000, 777))  # smoke: one bank, whose drawing takes time
patches, labels, _ = draw(amount, seed=0, bank=0)
test_patches, test_labels, test_kinds = draw(amount, seed=500, bank=other)

# %% [markdown]
# A net wants numbers around 0: 128 off, divided by 128. The view at 12 pixels is the average of blocks of 4 x 4,
# which is how FaceCraft's joint net makes it, and the axes change from (N, H, W, 3) to (N, 3, H, W).

# %%
def view(patches, size):
    """(N, 48, 48, 3) bytes -> (N, 3, size, size) float32, about -1 to 1."""
    x = (patches.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 128
    k = 48 // size
    return np.ascontiguousarray(x.reshape(len(x), 3, size, k, size, k).mean(axis=(3, 5)))


def picture(x):
    """(3, S, S) as `view` gives it -> (S, S, 3) in 0..1 for drawing."""
    return np.clip(x.transpose(1, 2, 0) / 2 + 0.5, 0, 1)


x, x_test = view(patches, 12), view(test_patches, 12)  # (N, 3, 12, 12)

# %%
def gallery(pictures, titles, columns=8):
    """Pictures (S, S, 3) side by side, each under its title."""
    lines = -(-len(pictures) // columns)  # divided and rounded up
    figure = new_figure(columns, 1.25 * lines)
    axes = figure.subplots()
    for n, (each, title) in enumerate(zip(pictures, titles, strict=True)):
        left, top = n % columns, 1.25 * (n // columns)
        axes.imshow(each, extent=(left, left + 0.9, top + 0.9, top))
        axes.text(left + 0.45, top - 0.06, title, ha="center", fontsize=8)
    axes.set(xlim=(-0.05, columns - 0.05), ylim=(1.25 * lines - 0.3, -0.3))
    axes.set_axis_off()
    return figure


def shots(rows, size):
    """These test patches at this many pixels, for `gallery`."""
    return [picture(each) for each in view(test_patches[rows], size)]


# %% [markdown]
# Before a net tries it, you do. Look at the picture (`out/04_small.png` if you run the script) and count the faces.

# %%
some = np.random.default_rng(4).permutation(len(test_patches))[:16]
lesson.show(gallery(shots(some, 12), range(1, 17)), "small", "Sixteen test patches at 12 x 12 pixels")

# %%
guess = lesson.predict("How many of these 16 are faces?", 10)

# %%
names = {-1: "face", 0: "background"} | {k + 1: name for k, name in enumerate(HARD_NEGATIVES)}
lesson.reveal(guess, test_labels[some].sum())
lesson.show(gallery(shots(some, 48), [names[k] for k in test_kinds[some]]), "large", "The same at 48 x 48 pixels")

# %% [markdown]
# Whether you were right about the number matters less than which ones you were unsure of. Keep them in mind.
#
# ## 2 From a score to a loss
#
# The net will say two numbers for each patch, the **logits** z0 (not a face) and z1 (face). Any two numbers will do:
# **softmax** makes probabilities of them, p_k = exp(z_k) / (exp(z_0) + exp(z_1)). They are positive and sum to 1.
#
# Why logits and not probabilities? Because a layer gives any number it likes, and because evidence adds up in them:
# log(p1 / p0) = z1 - z0, so one more clue for a face is one more summand.
#
# The loss of one patch is -log of the probability that the net gave to the truth, the **cross entropy**. A net that
# is sure and right pays 0; one that is sure and wrong pays as much as you like. Written down as it is said:

# %%
def spelled_out(logits, labels):
    """The specification: one patch at a time."""
    losses = []
    for z, label in zip(logits, labels, strict=True):
        p = np.exp(z) / np.exp(z).sum()
        losses.append(-np.log(p[label]))
    return np.mean(losses)


# %%
guess = lesson.predict("What does a net pay that always says 50 : 50?", 0.5)

# %%
lesson.reveal(guess, spelled_out(np.zeros((4, 2)), [0, 1, 1, 0]))

# %% [markdown]
# log 2 = 0.693 (natural logarithm, as everywhere here). It is the first number to look for when a training starts.
# And here is why nobody computes it as it is said:

# %%
with np.errstate(all="ignore"):
    for largest in (10, 80, 100, 1000):
        z = np.array([[largest, 0]], np.float32)
        print(f"logits {largest}, 0: loss if right {spelled_out(z, [0]):.3g}, if wrong {spelled_out(z, [1]):.3g}")

# %% [markdown]
# exp(100) does not fit into a float32, and infinity over infinity is `nan`, which spreads to every weight in one
# step. The way out is to take the logarithm on paper first:
#
# -log p_u = log(sum over k of exp(z_k)) - z_u, where u is the true class,
#
# and then to see that taking the same number m from all logits of a row changes nothing. With m the largest of them,
# every exp is of at most 0, and at least one is exactly 1: neither overflow nor log(0). This is **log-sum-exp**.
#
# ## Exercise 4.1: cross entropy (about 3 lines)
#
# `logits` (N, K), `labels` (N,) whole numbers in 0..K-1. Return one number, the mean over the N rows. It must be
# right for logits of 1000 and of -1000. Each row has its own m; `logits[np.arange(N), labels]` picks one number a
# row.

# %%
@lesson.exercise(check.cross_entropy, otherwise=solution.cross_entropy)
def cross_entropy(logits, labels):
    raise NotImplementedError


# %%
rng = np.random.default_rng(0)
z, u = rng.normal(0, 3, (6, 4)), rng.integers(0, 4, 6)  # (6, 4), (6,)
print("spelled out", spelled_out(z, u), "yours", cross_entropy(z, u))
assert np.isclose(cross_entropy(z, u), spelled_out(z, u))
assert np.isclose(cross_entropy(z, u), library_cross_entropy(Tensor(z), u).item())

# %% [markdown]
# ## 3 Its gradient is the best of all
#
# What happens to the loss of one row if logit k grows a little? The derivative of log(sum exp z) by z_k is
# exp(z_k) / sum exp z, which is p_k. The other term, -z_u, gives -1 if k is the true class and 0 if not. So
#
# d loss / d z_k = p_k - y_k, with y = 1 for the true class and 0 for the others:
#
# what the net said, minus what it should have said. Logarithm, division and exponential have all cancelled, which is
# why softmax and loss are **fused** into one function. Through a plain softmax followed by a plain logarithm you
# would multiply 1 / p by p, and for p = 0 that is 0 times infinity.

# %%
margin = np.linspace(-6, 6, 121)  # the true class's logit minus the other's
figure = new_figure(6, 3)
axes = figure.subplots()
axes.plot(margin, np.log1p(np.exp(-margin)), color=BLUE, label="loss")
axes.plot(margin, -1 / (1 + np.exp(margin)), color=ORANGE, label="gradient by the true logit, p - 1")
axes.axvline(0, color="grey", linewidth=0.6)
axes.set(xlabel="logit of the true class, minus the other one")
axes.legend()
lesson.show(figure, "cross_entropy", "A wrong patch pulls with strength 1, a right and sure one hardly at all")

# %% [markdown]
# ## Exercise 4.2: the fused gradient (about 4 lines)
#
# `logits` (N, K), `labels` (N,): return (N, K), and leave `logits` as they are. Again each row has its own m, for
# logits of 1000 and -1000 may meet in one batch. The loss is a mean over N rows, so each row's p - y is divided by N.
# Forgetting that is the most popular mistake: all is well until somebody changes the batch size.

# %%
@lesson.exercise(check.cross_entropy_gradient, otherwise=solution.cross_entropy_gradient)
def cross_entropy_gradient(logits, labels):
    raise NotImplementedError


# %% [markdown]
# Your two functions become one node of lesson 01's graph. In the library a node is a `Function`: `forward` makes the
# result from arrays and keeps what the way back needs; `backward` is given gy, the gradient by the result, and returns
# a tuple with one gradient for each input. From here on every net of this lesson is trained by your two functions.

# %%
class CrossEntropy(Function):
    def __init__(self, labels):
        self.labels = labels

    def forward(self, logits):
        self.logits = logits
        return np.asarray(cross_entropy(logits, self.labels), logits.dtype)

    def backward(self, gy):
        return ((gy * cross_entropy_gradient(self.logits, self.labels)).astype(self.logits.dtype),)


# %%
mine, theirs = Tensor(z, requires_grad=True), Tensor(z, requires_grad=True)
CrossEntropy(u)(mine).backward()
library_cross_entropy(theirs, u).backward()
assert np.allclose(mine.grad, theirs.grad)

# %% [markdown]
# ## 4 A net of 6,898 numbers
#
# The first network of FaceCraft's cascade, x12, takes 12 x 12 pixels and ends in a column of 16 features before its
# outputs. The paper gives its layers in a picture only; this is minidetect's version.
#
# | step | shape after it | weights |
# |---|---|---|
# | input | 3 x 12 x 12 | |
# | convolution 3 x 3, 16 channels | 16 x 10 x 10 | 16 x 27 + 16 |
# | maximum of 2 x 2, then ReLU | 16 x 5 x 5 | |
# | convolution 5 x 5, 16 channels, ReLU | 16 x 1 x 1 | 16 x 400 + 16 |
# | convolution 1 x 1, the two logits | 2 x 1 x 1 | 2 x 16 + 2 |

# %%
class Net12(Module):
    def __init__(self, rng):
        self.conv1 = Conv2d(3, 16, 3, rng)
        self.conv2 = Conv2d(16, 16, 5, rng)
        self.logits = Conv2d(16, 2, 1, rng)

    def features(self, x):
        """(N, 3, 12, 12) -> (N, 16, 1, 1)"""
        return relu(self.conv2(relu(max_pool2d(self.conv1(x), 2, 2))))

    def __call__(self, x):
        return flatten(self.logits(self.features(x)))  # (N, 2, 1, 1) -> (N, 2)


# %%
net = Net12(np.random.default_rng(0))
library_net = ProposalNet(TABLES[0], np.random.default_rng(0), dropout=0.0)
assert np.array_equal(net(Tensor(x)).data, library_net.predict(library_net.features(Tensor(x))).logits.data)
print(net.num_parameters(), "numbers to learn")

# %% [markdown]
# ## 5 Downhill, with a memory
#
# The gradient g of the loss says for each weight p which way is up. **Gradient descent** goes a little down, p <- p
# - lr * g, with `lr` the learning rate. **Stochastic** gradient descent (SGD) takes g from a small random batch: a
# rough direction, at a thirtieth of the price. Two additions are in every paper of this course:
#
# - **momentum** m: a velocity v, 0 at first: v <- m * v + g, and p <- p - lr * v. What the gradients of many steps
#   agree on adds up, to 1 / (1 - m) times as much; what they disagree on cancels.
# - **weight decay** w: w * p is added to g, as if the loss had the term w/2 times the sum of p². A weight that nothing
#   needs shrinks to 0. FaceCraft: m = 0.9, w = 0.0005.
#
# ## Exercise 4.3: one step (about 2 lines)
#
# `p`, `g`, `v` arrays of one shape; `lr`, `momentum`, `weight_decay` numbers. Return the new p and the new v, and
# leave the old ones as they are. The new v is used at once; decay joins g before the velocity is made.

# %%
@lesson.exercise(check.sgd_step, otherwise=solution.sgd_step)
def sgd_step(p, g, v, lr, momentum, weight_decay):
    raise NotImplementedError


# %% [markdown]
# A narrow valley shows what momentum is for: the loss (a² + 30 b²) / 2 is steep in b and flat in a. The steepest
# direction limits the rate (above 2/30 it throws you out), and then the flat one takes for ever.

# %%
def walk(momentum, steps=60, lr=0.03):
    p, v = np.array([10.0, 1.0]), np.zeros(2)
    path = [p]
    for _ in range(steps):
        p, v = sgd_step(p, p * [1, 30], v, lr, momentum, 0.0)  # p * [1, 30] is the gradient
        path.append(p)
    return np.array(path)  # (steps + 1, 2)


# %%
guess = lesson.predict("a starts at 10. Where is it after 60 steps without momentum?", 0.1)

# %%
paths = {m: walk(m) for m in (0.0, 0.8)}
lesson.reveal(guess, paths[0.0][-1, 0])
print("with momentum 0.8:", paths[0.8][-1, 0])

# %%
figure = new_figure(7, 3)
axes = figure.subplots()
a, b = np.meshgrid(np.linspace(-3, 11, 80), np.linspace(-1.2, 1.2, 60))
axes.contour(a, b, (a**2 + 30 * b**2) / 2, levels=[0.5, 2, 6, 15, 30, 60], colors="lightgrey")
for colour, (m, path) in zip((BLUE, ORANGE), paths.items(), strict=True):
    axes.plot(*path.T, "o-", color=colour, markersize=3, linewidth=1, label=f"momentum {m:g}")
axes.set(xlabel="a", ylabel="b")
axes.legend(loc="upper left")
lesson.show(figure, "momentum", "Sixty steps at the same learning rate; the valley's floor is at 0, 0")

# %% [markdown]
# Momentum swings past the goal and comes back, and is there long before. Now your step against `minidetect.nn.SGD`,
# on the real net, for five batches. One thing to know: the library leaves weight decay out for biases (arrays of one
# axis), because shrinking them does not make a model simpler.

# %%
ours = {name: p.data for name, p in net.named_parameters()}
velocity = {name: np.zeros_like(p) for name, p in ours.items()}
optimiser = SGD(net, lr=0.05, momentum=0.9, weight_decay=5e-4)
for start in range(0, 50, 10):
    optimiser.zero_grad()
    CrossEntropy(labels[start : start + 10])(net(Tensor(x[start : start + 10]))).backward()
    for name, p in net.named_parameters():
        decay = 5e-4 if p.ndim > 1 else 0.0
        ours[name], velocity[name] = sgd_step(ours[name], p.grad, velocity[name], 0.05, 0.9, decay)
    optimiser.step()
assert all(np.allclose(p.data, ours[name], atol=1e-5) for name, p in net.named_parameters())

# %% [markdown]
# Then this is all there is to training:

# %%
def train(net, x, labels, steps, lr, batch=64, seed=0, look=None):
    """Train in place; returns the loss of each step. The rate rises for 20 steps and falls to a tenth twice."""
    rng, optimiser, losses = np.random.default_rng(seed), SGD(net, lr), []
    net.train()
    for step in range(steps):
        optimiser.lr = scheduled_lr(step, steps, lr, warm_up=20)
        rows = rng.integers(0, len(x), batch)
        optimiser.zero_grad()
        loss = CrossEntropy(labels[rows])(net(Tensor(x[rows])))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if look is not None:
            look(step, losses)
    net.train(False)
    return np.array(losses)


# %%
def logits_of(net, x):
    """(N, ...) -> (N, 2), without a graph, 250 patches at a time."""
    with no_grad():
        return np.concatenate([net(Tensor(x[i : i + 250])).data for i in range(0, len(x), 250)])


def margins(net, x):
    """z1 - z0 = log(P(face) / P(not a face)), (N,): above 0 the net says face."""
    return np.diff(logits_of(net, x), axis=1)[:, 0]


# %% [markdown]
# ## 6 Three checks before any training
#
# They take a second each and find most mistakes. Do them every time you write a new net or a new loss.
#
# **First check: the loss before the first step.** With two classes and a net that knows nothing it should be log 2.

# %%
guess = lesson.predict("What is the loss of the untrained x12?", 0.693)

# %%
untrained = [cross_entropy(logits_of(Net12(np.random.default_rng(s)), x), labels) for s in range(5)]
lesson.reveal(guess, untrained[0])
print("five seeds:", np.round(untrained, 2))

# %% [markdown]
# Near, but above, and different for each seed: an untrained net does not say 50 : 50, it has opinions at random, and
# wrong opinions cost more than right ones save. The library draws a layer's weights by **He's rule**, with a standard
# deviation of sqrt(2 / n) for units with n inputs each, which keeps the numbers of one size from layer to layer. To
# begin at log 2, the last layer must begin smaller. Fast R-CNN draws it with a deviation of 0.01, and so will we.

# %%
def fresh(seed):
    net = Net12(np.random.default_rng(seed))
    net.logits.weight.data *= 0.01 / net.logits.weight.data.std()
    return net


print("with a small last layer:", [round(float(cross_entropy(logits_of(fresh(s), x), labels)), 3) for s in range(5)])

# %%
figure = new_figure(6, 2.5)
axes = figure.subplots()
for untaught, name, colour in ((Net12(np.random.default_rng(0)), "He's rule", ORANGE), (fresh(0), "small", BLUE)):
    axes.hist(1 / (1 + np.exp(-margins(untaught, x))), np.linspace(0, 1, 41), color=colour, alpha=0.7, label=name)
axes.set(xlabel="P(face)", ylabel="patches")
axes.legend(title="last layer")
lesson.show(figure, "opinions", "What untrained nets say of the training patches: opinions, and none")

# %% [markdown]
# That is what a good start looks like. A start of 3, or 70, means that the input is not scaled or the weights are too
# large; we come back to it.
#
# **Second check: the gradient.** Move one weight up and down by a hair, look at the loss, and compare with what
# backward says. In float64: in float32 the rounding would drown the difference.

# %%
few = np.r_[0:5, len(x) // 2 : len(x) // 2 + 5]  # the first five faces and the first five others
x_few, labels_few = x[few].astype(np.float64), labels[few]
probe = fresh(1)
for p in probe.parameters():
    p.data = p.data.astype(np.float64)
CrossEntropy(labels_few)(probe(Tensor(x_few))).backward()

# %%
weight, eps, losses = probe.conv1.weight, 1e-5, []
for sign in (1, -1):
    weight.data[3, 0, 1, 2] += sign * eps
    losses.append(cross_entropy(probe(Tensor(x_few)).data, labels_few))
    weight.data[3, 0, 1, 2] -= sign * eps
print("backward", weight.grad[3, 0, 1, 2], "by moving", (losses[0] - losses[1]) / (2 * eps))

# %% [markdown]
# One weight of 6,898. `gradcheck` moves all of a tensor's weights at once in a random direction, one tensor after the
# other, and steps around the kinks of ReLU and maximum (lesson 01). It returns the largest relative error.

# %%
def loss_of(w1, b1, w2, b2, w3, b3):
    probe.conv1.weight, probe.conv1.bias, probe.conv2.weight, probe.conv2.bias = w1, b1, w2, b2
    probe.logits.weight, probe.logits.bias = w3, b3
    return loss_node(labels_few)(probe(Tensor(x_few)))


# %%
loss_node, rng = CrossEntropy, np.random.default_rng(2)
start = [p.data + 0.1 * rng.standard_normal(p.shape) for p in probe.parameters()]  # biases of 0 would hide mistakes
print("largest relative error:", gradcheck(loss_of, *start, rng=rng))

# %% [markdown]
# Would it notice? Plant the popular mistake, the forgotten division by N:

# %%
class Forgetful(CrossEntropy):
    def backward(self, gy):
        return (super().backward(gy)[0] * len(self.labels),)


loss_node = Forgetful
try:
    gradcheck(loss_of, *start, rng=rng)
except GradientError as error:
    print(error)

# %% [markdown]
# Ten patches, so ten times too much.
#
# **Third check: overfit ten patches.** A net that cannot learn ten patches by heart will not learn two thousand. The
# loss must go to nearly 0.

# %%
guess = lesson.predict("What is the loss on 10 patches after 150 steps on nothing else?", 0.1)

# %%
pupil = fresh(0)
by_heart = train(pupil, x[few], labels[few], lesson.amount(30, 150, 150), lr=0.05, batch=10)
lesson.reveal(guess, by_heart[-10:].mean())
nonsense = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
by_nonsense = train(fresh(0), x[few], nonsense, len(by_heart), lr=0.05, batch=10)
print("and with nonsense for labels:", by_nonsense[-10:].mean().round(4))

# %%
figure = new_figure(6, 2.5)
axes = figure.subplots()
axes.semilogy(by_heart, color=BLUE, label="true labels")
axes.semilogy(by_nonsense, color=ORANGE, label="nonsense")
axes.set(xlabel="step", ylabel="loss")
axes.legend()
lesson.show(figure, "by_heart", "Ten patches learned by heart")

# %% [markdown]
# It learns the nonsense just as well. So the check says that the machine works, that gradients reach every layer and
# labels stay with their patches, but not that anything has been understood. For that there is the test set.
#
# ## 7 Training
#
# But with which learning rate? Ask the net: raise the rate from tiny to absurd in one short run and watch the loss.
# Below some rate nothing happens, then it falls, and then it blows up.

# %%
def find_rate(net, x, labels, lowest=1e-4, highest=3.0, steps=120):
    """Rates (steps,) and the loss at each."""
    rng, optimiser, losses = np.random.default_rng(0), SGD(net, lowest), []
    rates = np.geomspace(lowest, highest, steps)
    for rate in rates:
        optimiser.lr = rate
        rows = rng.integers(0, len(x), 64)
        optimiser.zero_grad()
        loss = CrossEntropy(labels[rows])(net(Tensor(x[rows])))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return rates, np.array(losses)


# %%
guess = lesson.predict("At which rate is the loss at its lowest, before it rises?", 0.01)

# %%
rates, losses = find_rate(fresh(0), x, labels, steps=lesson.amount(30, 120, 120))
smooth = running_mean(losses, 0.07)
lesson.reveal(guess, rates[smooth.argmin()])

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
axes.semilogx(rates, losses, color=COLOURS[1], alpha=0.6, label="each batch")
axes.semilogx(rates, smooth, color=BLUE, label="smoothed")
axes.axvline(0.05, color="grey", linestyle=":")
axes.set(ylim=(0, 1.5), xlabel="learning rate", ylabel="loss")
axes.legend(loc="lower left")
lesson.show(figure, "rates", "The learning rate rises at every step; dotted: the one we take")

# %% [markdown]
# Take a rate from the falling part, several times smaller than where the curve turns: 0.05 here. FaceCraft trains at
# 0.001, with pixels that are centred but not divided by 128. Rates do not travel from one recipe to another.
#
# Now the real run: 600 steps of 64 patches, with a look at the test set at every fiftieth.

# %%
log = []


def look(step, losses):
    log.append({"step": step + 1, "loss": losses[-1]})
    if (step + 1) % 50 == 0:
        logits = logits_of(net, x_test)
        log[-1]["test loss"] = float(cross_entropy(logits, test_labels))
        log[-1]["test error, %"] = 100 * float((logits.argmax(axis=1) != test_labels).mean())


# %%
guess = lesson.predict("Which percentage of the test patches will x12 get wrong?", 15)

# %%
net = fresh(0)
before = net.conv1.weight.data.copy()
train(net, x, labels, lesson.amount(50, 600, 3000), lr=0.05, look=look)
lesson.reveal(guess, log[-1]["test error, %"])
lesson.show(plot_curves(log), "training", "Training x12: the loss of each batch, and the test set every 50 steps")

# %% [markdown]
# Four things to read off such a picture. The loss begins at 0.69, as checked. Each batch's loss jumps about, so look
# at the mean (dark) and never at the last value. At step 360 the rate falls to a tenth, and the test loss stops
# jumping: at a high rate the weights hop about the valley's floor. And the test loss is at about 0.21 from step 200
# on, but for a hop, while the training loss goes on to 0.03: the net now learns these 2,000 patches and not faces.
#
# What did it learn? The 16 filters of the first layer, as little colour pictures, before and after:

# %%
filters = np.concatenate([before, net.conv1.weight.data]).transpose(0, 2, 3, 1)  # (32, 3, 3, 3), colours last
titles = ["at random"] + [""] * 15 + ["trained"] + [""] * 15
figure = gallery(np.clip(filters + 0.5, 0, 1), titles, columns=16)
lesson.show(figure, "filters", "The first layer's filters, 3 x 3 pixels in colour")

# %% [markdown]
# Honestly: not much to see. The contrasts have grown, but each filter still looks like what chance had made it. With
# 3 x 3 pixels there is little to show (lesson 09 has a better way of asking what a unit wants).
#
# More is to be learned from what the net gets wrong, the worst first.

# %%
score = margins(net, x_test)
wrong = np.flatnonzero((score > 0) != (test_labels == 1))
worst = wrong[np.argsort(-np.abs(score[wrong]))][: lesson.amount(8, 24, 24)]
titles = [f"{names[test_kinds[n]]} {score[n]:+.1f}" for n in worst]

# %%
lesson.show(gallery(shots(worst, 12), titles), "wrong", "The worst mistakes, as the net sees them; with z1 - z0")
lesson.show(gallery(shots(worst, 48), titles), "wrong_large", "The same at 48 pixels, as it cannot see them")

# %% [markdown]
# And by kind: which share of each kind is called a face?

# %%
for kind, name in names.items():
    print(f"{name:11} {100 * (score[test_kinds == kind] > 0).mean():5.1f} % called a face")

# %% [markdown]
# A scrambled face at 12 pixels has dark spots on a light one, and so has a face. Background and sockets hardly ever
# fool it. Of the faces that it misses, several are small, very dark or washed out.
#
# Section 10 gives the net more pixels. First, what to do when none of this works.
#
# ## 8 When the loss does not fall
#
# Eight runs of 200 steps on the same data. One is right; seven have one mistake each, of the kind that raises no
# error:
#
# - the learning rate is too low (0.0001), or too high (2);
# - the labels are shuffled against the patches (a sort or an index too much);
# - all weights start at zero;
# - the pixels are left at 0 to 255;
# - gradients are never cleared, so that they pile up from step to step;
# - the net ends in a softmax, and the loss takes a softmax again.

# %%
def first_steps(x, labels, lr=0.05, zero=False, clear=True, squash=False):
    """Losses of the first steps, with one mistake or none."""
    net, rng, losses = Net12(np.random.default_rng(0)), np.random.default_rng(0), []
    for p in net.parameters():
        p.data *= 0 if zero else 1
    optimiser = SGD(net, lr)
    for _ in range(lesson.amount(8, 200, 400)):
        rows = rng.integers(0, len(x), 64)
        if clear:
            optimiser.zero_grad()
        logits = net(Tensor(x[rows]))
        loss = CrossEntropy(labels[rows])(softmax(logits) if squash else logits)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return np.array(losses)


# %%
shuffled = np.random.default_rng(1).permutation(labels)
runs = {
    "labels shuffled": first_steps(x, shuffled),
    "rate too high": first_steps(x, labels, lr=2.0),
    "softmax twice": first_steps(x, labels, squash=True),
    "weights zero": first_steps(x, labels, zero=True),
    "right": first_steps(x, labels),
    "rate too low": first_steps(x, labels, lr=1e-4),
    "pixels 0 to 255": first_steps(128 * x + 128, labels),
    "gradients not cleared": first_steps(x, labels, clear=False),
}

# %%
figure = new_figure(9, 4)
for n, losses in enumerate(runs.values()):
    axes = figure.add_subplot(2, 4, n + 1)
    axes.plot(losses, color=COLOURS[1], linewidth=0.8)
    axes.plot(running_mean(losses, 0.1), color=BLUE)
    axes.axhline(np.log(2), color="grey", linestyle=":", linewidth=0.8)
    axes.set_ylim(0, 1.5)
    axes.set_title(f"run {n + 1}: starts at {losses[0]:.3g}", fontsize=9)
lesson.show(figure, "patients", "Eight runs, seven of them ill; dotted: log 2. Which has what?")

# %% [markdown]
# Look at the picture and decide before you go on. Three lie on log 2 and differ only in how they begin.

# %%
guesses = [lesson.predict(f"Which run has this mistake: {name}?", 0) for name in ("softmax twice", "labels shuffled")]

# %%
for guess, name in zip(guesses, ("softmax twice", "labels shuffled"), strict=True):
    lesson.reveal(guess, list(runs).index(name) + 1)
for n, (name, losses) in enumerate(runs.items()):
    print(f"run {n + 1}, {name:22} first {losses[0]:7.3f}, worst {losses.max():9.2f}, end {losses[-20:].mean():.3f}")

# %% [markdown]
# | what you see | what it is | how to make sure |
# |---|---|---|
# | starts far above log 2 | input not scaled, or last layer too large | print mean and deviation of x and logits |
# | exactly log 2 from the first step, for ever | all weights equal, or nothing reaches them | are the gradients 0? |
# | comes down to log 2 and stays | labels and inputs do not belong together | draw a batch with its labels |
# | leaps up, then stays about log 2 | rate too high: all ReLUs are dead | count the features above 0 |
# | comes near log 2 and creeps on | rate too low | `find_rate` |
# | leaps again and again, never settles | gradients not cleared | one step on one batch, by hand |
# | falls, but ends too high | softmax twice | the bound below |
# | falls in training, not in the test | learned by heart, or test input made otherwise | one patch through both paths |
#
# Why does "softmax twice" end too high? The second softmax is given numbers between 0 and 1, so its most certain
# answer comes from 1 and 0:

# %%
guess = lesson.predict("What is the lowest loss that a net with two softmaxes can reach?", 0.1)

# %%
lesson.reveal(guess, cross_entropy(np.array([[1.0, 0.0]]), np.array([0])))

# %% [markdown]
# log(1 + 1/e) = 0.313. This mistake is nasty because the net learns, only badly. Dead ReLUs can be counted:

# %%
alive = {}
for lr in (0.05, 2.0):
    patient = Net12(np.random.default_rng(0))
    train(patient, x, labels, lesson.amount(10, 60, 60), lr)
    alive[lr] = (patient.features(Tensor(x[:500])).data > 0).mean()
print({lr: f"{100 * share:.0f} % of the 16 features are above 0" for lr, share in alive.items()})

# %% [markdown]
# A ReLU that is below 0 for every patch passes no gradient, so nothing will ever lift it again.
#
# ## 9 Batch norm and dropout
#
# Two layers that behave differently in training and in use, which is the source of a whole class of mistakes.
#
# **Batch norm** takes each channel of a layer's output, subtracts its mean over the batch and divides by its standard
# deviation, so that the next layer always sees numbers of the same size:
#
# xhat = (x - mean) / sqrt(var + eps), y = gamma * xhat + beta,
#
# mean and var over all N * H * W values of a channel, var with the divisor N * H * W, gamma and beta learned, eps
# = 0.00001. In use there may be no batch, only one patch. So training also keeps **running averages**,
# running <- 0.9 * running + 0.1 * (this batch's), and in use these stand in for mean and var. For the stored variance
# the divisor is M - 1, with M = N * H * W, which makes the estimate right on average.
#
# ## Exercise 4.4: batch norm in training (about 7 lines)
#
# `x` (N, C, H, W), `gamma`, `beta`, `running_mean`, `running_var` (C,) each. Return y (N, C, H, W), the new running
# mean and the new running variance (C,), and change none of the arguments. `momentum` is the 0.1 above: the share of
# the new in the average, the other way round than in SGD. `gamma[:, None, None]` has the shape (C, 1, 1), which meets
# x.

# %%
@lesson.exercise(check.batch_norm, otherwise=solution.batch_norm)
def batch_norm(x, gamma, beta, running_mean, running_var, momentum=0.1, eps=1e-5):
    raise NotImplementedError


# %%
layer = BatchNorm2d(3)
layer.train()
maps = np.random.default_rng(3).normal(2, 5, (4, 3, 2, 5)).astype(np.float32)
y, mean, var = batch_norm(maps, layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var)
assert np.allclose(layer(Tensor(maps)).data, y, atol=1e-5)
assert np.allclose(layer.running_mean, mean, atol=1e-5) and np.allclose(layer.running_var, var, atol=1e-4)

# %%
figure = new_figure(7, 2.5)
first = fresh(0).conv1(Tensor(x[:200])).data  # (200, 16, 10, 10): what the second layer would see
after = batch_norm(first, np.ones(16), np.zeros(16), np.zeros(16), np.ones(16))[0]
for axes, values, title in zip(figure.subplots(1, 2), (first, after), ("before", "after"), strict=True):
    axes.boxplot(values.transpose(1, 0, 2, 3).reshape(16, -1).T, showfliers=False)
    axes.set(title=title, xlabel="channel", xticks=[])
lesson.show(figure, "channels", "16 channels before and after batch norm: median, quartiles, most of the rest")

# %% [markdown]
# Backward is a good exercise because every x of a channel moves its mean and its variance, and through them every y
# of the channel. The result can be understood without algebra. If all outputs are pushed equally, the mean takes the
# push away. If they are pushed in proportion to xhat, the variance takes it away. What is left arrives, scaled:
#
# gx = gamma / sqrt(var + eps) * (gy - mean(gy) - xhat * mean(gy * xhat)),
#
# means over the channel's values again. gamma's gradient is the sum of gy * xhat, beta's the sum of gy.
#
# ## Exercise 4.5: batch norm backward (about 6 lines)
#
# `gy` and `x` (N, C, H, W), `gamma` (C,). Return gx (N, C, H, W), the gradient of gamma (C,) and the gradient of beta
# (C,). Make xhat from x first, as in the forward pass; `x.mean(axis=(0, 2, 3), keepdims=True)` has the shape
# (1, C, 1, 1), which meets x.

# %%
@lesson.exercise(check.batch_norm_backward, otherwise=solution.batch_norm_backward)
def batch_norm_backward(gy, x, gamma, eps=1e-5):
    raise NotImplementedError


# %%
layer.weight.data[:] = 1, -2, 3  # gamma
gy, inputs = np.random.default_rng(5).normal(0, 1, maps.shape), Tensor(maps, requires_grad=True)
layer(inputs).backward(gy)
gradients = batch_norm_backward(gy, maps, layer.weight.data)
for mine, tensor in zip(gradients, (inputs, layer.weight, layer.bias), strict=True):
    assert np.allclose(mine, tensor.grad, atol=1e-4)

# %% [markdown]
# What is it good for? Train x12 with and without it, at four rates. (The layer goes between convolution and ReLU.)

# %%
class NormNet(Net12):
    def __init__(self, rng):
        super().__init__(rng)
        self.norm1, self.norm2 = BatchNorm2d(16), BatchNorm2d(16)

    def features(self, x):
        x = relu(max_pool2d(self.norm1(self.conv1(x)), 2, 2))
        return relu(self.norm2(self.conv2(x)))


# %%
short = lesson.amount(8, 200, 600)
ends = {Net12: [], NormNet: []}  # the loss at the end, one a rate
for lr in (0.002, 0.02, 0.2, 1.0):
    for kind, row in ends.items():
        row.append(train(kind(np.random.default_rng(0)), x, labels, short, lr)[-20:].mean())
    print(f"rate {lr:5}: loss at the end {ends[Net12][-1]:.3f} without, {ends[NormNet][-1]:.3f} with batch norm")

# %%
figure = new_figure(5, 2.5)
axes = figure.subplots()
axes.semilogx((0.002, 0.02, 0.2, 1.0), ends[Net12], "o-", color=ORANGE, label="without")
axes.semilogx((0.002, 0.02, 0.2, 1.0), ends[NormNet], "o-", color=BLUE, label="with batch norm")
axes.set(xlabel="learning rate", ylabel="loss at the end", ylim=(0, 0.9))
axes.legend()
lesson.show(figure, "norm_rates", "The training loss after 200 steps, against the rate")

# %% [markdown]
# With batch norm the loss is lower at all four rates, and the best of the four is ten times higher: a loss of 0.135
# at a rate of 0.2, against 0.333 at 0.02. At a rate of 1 the plain net is dead, at log 2. Three layers can be trained
# without batch norm as well, given a good rate and more steps; in a deep net the sizes of the numbers drift from
# layer to layer, and it is hard to do without.
#
# Now the trap: the same trained net, the same test faces, three ways of asking.

# %%
normed = NormNet(np.random.default_rng(0))
train(normed, x, labels, short, 0.05)
faces, others = x_test[test_labels == 1][:200], x_test[test_labels == 0][:200]  # (200, 3, 12, 12) each
right = 100 * (margins(normed, faces) > 0).mean()

# %%
guess = lesson.predict("Faces alone in a batch, batch norm left in training mode: which % is called a face?", 90)

# %%
normed.train()  # the mistake: batch statistics in use
alone = 100 * (margins(normed, faces) > 0).mean()
mixed = np.diff(normed(Tensor(np.concatenate([faces, others]))).data)[: len(faces)]
normed.train(False)
lesson.reveal(guess, alone)
print(f"with running averages {right:.1f} %, in a mixed batch {100 * (mixed > 0).mean():.1f} %")

# %% [markdown]
# With nothing but faces in the batch, "more face-like than the others" is all that batch norm leaves: half of them
# are. The answer depends on the company. Nobody notices while the batches are mixed as in training, 91.5 % here; but
# in a detector nearly every window is background. And each such question moves the running averages as well, so that
# later answers are spoiled, too. So: `net.train()` before training, `net.train(False)` before use, and if test
# results depend on the batch size, look here first.
#
# **Dropout** sets each feature to 0 with probability p in training, at random and anew each step, so that no feature
# can rely on another. What is left is divided by 1 - p at once, so that the sum that the next layer sees is right on
# average, and in use there is nothing to do.

# %%
ones = Tensor(np.ones((1000, 16)))
for p in (0.25, 0.5):
    dropped = dropout(ones, p, np.random.default_rng(0)).data
    print(f"p = {p}: {100 * (dropped == 0).mean():.0f} % are 0, the mean is {dropped.mean():.3f}")
assert dropout(ones, 0.5, None) is ones  # no generator: use, not training

# %%
class DropNet(Net12):
    def __init__(self, rng, p):
        super().__init__(rng)
        self.p, self.dice = p, np.random.default_rng(99)

    def __call__(self, x):
        features = dropout(self.features(x), self.p, self.dice if self.training else None)
        return flatten(self.logits(features))


# %% [markdown]
# Does it help x12? The same 200 steps with and without, three seeds each.

# %%
guess = lesson.predict("By how much will a dropout of 0.5 lower the test loss of x12?", 0.05)

# %%
tested = {}
for p in (0.0, 0.5):
    droppers = [DropNet(np.random.default_rng(seed), p) for seed in range(lesson.amount(1, 3, 5))]
    end = [train(dropper, x, labels, short, 0.05, seed=seed)[-20:].mean() for seed, dropper in enumerate(droppers)]
    tested[p] = [cross_entropy(logits_of(dropper, x_test), test_labels) for dropper in droppers]
    print(f"p = {p}: loss at the end of training", *np.round(end, 2), "and on the test set", *np.round(tested[p], 2))
lesson.reveal(guess, np.mean(tested[0.0]) - np.mean(tested[0.5]))

# %% [markdown]
# It raises it, in each of the three seeds: to about 0.37, from 0.28. The loss at the end of training has risen even
# more, from 0.22 to 0.40 (it is measured with half of the features gone). Dropout is a remedy for nets that learn
# their patches by heart, and this one, with 16 features and 200 steps, has not come that far. FaceCraft puts dropout
# before the outputs of all its nets; minidetect uses it in the two larger ones and leaves it out in x12.
#
# ## 10 More pixels
#
# Is 12 pixels too few, or is the net too small? Asking a larger net with more pixels answers neither, so there is a
# control: the large net on a 12-pixel view blown up to 48, which has the large net's weights and the small one's
# information. It begins with the same weights as the large net on 48 pixels and sees the same batches in the same
# order.

# %%
class PatchNet(Module):
    """Convolutions and pooling (output channels, kernel, pooling a row), 64 features, two logits."""

    def __init__(self, table, size, rng):
        self.stack = ConvStack(table, rng)
        self.fc = Linear(self.stack.num_features(size), 64, rng)
        self.logits = Linear(64, 2, rng, std=0.01)

    def __call__(self, x):
        return self.logits(relu(self.fc(flatten(self.stack(x)))))


# %%
TABLE48 = ((8, 3, 3), (16, 3, 3), (32, 3, 2), (32, 2, 0))
sharp = view(patches, 48), view(test_patches, 48)  # (N, 3, 48, 48) each
blown_up = [part.repeat(4, axis=2).repeat(4, axis=3) for part in (x, x_test)]  # (N, 3, 48, 48), 4 x 4 equal pixels

# %%
shown = [picture(part[0]) for part in (x_test, blown_up[1], sharp[1])]
figure = gallery(shown, ["12 x 12", "12 as 48 x 48", "48 x 48"], columns=3)
lesson.show(figure, "views", "One test patch as each of the three nets gets it")

# %% [markdown]
# Two nets are compared fairly where they find the same share of the faces. So each one's threshold is put where it
# finds 95 % of the test faces, and we count the hard negatives that come along.

# %%
def fooled(score, share=0.95):
    """{kind: share of it that is called a face} where this share of the faces is found, and all hard ones together."""
    threshold = np.quantile(score[test_labels == 1], 1 - share)
    hard = {"all hard": (score[test_kinds > 0] > threshold).mean()}
    return hard | {name: (score[test_kinds == k] > threshold).mean() for k, name in names.items() if k >= 0}


# %% [markdown]
# x12 is trained as in section 7. A patch costs the large net about fifteen times as much, so it gets half the steps
# with half the batch. If that is unfair, it is unfair to the large net.

# %%
def compare(seed):
    """{name: what `fooled` says} of the three nets of one seed."""
    small, control, large = fresh(seed), *(PatchNet(TABLE48, 48, np.random.default_rng(seed)) for _ in range(2))
    train(small, x, labels, lesson.amount(4, 600, 1000), 0.05, seed=100 + seed)
    steps = lesson.amount(4, 300, 1000)
    train(control, blown_up[0], labels, steps, 0.02, batch=32, seed=100 + seed)
    train(large, sharp[0], labels, steps, 0.02, batch=32, seed=100 + seed)
    scores = margins(small, x_test), margins(control, blown_up[1]), margins(large, sharp[1])
    results = dict(zip(("x12", "large net, 12 px", "large net, 48 px"), map(fooled, scores), strict=True))
    print(f"seed {seed}:", {name: f"{100 * r['all hard']:.1f} %" for name, r in results.items()})
    return results


# %%
guess = lesson.predict("x12 lets some hard negatives through. How many times fewer will 48 pixels let through?", 2)

# %%
compared = [compare(seed) for seed in range(lesson.amount(1, 3, 5))]
hard = {name: np.array([each[name]["all hard"] for each in compared]) for name in compared[0]}
lesson.reveal(guess, hard["x12"].mean() / max(hard["large net, 48 px"].mean(), 1e-3))

# %%
kinds = list(compared[0]["x12"])
figure = new_figure(8, 3.2)
axes = figure.subplots()
for n, (name, colour) in enumerate(zip(hard, (ORANGE, COLOURS[1], BLUE), strict=True)):
    heights = [100 * np.mean([each[name][kind] for each in compared]) for kind in kinds]
    axes.bar(np.arange(len(kinds)) + 0.25 * n - 0.25, heights, 0.25, color=colour, label=name)
    print(f"{name:16}", ", ".join(f"{kind} {height:.1f} %" for kind, height in zip(kinds, heights, strict=True)))
axes.set_xticks(np.arange(len(kinds)), kinds)
axes.set_ylabel("% called a face")
axes.legend()
lesson.show(figure, "pixels", "False faces by kind where 95 % of the faces are found; mean of the seeds")

# %%
lesson.claim(
    "04-a",
    "x12 lets more hard negatives through than a 48-pixel net (difference of the shares, at 95 % of the faces)",
    hard["x12"] - hard["large net, 48 px"],
    above=0.03,
    paper="later stages of a cascade reject what x12 cannot; no figure",
    asserted=True,
)

# %% [markdown]
# x12 lets 14 to 16 % of the hard negatives through, the large net on 48 pixels 5 to 7 %. In each seed that is 9 or 10
# in a hundred fewer. But this first claim mixes two things, a larger net and more pixels. The second has only the
# pixels.

# %%
lesson.claim(
    "04-b",
    "a large net lets more hard negatives through on 12 pixels blown up to 48 than on 48 (difference of the shares)",
    hard["large net, 12 px"] - hard["large net, 48 px"],
    above=0.0,
    paper="no figure",
)

# %% [markdown]
# It comes out, but less tidily. On blown-up pixels the large net lets 34, 14 and 9 % through: on average no better
# than x12, so the larger net alone has bought nothing in this short training, and in each seed worse than with 48
# pixels. The direction is the same three times, but the seeds lie further apart than the effect is large, so nothing
# in the lesson relies on it. How much of the gain is the pixels', three short runs cannot say.
#
# By kind the picture is clearer. x12 lets a fifth of the eyeless faces through, the large net on 48 pixels one in
# eighty: eyes are one or two pixels at 12 and plain at 48. Scrambled faces fall only from 30 % to 22 %. They have all
# the parts, only in the wrong places, and that is harder than seeing the parts.
#
# Then why look at 12 pixels at all? Because x12 costs a fraction of the other, and it turns away 97 % of the plain
# background, which is nearly all of a picture. That is the idea of a cascade (lesson 14).
#
# ## 11 Five in a hundred
#
# All our numbers came from a world in which half of the patches are faces. A detector's world is another one:
# FaceCraft trains on 5 % faces, and a picture's windows hold far fewer. What changes? Not the share of faces that
# the net finds, nor the share of other patches that it lets through. But the same share of many more others is many
# more:
#
# precision = (found faces) / (all that is called a face) = s * t / (s * t + (1 - s) * f),
#
# with s the share of faces in the world, t the share of the faces that is found, f that of the others let through.

# %%
score = margins(net, x_test)
t, f = (score[test_labels == 1] > 0).mean(), (score[test_labels == 0] > 0).mean()


def precision(share, t, f):
    return share * t / max(share * t + (1 - share) * f, 1e-9)


print(f"finds {100 * t:.1f} % of the faces, lets {100 * f:.1f} % of the others through")

# %%
guess = lesson.predict(f"At 50 % faces, precision is {precision(0.5, t, f):.2f}. And at 5 %?", 0.9)

# %%
lesson.reveal(guess, precision(0.05, t, f))
faces, others = np.flatnonzero(test_labels == 1), np.flatnonzero(test_labels == 0)
rare = [np.r_[others, np.random.default_rng(k).choice(faces, len(others) // 19)] for k in range(20)]  # 5 % faces each
counted = [test_labels[rows[score[rows] > 0]].mean() for rows in rare]
print("by counting, in 20 such worlds:", np.mean(counted).round(3))

# %%
shares = np.geomspace(0.0005, 0.5, 60)
figure = new_figure(6, 2.8)
axes = figure.subplots()
for threshold, colour in ((0, ORANGE), (np.log(19), BLUE)):  # odds of 19 to 1 are a probability of 0.95
    found, let_through = ((score[test_labels == k] > threshold).mean() for k in (1, 0))
    text = f"P(face) > {1 / (1 + np.exp(-threshold)):.2f}: finds {100 * found:.0f} %"
    axes.semilogx(shares, [precision(s, found, let_through) for s in shares], color=colour, label=text)
axes.axvline(0.05, color="grey", linestyle=":")
axes.set(xlabel="share of faces in the world", ylabel="precision")
axes.legend()
lesson.show(figure, "precision", "The same net, the same threshold: precision is as much the world's as the net's")

# %% [markdown]
# The net has not become worse: its probabilities were meant for the world it grew up in. With s the old share of
# faces and r the new one, Bayes' rule says what they are in the new one: faces have become r / s times as frequent
# and the others (1 - r) / (1 - s) times. Multiply P(face) by the first and 1 - P(face) by the second, and let them
# sum to 1.
#
# ## Exercise 4.6: another world (about 3 lines)
#
# `p` (N,): P(face) from a net that was trained with a share `trained` of faces. Return P(face), (N,), where the
# share is `real`. Certain stays certain: 0 and 1 must come out as 0 and 1 (so beware of p / (1 - p)).

# %%
@lesson.exercise(check.prior_shift, otherwise=solution.prior_shift)
def prior_shift(p, trained, real):
    raise NotImplementedError


# %% [markdown]
# For the logits it is even less: log(P(face) / P(not)) moves by one constant, log(r / (1 - r)) - log(s / (1 - s)),
# here log(1/19) = -2.94. One number added to one bias, and no training.

# %%
p = 1 / (1 + np.exp(-score))
assert np.allclose(prior_shift(p, 0.5, 0.05), 1 / (1 + np.exp(-(score + np.log(1 / 19)))))
guess = lesson.predict("FaceCraft drops windows below 0.1, at 5 % faces. Which threshold is it at 50 %?", 0.1)

# %%
lesson.reveal(guess, prior_shift(np.array([0.1]), 0.05, 0.5)[0])

# %% [markdown]
# So a threshold of 0.1 is not as lenient as it looks: it is one of 0.68 for a net that grew up with as many faces as
# others. **A threshold means nothing without the share of positives in training.** Copying one from a paper into a
# net that is trained on other shares is a mistake that looks like a worse net.
#
# Is the corrected probability true, though? Take all patches of the 5 % worlds that are given about 0.3: three in ten
# should be faces. And compare with a net that really was trained on 5 % faces: all the training patches that are not
# faces, and so few faces that they are one in twenty. The picture sorts the patches by what a net says into five
# bins, 0 to 0.2, 0.2 to 0.4 and so on; each point is one bin.

# %%
mix = np.r_[np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[: (labels == 0).sum() // 19]]
rare_net = fresh(0)
train(rare_net, x[mix], labels[mix], lesson.amount(10, 600, 3000), lr=0.05)
rows = np.concatenate(rare)
answers = {
    "as it was": p[rows],
    "corrected": prior_shift(p, 0.5, 0.05)[rows],
    "trained at 5 %": 1 / (1 + np.exp(-margins(rare_net, x_test)))[rows],
}

# %%
figure = new_figure(5, 4)
axes = figure.subplots()
axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
for (name, answer), colour in zip(answers.items(), (ORANGE, BLUE, GREEN), strict=True):
    bins = np.minimum((answer * 5).astype(int), 4)
    filled = [b for b in range(5) if (bins == b).any()]
    said = [answer[bins == b].mean() for b in filled]
    true = [test_labels[rows][bins == b].mean() for b in filled]
    axes.plot(said, true, "o-", color=colour, label=name)
    print(f"{name:14} where it is surest it says {said[-1]:.2f} on average; true is {true[-1]:.2f}")
axes.set(xlabel="P(face), as the net says", ylabel="share that is a face")
axes.legend(loc="upper left")
lesson.show(figure, "calibration", "In a world with 5 % faces; on the dotted line the net says the truth")

# %%
for name, answer in answers.items():
    truth, called = test_labels[rows], answer > 0.5
    safe = np.clip(answer, 1e-7, 1 - 1e-7)
    loss = -np.where(truth == 1, np.log(safe), np.log(1 - safe)).mean()
    recall, exact = called[truth == 1].mean(), (called & (truth == 1)).sum() / max(called.sum(), 1)
    print(f"{name:15} loss {loss:.3f}; above 0.5: finds {100 * recall:.0f} %, precision {exact:.2f}")

# %% [markdown]
# The correction more than halves the loss, without a step of training. What it buys in precision it pays for in faces
# found, 80 % instead of 93 %: above 0.5 now means above 0.95 before. No threshold has both, and the choice is yours,
# not the net's.
#
# The net that was trained on 5 % does worse than the corrected one, for it has seen 52 faces and not 1,000. If you
# have the faces, show them, and correct afterwards.
#
# And what the correction cannot mend: of the patches that the corrected net is surest of (0.96 on average), only
# seven in ten are faces. A net that has learned its training patches by heart is too sure of itself, in any world.
#
# ## What you can do now
#
# - write cross entropy so that no logit can break it, and say where p - y comes from;
# - write a step of SGD, batch norm and its gradient, and know in which mode a layer must be;
# - check a training before it starts: the loss at the start, the gradient, ten patches by heart;
# - choose a learning rate in one short run, and read from a curve what is wrong;
# - say what a threshold means, and move a net's probabilities to another share of positives.
#
# In the library: `minidetect/detection/losses.py` (cross entropy), `nn/optim.py`, `ops/normalize.py`,
# `nn/normalize.py`, `ops/dropout.py`; x12 and its larger sisters are in `models/facecraft.py`, the training loop in
# `train/loop.py`. Next: 05, when two boxes are the same; x12 comes back in 14, as the first stage of a cascade.

# %%
lesson.finish()
