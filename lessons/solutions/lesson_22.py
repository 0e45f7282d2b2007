"""Solutions of lesson 22. Try first: the checks tell you more than this file does.

Kernels are left undecorated, as in the lesson: `cuda.jit(prelu)` makes one for a GPU.
"""

from __future__ import annotations

from numba import cuda, float32, uint64

THREADS = 8  # of a block that adds up
TILE = 4  # outputs of a block, down and across
SIDE = TILE + 2  # of what they see: sizes of shared memory must be names or numbers, not sums
WORD = 64  # boxes whose bits share a word


def prelu(x, slope, out):
    """One thread an element; those beyond the end have nothing to do."""
    i = cuda.grid(1)
    if i < x.size:
        out[i] = x[i] if x[i] > 0 else slope * x[i]


def iou_table(a, b, out):
    """One thread a pair: x goes along the row of the table, so that neighbours write side by side."""
    j, i = cuda.grid(2)
    if i < a.shape[0] and j < b.shape[0]:
        width = min(a[i, 2], b[j, 2]) - max(a[i, 0], b[j, 0])
        height = min(a[i, 3], b[j, 3]) - max(a[i, 1], b[j, 1])
        shared = max(width, 0) * max(height, 0)
        area_a = (a[i, 2] - a[i, 0]) * (a[i, 3] - a[i, 1])
        area_b = (b[j, 2] - b[j, 0]) * (b[j, 3] - b[j, 1])
        out[i, j] = shared / (area_a + area_b - shared)


def block_sums(x, out):
    """A tree in shared memory: 8 numbers, 4 sums, 2 sums, 1 sum. Every thread comes to every barrier."""
    part = cuda.shared.array(THREADS, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    part[t] = x[i] if i < x.size else 0
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            part[t] += part[t + half]
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = part[0]


def conv_tile(x, w, out):
    """A block loads what its TILE x TILE outputs need, one channel after the other."""
    tile = cuda.shared.array((SIDE, SIDE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    left, top = cuda.blockIdx.x * TILE, cuda.blockIdx.y * TILE
    total = float32(0)
    for c in range(x.shape[0]):
        for k in range(ty * TILE + tx, SIDE * SIDE, TILE * TILE):
            i, j = k // SIDE, k % SIDE
            if top + i < x.shape[1] and left + j < x.shape[2]:
                tile[i, j] = x[c, top + i, left + j]
        cuda.syncthreads()
        if top + ty < out.shape[0] and left + tx < out.shape[1]:
            for u in range(3):
                for v in range(3):
                    total += w[c, u, v] * tile[ty + u, tx + v]
        cuda.syncthreads()  # nobody may overwrite the tile while a neighbour still reads it
    if top + ty < out.shape[0] and left + tx < out.shape[1]:
        out[top + ty, left + tx] = total


def roi_scatter(gy, argmax, gx):
    """One thread a bin: its gradient goes to the cell that won, together with that of other bins."""
    k = cuda.grid(1)
    if k < argmax.size and argmax[k] >= 0:
        cuda.atomic.add(gx, argmax[k], gy[k])


def suppression_words(boxes, threshold, mask):
    """One thread a word: 64 pairs, of which those below the diagonal are not looked at."""
    word, i = cuda.grid(2)
    if i < mask.shape[0] and word < mask.shape[1]:
        bits = uint64(0)
        x1, y1, x2, y2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        for j in range(max(word * WORD, i + 1), min(word * WORD + WORD, boxes.shape[0])):
            width = min(x2, boxes[j, 2]) - max(x1, boxes[j, 0])
            height = min(y2, boxes[j, 3]) - max(y1, boxes[j, 1])
            shared = max(width, 0) * max(height, 0)
            area = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
            if shared / ((x2 - x1) * (y2 - y1) + area - shared) > threshold:
                bits |= uint64(1) << uint64(j - word * WORD)
        mask[i, word] = bits
