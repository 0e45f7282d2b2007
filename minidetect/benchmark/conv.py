"""Cases: convolution and its two gradients, dense and depthwise, over the shapes that the models use.

    FaceCraft   x12 over the pyramid of a 640 x 480 photo; the three nets on patches, 128 at a time
    cascade     the multi-output cascade (12, 24, 48 pixels), in the same two ways
    EXTD        the blocks of EXTD-32 at 640 x 640, whose weights serve every level from 320 down to 5
    FPN         a small feature pyramid network on 320 x 320

A first layer's input is the image, so its input gradient is never computed, and isn't timed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidetect.benchmark.peers import Peers
from minidetect.benchmark.timing import Case, Contest, WrongResultError
from minidetect.kernels.conv import conv2d_backward, conv2d_forward, output_size


@dataclass(frozen=True)
class Shape:
    """A convolution of x (n, c, h, w) with o square filters; groups = c makes it depthwise."""

    model: str
    n: int
    c: int
    h: int
    w: int
    o: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    gradients: bool = True
    short: bool = False

    @property
    def out(self) -> tuple[int, int]:
        return tuple(output_size(size, self.kernel, self.stride, self.padding, 1) for size in (self.h, self.w))

    @property
    def name(self) -> str:
        stride = f" s{self.stride}" if self.stride > 1 else ""
        return f"{self.model} {self.c}>{self.o} {self.kernel}x{self.kernel}{stride} {self.n}x{self.h}x{self.w}"

    @property
    def flops(self) -> float:
        taps = self.c // self.groups * self.kernel**2
        return 2.0 * self.n * self.o * self.out[0] * self.out[1] * taps

    @property
    def bytes(self) -> float:
        """Of x, w and y, each moved once; a gradient moves as much."""
        x, y = self.n * self.c * self.h * self.w, self.n * self.o * self.out[0] * self.out[1]
        return 4.0 * (x + y + self.o * self.c // self.groups * self.kernel**2)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """x, w, b and gy, float32, always the same."""
        rng = np.random.default_rng(0)
        shapes = (
            (self.n, self.c, self.h, self.w), (self.o, self.c // self.groups, self.kernel, self.kernel),
            (self.o,), (self.n, self.o, *self.out),
        )
        return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


def patches(model: str, side: int, c: int, o: int, kernel: int, **more) -> Shape:
    return Shape(model, 128, c, side, side, o, kernel, **more)


FACECRAFT = (
    Shape("FaceCraft x12", 1, 3, 240, 320, 16, 3, gradients=False, short=True),
    Shape("FaceCraft x12", 1, 16, 119, 159, 16, 5, gradients=False, short=True),
    Shape("FaceCraft x12", 1, 3, 95, 127, 16, 3, gradients=False),
    Shape("FaceCraft x12", 1, 16, 47, 63, 16, 5, gradients=False),
    patches("FaceCraft x12", 12, 3, 16, 3, gradients=False),
    patches("FaceCraft x12", 5, 16, 16, 5),
    patches("FaceCraft x24", 24, 3, 32, 3, gradients=False),
    patches("FaceCraft x24", 11, 32, 48, 3),
    patches("FaceCraft x24", 4, 48, 64, 2),
    patches("FaceCraft x48", 48, 3, 32, 3, gradients=False),
    patches("FaceCraft x48", 23, 32, 64, 3, short=True),
    patches("FaceCraft x48", 10, 64, 64, 3),
    patches("FaceCraft x48", 4, 64, 128, 2),
)
CASCADE = (
    Shape("cascade 12", 1, 3, 240, 320, 10, 3, gradients=False),
    Shape("cascade 12", 1, 10, 119, 159, 16, 3, gradients=False),
    Shape("cascade 12", 1, 16, 117, 157, 32, 3, gradients=False),
    patches("cascade 12", 5, 10, 16, 3),
    patches("cascade 12", 3, 16, 32, 3),
    patches("cascade 24", 24, 3, 28, 3, gradients=False),
    patches("cascade 24", 11, 28, 48, 3, short=True),
    patches("cascade 24", 4, 48, 64, 2),
    patches("cascade 48", 48, 3, 32, 3, gradients=False),
    patches("cascade 48", 23, 32, 64, 3),
    patches("cascade 48", 10, 64, 64, 3),
    patches("cascade 48", 4, 64, 128, 2),
)
LEVELS = (320, 160, 80, 40, 20, 10, 5)  # of EXTD's maps, the first and the last for an input of 640
EXTD = (
    Shape("EXTD stem", 1, 3, 640, 640, 64, 3, 2, 1, gradients=False, short=True),
    *(
        Shape("EXTD", 1, c, side, side, o, 1, short=side == 80 and c != 128)
        for side in LEVELS for c, o in ((64, 32), (32, 64), (32, 128), (128, 32))
    ),
    *(Shape("EXTD head", 1, 32, side, side, o, 3, 1, 1) for side in LEVELS[1::2] for o in (4, 2)),
)  # fmt: skip
FPN = (
    Shape("FPN stem", 1, 3, 320, 320, 64, 7, 2, 3, gradients=False),
    *(Shape("FPN", 1, 64, side, side, 64, 1) for side in (80, 40, 20)),
    *(Shape("FPN", 1, 64, side, side, 64, 3, 1, 1, short=side == 40) for side in (80, 40, 20)),
    Shape("FPN", 1, 64, 80, 80, 128, 3, 2, 1),
)
DEPTHWISE = tuple(
    Shape("EXTD", 1, c, side, side, c, 3, stride, 1, groups=c, short=side == 160 and c == 64 or side == 40)
    for c, side, stride in (
        (64, 320, 1), (128, 320, 1), (64, 320, 2), (64, 160, 1), (128, 160, 1), (64, 160, 2),
        (64, 80, 1), (128, 80, 1), (64, 80, 2), (64, 40, 1), (128, 40, 1), (64, 40, 2), (64, 10, 1),
    )
)  # fmt: skip


def conv_cases() -> list[Case]:
    """All of them, by family."""
    dense, forward, backward = FACECRAFT + CASCADE + EXTD + FPN, "conv forward", ("input", "weight")
    cases = [Case(forward, s.name, s.flops, s.bytes, forward_contest(s), s.short) for s in once(dense)]
    for i, kind in enumerate(backward):
        needs = (i == 0, i == 1)
        cases += [
            Case(f"conv {kind} gradient", s.name, s.flops, s.bytes, backward_contest(s, needs), s.short)
            for s in once(dense) if s.gradients or kind == "weight" and s.n > 1
        ]  # fmt: skip
    for s in DEPTHWISE:
        cases.append(Case("depthwise forward", s.name, s.flops, s.bytes, forward_contest(s), s.short))
        both = backward_contest(s, (True, True))
        cases.append(Case("depthwise backward", s.name, 2 * s.flops, 2 * s.bytes, both, s.short))
    return cases


def once(shapes: tuple[Shape, ...]) -> list[Shape]:
    """Two models share some shapes: the first of equals."""
    seen = {(s.n, s.c, s.h, s.w, s.o, s.kernel, s.stride, s.groups): s for s in reversed(shapes)}
    return [s for s in shapes if s in seen.values()]


def forward_contest(s: Shape):
    def build(peers: Peers) -> Contest:
        x, w, b, _ = s.arrays()
        calls = {}
        if peers.torch:
            tensors = tuple(map(peers.tensor, (x, w, b)))
            calls["torch"] = lambda: peers.torch.conv2d(*tensors, s.stride, s.padding, 1, s.groups)
        if peers.ort:
            calls["onnxruntime"] = peers.node(
                "Conv", {"x": x}, {"w": w, "b": b}, group=s.groups,
                kernel_shape=[s.kernel] * 2, strides=[s.stride] * 2, pads=[s.padding] * 4,
            )

        def check(y: np.ndarray) -> None:
            check_forward(y, x, w, b, s)

        return Contest(lambda: conv2d_forward(x, w, b, s.stride, s.padding, 1, s.groups), calls, check)

    return build


def backward_contest(s: Shape, needs: tuple[bool, bool]):
    def build(peers: Peers) -> Contest:
        x, w, _, gy = s.arrays()
        calls = {}
        if peers.torch:
            gradient = peers.torch.ops.aten.convolution_backward
            tensors = tuple(map(peers.tensor, (gy, x, w)))
            settings = (None, [s.stride] * 2, [s.padding] * 2, [1, 1], False, [0, 0], s.groups, [*needs, False])
            calls["torch"] = lambda: gradient(*tensors, *settings)[:2]

        def check(gradients: tuple) -> None:
            check_backward(gradients, gy, x, w, s)

        return Contest(
            lambda: conv2d_backward(gy, x, w, s.stride, s.padding, 1, s.groups, needs), calls, check,
            tolerance=5e-4,  # a weight's gradient is a sum over up to 100,000 positions, in some order
        )

    return build


def check_forward(y: np.ndarray, x: np.ndarray, w: np.ndarray, b: np.ndarray, s: Shape, samples: int = 200) -> None:
    """Compute some outputs by the definition, in float64: the slow twin would take minutes for all of them."""
    rng = np.random.default_rng(1)
    padded = np.pad(x, ((0, 0), (0, 0), (s.padding,) * 2, (s.padding,) * 2)).astype(np.float64)
    share, scale = s.c // s.groups, float(np.abs(y).max())
    corners = [(0, 0, 0, 0), tuple(size - 1 for size in y.shape)]
    for n, o, i, j in corners + [tuple(rng.integers(y.shape)) for _ in range(samples)]:
        first = o // (s.o // s.groups) * share
        top, left = i * s.stride, j * s.stride
        patch = padded[n, first : first + share, top : top + s.kernel, left : left + s.kernel]
        true = float((patch * w[o]).sum()) + float(b[o])
        if not abs(y[n, o, i, j] - true) <= 1e-4 * scale:
            raise WrongResultError(f"y[{n}, {o}, {i}, {j}] is {y[n, o, i, j]:.6g}, by the definition {true:.6g}")


def check_backward(gradients: tuple, gy: np.ndarray, x: np.ndarray, w: np.ndarray, s: Shape) -> None:
    """y is linear in x and in w, so <gx, u> = <gy, conv(u, w)> for any u, and <gw, u> = <gy, conv(x, u)>.

    Along a random u both are about as large as the gradient's norm; three directions leave no error a hiding place.
    """
    rng = np.random.default_rng(1)
    for what, gradient, like in zip(("x", "w"), gradients, (x, w), strict=True):
        if gradient is None:
            continue
        if gradient.shape != like.shape:
            raise WrongResultError(f"the gradient of {what} has shape {gradient.shape}, not {like.shape}")
        norm = float(np.linalg.norm(gradient.astype(np.float64)))
        for _ in range(3):
            u = rng.standard_normal(like.shape, np.float32)
            y = conv2d_forward(*((u, w) if what == "x" else (x, u)), None, s.stride, s.padding, 1, s.groups)
            left, right = (float((a.astype(np.float64) * c).sum()) for a, c in ((gradient, u), (gy, y)))
            if not abs(left - right) <= 1e-3 * norm:
                raise WrongResultError(f"the gradient of {what} gives {left:.6g} along a direction, not {right:.6g}")
