"""Differentiable operations: a Function each, and a lowercase wrapper each.

Importing this package gives `Tensor` its operators (+ - * / ** @ []) and its shorthand methods.
"""

from minidetect.autograd.tensor import Tensor
from minidetect.ops import elementwise, linear, reduce, shape


def _install_operators() -> None:
    """Tensor lies a floor below the operations, so they attach themselves to it from here."""
    Tensor.__add__ = Tensor.__radd__ = elementwise.add
    Tensor.__sub__ = elementwise.sub
    Tensor.__rsub__ = lambda self, other: elementwise.sub(other, self)
    Tensor.__mul__ = Tensor.__rmul__ = elementwise.mul
    Tensor.__truediv__ = elementwise.div
    Tensor.__rtruediv__ = lambda self, other: elementwise.div(other, self)
    Tensor.__neg__ = elementwise.neg
    Tensor.__pow__ = elementwise.power
    Tensor.__matmul__ = linear.matmul
    Tensor.__getitem__ = shape.getitem
    Tensor.reshape = shape.reshape
    Tensor.transpose = shape.transpose
    Tensor.sum = reduce.sum
    Tensor.mean = reduce.mean
    Tensor.max = reduce.max


_install_operators()
