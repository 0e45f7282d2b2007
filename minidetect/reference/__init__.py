"""Slow and obviously right: the oracles that tests and lessons compare the fast code with.

Written in another style than the kernels (slices and loops over what the definition names, no index
arithmetic) and independent of them: this package imports nothing of minidetect.
"""
