"""The loops, in Numba: arrays in, arrays out. Nothing here knows of tensors or of gradients' bookkeeping."""
