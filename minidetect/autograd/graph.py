"""Draw a computation graph: what was computed from what, left to right.

    from minidetect.autograd.graph import draw_graph, trace_graph
    graph = trace_graph(loss)                # before backward, which uses the graph up
    loss.backward(retain_all=True)           # leaves a gradient in every tensor
    draw_graph(graph, "loss.png")            # or draw_graph(loss, ...) for the values alone

A box is a tensor, with its name, its shape, and the numbers where there are few (of many gradients, |grad|
is the Euclidean norm); a rounded box is the Function that made the tensor to its right. Tensors stand in
layers (one more than their last input's), an edge that passes a layer keeps a lane of its own there, and
the order within a layer is improved by the barycentre method: each node moves to the mean height of its
neighbours (Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System
Structures", 1981). All lengths are in inches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from minidetect.autograd.tensor import Tensor

MOST_TENSORS = 200  # more than that and nobody can read it
FEW = 3  # elements of a tensor that are written out
FONT_SIZE, LINE = 9, 0.17  # points, and the inches of one line of text
GAP_X, GAP_Y, PAD = 0.42, 0.16, 0.09
FACE = {"parameter": "#fff1c9", "constant": "#eeeeee", "computed": "#e3eefa"}
FUNCTION_FACE = "#d9ead3"


@dataclass
class Node:
    """A tensor with the function that made it, or (tensor None) the lane of an edge that passes a layer."""

    tensor: Tensor | None
    op: str = ""
    inputs: list[Node] = field(default_factory=list)  # what the edges into this node come from
    layer: int = 0
    y: float = 0.0

    @property
    def kind(self) -> str:
        if self.op:
            return "computed"
        return "parameter" if self.tensor.requires_grad else "constant"

    @property
    def lines(self) -> list[str]:
        """The text in the box."""
        t = self.tensor
        shape = "×".join(map(str, t.shape)) or "scalar"
        text = [f"{t.name}  {shape}" if t.name else shape]
        if 0 < t.size <= FEW:
            text.append(numbers(t.data))
        if t.grad is not None:
            few = 0 < t.size <= FEW
            text.append(f"grad {numbers(t.grad)}" if few else f"|grad| {np.linalg.norm(t.grad):.3g}")
        return text

    @property
    def height(self) -> float:
        return LINE if self.tensor is None else LINE * len(self.lines) + 2 * PAD


def numbers(array: np.ndarray) -> str:
    return ", ".join(f"{v:.4g}" for v in array.reshape(-1))


def trace_graph(root: Tensor) -> list[Node]:
    """The nodes that `root` was computed from, inputs before outputs, constants included.

    It holds on to the tensors, so that gradients which a later `backward` leaves can be drawn.
    Raises ValueError for more than 200 tensors.
    """
    nodes: dict[int, Node] = {}
    stack = [(root, False)]
    while stack:
        tensor, inputs_done = stack.pop()
        inputs = tensor.creator.inputs if tensor.creator else ()
        if id(tensor) in nodes:
            continue
        if not inputs_done:
            stack.append((tensor, True))
            stack.extend((x, False) for x in reversed(inputs))
            continue
        node = Node(tensor, tensor.creator.name if tensor.creator else "", [nodes[id(x)] for x in inputs])
        node.layer = 1 + max((x.layer for x in node.inputs), default=-1)
        nodes[id(tensor)] = node
        if len(nodes) > MOST_TENSORS:
            raise ValueError(f"a graph of more than {MOST_TENSORS} tensors: draw a part of it")
    return list(nodes.values())


def draw_graph(graph: Tensor | list[Node], file: str | PathLike) -> None:
    """Write a picture of the graph; the file's ending says which kind (png, svg, pdf).

    graph: the tensor at its end, or what `trace_graph` gave before a backward with `retain_all=True`.
    """
    nodes = trace_graph(graph) if isinstance(graph, Tensor) else graph
    layers = arrange(nodes)
    op_widths = [max(text_width([n.op]) if n.op else 0 for n in layer) for layer in layers]
    box_widths = [max(0 if n.tensor is None else text_width(n.lines) for n in layer) for layer in layers]
    left = GAP_X  # x of the current layer's left side
    spans = []  # of each layer: where its functions begin, where its boxes begin, where both end
    for op_width, box_width in zip(op_widths, box_widths, strict=True):
        box_left = left + op_width + (GAP_X / 2 if op_width else 0)
        spans.append((left, box_left, box_left + box_width))
        left = box_left + box_width + GAP_X
    top = max(n.y + n.height / 2 for layer in layers for n in layer) + GAP_X
    bottom = min(n.y - n.height / 2 for layer in layers for n in layer) - GAP_X

    figure = Figure((left, top - bottom))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, left), ylim=(bottom, top))
    axes.axis("off")
    for layer in layers:
        for node in layer:
            draw_node(axes, node, spans)
    figure.savefig(file, dpi=150)


def text_width(lines: list[str]) -> float:
    """Width of a box around lines of text."""
    return max(TextPath((0, 0), s, size=FONT_SIZE).get_extents().width for s in lines) / 72 + 2 * PAD


# ------------------------------------------------------------------ layout


def arrange(nodes: list[Node]) -> list[list[Node]]:
    """Nodes and lanes by layer, top to bottom, each with its height `y`."""
    consumers: dict[int, list[Node]] = {}
    for node in nodes:
        for x in node.inputs:
            consumers.setdefault(id(x), []).append(node)
    for node in nodes:  # a leaf stands right before its first use, not at the far left
        if not node.op and id(node) in consumers:
            node.layer = min(c.layer for c in consumers[id(node)]) - 1
    layers: list[list[Node]] = [[] for _ in range(1 + max(n.layer for n in nodes))]
    for node in nodes:
        layers[node.layer].append(node)
    for node in nodes:
        node.inputs = [lane_to(x, node, layers) for x in node.inputs]
    after: dict[int, list[Node]] = {}
    for node in (n for layer in layers for n in layer):
        for x in node.inputs:
            after.setdefault(id(x), []).append(node)

    for layer in layers:
        stack_up(layer)
    for sweep in range(24):
        forward = sweep % 2 == 0
        for layer in layers if forward else reversed(layers):
            wanted = {}  # height by node: first the one side's, then the other's, at last both sides' mean
            for n in layer:
                before, behind = n.inputs, after.get(id(n), [])
                near = before + behind if sweep >= 16 else before if forward else behind
                wanted[id(n)] = sum(m.y for m in near) / len(near) if near else n.y
            heights = [wanted[id(n)] for n in layer]
            layer[:] = [layer[i] for i in sorted(range(len(layer)), key=lambda i, y=heights: -y[i])]
            settle(layer, [wanted[id(n)] for n in layer])
    return layers


def lane_to(x: Node, node: Node, layers: list[list[Node]]) -> Node:
    """`x` itself when it stands in the layer before `node`, else the last of a chain of lanes from it."""
    for layer in range(x.layer + 1, node.layer):
        x = Node(None, inputs=[x], layer=layer)
        layers[layer].append(x)
    return x


def stack_up(layer: list[Node]) -> None:
    """Put the nodes of a layer under each other, centred on 0."""
    y = (sum(n.height for n in layer) + GAP_Y * (len(layer) - 1)) / 2
    for n in layer:
        n.y = y - n.height / 2
        y -= n.height + GAP_Y


def settle(layer: list[Node], wanted: list[float]) -> None:
    """Move each node as near to the height it wants as its neighbours allow, keeping the order.

    Packed downwards from the first and upwards from the last, both keep every distance; so does their mean.
    """
    down, up = wanted.copy(), wanted.copy()
    for i in range(1, len(layer)):
        room = (layer[i - 1].height + layer[i].height) / 2 + GAP_Y
        down[i] = min(down[i], down[i - 1] - room)
    for i in range(len(layer) - 2, -1, -1):
        room = (layer[i].height + layer[i + 1].height) / 2 + GAP_Y
        up[i] = max(up[i], up[i + 1] + room)
    for n, a, b in zip(layer, down, up, strict=True):
        n.y = (a + b) / 2


# ------------------------------------------------------------------ drawing


def draw_node(axes, node: Node, spans: list[tuple[float, float, float]]) -> None:
    """The box with its function, and the edges that lead there."""
    left, box_left, right = spans[node.layer]
    if node.tensor is None:  # a lane: a straight piece across the layer
        axes.plot([left, right], [node.y, node.y], color="#888888", lw=1, solid_capstyle="butt", zorder=1)
        end = left
    else:
        draw_box(axes, box_left, right, node.y, node.height, node.lines, FACE[node.kind], "square")
        end = box_left
    if node.op:
        width = text_width([node.op])
        end = box_left - GAP_X / 2 - width
        draw_box(axes, end, end + width, node.y, LINE + 2 * PAD, [node.op], FUNCTION_FACE, "round")
        draw_edge(axes, end + width, node.y, box_left, node.y, arrow=True)
    count = len(node.inputs)
    for i, x in enumerate(sorted(node.inputs, key=lambda m: -m.y)):
        spread = 0.0 if count == 1 else 0.16 * (0.5 - i / (count - 1))  # top first: edges do not cross here
        draw_edge(axes, spans[x.layer][2], x.y, end, node.y + spread, arrow=node.tensor is not None)


def draw_box(axes, left, right, y, height, lines, face, style) -> None:
    shape = "round,pad=0,rounding_size=0.16" if style == "round" else "square,pad=0"
    corner = (left, y - height / 2)
    box = FancyBboxPatch(corner, right - left, height, shape, fc=face, ec="#555555", lw=0.8, zorder=2)
    axes.add_patch(box)
    axes.text((left + right) / 2, y, "\n".join(lines), ha="center", va="center", size=FONT_SIZE, zorder=3)


def draw_edge(axes, x1, y1, x2, y2, arrow) -> None:
    """A curve that leaves and arrives horizontally."""
    middle = (x1 + x2) / 2
    path = Path([(x1, y1), (middle, y1), (middle, y2), (x2, y2)],
                [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    style = "-|>,head_length=4,head_width=2" if arrow else "-"
    axes.add_patch(FancyArrowPatch(path=path, arrowstyle=style, color="#888888", lw=1, zorder=1))
