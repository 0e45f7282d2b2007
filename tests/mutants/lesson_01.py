"""Wrong answers to lesson 01 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_01 import maximum_backward, slope_along, unbroadcast


def multiply_backward__each_its_own(g, x, y):
    return g * x, g * y


def multiply_backward__forgets_what_arrives(g, x, y):
    return y, x


def multiply_backward__as_for_a_sum(g, x, y):
    return g, g


def multiply_backward__the_whole_product(g, x, y):
    return g * x * y, g * x * y


def multiply_backward__one_number(g, x, y):
    return g * (x + y)


def multiply_backward__divides_the_product(g, x, y):
    return (g * (x * y) / x, g * (x * y) / y) if y else (0.0, 0.0)


def maximum_backward__first_takes_a_tie(g, x, y):
    return (g, 0.0) if x >= y else (0.0, g)


def maximum_backward__both_take_a_tie(g, x, y):
    return g * (x >= y), g * (y >= x)


def maximum_backward__nobody_takes_a_tie(g, x, y):
    return g * (x > y), g * (y > x)


def maximum_backward__to_the_smaller(g, x, y):
    return maximum_backward(g, -x, -y)


def maximum_backward__forgets_what_arrives(g, x, y):
    return maximum_backward(1.0, x, y)


def maximum_backward__by_size_without_sign(g, x, y):
    return maximum_backward(g, abs(x), abs(y))


def maximum_backward__nearly_equal_is_a_tie(g, x, y):
    return (g / 2, g / 2) if np.isclose(x, y) else maximum_backward(g, x, y)


def maximum_backward__returns_the_values(g, x, y):
    return (x, 0.0) if x > y else (0.0, y)


def topological_order__recursive(root):
    order, seen = [], set()

    def visit(node):
        if id(node) not in seen:
            seen.add(id(node))
            for x in node.inputs:
                visit(x)
            order.append(node)

    visit(root)
    return order


def topological_order__does_not_remember(root):
    order, stack = [], [root]
    while stack:
        node = stack.pop()
        order.append(node)
        stack += node.inputs
    return order[::-1]


def topological_order__walks_every_path(root):
    seen, stack = [], [root]
    while stack:
        node = stack.pop()
        seen.append(node)
        stack += node.inputs
    return list(dict.fromkeys(reversed(seen)))  # the last time counts: a right order, after 2 ** n visits


def topological_order__breadth_first(root):
    order = [root]
    for node in order:
        order += [x for x in dict.fromkeys(node.inputs) if x not in order]
    return order[::-1]


def topological_order__depth_first_backwards(root):
    order, stack = [], [root]
    while stack:
        node = stack.pop()
        if node not in order:
            order.append(node)
            stack += node.inputs
    return order[::-1]


def topological_order__root_first(root):
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack += [(node, True), *((x, False) for x in node.inputs)]
    return order[::-1]


def topological_order__without_the_root(root):
    return topological_order__depth_first_backwards(root)[:-1]


def topological_order__inputs_only_one_deep(root):
    return [*dict.fromkeys(root.inputs), root]


def unbroadcast__in_front_only(g, shape):
    return g.sum(axis=tuple(range(g.ndim - len(shape))))


def unbroadcast__loses_the_axis(g, shape):
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1))


def unbroadcast__takes_one_copy(g, shape):
    g = g[(0,) * (g.ndim - len(shape))]
    return g[tuple(slice(0, 1) if n == 1 else slice(None) for n in shape)]


def unbroadcast__mean(g, shape):
    summed = unbroadcast(g, shape)
    return summed * (summed.size / g.size)


def unbroadcast__axes_at_the_end(g, shape):
    extra = g.ndim - len(shape)
    if g.shape[: len(shape)] == shape:
        return g.sum(axis=tuple(range(len(shape), len(shape) + extra)))
    return unbroadcast(g, shape)


def unbroadcast__reshapes(g, shape):
    return np.resize(g, shape)


def unbroadcast__front_axes_by_rising_number(g, shape):
    for axis in range(g.ndim - len(shape)):
        g = g.sum(axis=axis)  # the first sum has renumbered the others
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def unbroadcast__sums_everything_for_length_one(g, shape):
    return np.full(shape, g.sum()) if 1 in shape else unbroadcast(g, shape)


def slope_along__one_sided(f, x, direction, g, eps):
    return np.sum(g * (f(x + eps * direction) - f(x))) / eps


def slope_along__forgets_the_two(f, x, direction, g, eps):
    return 2 * slope_along(f, x, direction, g, eps)


def slope_along__forgets_g(f, x, direction, g, eps):
    return slope_along(f, x, direction, np.ones_like(g), eps)


def slope_along__forgets_the_direction(f, x, direction, g, eps):
    return slope_along(f, x, np.ones_like(direction), g, eps)


def slope_along__unit_direction(f, x, direction, g, eps):
    return slope_along(f, x, direction / np.linalg.norm(direction), g, eps)


def slope_along__a_step_of_its_own(f, x, direction, g, eps):
    return slope_along(f, x, direction, g, 1e-6)


def slope_along__half_a_step_to_each_side(f, x, direction, g, eps):
    return slope_along(f, x, direction, g, eps / 2)


def slope_along__does_not_divide(f, x, direction, g, eps):
    return np.sum(g * (f(x + eps * direction) - f(x - eps * direction)))


def slope_along__the_wrong_way(f, x, direction, g, eps):
    return -slope_along(f, x, direction, g, eps)


def slope_along__moves_x_itself(f, x, direction, g, eps):
    x += eps * direction
    right = f(x)
    x -= 2 * eps * direction
    return np.sum(g * (right - f(x))) / (2 * eps)
