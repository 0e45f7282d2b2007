"""The graph and its backward pass: sums of gradients, order, depth, broadcasting, and clear errors."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect import ops  # noqa: F401 (gives Tensor its operators)
from minidetect.autograd import Function, Tensor, nan_check, no_grad
from minidetect.autograd.gradcheck import gradcheck
from minidetect.autograd.graph import draw_graph, trace_graph
from minidetect.ops.activation import relu
from minidetect.ops.elementwise import exp, log

SETTINGS = settings(max_examples=60, deadline=None)


def leaf(*values, name=""):
    return Tensor(np.array(values, np.float64), requires_grad=True, name=name)


# ------------------------------------------------------------------ what backward computes


def test_chain_rule_by_hand():
    x = leaf(3.0)
    y = (2 * x + 1) ** 2  # 49, dy/dx = 2 * 7 * 2
    y.backward()
    assert y.item() == 49 and x.grad.tolist() == [28]


def test_gradients_of_two_uses_add_up():
    x = leaf(3.0)
    (x * x + x).backward()  # 2x + 1: once as either factor, once as the term
    assert x.grad.tolist() == [7]


def test_gradients_of_two_backwards_accumulate():
    x = leaf(3.0)
    (2 * x).backward()
    (5 * x).backward()
    assert x.grad.tolist() == [7]


def test_diamond():
    """x feeds a and b, both feed y: a's and b's gradients must both have arrived before x is left."""
    x = leaf(2.0)
    a = x * 3
    b = a * a  # a is used again below, one level later
    c = a + b
    (c * b).backward()  # f = (a + a^2) a^2 = a^3 + a^4, f' = 3 a^2 + 4 a^3 = 972 at a = 6, times 3
    assert x.grad.tolist() == [2916]


def test_a_ladder_of_diamonds_takes_linear_time():
    """Each step uses its input twice: walking every path would take 2**200 steps."""
    x = leaf(1.0)
    y = x
    for _ in range(200):
        y = (y + y) * 0.5
    y.backward()
    assert x.grad.tolist() == [1]


def test_deep_chain_needs_no_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(20_000):
        y = y + 1
    y.backward()
    assert y.item() == 20_001 and x.grad.tolist() == [1]
    del y  # the chain of references is long, too: letting go of it must not overflow the stack


def test_deep_chain_can_be_dropped_without_backward():
    y = leaf(1.0)
    for _ in range(100_000):
        y = y + 1
    del y


@given(st.lists(st.integers(0, 2), max_size=4), st.data())
@SETTINGS
def test_broadcasting_is_undone(kind, data):
    """Any two shapes that broadcast: each gradient has its input's shape and the right values."""
    sizes = [data.draw(st.integers(1, 3)) for _ in kind]
    a = [n if k != 1 else 1 for n, k in zip(sizes, kind, strict=True)]
    b = [n if k != 2 else 1 for n, k in zip(sizes, kind, strict=True)]
    b = b[data.draw(st.integers(0, len(b))) :]  # axes that b does not have at all
    rng = np.random.default_rng(0)
    gradcheck(lambda x, y: x * y + x / (y * y), rng.uniform(1, 2, a), rng.uniform(1, 2, b), rng=rng)


def test_unbroadcast_by_hand():
    column, row = leaf([1.0], [2.0]), leaf(10.0, 20.0, 30.0)
    (column * row).backward(np.ones((2, 3)))
    assert column.grad.tolist() == [[60], [60]] and row.grad.tolist() == [3, 3, 3]


def test_constants_get_no_gradient():
    x, c = leaf(2.0), Tensor(np.array([5.0]))
    y = x * c
    y.backward()
    assert x.grad.tolist() == [5] and c.grad is None and y.grad is None


def test_numpy_array_on_the_left():
    x = leaf(1.0, 2.0)
    y = np.array([3.0, 4.0]) * x
    assert isinstance(y, Tensor) and y.data.tolist() == [3, 8]


def test_retain_all_leaves_gradients_in_between():
    x = leaf(3.0)
    a = x * x
    y = a * 2
    y.backward(retain_all=True)
    assert (y.grad.tolist(), a.grad.tolist(), x.grad.tolist()) == ([1], [2], [12])


def test_a_gradient_passed_in_is_used_and_left_alone():
    x = leaf(1.0, 2.0)
    gradient = np.array([10.0, 100.0])
    (x * 1).backward(gradient)
    x.grad += 1
    assert gradient.tolist() == [10, 100]


# ------------------------------------------------------------------ no_grad, detach


def test_no_grad_records_nothing():
    x = leaf(2.0)
    with no_grad():
        y = x * x
    assert y.creator is None and not y.requires_grad
    with pytest.raises(RuntimeError, match="requires a gradient"):
        y.backward()
    assert (x * x).requires_grad  # back to normal


def test_no_grad_ends_with_an_exception():
    with pytest.raises(ZeroDivisionError), no_grad():
        1 / 0  # noqa: B018
    assert (leaf(1.0) * 2).requires_grad


