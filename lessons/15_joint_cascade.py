# %% [markdown]
# # 15 The joint cascade
#
# **Question:** can the stages of a cascade be trained together?
#
# **Papers:** FaceCraft, sections 3.1, 4.1, 4.2, 6.3. **Time:** 150 s.
# **Before:** 01 (gradients), 04 (a patch classifier), 14 (what a cascade is); 05 for the idea of a threshold.
#
# **You build:** the gate between two stages and its gradient, the joint loss, the gradient that three losses send into
# shared features, the gate with a fixed number of places, and recall at a number of false positives.
# **You may skip:** exercise 15.5.
#
# A cascade says no in stages. A tiny network looks at every window and turns most of them away, a larger one looks
# at what is left, a third at what is left then. Each is trained alone, on what the one before it lets through:
# three trainings, three goals, and nobody trains the whole. FaceCraft puts the three into one network with one
# loss. Two things seem to forbid that: the threshold between two stages has no useful derivative, and the stages do
# not even see the same samples. This lesson takes both apart, and then measures what is gained.

# %%
import numpy as np
from solutions import lesson_15 as solution

from minidetect.autograd import Tensor, no_grad
from minidetect.checks import lesson_15 as check
from minidetect.data.synthetic import draw_patches
from minidetect.data.synthetic.sprites import KINDS
from minidetect.detection.losses import cross_entropy, multi_task_loss
from minidetect.models.cascade_pipeline import SIZES
from minidetect.models.facecraft import JointCascade, SeparateCascade
from minidetect.nn.optim import SGD, clip_gradients, scheduled_lr
from minidetect.ops.pool import avg_pool2d
from minidetect.ops.shape import flatten
from minidetect.ops.threshold import take_rows, threshold_control, top_k_control
from minidetect.teach import Lesson
from minidetect.visualize import COLOURS, new_figure

lesson = Lesson("15", "The joint cascade")
BLUE, ORANGE, LIGHT = COLOURS[6], COLOURS[5], COLOURS[1]

# %% [markdown]
# ## 1 Three sizes of the same patch
#
# The networks are called x12, x24 and x48, after the side of the patches that they see. A patch of 24 x 24 is the
# patch of 48 x 48 with each 2 x 2 block averaged, one of 12 x 12 has 4 x 4 blocks averaged.
#
# The patches of this lesson are drawn: a human face, or one of eight things that are none: cats, robots, clocks,
# sockets, and four kinds of heads: with the parts of the face in the wrong places (scrambled), upside down (inverted),
# without eyes, without any part (blob). A tenth hold clutter only. The labels of `draw_patches` count through
# `classes`, and naming "human" three times makes a quarter of the patches faces.

# %%
classes = ("human",) * 3 + KINDS[1:]  # labels 1, 2, 3 are faces; 4 to 11 are not; 0 is clutter


def draw(num, seed, banks):
    """num patches (N, 48, 48, 3), labels (N,), 1 for a face, and kinds (N,). banks: which sprites are pasted."""
    each, seed = num // len(banks), 100 * seed
    parts = [draw_patches(each, 48, seed + bank, classes, background=0.1, bank=bank) for bank in banks]
    images, kinds = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return images, ((kinds >= 1) & (kinds <= 3)).astype(np.int64), kinds


# %% [markdown]
# The heads and things (sprites) come from banks, sets that are drawn once, and training and test use different ones,
# so that learning heads by heart does not help in the test. `lesson.amount` takes the value in the middle unless you
# ask for another budget.

# %%
train_banks, test_banks = lesson.amount(smoke=((0,), (0,)), lesson=((0, 1), (777,)), full=((0, 1, 2), (777, 778)))
images, labels, _ = draw(lesson.amount(smoke=180, lesson=6000, full=24000), 1, train_banks)
test_images, test_labels, test_kinds = draw(lesson.amount(smoke=120, lesson=4000, full=12000), 2, test_banks)
print(len(images), "training patches,", len(test_images), "for the test; faces:", labels.mean(), test_labels.mean())


# %%
def shrink(patches, side):
    """(N, 48, 48, 3) -> (N, side, side, 3): the mean of each block."""
    k = patches.shape[1] // side
    blocks = patches.reshape(len(patches), side, k, side, k, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32) if k > 1 else patches


# %%
def mosaic(rows, gap, empty):
    """Rows of pictures of one size -> one picture, with gaps of the colour `empty`."""
    rim = ((0, gap), (0, gap), (0, 0))
    padded = [[np.pad(p, rim[: p.ndim], constant_values=empty) for p in row] for row in rows]
    return np.concatenate([np.concatenate(row, axis=1) for row in padded])


