"""Automatic differentiation: the graph, its backward pass, and the check of a gradient."""

from minidetect.autograd.tensor import Function, Tensor, nan_check, no_grad

__all__ = ["Function", "Tensor", "nan_check", "no_grad"]