def test_no_grad_is_of_its_own_thread():
    """Entered and left in turns by two threads, a switch of the whole process would end up off."""
    inside, leave = threading.Event(), threading.Event()

    def detect():
        with no_grad():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=detect)
    thread.start()
    assert inside.wait(10)
    with no_grad():
        pass
    assert (leaf(1.0) * 2).requires_grad  # while the other thread is still inside
    leave.set()
    thread.join()
    assert (leaf(1.0) * 2).requires_grad


def test_detach_stops_the_gradient():
    x = leaf(3.0)
    (x * x.detach()).backward()
    assert x.grad.tolist() == [3]


# ------------------------------------------------------------------ errors


def test_backward_from_a_non_scalar():
    with pytest.raises(ValueError, match=r"shape \(2,\): reduce it"):
        (leaf(1.0, 2.0) * 2).backward()


def test_backward_with_a_misshapen_gradient():
    with pytest.raises(ValueError, match=r"\(3,\), the tensor \(2,\)"):
        (leaf(1.0, 2.0) * 2).backward(np.ones(3))


def test_backward_twice():
    x = leaf(2.0)
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match="Mul a second time"):
        y.backward()
    assert x.grad.tolist() == [4]


def test_backward_through_a_part_used_up():
    x = leaf(2.0)
    shared = x * x
    (shared * 3).backward()
    with pytest.raises(RuntimeError, match="Mul a second time"):
        (shared * 5).backward()


def test_a_tensor_of_a_tensor():
    with pytest.raises(TypeError, match="detach"):
        Tensor(leaf(1.0))


def test_a_tensor_of_text():
    with pytest.raises(TypeError, match="numbers"):
        Tensor(np.array(["a"]))


class WrongShape(Function):
    def forward(self, x):
        return x * 2

    def backward(self, gy):
        return (gy.sum(),)


class WrongCount(WrongShape):
    def backward(self, gy):
        return gy, gy


def test_a_backward_that_breaks_its_contract_is_named():
    with pytest.raises(ValueError, match=r"WrongShape.*gradient 0 has shape \(\), its input has \(2,\)"):
        WrongShape()(leaf(1.0, 2.0)).backward(np.ones(2))
    with pytest.raises(TypeError, match="WrongCount.backward must return a tuple of 1"):
        WrongCount()(leaf(1.0, 2.0)).backward(np.ones(2))


# ------------------------------------------------------------------ NaN


def test_nan_check_names_operation_and_step():
    x = leaf(1.0, -1.0, name="x")
    with np.errstate(invalid="ignore"), nan_check(step=17), pytest.raises(FloatingPointError) as caught:
        relu(log(x) * 2)
    assert "step 17" in str(caught.value) and "output of Log" in str(caught.value)
    assert "index (1,)" in str(caught.value) and "1 of 2" in str(caught.value)


def test_nan_check_finds_a_bad_gradient():
    x = leaf(0.0, name="x")
    with np.errstate(all="ignore"), nan_check(step="warm-up 3"):
        y = x**0.5  # 0, a fine number, whose derivative is not
        with pytest.raises(FloatingPointError, match="warm-up 3: gradient 0 of Power is inf"):
            y.backward()


def test_without_nan_check_nothing_is_said():
    with np.errstate(all="ignore"):
        assert np.isnan(exp(log(leaf(-1.0))).data[0])


# ------------------------------------------------------------------ the drawing


def small_graph():
    a, b, c = leaf(2.0, name="a"), leaf(-3.0, name="b"), Tensor(np.ones((4, 5)), name="images")
    return ((a * b + a) * (c * a).sum() + a * 0.5).sum()


def test_trace_graph_lists_every_tensor_once_inputs_first():
    nodes = trace_graph(small_graph())
    assert [n.op for n in nodes if n.op] == ["Mul", "Add", "Mul", "Sum", "Mul", "Mul", "Add", "Sum"]
    assert sum(n.tensor.name == "a" for n in nodes) == 1
    seen = set()
    for n in nodes:
        assert all(id(x) in seen for x in n.inputs)
        seen.add(id(n))


def test_nodes_show_shapes_values_and_gradients():
    loss = small_graph()
    nodes = trace_graph(loss)
    loss.backward(retain_all=True)
    lines = {n.tensor.name: n.lines for n in nodes if n.tensor.name}
    assert lines["a"] == ["a  1", "2", "grad -159.5"]  # of 20 a^2 (b + 1) + a / 2
    assert lines["images"] == ["images  4×5"]


def test_drawn_nodes_of_a_layer_do_not_overlap(tmp_path):
    nodes = trace_graph(small_graph())
    draw_graph(nodes, tmp_path / "graph.png")
    for layer in {n.layer for n in nodes}:
        column = sorted((n for n in nodes if n.layer == layer), key=lambda n: n.y)
        for below, above in zip(column, column[1:], strict=False):
            assert below.y + below.height / 2 < above.y - above.height / 2
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")


def test_a_single_leaf_and_a_huge_graph(tmp_path):
    draw_graph(leaf(1.0), tmp_path / "leaf.svg")
    assert "svg" in (tmp_path / "leaf.svg").read_text()[:200]
    y = leaf(1.0)
    for _ in range(300):
        y = y + 1
    with pytest.raises(ValueError, match="more than 200"):
        draw_graph(y, tmp_path / "huge.png")
    assert not (tmp_path / "huge.png").exists()