# %%
names, order = ("clutter", *classes), (1, 4, 5, 6, 7, 8, 9, 10, 11, 0)
samples = np.concatenate([test_images[test_kinds == kind][:1] for kind in order])  # (10, 48, 48, 3)
rows = [shrink(samples, side).repeat(48 // side, 1).repeat(48 // side, 2).astype(np.uint8) for side in (48, 24, 12)]
figure = new_figure(9, 3)
axes = figure.subplots()
axes.imshow(mosaic(rows, 4, 255))
axes.set(xticks=24 + 52 * np.arange(10), xticklabels=[names[kind] for kind in order], frame_on=False)
axes.set(yticks=24 + 52 * np.arange(3), yticklabels=["48 px", "24 px", "12 px"])
lesson.show(figure, "patches", "One patch of each kind, as x48, x24 and x12 see it")

# %% [markdown]
# With 48 pixels you will not take a head without eyes for a face. With 12 you might. So x12 cannot be right about
# everything, and need not be: it only has to let the faces through and turn most of the rest away.
#
# ## 2 First answer: hand the features down
#
# x12 turns a patch into 16 numbers (its **features**) before it decides. x24 computes 128 features of its own.
# Trained separately, it throws away what x12 found out. The joint network instead puts the 16 beside the 128, and
# x24 decides from 144 numbers; x48 puts those 144 beside its own 256 and decides from 400:
#
#     patch 48 x 48 -- mean of 4 x 4 --> x12 --> 16 ---------------------------> x12's decision
#                   -- mean of 2 x 2 --> x24 --> 128 | 16 = 144 ---------------> x24's decision
#                   -------------------> x48 --> 256 | 144 = 400 --------------> x48's decision
#
# "Beside" is a concatenation: it costs no arithmetic, and in the backward pass the gradient at the 144 is cut in two
# and the last 16 go on into x12. That is the whole channel by which x24's loss can teach x12.
#
# A decision is 2 numbers for the classes (**logits**, whose softmax is the probability of being a face: the
# **score**) and 4 for moving the box (lesson 06). Here are both cascades with narrow convolutions. A row of a table is
# one convolution: channels, kernel, and the maximum pooling after it (2: of 2 x 2, 3: of 3 x 3, both in steps of 2; 0:
# none). The arrows show how the side of the patch shrinks.

# %%
tables = (
    ((8, 3, 2), (16, 5, 0)),  # x12: 12 -> 10 -> 5 -> 1
    ((12, 3, 3), (12, 3, 3), (16, 2, 0)),  # x24: 24 -> 22 -> 11 -> 9 -> 4 -> 3
    ((8, 3, 3), (16, 3, 3), (16, 3, 2), (16, 2, 0)),  # x48: 48 -> 46 -> 23 -> 21 -> 10 -> 8 -> 4 -> 3
)
gates = (0.1, 0.03)  # the score that must be exceeded after x12, and after x24
settings = dict(tables=tables, gates=gates, dropout=(0.0, 0.25, 0.25))  # of x12, x24, x48 (lesson 04)

# %%
separate = SeparateCascade(np.random.default_rng(0), **settings)
joint = JointCascade(np.random.default_rng(0), **settings)
for name, net in (("x12", joint.x12), ("x24", joint.x24), ("x48", joint.x48)):
    print(name, "decides from", net.logits.weight.shape[1], "numbers, and has", net.num_parameters(), "parameters")

# %% [markdown]
# Count what the joint cascade has more: 6 outputs of x24 read 16 more numbers each, 6 outputs of x48 read 144 more.

# %%
guess = lesson.predict(f"How many parameters more than the separate cascade's {separate.num_parameters()}?", 5000)

# %%
lesson.reveal(guess, joint.num_parameters() - separate.num_parameters())
assert joint.num_parameters() - separate.num_parameters() == 6 * 16 + 6 * 144

# %% [markdown]
# Nearly nothing. (The paper expects more: if the stages shared their convolutions as well, the whole would be about
# as large as its last stage. Its figure shows separate convolutions, and so are ours: only the features are
# shared.)
#
# Joint training does not start from nothing. The paper trains the three nets separately first and starts the joint
# network from their weights. The library gives the new inputs weights of zero, so that nothing changes at first:

# %%
x = joint.normalise(images[:32])  # (32, 3, 48, 48), around 0
joint.start_from(separate)
with no_grad():
    before = separate.classify(2, x).face_probs()  # (32,), the scores of stage 2, x48 (0: x12, 1: x24)
    assert np.allclose(joint.classify(2, x).face_probs(), before, atol=1e-6)

# %% [markdown]
# ## 3 Second answer: a gate
#
# In the running detector x24 never sees what x12 turned away. In training it should not either: a patch of plain
# sky is x12's business. FaceCraft calls it a **threshold control layer**: of the N rows of a batch (a row is a
# patch with all that has been computed of it), the R whose score exceeds a threshold go on, and the rest do not
# exist for the later stages.
#
# ## Exercise 15.1: the gate (about 2 lines)
#
# `x` (N, ...), whatever follows N, even nothing; `scores` (N,); `threshold`. Return two things: the rows of x that
# pass (R, ...), and where they stood, whole numbers (R,), ascending. A score of exactly the threshold does not pass. R
# may be 0.

# %%
@lesson.exercise(check.gate, otherwise=solution.gate)
def gate(x, scores, threshold):
    raise NotImplementedError


# %%
rng = np.random.default_rng(15)
features = rng.normal(size=(7, 16))  # (N, F)
scores = np.array([0.05, 0.80, 0.10, 0.02, 0.95, 0.30, 0.07])  # (N,)
passed, rows = gate(features, scores, gates[0])  # (R, F), (R,)
print("rows", rows, "pass; the features' shape is now", passed.shape)
assert np.array_equal(rows, threshold_control(scores, gates[0]))
assert np.array_equal(passed, take_rows(Tensor(features), rows).data)

# %% [markdown]
# Row 2 stays out, with a score of exactly 0.1. The library splits the gate in two: `threshold_control` chooses the
# rows, `take_rows` fetches them, because the same rows are fetched from several arrays (patches, features, labels).
#
# ## What the gate's derivative is, and what it is not
#
# Here are the same seven rows with a loss of the next stage for each, say 0.2 to 1.4. The next stage's loss is the
# mean over those that pass. Now let x12 become more generous: add a number b to all its logits. What does the next
# stage's loss do?

# %%
logits = np.log(scores / (1 - scores))  # (N,): the numbers whose sigmoid the scores are
next_losses = np.array([1.4, 0.2, 0.9, 1.2, 0.3, 0.5, 1.1])  # (N,)


def loss_behind_the_gate(b):
    passed, _ = gate(next_losses, 1 / (1 + np.exp(-(logits + b))), gates[0])
    return passed.mean()


# %%
shifts = np.linspace(-1, 2, 601)
figure = new_figure(6, 3)
axes = figure.subplots()
axes.plot(shifts, [loss_behind_the_gate(b) for b in shifts], ".", markersize=2, color=BLUE)
axes.set(xlabel="b, added to x12's logits", ylabel="mean loss of those who pass")
lesson.show(figure, "staircase", "The loss behind a gate: flat, with a jump wherever a row comes in")

# %%
guess = lesson.predict("What is the slope of that curve at b = 0.5, by finite differences?", 0.3)

# %%
lesson.reveal(guess, (loss_behind_the_gate(0.5 + 1e-4) - loss_behind_the_gate(0.5 - 1e-4)) / 2e-4)

# %% [markdown]
# Zero, and not for lack of precision: the curve is a staircase, flat almost everywhere. What matters happens in the
# jumps, and a derivative cannot see a jump. (This staircase rises: row 2 comes in as soon as b exceeds 0, then 6, 0
# and 3, and each has a higher loss than the mean so far. If x24's loss could move the gate, it would rather have x12
# turn everybody away: nobody there, nothing lost.)
#
# So nobody differentiates the threshold, neither here nor in the paper. Who passes is decided by x12's own loss
# alone. What is differentiated is what passes: the **features** of the rows that went through. A row that went
# through brings its gradient back to its old place; a row that stayed out has no influence on the later loss, and
# its gradient is exactly zero.
#
# ## Exercise 15.2: the way back (about 3 lines)
#
# `gy` (R, ...): the gradient at the rows that passed; `rows` (R,): where they had stood; `num`: N. Return the
# gradient at all N rows, (N, ...). What stands for the dots may be nothing or several sides. Mind the case that nobody
# had passed.

# %%
@lesson.exercise(check.gate_backward, otherwise=solution.gate_backward)
def gate_backward(gy, rows, num):
    raise NotImplementedError


# %%
leaf = Tensor(features, requires_grad=True)
gy = rng.normal(size=(len(rows), 16))  # whatever the next stage may say
take_rows(leaf, rows).backward(gy)
assert np.array_equal(leaf.grad, gate_backward(gy, rows, len(features)))
print("norm of each row's gradient:", np.linalg.norm(leaf.grad, axis=1).round(2))

# %% [markdown]
# ## 4 Third answer: one loss
#
# Each branch has a loss of its own, a classification and a box part (lesson 06), as if it were alone. The joint loss
# is their weighted sum, the paper's Eq. (6):
#
#     L = λ1 L12 + λ2 L24 + λ3 L48
#
# L12, L24, L48 are the losses of the branches, and the λs (lambda) are numbers that you choose: how much each counts.
# The paper names no values; the library has 1, 1, 1. And it does not say what each L is divided by,
# which matters more than it seems. x12 has N rows, x24 has R, x48 has Q, and N >= R >= Q. Say that of 128 rows 40
# pass x12, and 32 of them pass x24 (with the test patches below it will be about that). Suppose that every one of
# the 32 has a loss of 1 in x48.

# %%
counts = {"N": 128, "R": 40, "Q": 32}
guess = lesson.predict("What is x48's loss if the sum of its rows is divided by N?", 0.8)

# %%
lesson.reveal(guess, counts["Q"] * 1.0 / counts["N"])

# %% [markdown]
# Divided by N, x48's mean loss of 1 carries a hidden factor Q / N, here 0.25: it acts like a λ3 four times smaller
# than what you wrote. And the factor shrinks as x12 learns to turn more away: the better the gate, the less the
# stages behind it are taught. Divided by Q, the few hard rows of a late branch weigh together as much as the many
# of an early one. That is the library's choice. It has a price: with a single row left, this row alone is the
# branch's gradient.

# %%
share = np.linspace(0.01, 1, 100)
figure = new_figure(6, 3)
axes = figure.subplots()
axes.plot(share, share, color=ORANGE, label="divided by N")
axes.plot(share, np.ones_like(share), color=BLUE, label="divided by the rows that pass")
axes.set(xlabel="share of the batch that passes", ylabel="weight of the branch's mean loss", ylim=(0, 1.1))
axes.legend()
lesson.show(figure, "normaliser", "What one loss weighs, by what it is divided by")

# %% [markdown]
# ## Exercise 15.3: the joint loss (about 2 lines)
#
# `losses`: three arrays (N,), (R,), (Q,), the loss of each row in the branches that it reaches; `weights`: λ1 to λ3.
# Return L. Each branch is a mean over its own rows. A branch without rows adds 0, and no warning about 0 / 0. But a
# loss that is NaN (not a number) must make L NaN: that is how one notices a training that has gone wrong.

# %%
@lesson.exercise(check.joint_loss, otherwise=solution.joint_loss)
def joint_loss(losses, weights):
    raise NotImplementedError


# %% [markdown]
# Now the whole forward pass by hand: pool, compute, gate, hand down, twice over. It is the paper's first figure,
# line by line. The rows of the last branch are counted among the survivors of the one before, so their places in
# the batch are `rows24[passed]`.

# %%
def forward(cascade, x):
    """x (N, 3, 48, 48) -> [(score of each row, its place in the batch)] of the three branches."""
    deep12 = cascade.x12.features(avg_pool2d(x, 4))  # (N, 16, 1, 1)
    scores12 = cascade.x12.predict(deep12).face_probs()  # (N,)
    rows24 = threshold_control(scores12, cascade.gates[0])  # (R,)
    handed = take_rows(flatten(deep12), rows24)  # (R, 16)
    deep24 = cascade.x24.features(avg_pool2d(take_rows(x, rows24), 2), handed)  # (R, 128 + 16)
    scores24 = cascade.x24.predict(deep24).face_probs()  # (R,)
    passed = threshold_control(scores24, cascade.gates[1])  # (Q,), places among the R
    deep48 = cascade.x48.features(take_rows(x, rows24[passed]), take_rows(deep24, passed))  # (Q, 256 + 144)
    scores48 = cascade.x48.predict(deep48).face_probs()  # (Q,)
    return [(scores12, np.arange(len(scores12))), (scores24, rows24), (scores48, rows24[passed])]


# %% [markdown]
# Against the library, on 32 patches, with an untrained network whose gates stand at 0.5, so that not everybody
# passes. To leave the box part out of it, all labels are 0 here: a patch without a face has no box to move to. The
# classification loss of a background row with the score p is then -log(1 - p).

# %%
tiny = JointCascade(np.random.default_rng(6), tables, gates=(0.5, 0.5), loss_weights=(1.0, 0.5, 2.0))
branches = forward(tiny, x)
background, no_boxes = np.zeros(32, np.int64), [np.zeros((32, 4), np.float32)] * 3
by_library = sum(tiny.losses(x, background, no_boxes, None).values()).item()  # None: no dropout
by_hand = joint_loss([-np.log(1 - s) for s, _ in branches], (1.0, 0.5, 2.0))
print("rows in each branch:", [len(r) for _, r in branches], "loss", by_library, "by hand", by_hand)
assert abs(by_library - by_hand) < 1e-4

# %% [markdown]
# And if nobody passes? 0 rows, a loss of 0, a gradient of 0: the library's losses never divide 0 by 0.

# %%
nobody = Tensor(np.zeros((0, 2), np.float32)), Tensor(np.zeros((0, 4), np.float32))
print("loss of a branch without rows:", multi_task_loss(*nobody, np.zeros(0, np.int64), np.zeros((0, 4))).item())

# %% [markdown]
# ## 5 What reaches x12
#
# The features of x12 now stand in three losses: x12 decides from all N rows of them, x24 reads R, x48 reads Q (they
# pass through x24's 144 numbers untouched). Where a tensor is used three times, its gradients add up (lesson 01),
# each at the rows it belongs to.
#
# ## Exercise 15.4: three gradients in one (about 4 lines)
#
# `g12` (N, F), `g24` (R, F), `g48` (Q, F): the gradient of each branch's loss at the F shared features of the rows
# that it read, before the weights. `rows24` (R,): which rows of the batch passed the first gate. `rows48` (Q,):
# which of **those R** passed the second. `weights`: λ1 to λ3. Return (N, F), the gradient of the joint loss at
# x12's features.

# %%
@lesson.exercise(check.shared_gradient, otherwise=solution.shared_gradient)
def shared_gradient(g12, g24, g48, rows24, rows48, weights):
    raise NotImplementedError


# %% [markdown]
# Automatic differentiation should agree. A miniature: 9 rows, 3 shared features, a linear decision for each branch.

# %%
heads = 0.3 * rng.normal(size=(3, 3, 2))  # (branch, F, classes)
shared, truth = rng.normal(size=(9, 3)), rng.integers(0, 2, 9)
rows24, rows48 = np.array([1, 2, 5, 6, 8]), np.array([0, 3])  # survivors 0 and 3 are the rows 1 and 6
places, weights = (np.arange(9), rows24, rows24[rows48]), (1.0, 0.5, 2.0)
leaf = Tensor(shared, requires_grad=True)
second = take_rows(leaf, rows24)  # (5, 3)
read = (leaf, second, take_rows(second, rows48))  # what each branch reads
terms = [cross_entropy(f @ h, truth[p]) * w for f, h, p, w in zip(read, heads, places, weights, strict=True)]
(terms[0] + terms[1] + terms[2]).backward()


# %%
def gradient_alone(features, head, labels):
    """Of one branch's loss, at the features it reads: (R, F)."""
    leaf = Tensor(features, requires_grad=True)
    cross_entropy(leaf @ head, labels).backward()
    return leaf.grad


# %%
alone = [gradient_alone(shared[p], h, truth[p]) for p, h in zip(places, heads, strict=True)]
by_hand = shared_gradient(*alone, rows24, rows48, weights)
assert np.allclose(by_hand, leaf.grad)

# %%
figure = new_figure(6, 3)
axes = figure.subplots()
for k, (name, colour) in enumerate((("x12", LIGHT), ("x24", ORANGE), ("x48", BLUE))):
    lengths = np.zeros(9)
    lengths[places[k]] = weights[k] * np.linalg.norm(alone[k], axis=1)
    axes.bar(np.arange(9) + 0.27 * (k - 1), lengths, 0.27, color=colour, label=f"from {name}")
axes.set(xlabel="row of the batch", ylabel="norm of the gradient", xticks=range(9))
axes.legend()
lesson.show(figure, "three_gradients", "Each row hears from the branches that it reaches, and from no other")

# %% [markdown]
# ## 6 A gate with a fixed number of places
#
# A threshold lets through as many as it will: hundreds in a crowd, none in the sky. If the next stage must cost the
# same every time, one fixes the number instead: the k best rows pass. The paper names this as the alternative and
# uses it for its second detector, the one with region proposals (lesson 13).
#
# ## Exercise 15.5: the k best (about 2 lines)
#
# `scores` (N,), `k`: return the numbers of the k highest, ascending (min(k, N),). Of equal scores the earlier row
# goes first. Try k = 0 in your head.

# %%
@lesson.exercise(check.top_k, otherwise=solution.top_k)
def top_k(scores, k):
    raise NotImplementedError


# %%
assert np.array_equal(top_k(scores, 4), top_k_control(scores, 4))
print("threshold 0.1:", threshold_control(scores, 0.1), " 4 places:", top_k(scores, 4))

# %% [markdown]
# Take away the best three rows of the batch, and see what becomes of row 0, whose score is 0.05:

# %%
weaker = np.delete(scores, [1, 4, 5])  # 0.05, 0.10, 0.02, 0.07 remain
print("threshold 0.1:", threshold_control(weaker, 0.1), " 4 places:", top_k(weaker, 4))

# %%
figure = new_figure(8, 2.8)
panels = zip(figure.subplots(1, 2, sharey=True), (scores, weaker), ("7 rows", "4 of them"), strict=True)
for axes, batch, title in panels:
    best = np.isin(np.arange(len(batch)), top_k(batch, 4))
    axes.bar(range(len(batch)), batch, color=[BLUE if b else "lightgrey" for b in best])
    axes.axhline(0.1, color=ORANGE, linestyle=":")
    axes.set(title=title, xlabel="row", xticks=range(len(batch)), yscale="log", ylim=(0.01, 1.2))
    axes.set_ylabel("score" if batch is scores else "")
lesson.show(figure, "places", "Blue: the 4 best; dotted: the threshold. The same scores, in another company")

# %% [markdown]
# The threshold judges each row by itself. With a fixed number of places a row's fate depends on who else is in the
# batch, so training batches should be mixed like the pictures of the test. The next sections use the threshold.
#
# ## 7 Three trainings, one after the other
#
# Now the real thing, small: the three nets are trained separately, x24 and x48 with the stress on what those before
# them let through. The patches carry no boxes, so the targets of the box part are all zero; what we look at is the
# class alone.
#
# A batch is a quarter faces; the rest comes in equal parts from pools of negatives: all of them; those that pass
# x12; those that pass x12 and x24. Half of the patches are mirrored.

# %%
def draw_batch(patches, pools, num, rng):
    """pools: the rows of the faces, then of negatives. Patches (num, S, S, 3), S the stage's side, labels (num,)."""
    each = 3 * num // 4 // (len(pools) - 1)
    counts = [num - each * (len(pools) - 1)] + [each] * (len(pools) - 1)
    rows = np.concatenate([rng.choice(pool, count) for pool, count in zip(pools, counts, strict=True)])
    chosen = patches[rows]
    mirror = rng.random(num) < 0.5
    chosen[mirror] = chosen[mirror, :, ::-1]
    return chosen, labels[rows]


# %% [markdown]
# The training loop is the library's in short: momentum (lesson 04), a rate that rises over the first 20 steps and drops
# once, and gradients that are scaled down if their norm exceeds 5 (clipped), so that no one batch can wreck the
# weights. `losses()` draws a batch and returns a dictionary of losses, whose sum goes down.

# %%
def train(module, losses, steps, lr):
    optimiser = SGD(module, lr)
    for step in range(steps):
        optimiser.lr = scheduled_lr(step, steps, lr, warm_up=20, drops=(0.7,))
        optimiser.zero_grad()
        sum(losses().values()).backward()
        clip_gradients(module.parameters(), 5.0)
        optimiser.step()


# %% [markdown]
# One stage; `pools` grows by the negatives that the stage lets through, for the next one. (Should there be none
# left, which happens only in a trial of a few steps, the last pool stays.)

# %%
steps = lesson.amount(smoke=(4, 3, 2), lesson=(800, 400, 300), full=(3000, 1500, 1000))
batches = (128, 96, 64)


def train_stage(cascade, stage, pools, seed):
    net = (cascade.x12, cascade.x24, cascade.x48)[stage]
    patches, rng = shrink(images, SIZES[stage]), np.random.default_rng([seed, stage])

    def losses():
        chosen, truth = draw_batch(patches, pools, batches[stage], rng)
        no_boxes = np.zeros((len(truth), 4))
        return cascade.stage_losses(stage, cascade.normalise(chosen), truth, no_boxes, rng)  # rng: of the dropout

    train(net, losses, steps[stage], lr=0.02)
    if stage < 2:
        last = pools[-1]
        passed = last[face_scores(cascade, stage, patches[last]) > gates[stage]]
        pools.append(passed if len(passed) else last)


# %% [markdown]
# The scores of a branch for many patches, some hundreds at a time. `classify` computes x24 or x48 with everything
# that is handed down to it, and no gate.

# %%
def face_scores(cascade, stage, patches):
    """patches (N, S, S, 3) of the stage's size -> (N,)."""
    found = []
    with no_grad():
        for first in range(0, len(patches), 400):
            x = cascade.normalise(patches[first : first + 400])
            predicted = cascade.classify(stage, x) if stage else cascade.x12.predict(cascade.x12.features(x))
            found.append(predicted.face_probs())
    return np.concatenate(found)


# %%
def train_separately(seed):
    """The three nets, and the pools that they leave."""
    cascade = SeparateCascade(np.random.default_rng(seed), **settings)
    cascade.mean_colour[:] = images[::10].mean(axis=(0, 1, 2))  # what `normalise` subtracts
    pools = [np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)]
    for stage in range(3):
        train_stage(cascade, stage, pools, seed)
    return cascade, pools


# %%
separate, pools = train_separately(seed=0)
print("faces, negatives, those that pass x12, those that pass x24 too:", [len(p) for p in pools])

# %% [markdown]
# x12 turns nine of ten negatives away and x24 two thirds of the rest. What is left for x48 is a small and nasty set:

# %%
figure = new_figure(9, 2)
axes = figure.subplots()
axes.imshow(mosaic([images[pools[3][:12]], images[pools[3][12:24]]], 4, 255))
axes.set_axis_off()
lesson.show(figure, "hard", "Negatives that pass x12 and x24: what x48 is trained on, beside the faces")

# %% [markdown]
# ## 8 Recall at a budget of mistakes
#
# A cascade's answer for a patch: 0 if a gate turned it away, else x48's score. How good is that? Allow the
# negatives a budget, say 1 % of them may be taken for faces, and ask which share of the faces is found: **recall**
# at 1 % false positives.
#
# ## Exercise 15.6: recall at a rate of false positives (about 4 lines)
#
# `scores` (N,), 0 for whoever was turned away; `labels` (N,), 1 for a face; `rate`. A threshold t of at least 0
# takes for a face what scores **more** than t. Of all t that let at most rate x (number of negatives) negatives
# through, take the lowest. Return the share of all faces that it finds. Negatives that tie pass together or not at
# all, and no threshold brings back a face that was turned away.

# %%
@lesson.exercise(check.recall_at, otherwise=solution.recall_at)
def recall_at(scores, labels, rate):
    raise NotImplementedError


# %%
test_patches = [shrink(test_images, side) for side in SIZES]  # (N, S, S, 3) for S = 12, 24, 48


def look(cascade):
    """The scores of the three branches alone, and the cascade's: four arrays (N,)."""
    alone = [face_scores(cascade, stage, test_patches[stage]) for stage in range(3)]
    passed = (alone[0] > gates[0]) & (alone[1] > gates[1])
    return [*alone, np.where(passed, alone[2], 0)]


# %%
guess = lesson.predict("Which share of the faces does the separate cascade find at 1 % false positives?", 0.5)

# %%
scores12, scores24, scores48, together = look(separate)
lesson.reveal(guess, recall_at(together, test_labels, 0.01))
alone24, alone48 = (recall_at(found, test_labels, 0.01) for found in (scores24, scores48))
print(f"x24 alone {alone24:.4f}, x48 alone {alone48:.4f}")

# %% [markdown]
# Better than either net alone: a negative now has to fool three of them. How many of each kind get past x12, and past
# x24 as well?

# %%
kinds = (0, *range(4, 12), 1)
gone_on = [[(s[test_kinds == kind] > t).mean() for kind in kinds] for s, t in ((scores12, gates[0]), (together, 0))]
figure = new_figure(7, 3.4)
axes = figure.subplots()
axes.barh(np.arange(10) + 0.2, gone_on[0], 0.4, color=LIGHT, label="pass x12")
axes.barh(np.arange(10) - 0.2, gone_on[1], 0.4, color=BLUE, label="pass x24 as well")
axes.set(yticks=range(10), yticklabels=[names[kind] for kind in kinds], xlabel="share")
axes.legend(loc="lower right")
lesson.show(figure, "kinds", "Which patches pass the gates, by what they show (separate nets)")

# %% [markdown]
# x12 lets through a third of the scrambled heads, a quarter of the eyeless ones, a sixth of the blobs, a tenth of those
# upside down, a twelfth of the clutter, and hardly a cat, robot, clock or socket. The heads would deceive you at 12
# pixels, too. x24 stops most of that,
# except for the scrambled heads. And a few faces in a hundred end at x12's gate; those are lost to the whole cascade,
# however good x48 is.
#
# ## 9 Further, together or apart
#
# From these weights we go on in two ways:
#
# - **joint**: the joint network, started from the separate weights, with the joint loss;
# - **control**: the separate nets, with the same batches, gates, rate and number of steps, and the sum of their
#   losses. Nothing is handed down, so no gradient crosses.
#
# The control matters. Joint training comes after separate training, so a joint network has had more training than
# the separate one it is compared with. Without a control you cannot tell what sharing brings from what more steps
# bring. The paper compares 88.2 % (joint) with 87.2 % (separate), and says that the networks are the same; it does
# not say that the separate nets had as many steps.
#
# In the library both are `cascade.losses`. It does what your gate, your joint loss and the forward pass by hand do.

# %%
extra = lesson.amount(smoke=2, lesson=200, full=800)


def train_further(cascade, pools, seed):
    rng = np.random.default_rng([seed, 3])

    def losses():
        chosen, truth = draw_batch(images, pools, 96, rng)
        return cascade.losses(cascade.normalise(chosen), truth, [np.zeros((len(truth), 4))] * 3, rng)

    train(cascade, losses, extra, lr=0.01)


# %%
def both_ways(separate, pools, seed):
    joint = JointCascade(np.random.default_rng(seed), **settings)
    joint.start_from(separate)
    control = SeparateCascade(np.random.default_rng(seed), **settings)
    control.load_state_dict(separate.state_dict())
    for cascade in (joint, control):
        train_further(cascade, pools, seed)
    return {"separate": separate, "control": control, "joint": joint}


# %% [markdown]
# Before anything is trained, one question about the very first joint step. x24's loss can reach x12 only through the
# 16 features, and these come in with weights of zero.

# %%
def gradients_in_x12(cascade, chosen, truth):
    """Of the three losses, each alone, at x12's first filters: three arrays (8, 3, 3, 3)."""
    found = []
    for name in ("x12", "x24", "x48"):
        cascade.x12.stack.convs[0].weight.grad = None
        terms = cascade.losses(cascade.normalise(chosen), truth, [np.zeros((len(truth), 4))] * 3, None)
        terms[name].backward()
        found.append(cascade.x12.stack.convs[0].weight.grad)
    return found


# %%
chosen, truth = draw_batch(images, pools, 256, np.random.default_rng(9))
joint = JointCascade(np.random.default_rng(0), **settings)
joint.start_from(separate)
guess = lesson.predict("What is the norm of x24's gradient in x12's filters before the first joint step?", 0.1)

# %%
lesson.reveal(guess, np.linalg.norm(gradients_in_x12(joint, chosen, truth)[1]))

# %% [markdown]
# Exactly zero, and with zero weights it must be: the gradient at the 16 features is the gradient at the logits times
# those weights. The weights themselves do get a gradient, though, so after one step the channel is open, by a crack.
#
# Three seeds. A seed sets the initial weights and all batches of its three cascades, so that control and joint
# differ in nothing but the sharing. The training and test patches are the same for all seeds.

# %%
guess = lesson.predict("By how many points of recall will joint beat the control, on the mean of the seeds?", 1)

# %%
seeds = range(lesson.amount(smoke=1, lesson=3, full=5))
runs = [both_ways(separate, pools, 0)] + [both_ways(*train_separately(seed), seed) for seed in seeds[1:]]
scores = [{name: look(cascade) for name, cascade in run.items()} for run in runs]

# %%
figure = new_figure(9, 3.4)
rates = np.geomspace(0.001, 0.1, 60)
for axes, one, seed in zip(figure.subplots(1, len(scores), sharey=True, squeeze=False)[0], scores, seeds, strict=True):
    for (name, found), colour in zip(one.items(), (LIGHT, ORANGE, BLUE), strict=True):
        axes.semilogx(100 * rates, [100 * recall_at(found[3], test_labels, r) for r in rates], color=colour, label=name)
    axes.set(xlabel="false positives, % of negatives", title=f"seed {seed}", ylim=(60, 100))
    axes.grid(alpha=0.3)
axes.legend()
lesson.show(figure, "roc", "Recall (%) of the whole cascade against its false positives: separate, control, joint")


# %%
def recalls(branch, rate):
    """(seeds, 3): in points, for separate, control, joint. branch: 0, 1, 2 alone; 3 the whole cascade."""
    return np.array([[100 * recall_at(s[branch], test_labels, rate) for s in one.values()] for one in scores])


# %%
for rate in (0.005, 0.01, 0.02):
    print(f"whole cascade, recall at {100 * rate:g} % false positives: separate, control, joint")
    print(recalls(3, rate).round(1))
table = recalls(3, 0.01)
lesson.reveal(guess, (table[:, 2] - table[:, 1]).mean())

# %% [markdown]
# The first row of each table is seed 0. Two rates were fixed before any of these runs: 1 %, and 0.5 % because an
# earlier pilot had used it.
#
# Joint training beats the separate nets that it started from, by 0.2, 27 and 5 points at 1 %. That is the paper's
# comparison and the paper's sign. But the control has gained as much: 0, 28 and 6 points. What helped is 200 more
# steps on hard batches, and seed 1, which was far behind the others after its 300 steps of x48, needed them badly.
# At 2 % the separate nets are ahead of both; we come to that.
#
# Joint against control: at 1 % +0.2, -0.6 and -0.5 points, at 0.5 % +1.6, +15 and -0.8. The first says no, the
# second says yes, and rests on seed 1. In the curves joint lies above the control in all three seeds as long as
# only a handful of false positives is allowed (0.2 % are 6 of them), and at 1 % in one of three, by two faces.
# Whoever picks the rate after looking can tell either story. Neither of the two claims FC-M1 below is one that this
# lesson would bet on.

# %%
lesson.claim(
    "15-a",
    "joint training beats the separate nets that it starts from (recall at 1 %)",
    table[:, 2] - table[:, 0],
    above=0,
    paper="88.2 against 87.2 points on FDDB",
)

# %%
for name, rate in (("FC-M1", 0.005), ("FC-M1, 1 %", 0.01)):
    lesson.claim(
        name,
        f"joint training beats the same further training without sharing (recall at {100 * rate:g} %)",
        recalls(3, rate)[:, 2] - recalls(3, rate)[:, 1],
        above=0,
        paper="88.2 against 87.2 points on FDDB, with no such control",
    )

# %% [markdown]
# Look at the curves once more. Each ends in a plateau, and that of the separate nets is the highest. No threshold at
# the end can bring back what a gate has turned away. So look at the gate.

# %%
figure = new_figure(9, 3)
for axes, (name, found) in zip(figure.subplots(1, 3, sharey=True), scores[0].items(), strict=True):
    for label, colour in ((0, ORANGE), (1, BLUE)):
        axes.hist(found[0][test_labels == label], np.linspace(0, 1, 41), histtype="step", color=colour)
    axes.axvline(gates[0], color="grey", linestyle=":")
    axes.set(yscale="log", xlabel="x12's score", title=f"{name}: {(found[0] > gates[0]).mean():.2f} pass")
lesson.show(figure, "gate", "x12's scores of faces (blue) and negatives (orange), seed 0; the gate is dotted")

# %%
for name in ("separate", "control", "joint"):
    passed = np.array([one[name][0] > gates[0] for one in scores])  # (seeds, N)
    faces, others = (passed[:, test_labels == label].mean(axis=1).round(3) for label in (1, 0))
    print(f"{name:8} passes x12: faces {faces}, negatives {others}")

# %% [markdown]
# The gate stands still at 0.1, but x12 moves under it. The further batches hold more hard negatives than those that
# x12 grew up with, so it becomes stricter: about 40 % fewer negatives get past it, and 3 to 7 points fewer faces,
# which are lost for good. Control and joint pay alike. The remedy: choose the thresholds **after** training, as
# high as the recall allows (the paper's own principle). Let each cascade have the gates that let 98 % of the faces
# pass x12, and 99 % of those pass x24. (The factor 1 - 1e-6 below lets the face that stands at the gate pass it.)
#
# (This is an afterthought. It was added when the tables above were known, and the gates are chosen on the test
# faces; so it explains, and proves nothing.)

# %%
def with_own_gates(alone12, alone24, alone48, _):
    faces = test_labels == 1
    first = alone12 > np.quantile(alone12[faces], 0.02) * (1 - 1e-6)
    return np.where(first & (alone24 > np.quantile(alone24[faces & first], 0.01) * (1 - 1e-6)), alone48, 0)


# %%
for rate in (0.005, 0.01, 0.02):
    print(f"own gates, recall at {100 * rate:g} %: separate, control, joint")
    again = [[with_own_gates(*found) for found in one.values()] for one in scores]
    print(np.array([[100 * recall_at(found, test_labels, rate) for found in row] for row in again]).round(1))

# %% [markdown]
# With gates of their own, all end near 97 %, where 98 % of 99 % must be, and the separate nets have lost their lead.
# Joint against control is then -0.3, +0.5 and +0.6 points at 1 %, and -0.1, +14 and +0.7 at 0.5 %: at 1 % a little
# better for joint than before, and within a point everywhere but for seed 1 at 0.5 %.
#
# ## 10 Does each branch benefit?
#
# The paper expects that every branch gains from the others. Here is each branch alone, without any gate: x24 and x48
# at 1 % false positives. x12 gets 10 %, for about so many negatives pass its gate; at 1 % it is printed as well.

# %%
print(f"x12 alone at 1 %: separate, control, joint\n{recalls(0, 0.01).round(1)}")
for branch, rate in ((0, 0.1), (1, 0.01), (2, 0.01)):
    alone = recalls(branch, rate)
    print(f"x{SIZES[branch]} alone at {100 * rate:g} %: separate, control, joint\n{alone.round(1)}")
    lesson.claim(
        f"FC-M2, x{SIZES[branch]}",
        f"x{SIZES[branch]} alone gains by joint training over the control (recall at {100 * rate:g} %)",
        alone[:, 2] - alone[:, 1],
        above=0,
        paper="each branch benefits from the others (expected, not measured)",
        asserted=branch == 2,
    )

# %% [markdown]
# x12: at 10 % ahead in every seed, by 2 to 4 faces of 949; at 1 % behind in every seed, by 1 to 3 points. The claim
# "comes out" by the letter, but nothing can be built on it. x24: a little behind. x48: far ahead, 94 to 98 % against
# 29 to 83 %.
#
# Why is the control's x48 so bad alone, and worse than before? Look at the 30 negatives (1 %) that x48 alone takes
# for faces before any other. How many of them would never have reached it, since x12 turns them away?

# %%
def outsiders(found):
    """How many of those negatives x12 turns away, and the score of x48 that they exceed."""
    negatives = test_labels == 0
    threshold = np.sort(found[2][negatives])[::-1][int(0.01 * negatives.sum())]
    return (negatives & (found[2] > threshold) & (found[0] <= gates[0])).sum(), threshold


# %%
for name in ("separate", "control", "joint"):
    print(f"{name:8}", [f"{num} outsiders, score {s:.2f}" for num, s in (outsiders(one[name]) for one in scores)])

# %% [markdown]
# Before the further training 5 to 12 of the 30 were such outsiders, in the control 21 to 27, with scores close to 1. In
# the further training x48 sees only what passes both gates, so nothing holds its scores for anything else: show it a
# socket, and it may say anything. The joint x48 is not shown outsiders either, and has as many (16 to 23), but
# with lower scores, below most faces. Our guess: it reads 16 numbers of x12 and 128 of x24, and those say "socket"
# clearly. If that is the reason, it must get about as bad as the control once it no longer hears them.

# %%
def deaf(joint):
    """A copy whose decisions do not read what is handed down."""
    copy = JointCascade(np.random.default_rng(0), **settings)
    copy.load_state_dict(joint.state_dict())
    copy.x24.logits.weight.data[:, 128:] = 0  # (2, 128 + 16)
    copy.x48.logits.weight.data[:, 256:] = 0  # (2, 256 + 144)
    return copy


# %%
guess = lesson.predict("Recall at 1 % of the joint x48 alone, if it does not hear the others (mean)?", 90)

# %%
silent = [look(deaf(run["joint"])) for run in runs]
alone = [100 * recall_at(found[2], test_labels, 0.01) for found in silent]
lesson.reveal(guess, np.mean(alone))
print("deaf: x48 alone at 1 %", np.round(alone, 1))
for rate in (0.005, 0.01):
    cascade = [100 * recall_at(found[3], test_labels, rate) for found in silent]
    print(f"deaf: whole cascade at {100 * rate:g} %", np.round(cascade, 1))

# %% [markdown]
# That is most of it: deaf, the joint x48 falls from 98, 94 and 95 % to 86, 28 and 63 %; the control's had 83, 29
# and 46 %. So sharing does something, and a lot: what the early stages know reaches the last decision. In the
# running cascade, however, the gates have acted on the same knowledge already: hardly a socket gets as far as x48.
# What is handed down through the features and what the gates enforce is for the most part the same, which is why a
# gain of 14 to 65 points alone shrinks to little in the whole.
#
# To little, not to nothing: deaf, the whole joint cascade loses 1.5, 10 and 3.6 points at 0.5 %, and 0 to 1.5 at
# 1 %. But this is no fair comparison with a network that learned to do without: a trained network misses whatever you
# take from it. The fair one is the control.
#
# ## 11 Who teaches x12 now?
#
# That was the way down. How much comes back up, into x12? Here is the gradient of each loss alone at x12's first
# filters, before and after joint training: seed 0, and a batch large enough that chance counts for less.

# %%
chosen, truth = draw_batch(images, pools, lesson.amount(smoke=64, lesson=960, full=3000), np.random.default_rng(9))
before = gradients_in_x12(joint, chosen, truth)  # not trained jointly yet
after = gradients_in_x12(runs[0]["joint"], chosen, truth)
for title, found in (("before", before), ("after", after)):
    print(title, "joint training, norms of the three:", [round(float(np.linalg.norm(g)), 4) for g in found])

# %%
mean = [gradient.mean(axis=1) for gradient in after]  # (8, 3, 3) each: the mean over the colours
figure = new_figure(9, 3.6)
axes = figure.subplots()
axes.imshow(mosaic([m / (abs(m).max() + 1e-12) for m in mean], 1, np.nan), cmap="RdBu", vmin=-1, vmax=1)
axes.set(xticks=1 + 4 * np.arange(8), xticklabels=[f"filter {k}" for k in range(8)], frame_on=False)
norms = [f"{name}\nnorm {np.linalg.norm(g):.4f}" for name, g in zip(("x12", "x24", "x48"), after, strict=True)]
axes.set(yticks=1 + 4 * np.arange(3), yticklabels=norms)
caption = "The gradient of each loss at x12's eight filters (red < 0 < blue), each row at its own scale"
lesson.show(figure, "gradient_map", caption)

# %% [markdown]
# A gradient says where a loss rises, and descent goes the other way. The rows agree on some filters (3) and not on
# others (5), so the later losses ask for something of their own; but look at the norms. They ask in a very low
# voice. λ2 and λ3 are the volume: x12's filters get g1 + λ2 g2 + λ3 g3, so these three arrays are all that is
# needed to see what any λ would do at this point. Say λ1 = 1 and λ2 = λ3 = λ.

# %%
own, others = after[0], after[1] + after[2]
guess = lesson.predict("From which λ on do the later losses pull harder at x12's filters than its own?", 2)

# %%
loudness = np.linalg.norm(own) / max(np.linalg.norm(others), 1e-12)
lesson.reveal(guess, loudness)


# %%
def cosine(a, b):
    return float(np.vdot(a, b) / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


print("cosine of what x12's own loss and the others want:", round(cosine(own, others), 2))

# %%
volumes = np.geomspace(0.1, 1000, 80)
figure = new_figure(6, 3)
axes = figure.subplots()
axes.semilogx(volumes, [cosine(own + v * others, own) for v in volumes], color=BLUE, label="its own loss")
axes.semilogx(volumes, [cosine(own + v * others, others) for v in volumes], color=ORANGE, label="the later losses")
axes.axvline(1, color="grey", linestyle=":")
axes.set(xlabel="λ2 = λ3 (λ1 = 1)", ylabel="cosine")
axes.legend()
lesson.show(figure, "lambda", "Whom x12 follows: cosine of its whole gradient with either part; λ = 1 is dotted")

# %% [markdown]
# At λ = 1, x12 follows its own loss as if nobody else were there: the others are a twelfth as loud. And they do not
# quarrel with it: the cosine of two random arrays of 216 numbers is about 0, theirs is 0.7. Only from λ = 12 on would
# they lead. That fits the tables, where x12 alone is at 10 % the same for joint and control to half a point. At λ = 1,
# and in this small model, the channel is used downwards (x48 hears x12) and hardly upwards (x48 does not teach x12).
#
# Should you turn up λ, then? Remember what the later losses cannot see: a face that x12 has turned away is not in
# their rows. Only x12's own loss asks for it back.
#
# ## 12 And on photographs?
#
# The library trains the full cascade on 11,000 real faces and measures on 840 photos of FDDB (`README.md`, "Is joint
# training better?"). Recall at 295 false positives, in points:
#
# | run | separate | control | joint | joint - separate | joint - control |
# | --- | --- | --- | --- | --- | --- |
# | seed 0 | 86.98 | 88.02 | 88.48 | +1.50 | +0.46 |
# | seed 1 | 88.15 | 88.41 | 88.22 | +0.07 | -0.19 |
# | seed 2, from the separate nets of seed 0 | 86.98 | 88.67 | 88.22 | +1.24 | -0.45 |
#
# The same picture. Joint minus separate: +0.9 points on average, about the +1.0 that the paper reports. Joint minus
# control: no clear sign. On photographs, too, what can be shown is that training further on the cascade's own
# mistakes helps. That sharing features and gradients adds to it could not be shown. It does not follow that it adds
# nothing: three runs, of which two are independent, cannot tell a few tenths of a point from chance.
#
# So can the stages be trained together? Yes: the gate needs no derivative, and rows that stay out get none. What
# joint training does give, here and there: one network, one loss, one file; and a last stage that knows what the first
# ones know. It does not save the three separate trainings, from which it starts.
#
# ## What you can do now
#
# - put a gate between two networks, forward and backward, and say what its derivative is blind to;
# - add up three losses so that their weights mean what they say, even when nobody passes a gate;
# - follow a gradient from three losses through two gates into features that they share;
# - choose between a threshold and a fixed number of places;
# - compare two trainings fairly: same start, same batches, same number of steps, and a measure that was fixed before;
# - say which part of "88.2 against 87.2" is sharing: nobody knows, for want of a control.
#
# In the library: `minidetect/models/facecraft.py` (`JointCascade`, `Cascade.losses`), `minidetect/ops/threshold.py`,
# `minidetect/train/facecraft.py` (all the phases, on photos). Next: 16, what a batch should contain.

# %%
lesson.finish()
