"""Wrong answers to lesson 22 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

from numba import cuda, float32, uint64

THREADS, TILE, SIDE, WORD = 8, 4, 6, 64


def prelu__no_guard(x, slope, out):
    i = cuda.grid(1)
    out[i] = x[i] if x[i] > 0 else slope * x[i]


def prelu__guard_lets_one_too_many_in(x, slope, out):
    i = cuda.grid(1)
    if i <= x.size:
        out[i] = x[i] if x[i] > 0 else slope * x[i]


def prelu__guard_keeps_the_last_one_out(x, slope, out):
    i = cuda.grid(1)
    if i < x.size - 1:
        out[i] = x[i] if x[i] > 0 else slope * x[i]


def prelu__thread_without_its_block(x, slope, out):
    i = cuda.threadIdx.x
    if i < x.size:
        out[i] = x[i] if x[i] > 0 else slope * x[i]


def prelu__block_times_number_of_blocks(x, slope, out):
    i = cuda.blockIdx.x * cuda.gridDim.x + cuda.threadIdx.x
    if i < x.size:
        out[i] = x[i] if x[i] > 0 else slope * x[i]


def prelu__everybody_does_everything(x, slope, out):
    for i in range(x.size):
        out[i] = x[i] if x[i] > 0 else slope * x[i]


def prelu__slope_on_both_sides(x, slope, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = slope * x[i]


def prelu__in_place(x, slope, out):
    i = cuda.grid(1)
    if i < x.size and x[i] < 0:
        x[i] = slope * x[i]


def overlap(p, q):
    width = max(min(p[2], q[2]) - max(p[0], q[0]), 0)
    height = max(min(p[3], q[3]) - max(p[1], q[1]), 0)
    return width * height / ((p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - width * height)


def iou_table__x_goes_down(a, b, out):
    i, j = cuda.grid(2)
    if i < a.shape[0] and j < b.shape[0]:
        out[i, j] = overlap(a[i], b[j])


def iou_table__guards_one_axis(a, b, out):
    j, i = cuda.grid(2)
    if i < a.shape[0]:
        out[i, j] = overlap(a[i], b[j])


def iou_table__guards_with_or(a, b, out):
    j, i = cuda.grid(2)
    if i < a.shape[0] or j < b.shape[0]:
        out[i, j] = overlap(a[i], b[j])


def iou_table__guards_by_the_wrong_list(a, b, out):
    j, i = cuda.grid(2)
    if i < b.shape[0] and j < a.shape[0]:
        out[i, j] = overlap(a[i], b[j])


def iou_table__turned(a, b, out):
    j, i = cuda.grid(2)
    if i < a.shape[0] and j < b.shape[0]:
        out[j, i] = overlap(a[i], b[j])


def iou_table__no_clamp(a, b, out):
    j, i = cuda.grid(2)
    if i < a.shape[0] and j < b.shape[0]:
        shared = (min(a[i, 2], b[j, 2]) - max(a[i, 0], b[j, 0])) * (min(a[i, 3], b[j, 3]) - max(a[i, 1], b[j, 1]))
        both = (a[i, 2] - a[i, 0]) * (a[i, 3] - a[i, 1]) + (b[j, 2] - b[j, 0]) * (b[j, 3] - b[j, 1])
        out[i, j] = shared / (both - shared)


def iou_table__a_thread_a_row(a, b, out):
    j, i = cuda.grid(2)
    if i < a.shape[0]:
        for k in range(b.shape[0]):
            out[i, k] = overlap(a[i], b[k])


def block_sums__no_barrier_after_loading(x, out):
    part = cuda.shared.array(THREADS, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    part[t] = x[i] if i < x.size else 0
    half = THREADS // 2
    while half > 0:
        if t < half:
            part[t] += part[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = part[0]


def block_sums__one_barrier_for_all_steps(x, out):
    part = cuda.shared.array(THREADS, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    part[t] = x[i] if i < x.size else 0
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            part[t] += part[t + half]
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = part[0]


def block_sums__barrier_inside_the_if(x, out):
    part = cuda.shared.array(THREADS, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    part[t] = x[i] if i < x.size else 0
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            part[t] += part[t + half]
            cuda.syncthreads()
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = part[0]


def block_sums__leaves_early(x, out):
    part = cuda.shared.array(THREADS, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    if i >= x.size:
        return
    part[t] = x[i]
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            part[t] += part[t + half]
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = part[0]


def block_sums__threads_without_an_element_write_nothing(x, out):
    part = cuda.shared.array(THREADS, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    if i < x.size:
        part[t] = x[i]
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            part[t] += part[t + half]
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = part[0]


def block_sums__begins_with_all(x, out):
    part = cuda.shared.array(THREADS, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    part[t] = x[i] if i < x.size else 0
    half = THREADS
    while half > 0:
        cuda.syncthreads()
        if t < half:
            part[t] += part[t + half]
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = part[0]


def block_sums__stops_at_two(x, out):
    part = cuda.shared.array(THREADS, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    part[t] = x[i] if i < x.size else 0
    half = THREADS // 2
    while half > 1:
        cuda.syncthreads()
        if t < half:
            part[t] += part[t + half]
        half //= 2
    cuda.syncthreads()
    if t == 0:
        out[cuda.blockIdx.x] = part[0]


def block_sums__everybody_reports(x, out):
    part = cuda.shared.array(THREADS, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    part[t] = x[i] if i < x.size else 0
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            part[t] += part[t + half]
        half //= 2
    cuda.syncthreads()
    out[cuda.blockIdx.x] = part[0]


def block_sums__thread_0_does_it(x, out):
    if cuda.threadIdx.x == 0:
        total = float32(0)
        for i in range(cuda.grid(1), min(cuda.grid(1) + THREADS, x.size)):
            total += x[i]
        out[cuda.blockIdx.x] = total


def block_sums__everybody_adds_to_the_output(x, out):
    i = cuda.grid(1)
    if cuda.threadIdx.x == 0:
        out[cuda.blockIdx.x] = 0
    cuda.syncthreads()
    if i < x.size:
        out[cuda.blockIdx.x] += x[i]


def block_sums__size_known_only_when_it_runs(x, out):
    part = cuda.shared.array(cuda.blockDim.x, float32)
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


def conv_tile__no_tile(x, w, out):
    j, i = cuda.grid(2)
    if i < out.shape[0] and j < out.shape[1]:
        total = float32(0)
        for c in range(x.shape[0]):
            for u in range(3):
                for v in range(3):
                    total += w[c, u, v] * x[c, i + u, j + v]
        out[i, j] = total


def conv_tile__nothing_of_the_halo(x, w, out):
    tile = cuda.shared.array((SIDE, SIDE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    j, i = cuda.grid(2)
    total = float32(0)
    for c in range(x.shape[0]):
        tile[ty, tx] = x[c, i, j] if i < x.shape[1] and j < x.shape[2] else 0
        cuda.syncthreads()
        if i < out.shape[0] and j < out.shape[1]:
            for u in range(3):
                for v in range(3):
                    total += w[c, u, v] * tile[ty + u, tx + v]
        cuda.syncthreads()
    if i < out.shape[0] and j < out.shape[1]:
        out[i, j] = total


def conv_tile__halo_past_the_end_of_the_map(x, w, out):
    tile = cuda.shared.array((SIDE, SIDE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    left, top = cuda.blockIdx.x * TILE, cuda.blockIdx.y * TILE
    total = float32(0)
    for c in range(x.shape[0]):
        for k in range(ty * TILE + tx, SIDE * SIDE, TILE * TILE):
            tile[k // SIDE, k % SIDE] = x[c, top + k // SIDE, left + k % SIDE]
        cuda.syncthreads()
        if top + ty < out.shape[0] and left + tx < out.shape[1]:
            for u in range(3):
                for v in range(3):
                    total += w[c, u, v] * tile[ty + u, tx + v]
        cuda.syncthreads()
    if top + ty < out.shape[0] and left + tx < out.shape[1]:
        out[top + ty, left + tx] = total


def conv_tile__size_is_a_sum(x, w, out):
    """Numba does not take it for a constant."""
    tile = cuda.shared.array((TILE + 2, TILE + 2), float32)
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
        cuda.syncthreads()
    if top + ty < out.shape[0] and left + tx < out.shape[1]:
        out[top + ty, left + tx] = total


def conv_tile__no_barrier_before_the_sum(x, w, out):
    tile = cuda.shared.array((SIDE, SIDE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    left, top = cuda.blockIdx.x * TILE, cuda.blockIdx.y * TILE
    total = float32(0)
    for c in range(x.shape[0]):
        for k in range(ty * TILE + tx, SIDE * SIDE, TILE * TILE):
            i, j = k // SIDE, k % SIDE
            if top + i < x.shape[1] and left + j < x.shape[2]:
                tile[i, j] = x[c, top + i, left + j]
        if top + ty < out.shape[0] and left + tx < out.shape[1]:
            for u in range(3):
                for v in range(3):
                    total += w[c, u, v] * tile[ty + u, tx + v]
        cuda.syncthreads()
    if top + ty < out.shape[0] and left + tx < out.shape[1]:
        out[top + ty, left + tx] = total


def conv_tile__no_barrier_before_the_next_channel(x, w, out):
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
    if top + ty < out.shape[0] and left + tx < out.shape[1]:
        out[top + ty, left + tx] = total


def conv_tile__threads_without_an_output_leave(x, w, out):
    tile = cuda.shared.array((SIDE, SIDE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    left, top = cuda.blockIdx.x * TILE, cuda.blockIdx.y * TILE
    if top + ty >= out.shape[0] or left + tx >= out.shape[1]:
        return
    total = float32(0)
    for c in range(x.shape[0]):
        for k in range(ty * TILE + tx, SIDE * SIDE, TILE * TILE):
            i, j = k // SIDE, k % SIDE
            if top + i < x.shape[1] and left + j < x.shape[2]:
                tile[i, j] = x[c, top + i, left + j]
        cuda.syncthreads()
        for u in range(3):
            for v in range(3):
                total += w[c, u, v] * tile[ty + u, tx + v]
        cuda.syncthreads()
    out[top + ty, left + tx] = total


def conv_tile__turns_the_filter(x, w, out):
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
                    total += w[c, 2 - u, 2 - v] * tile[ty + u, tx + v]
        cuda.syncthreads()
    if top + ty < out.shape[0] and left + tx < out.shape[1]:
        out[top + ty, left + tx] = total


def conv_tile__everybody_loads_everything(x, w, out):
    tile = cuda.shared.array((SIDE, SIDE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    left, top = cuda.blockIdx.x * TILE, cuda.blockIdx.y * TILE
    total = float32(0)
    for c in range(x.shape[0]):
        for i in range(SIDE):
            for j in range(SIDE):
                if top + i < x.shape[1] and left + j < x.shape[2]:
                    tile[i, j] = x[c, top + i, left + j]
        cuda.syncthreads()
        if top + ty < out.shape[0] and left + tx < out.shape[1]:
            for u in range(3):
                for v in range(3):
                    total += w[c, u, v] * tile[ty + u, tx + v]
        cuda.syncthreads()
    if top + ty < out.shape[0] and left + tx < out.shape[1]:
        out[top + ty, left + tx] = total


def roi_scatter__adds_without_an_atomic(gy, argmax, gx):
    k = cuda.grid(1)
    if k < argmax.size and argmax[k] >= 0:
        gx[argmax[k]] += gy[k]


def roi_scatter__overwrites(gy, argmax, gx):
    k = cuda.grid(1)
    if k < argmax.size and argmax[k] >= 0:
        gx[argmax[k]] = gy[k]


def roi_scatter__empty_bins_count(gy, argmax, gx):
    k = cuda.grid(1)
    if k < argmax.size:
        cuda.atomic.add(gx, argmax[k], gy[k])


def roi_scatter__cell_0_never_wins(gy, argmax, gx):
    k = cuda.grid(1)
    if k < argmax.size and argmax[k] > 0:
        cuda.atomic.add(gx, argmax[k], gy[k])


def roi_scatter__no_guard(gy, argmax, gx):
    k = cuda.grid(1)
    if argmax[k] >= 0:
        cuda.atomic.add(gx, argmax[k], gy[k])


def roi_scatter__guards_by_the_cells(gy, argmax, gx):
    k = cuda.grid(1)
    if k < gx.size and argmax[k] >= 0:
        cuda.atomic.add(gx, argmax[k], gy[k])


def roi_scatter__counts_the_wins(gy, argmax, gx):
    k = cuda.grid(1)
    if k < argmax.size and argmax[k] >= 0:
        cuda.atomic.add(gx, argmax[k], 1)


def roi_scatter__highest_gradient(gy, argmax, gx):
    k = cuda.grid(1)
    if k < argmax.size and argmax[k] >= 0:
        cuda.atomic.max(gx, argmax[k], gy[k])


def suppression_words__both_triangles(boxes, threshold, mask):
    word, i = cuda.grid(2)
    if i < mask.shape[0] and word < mask.shape[1]:
        bits = uint64(0)
        for j in range(word * WORD, min(word * WORD + WORD, boxes.shape[0])):
            if j != i and overlap(boxes[i], boxes[j]) > threshold:
                bits |= uint64(1) << uint64(j - word * WORD)
        mask[i, word] = bits


def suppression_words__strikes_itself(boxes, threshold, mask):
    word, i = cuda.grid(2)
    if i < mask.shape[0] and word < mask.shape[1]:
        bits = uint64(0)
        for j in range(max(word * WORD, i), min(word * WORD + WORD, boxes.shape[0])):
            if overlap(boxes[i], boxes[j]) > threshold:
                bits |= uint64(1) << uint64(j - word * WORD)
        mask[i, word] = bits


def suppression_words__looks_at_all_pairs(boxes, threshold, mask):
    word, i = cuda.grid(2)
    if i < mask.shape[0] and word < mask.shape[1]:
        bits = uint64(0)
        for j in range(word * WORD, min(word * WORD + WORD, boxes.shape[0])):
            if overlap(boxes[i], boxes[j]) > threshold and j > i:
                bits |= uint64(1) << uint64(j - word * WORD)
        mask[i, word] = bits


def suppression_words__no_end(boxes, threshold, mask):
    word, i = cuda.grid(2)
    if i < mask.shape[0] and word < mask.shape[1]:
        bits = uint64(0)
        for j in range(max(word * WORD, i + 1), word * WORD + WORD):
            if overlap(boxes[i], boxes[j]) > threshold:
                bits |= uint64(1) << uint64(j - word * WORD)
        mask[i, word] = bits


def suppression_words__at_the_threshold(boxes, threshold, mask):
    word, i = cuda.grid(2)
    if i < mask.shape[0] and word < mask.shape[1]:
        bits = uint64(0)
        for j in range(max(word * WORD, i + 1), min(word * WORD + WORD, boxes.shape[0])):
            if overlap(boxes[i], boxes[j]) >= threshold:
                bits |= uint64(1) << uint64(j - word * WORD)
        mask[i, word] = bits


def suppression_words__bits_from_the_other_end(boxes, threshold, mask):
    word, i = cuda.grid(2)
    if i < mask.shape[0] and word < mask.shape[1]:
        bits = uint64(0)
        for j in range(max(word * WORD, i + 1), min(word * WORD + WORD, boxes.shape[0])):
            if overlap(boxes[i], boxes[j]) > threshold:
                bits |= uint64(1) << uint64(word * WORD + WORD - 1 - j)
        mask[i, word] = bits


def suppression_words__bit_counted_from_the_diagonal(boxes, threshold, mask):
    word, i = cuda.grid(2)
    if i < mask.shape[0] and word < mask.shape[1]:
        bits = uint64(0)
        first = max(word * WORD, i + 1)
        for j in range(first, min(word * WORD + WORD, boxes.shape[0])):
            if overlap(boxes[i], boxes[j]) > threshold:
                bits |= uint64(1) << uint64(j - first)
        mask[i, word] = bits


def suppression_words__leaves_empty_words_as_they_are(boxes, threshold, mask):
    word, i = cuda.grid(2)
    if i < mask.shape[0] and word < mask.shape[1]:
        bits = uint64(0)
        for j in range(max(word * WORD, i + 1), min(word * WORD + WORD, boxes.shape[0])):
            if overlap(boxes[i], boxes[j]) > threshold:
                bits |= uint64(1) << uint64(j - word * WORD)
        if bits:
            mask[i, word] = bits


def suppression_words__a_bit_at_a_time_in_memory(boxes, threshold, mask):
    word, i = cuda.grid(2)
    if i < mask.shape[0] and word < mask.shape[1]:
        for j in range(max(word * WORD, i + 1), min(word * WORD + WORD, boxes.shape[0])):
            if overlap(boxes[i], boxes[j]) > threshold:
                mask[i, word] |= uint64(1) << uint64(j - word * WORD)


def suppression_words__x_is_the_row(boxes, threshold, mask):
    i, word = cuda.grid(2)
    if i < mask.shape[0] and word < mask.shape[1]:
        bits = uint64(0)
        for j in range(max(word * WORD, i + 1), min(word * WORD + WORD, boxes.shape[0])):
            if overlap(boxes[i], boxes[j]) > threshold:
                bits |= uint64(1) << uint64(j - word * WORD)
        mask[i, word] = bits


def suppression_words__guards_by_the_boxes(boxes, threshold, mask):
    word, i = cuda.grid(2)
    if i < boxes.shape[0] and word < boxes.shape[0]:
        bits = uint64(0)
        for j in range(max(word * WORD, i + 1), min(word * WORD + WORD, boxes.shape[0])):
            if overlap(boxes[i], boxes[j]) > threshold:
                bits |= uint64(1) << uint64(j - word * WORD)
        mask[i, word] = bits
