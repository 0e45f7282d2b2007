"""Greedy non-maximum suppression on the GPU, as a mask of bits.

N: boxes, W: words of 64 bits for as many boxes. "Place 5" is the box that is fifth by its score, counted from 0.

The greedy rule is a chain: whether a box stays depends on all better boxes that do. But whether two boxes overlap too
much does not, and those are the many computations. So there are two launches:

    1   all pairs at once. Word w of row i says in bit k whether the box at place 64*w + k overlaps the better one at
        place i too much. A block of 64 threads makes 64 x 64 bits: a row for each thread, and the boxes of the columns
        in shared memory. Only words at or right of the diagonal are ever written or read.
    2   the chain, by a single block, 64 boxes at a time. One thread goes through the 64, by the words on the diagonal;
        then all threads strike out what the survivors overlap further right, each the words of its own column.

The processor looks at near boxes only (nms.py); here all pairs are compared, 50 million for 10,000 boxes, since none of
them waits for another. All overlaps are float64 with products that round at once, so the survivors are the same.
Sorting by the scores stays on the processor, as does whoever uses the survivors.

Left out: more than 65,536 boxes, whose mask would take more than half a gigabyte; the processor does those.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels import nms as on_processor
from minidetect.kernels.device import DeviceArray, empty, to_numpy
from minidetect.kernels.gpu import SIMULATED, cuda, rounded_product

WORD = 64  # bits, and the threads of a block that makes them
MOST_BOXES = 65536
MOST_WORDS = MOST_BOXES // WORD
SCAN_THREADS = 8 if SIMULATED else 256

product = rounded_product["float64"]


@cuda.jit
def _overlap_bits(boxes, order, threshold, by_smaller, mask):
    """mask (W*64, W). In the diagonal's words a box's own bit, which would say nothing, says that it has a NaN."""
    row_word, word = cuda.blockIdx.y, cuda.blockIdx.x
    if word < row_word:
        return
    columns = cuda.shared.array((5, WORD), np.float64)  # x1, y1, x2, y2 and area
    t = cuda.threadIdx.x
    place = WORD * word + t
    if place < len(order):
        for side in range(4):
            columns[side, t] = boxes[order[place], side]
        columns[4, t] = product(columns[2, t] - columns[0, t], columns[3, t] - columns[1, t])
    cuda.syncthreads()
    place = WORD * row_word + t
    if place >= len(order):
        return
    n = order[place]
    x1, y1 = np.float64(boxes[n, 0]), np.float64(boxes[n, 1])
    x2, y2 = np.float64(boxes[n, 2]), np.float64(boxes[n, 3])
    area = product(x2 - x1, y2 - y1)
    bits = np.uint64(0)
    first = 0
    if word == row_word:
        first = t + 1  # the worse ones only
        if x1 != x1 or y1 != y1 or x2 != x2 or y2 != y2:
            bits = np.uint64(1) << np.uint64(t)
    for k in range(first, min(WORD, len(order) - WORD * word)):
        w = (columns[2, k] if columns[2, k] < x2 else x2) - (columns[0, k] if columns[0, k] > x1 else x1)
        h = (columns[3, k] if columns[3, k] < y2 else y2) - (columns[1, k] if columns[1, k] > y1 else y1)
        if w > 0.0 and h > 0.0:
            shared = product(w, h)
            smaller = area if area < columns[4, k] else columns[4, k]
            whole = smaller if by_smaller else area + columns[4, k] - shared
            if shared / whole > threshold:
                bits |= np.uint64(1) << np.uint64(k)
    mask[place, word] = bits


@cuda.jit
def _scan(mask, order, rank):
    """rank (1 + N,): how many survive, or -1 if a box has a NaN; then these, by falling score."""
    removed = cuda.shared.array(MOST_WORDS, np.uint64)  # what better boxes have struck out
    diagonal = cuda.shared.array(WORD, np.uint64)
    survivors = cuda.shared.array(1, np.uint64)  # of the 64 at hand
    has_nan = cuda.shared.array(1, np.int32)
    t, one = cuda.threadIdx.x, np.uint64(1)
    for w in range(t, mask.shape[1], SCAN_THREADS):
        removed[w] = np.uint64(0)
    if t == 0:
        has_nan[0] = 0
    count = 0
    for word in range(mask.shape[1]):
        many = min(WORD, len(order) - WORD * word)
        cuda.syncthreads()
        for k in range(t, many, SCAN_THREADS):
            diagonal[k] = mask[WORD * word + k, word]
            if diagonal[k] >> np.uint64(k) & one:
                has_nan[0] = 1
        cuda.syncthreads()
        if t == 0:
            survivors[0] = _survivors_of_word(removed[word], many, diagonal)
        cuda.syncthreads()
        stay = survivors[0]
        for k in range(t, many, SCAN_THREADS):
            bit = one << np.uint64(k)
            if stay & bit:
                rank[1 + count + cuda.popc(stay & (bit - one))] = order[WORD * word + k]
        count += cuda.popc(stay)
        for w in range(word + 1 + t, mask.shape[1], SCAN_THREADS):
            removed[w] |= _struck_out(mask, WORD * word, w, stay)
    if t == 0:
        rank[0] = -1 if has_nan[0] else count


@cuda.jit(device=True)
def _survivors_of_word(removed, many, diagonal):
    """The chain itself: the best box left stays and strikes out what it overlaps; then the next one left."""
    one, stay = np.uint64(1), np.uint64(0)
    left = ~removed & (~np.uint64(0) >> np.uint64(WORD - many))
    while left != np.uint64(0):
        lowest = left & ~(left - one)
        k = cuda.popc(lowest - one)  # as many bits are below it
        stay |= lowest
        left &= (left - one) & ~diagonal[k]
    return stay


@cuda.jit(device=True)
def _struck_out(mask, first, w, stay):
    """What the boxes that stay, of the 64 from place `first` on, overlap in word w.

    All rows are read, also those of boxes that do not stay: 64 reads that wait for nothing can be under way together,
    while the rows of those that stay would be found one by one.
    """
    bits = np.uint64(0)
    for k in range(WORD):
        row = mask[first + k, w]
        bits |= row if (stay >> np.uint64(k)) & np.uint64(1) else np.uint64(0)
    return bits


def survivors(boxes: DeviceArray, order: DeviceArray, threshold: float, by_smaller: bool) -> np.ndarray:
    """The boxes (N, 4) that survive when they are gone through in the given order (N,): int64 (K,).

    An array in the machine's memory: `nms`, the only one that asks, gives no other.
    """
    n = len(order)
    if n == 0:
        return np.empty(0, np.int64)
    if n > MOST_BOXES:
        compute = on_processor.survivors.__wrapped__
        return compute(to_numpy(boxes), to_numpy(order), threshold, by_smaller)
    words = -(-n // WORD)
    mask, rank = empty((WORD * words, words), np.uint64), empty(1 + n, np.int64)
    _overlap_bits[(words, words), WORD](boxes.nd, order.nd, threshold, by_smaller, mask.nd)
    _scan[1, SCAN_THREADS](mask.nd, order.nd, rank.nd)
    found = to_numpy(rank)  # how many there are isn't known here before: cut off after one copy, not between two
    if found[0] < 0:
        raise on_processor.nan_error("boxes", to_numpy(boxes))
    return found[1 : 1 + found[0]]
