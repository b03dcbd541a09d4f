"""Mutants of the CUDA kernels that no test can notice: nearly all compute the same.

Each with its reason. One that is here although a test would notice it hides nothing: it is only not
tried.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.mutations import Mutant


@dataclass(frozen=True)
class Equivalent:
    """A mutant, or all of a line.

    Attributes:
        file: name of the source in csrc/cuda.
        source: the line, without the blanks around it.
        changes: old and new text of a mutant; all of the line where there is none.
        reason: why nothing changes.

    """

    file: str
    source: str
    reason: str
    changes: tuple[tuple[str, str], ...] = ()


_BEYOND = "what is computed beyond the result is not stored, and read within bounds"
_SMALL = "partial sums of several shares hold at most 64 MiB, those of one as many as a weight"
_FITS = "a contraction that the kernel takes has at most 2^31 elements in each tensor"
_STRIDING = "so many blocks at most stride over elements that a step is below 2^24"
_CLAMPED = "both branches are the same where the two are equal"
_SHARED = "shared memory has fewer bytes than 32 bits count"
_NO_TAPS = "another turn, which has no taps"
_ONE = "the stride of an axis of one element is multiplied by 0 only"
_CHOICE = "another kernel or cut computes the same"
_GPUS = "no GPU has 2^29 multiprocessors"
_WITHIN = "what is within 32 bits is the same in 64"
_TWICE = "another thread stores the same there, or what is computed is not stored"
_REST = "the rest of a line is as good for a whole run"
_ONE_TAP = "a single tap has no order"
_ADDS_NONE = "0 is added"
_SANITIZED = "reads or writes one element past an array: `make sanitize` ends there"
_ONE_PLACE = "two states of one place are the same"
_NO_CHUNK = "a chunk without elements is passed over"
_LARGE = "where it differs there are 2^31 elements or more, too many to emulate"

EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "depthwise_planar.cuh",
        "tile.planes < p.groups - first_group ? tile.planes : p.groups - first_group;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "if (first_tap + k >= width.taps) break;",
        _BEYOND,
        ((">=", ">"),),
    ),
    Equivalent(
        "fma_gemm.cuh",
        "weight + i / kRowVectors * args.packed_rows, weight_inside);",
        _BEYOND,
        (("weight_inside", "true"),),
    ),
    Equivalent(
        "implicit_gemm.cuh",
        "const Index image = p.split_pixel(index < last ? index : last, j);",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "implicit_gemm_weight.cuh",
        "const Index image = p.split_pixel(pixel < end ? pixel : end - 1, j);",
        "nothing is read for pixels from the end on, wherever they are said to lie",
        ((" - 1", ""), ("<", "<=")),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "const int64_t of_chunk = (int64_t{chunk} * p.groups + of_lane) * p.rows + row;",
        _SMALL,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "implicit_gemm.cuh",
        "float* dest = share.partial + static_cast<int64_t>(blockIdx.y) * pixels * channels + "
        "channel;",
        _SMALL,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "join_chunks.cuh",
        "sum += simt::load(&partial[static_cast<int64_t>(chunk) * size + i]);",
        _SMALL,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "implicit_gemm_weight.cuh",
        "static_cast<int64_t>(group) * p.rows + first_row;",
        _SMALL,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "pack_k_major.cuh",
        "packing.rows_innermost = taps == 1 || problem.weight_strides.row < tap_stride;",
        "lines are packed in either order; one of them reads neighbours",
    ),
    Equivalent(
        "pool_reduce.cuh",
        "return T(-1) > T(0) ? T(0) : static_cast<T>(T(1) << (8 * sizeof(T) - 2)) * T(-2);",
        "-1 converted to a type is never its 0",
        ((">", ">="),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "for (int i = thread; i < tile.planes * tile.source_height * tile.source_width;",
        "the element beyond belongs to a plane beyond, which the loop passes over",
        (("<", "<="),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "range.end = p.template gathered<Op::kBackward>(axis, last - 1).end;",
        "more of the source is read into the patch, as far as both go, and no window needs it",
        ((" - 1", ""),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "if (!Op::kBackward && range.step > 1) range.begin = "
        "range.begin < range.step ? 0 : range.begin;",
        "with a step of 1, as that of all gradients is, only 0 is less than it",
        (("&&", "||"), (">", ">=")),
    ),
    Equivalent(
        "join_shares.cuh",
        "sum += simt::load(args.partial + static_cast<int64_t>(share) * size + element);",
        _SMALL,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "const int32_t right = left + tile.width < p.dest[2] ? left + tile.width : p.dest[2];",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "const int32_t bottom = top + tile.height < p.dest[1] ? top + tile.height : p.dest[1];",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "const int32_t planes = tile.planes < p.outer - first_plane ? "
        "tile.planes : p.outer - first_plane;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "fold_padding.cuh",
        "if (after >= 0 && after < axis.extent) {",
        "a position behind the tensor is never the first",
        ((">=", ">"),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "if (state[k].at < 0) {  // nothing but -infinity",
        "a maximum at 0 is the first element or tap, and then the first place is 0 as well",
        (("<", "<="),),
    ),
    Equivalent(
        "pool_window.cuh",
        "if (columns < count) {  // not one row",
        "of a single row the quotients are 0",
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "const int32_t end = begin + cut.chunk < cut.items ? begin + cut.chunk : cut.items;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "tile.planes < p.batch - first_image ? tile.planes : p.batch - first_image;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "const int32_t rows = tile.height < height.count - top ? tile.height : height.count - top;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "const int32_t columns = tile.width < width.count - left ? "
        "tile.width : width.count - left;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "fill.cuh",
        "const int64_t step = static_cast<int64_t>(gridDim.x) * 256;",
        _STRIDING,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "fold_padding.cuh",
        "const int64_t step = static_cast<int64_t>(gridDim.x) * 256;",
        _STRIDING,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise.cu",
        "int64_t{tile.by_tiles_across.divisor} * tile.by_tiles_down.divisor * p.axis[0].count;",
        _FITS,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise.cu",
        "const int64_t columns = int64_t{p.depth} * p.axis[0].taps * p.axis[1].taps * "
        "p.axis[2].taps;",
        _FITS,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise.cu",
        "const int64_t size = checked_mul(int64_t{p.groups} * p.rows, columns);",
        _FITS,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise.cu",
        "const int64_t items = int64_t{p.batch} * p.axis[0].count * p.axis[1].count;",
        _FITS,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "const int64_t possible = p.groups * int64_t{p.axis[1].count} * "
        "ceil_div(p.axis[2].count, kRun);",
        _FITS,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "const int64_t wanted = ceil_div(int64_t{4} * multiprocessors, blocks);",
        _GPUS,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "const int64_t t = (int64_t{tap} * height.taps + y) * width.taps + x;",
        _FITS,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "const int64_t of_chunk = (int64_t{chunk} * p.groups + group) * p.rows + row;",
        _SMALL,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "implicit_gemm_weight.cuh",
        "const int64_t row = static_cast<int64_t>(blockIdx.y) * p.groups * p.rows +",
        _SMALL,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "implicit_gemm.cu",
        "checked_mul(shape.groups, int64_t{packing.line_squares} * packing.depth_squares);",
        "a weight of 2^31 squares has more elements than there is memory",
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "implicit_gemm.cu",
        "(channels == 1 || strides.channel == 1) && p.rows % kVector<T> == 0 &&",
        "elements are stored one by one, to the same places",
        (("||", "&&"),),
    ),
    Equivalent(
        "fma_gemm.cu",
        "for (Index stride : strides) fits = fits && stride % n == 0;",
        "results are dense: their strides are multiples of what is innermost",
        (("&&", "||"),),
    ),
    Equivalent(
        "depthwise.cu",
        "int64_t{tile.tap_rows} * p.axis[2].taps * tile.lanes * kVector * sizeof(Accumulator<T>);",
        _SHARED,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "const int64_t weights = int64_t{p.axis[1].taps} * weight_pitch_of<T>(p);",
        _SHARED,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "return tile.planes * (tile.plane_pitch + weights) * int64_t{sizeof(Accumulator<T>)};",
        _SHARED,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "int64_t{p.axis[2].taps} * lanes * vector * int64_t{sizeof(Accumulator<T>)};",
        _SHARED,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "tile.planes * (tile.plane_pitch + int64_t{tile.height} * grad_pitch_of<T>(tile));",
        _SHARED,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "return std::max(elements, kJoined) * int64_t{sizeof(Accumulator<T>)};",
        _SHARED,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "return int64_t{tile.patch()} * sizeof(typename Op::Value) +",
        _SHARED,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "int64_t{tile.partials()} * (sizeof(typename Op::Value) + place);",
        _SHARED,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "const int64_t row = (int64_t{first_plane + plane} * p.source[0] + z) * p.source[1] + y;",
        "rows of fewer than 2^31 elements: those of more are not taken by tiles",
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "if (x >= right || row >= rows.end || plane >= planes) continue;",
        _BEYOND,
        (("||", "&&"),),
    ),
    Equivalent(
        "pool_indexed.cuh",
        "touches = bound.least < begin + size && bound.greatest >= begin;",
        "a chunk of indices that touches no slice is read for it in vain",
        (("&&", "||"),),
    ),
    Equivalent(
        "pool.cu",
        "if (slices > 1 && chunks > 1) {",
        "the bounds of a single chunk or slice are that all of it is read",
        (("&&", "||"),),
    ),
    Equivalent(
        "pool_fractional.cuh",
        "return value > Value(-2147483648.0) && value < Value(2147483648.0) ? "
        "static_cast<int64_t>(value)",
        _WITHIN,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "pool_fractional.cuh",
        ": int64_t{-2147483648ll};",
        _WITHIN,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "plan.h",
        "const int64_t wanted = ceil_div(int64_t{4} * multiprocessors, blocks);",
        _GPUS,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "plan.h",
        "const int64_t wanted = int64_t{blocks_on_multiprocessor} * multiprocessors / tiles;",
        _GPUS,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "fill.cuh",
        "for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < "
        "size; i += step) {",
        _STRIDING,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "fold_padding.cuh",
        "for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < "
        "size; i += step) {",
        _STRIDING,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise.cuh",
        "return ((left < most ? left : most) - 1) * axis.step + (axis.taps - 1) * "
        "axis.offset_step + 1;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise.cuh",
        "if (row >= rows) continue;",
        _BEYOND,
        ((">=", ">"),),
    ),
    Equivalent(
        "depthwise_channels.cuh",
        "const int32_t tap_rows = left < tile.tap_rows ? left : tile.tap_rows;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_channels.cuh",
        "for (int32_t tap_row = 0; tap_row < height.taps; tap_row += tile.tap_rows) {",
        _NO_TAPS,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_channels.cuh",
        "for (int32_t x = 0; x < width.taps; x += kChannelsRun) {",
        _NO_TAPS,
        (("<", "<="),),
    ),
    Equivalent(
        "conv.cu",
        "if (tensor.size(1) > 1) strides.channel = static_cast<Index>(tensor.stride(1));",
        _ONE,
        ((">", ">="),),
    ),
    Equivalent(
        "conv.cu",
        "if (size[axis] > 1) strides.axis[axis] = static_cast<Index>(tensor.stride(2 + i));",
        _ONE,
        ((">", ">="),),
    ),
    Equivalent(
        "conv.cu",
        "if (extent_of(from) + kTransposeSide <= INT32_MAX &&",
        _CHOICE,
        (("<=", "<"),),
    ),
    Equivalent(
        "conv.cu",
        "extent_of(to) + kTransposeSide <= INT32_MAX) {",
        _CHOICE,
        (("<=", "<"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "std::max(shape.rows, shape.depth) <= kMaxMultiplier;",
        _CHOICE,
        (("<=", "<"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "while (power < n) power *= 2;",
        _CHOICE,
        (("<", "<="),),
    ),
    Equivalent(
        "pool.cu",
        "const int64_t dests = int64_t{p.outer} * p.dest[0] * p.dest[1] * p.dest[2] * p.inner;",
        _LARGE,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "pool.cu",
        "kChannelsLast ? int64_t{p.outer} * ((p.inner - 1) / simt::kWarp + 1) : int64_t{p.outer};",
        _LARGE,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "pool.cu",
        "const int64_t chunks = p.small > 0 ? (int64_t{p.small} - 1) / Cut::kChunk + 1 : 0;",
        _LARGE,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "pool.cu",
        "const int64_t slices = (int64_t{p.large} - 1) / Cut::kSlice + 1;",
        _LARGE,
        (("int64_t", "int32_t"),),
    ),
    Equivalent(
        "depthwise_channels.cuh",
        "slot < tile.across * tile.down && group < p.groups && x0 < width.count && y0 < "
        "height.count;",
        _TWICE,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_planar.cuh",
        "for (; x + kRun <= width.taps; x += kRun) {",
        _REST,
        (("<=", "<"),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "if (thread < units * parts * lanes) {",
        _BEYOND,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "const bool active = unit_of_block < cut.units && tap_row < height.taps;",
        _BEYOND,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "const bool active = unit_of_block < cut.units && tap_row < height.taps && group < "
        "p.groups;",
        _BEYOND,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "for (int i = part; i < images * tile.height * segments; i += cut.parts) {",
        _BEYOND,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "const int count = left_over < kSegment ? left_over : kSegment;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_weight.cuh",
        "for (int32_t x = 0; x < width.count; x += kRun) {",
        _NO_TAPS,
        (("<", "<="),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "if (axis.offset_step >= 0) return axis;",
        _ONE_TAP,
        ((">=", ">"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "if (ceil_div(width, lanes) * lanes <= ceil_div(width, best) * best) best = lanes;",
        _CHOICE,
        (("<=", "<"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "return double(reached(p.axis[1], tile.height)) * double(reached(p.axis[2], "
        "tile.width)) > 1e6;",
        _CHOICE,
        ((">", ">="),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "if (planar_bytes<T>(*tile, p) <= kDepthwiseBytes) break;",
        _CHOICE,
        (("<=", "<"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "return threads >= std::min(kMinDepthwiseThreads, possible);",
        _CHOICE,
        ((">=", ">"),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "if (row_bytes > kDepthwiseBytes) return false;",
        _CHOICE,
        ((">", ">="),),
    ),
    Equivalent(
        "depthwise_plan.h",
        "if (weight_planar_bytes<T>(*tile) <= kDepthwiseBytes) return true;",
        _CHOICE,
        (("<=", "<"),),
    ),
    Equivalent(
        "describe.h",
        "if (walk.count > 1) position += double(walk.count - 1) * double(walk.step);",
        _ADDS_NONE,
        ((">", ">="),),
    ),
    Equivalent(
        "describe.h",
        "if (position >= kMaxPosition32) return HUGE_VAL;",
        _WITHIN,
        ((">=", ">"),),
    ),
    Equivalent(
        "describe.h",
        "if (walk.size > 1) most += position * double(strides.axis[i]);",
        _WITHIN,
        ((">", ">="),),
    ),
    Equivalent(
        "describe.h",
        "if (shape.walk[i].count > 1) most += double(shape.walk[i].count - 1) * "
        "double(strides.axis[i]);",
        _ADDS_NONE,
        ((">", ">="),),
    ),
    Equivalent(
        "describe.h",
        "if (last > 0) most += double(last) * double(strides.axis[i]);",
        _ADDS_NONE,
        ((">", ">="),),
    ),
    Equivalent(
        "describe.h",
        "return double(shape.batch) * double(shape.pixels()) <= limit &&",
        _WITHIN,
        (("<=", "<"),),
    ),
    Equivalent(
        "describe.h",
        "double(shape.groups) * (double(shape.rows) + kTileSlack) * depth <= limit;",
        _WITHIN,
        (("<=", "<"),),
    ),
    Equivalent(
        "describe.h",
        "return counts_fit_int32(p) && reach(p, p.source_strides) <= limit &&",
        _WITHIN,
        (("<=", "<"),),
    ),
    Equivalent(
        "describe.h",
        "extent(p, p.dest_strides) <= limit && extent(p, p.weight_strides) <= limit;",
        _WITHIN,
        (("<=", "<"),),
    ),
    Equivalent(
        "describe.h",
        "extent(p, p.grad_strides) <= limit && extent(p, p.dest_strides) <= limit;",
        _WITHIN,
        (("<=", "<"),),
    ),
    Equivalent(
        "describe.h",
        "axis.step = walk.count > 1 ? static_cast<Index>(walk.step) : 0;",
        _ONE,
        ((">", ">="),),
    ),
    Equivalent(
        "describe.h",
        "if (batch > 1) to.batch = static_cast<Index>(from.batch);",
        _ONE,
        ((">", ">="),),
    ),
    Equivalent(
        "describe.h",
        "if (channels > 1) to.channel = static_cast<Index>(from.channel);",
        _ONE,
        ((">", ">="),),
    ),
    Equivalent(
        "describe.h",
        "if (size[i] > 1) to.axis[i] = static_cast<Index>(from.axis[i]);",
        _ONE,
        ((">", ">="),),
    ),
    Equivalent(
        "describe.h",
        "if (shape.groups > 1) to.group = static_cast<Index>(from.group);",
        _ONE,
        ((">", ">="),),
    ),
    Equivalent(
        "describe.h",
        "if (shape.rows > 1) to.row = static_cast<Index>(from.row);",
        _ONE,
        ((">", ">="),),
    ),
    Equivalent(
        "describe.h",
        "if (shape.depth > 1) to.depth = static_cast<Index>(from.depth);",
        _ONE,
        ((">", ">="),),
    ),
    Equivalent(
        "describe.h",
        "const bool steps = walk.tap_count > 1 || walk.taps[0].kernel > 0;",
        _ONE,
        ((">", ">="),),
    ),
    Equivalent(
        "fma_gemm.cuh",
        "kVectors < Tile::kThreads ? thread / kRowVectors % Tile::kDepth : thread / kRowVectors;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "fma_gemm_weight.cuh",
        "const Index end = p.pixels() - begin < args.chunk ? p.pixels() : begin + args.chunk;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "implicit_gemm.cuh",
        "static_cast<int>(all_slabs - first_slab < share.slabs ? all_slabs - first_slab "
        ": share.slabs);",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "implicit_gemm_weight.cuh",
        "if (column > last) column = last;",
        _CLAMPED,
        ((">", ">="),),
    ),
    Equivalent(
        "implicit_gemm_weight.cuh",
        "const Index end_pixel = "
        "pixels - first_pixel < share_pixels ? pixels : first_pixel + share_pixels;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "conv.cu",
        "for (int i = 0; i < 2; ++i) args.by_size[i] = Divisor<Index>(size[1 + i]);",
        _SANITIZED,
        (("<", "<="),),
    ),
    Equivalent(
        "describe.h",
        "if (walk.tap_count > 1) {",
        _SANITIZED,
        ((">", ">="),),
    ),
    Equivalent(
        "mma_tile.cuh",
        "constexpr int kLinesTogether = kLine < 8 ? 8 / kLine : 1;  // in 128 bytes: "
        "once round the banks",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "mma_tile.cuh",
        "constexpr int kMask = (kLine < 8 ? kLine : 8) - 1;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "pack_k_major.cuh",
        "if (problem.axis[i].taps > 1) tap_stride = problem.weight_strides.axis[i];",
        "the order in which weights are read",
        ((">", ">="),),
    ),
    Equivalent(
        "plan.h",
        "if (kHasFmaNarrow<T> && rows <= FmaNarrow::kRows) return FmaSize::narrow;",
        _CHOICE,
        (("<=", "<"),),
    ),
    Equivalent(
        "plan.h",
        "const bool full = rows % FmaLarge::kRows == 0 || rows % FmaLarge::kRows >= 96;",
        _CHOICE,
        ((">=", ">"),),
    ),
    Equivalent(
        "plan.h",
        "const bool full = rows >= 96 && columns >= 96;",
        _CHOICE,
        ((">=", ">"),),
    ),
    Equivalent(
        "plan.h",
        "inline bool fills_128(int64_t size) { return round_up(size, 128) * 8 <= "
        "round_up(size, 64) * 9; }",
        _CHOICE,
        (("<=", "<"),),
    ),
    Equivalent(
        "plan.h",
        "return double(groups) * double(tiles) >= double(multiprocessors);",
        _CHOICE,
        ((">=", ">"),),
    ),
    Equivalent(
        "plan.h",
        "const bool depthwise = geometry.groups > 1 && in == 1;",
        _CHOICE,
        ((">", ">="),),
    ),
    Equivalent(
        "pool.cu",
        "const int64_t chunks = p.small > 0 ? (int64_t{p.small} - 1) / Cut::kChunk + 1 : 0;",
        _NO_CHUNK,
        ((">", ">="),),
    ),
    Equivalent(
        "pool.cu",
        "if (slices > 1 && chunks > 1) {",
        "bounds of chunks are made where nothing is gained",
        ((">", ">="),),
    ),
    Equivalent(
        "pool_fractional.cuh",
        "return value > Value(-2147483648.0) && value < Value(2147483648.0) ? "
        "static_cast<int64_t>(value)",
        _CLAMPED,
        ((">", ">="),),
    ),
    Equivalent(
        "pool_fractional.cuh",
        "return value > Value(-2147483648.0) && value < Value(2147483648.0) ? "
        "static_cast<int64_t>(value)",
        "samples of [0, 1) name no position so far out",
        (("<", "<="),),
    ),
    Equivalent(
        "pool_fractional.cuh",
        "return static_cast<Index>(start < 0 ? 0 : start > last ? last : start);",
        _CLAMPED,
        (("<", "<="), (">", ">=")),
    ),
    Equivalent(
        "pool_indexed.cuh",
        "own.least = !inside ? 0 : index < own.least ? index : own.least;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_indexed.cuh",
        "own.greatest = !inside ? p.large - 1 : index > own.greatest ? index : own.greatest;",
        _CLAMPED,
        ((">", ">="),),
    ),
    Equivalent(
        "pool_indexed.cuh",
        "own.least = least < own.least ? least : own.least;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_indexed.cuh",
        "own.greatest = greatest > own.greatest ? greatest : own.greatest;",
        _CLAMPED,
        ((">", ">="),),
    ),
    Equivalent(
        "pool_indexed.cuh",
        "const Index chunks = p.small > 0 ? (p.small - 1) / Cut::kChunk + 1 : 0;",
        _NO_CHUNK,
        ((">", ">="),),
    ),
    Equivalent(
        "pool_indexed.cuh",
        "const int size = static_cast<int>(left < Cut::kSlice ? left : Cut::kSlice);",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_indexed.cuh",
        "for (Index base = 0; base < chunks; base += simt::kWarp) {",
        "another turn, which has no chunks",
        (("<", "<="),),
    ),
    Equivalent(
        "pool_indexed.cuh",
        "touches = bound.least < begin + size && bound.greatest >= begin;",
        "a chunk that touches the slice nowhere adds nothing to it",
        (("<", "<="),),
    ),
    Equivalent(
        "pool_indexed.cuh",
        "const Index end = first + Cut::kChunk < p.small ? first + Cut::kChunk : p.small;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_plan.h",
        "if (largest <= plan::kMaxIndex) {",
        _WITHIN,
        (("<=", "<"),),
    ),
    Equivalent(
        "pool_plan.h",
        "const bool whole = axis.padding == padding && last_end <= axis.input + padding;",
        _CHOICE,
        (("<=", "<"),),
    ),
    Equivalent(
        "pool_plan.h",
        "if (source_down <= plan::kTileBytes / per_row / deep) {",
        _CHOICE,
        (("<=", "<"),),
    ),
    Equivalent(
        "pool_plan.h",
        "int64_t& largest = deep > 1 ? deep : down > across / 2 ? down : across;",
        _CHOICE,
        ((">", ">="),),
    ),
    Equivalent(
        "pool_plan.h",
        "if (elements < plan::kMinWindowElements) return false;",
        _CHOICE,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_plan.h",
        "return !channels_last || outputs < plan::kManyOutputs;",
        _CHOICE,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_plan.h",
        "while (power < n) power *= 2;",
        _CHOICE,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_problem.h",
        "first >= 0 ? first : first + by_dilation.quotient(dilation - 1 - first) * dilation;",
        _CLAMPED,
        ((">=", ">"),),
    ),
    Equivalent(
        "pool_problem.h",
        "return {begin, first + reach < input ? first + reach : input, dilation};",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_problem.h",
        "return {first, last < output ? last : output, 1};",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_problem.h",
        "return (stop < input + padding ? stop : input + padding) - start(o);",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_problem.h",
        "return range.end > range.begin ? range.end - range.begin : 0;",
        _CLAMPED,
        ((">", ">="),),
    ),
    Equivalent(
        "pool_reduce.cuh",
        "(other.value == state.value && other.at < state.at) ||",
        _ONE_PLACE,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_reduce.cuh",
        "(nan && (state.value == state.value || other.at > state.at));",
        _ONE_PLACE,
        ((">", ">="),),
    ),
    Equivalent(
        "pool_reduce.cuh",
        "constexpr int kStored = n < kMost ? n : kMost;",
        _CLAMPED,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "const bool inside = x + left < right && y + top < bottom && plane < planes;",
        _BEYOND,
        (("<", "<="),),
    ),
    Equivalent(
        "pool_tile.cuh",
        "if (x >= right || row >= rows.end || plane >= planes) continue;",
        _BEYOND,
        ((">=", ">"),),
    ),
    Equivalent(
        "pool_window.cuh",
        "if (group_size > simt::kWarp) {",
        "joining the sums of a single warp changes nothing",
        ((">", ">="),),
    ),
    Equivalent(
        "site.cuh",
        "if (position[0] < kNowhere<Index> / 2) return false;",
        "no position lies exactly there",
        (("<", "<="),),
    ),
    Equivalent(
        "site.cuh",
        "store_site(&sites[row], row < rows ? site_of_tap(shape, strides, row) : "
        "nowhere<Index>());",
        _BEYOND,
        (("<", "<="),),
    ),
    Equivalent(
        "transpose.cuh",
        "constexpr int kTransposePitch = kTransposeSide + (sizeof(Word) < 4 ? 4 / "
        "sizeof(Word) : 1);",
        _CLAMPED,
        (("<", "<="),),
    ),
)


def reason_for(mutant: Mutant) -> str | None:
    """Why the mutant computes the same, if it is known to."""
    for known in EQUIVALENT:
        if (known.file, known.source) != (mutant.file, mutant.source):
            continue
        if not known.changes or (mutant.old, mutant.new) in known.changes:
            return known.reason
    return None
