"""Mutants written by hand: mistakes that somebody could make and no regular expression does.

Each replaces a text that its file has once. Every one of them is found by a test.
"""

from __future__ import annotations

#: file in csrc/cuda, what is wrong, the right text and the wrong one.
MISTAKES: tuple[tuple[str, str, str, str], ...] = (
    (
        "implicit_gemm.cuh",
        "few channels: a slab spans more than two taps",
        "} while (channel >= p.depth);",
        "} while (false);",
    ),
    (
        "implicit_gemm.cuh",
        "phases of a strided gradient begin at other kernel positions",
        "weight += (a.kernel + tap[axis] * a.kernel_step)",
        "weight += (tap[axis] * a.kernel_step)",
    ),
    (
        "implicit_gemm.cuh",
        "padding modes of tensors without vectors",
        "pixel.template find<true>(place, offset)",
        "pixel.template find<false>(place, offset)",
    ),
    (
        "implicit_gemm.cuh",
        "the bias of another group",
        "p.bias == nullptr ? nullptr : p.bias + channel, columns);",
        "p.bias == nullptr ? nullptr : p.bias + first_row, columns);",
    ),
    (
        "implicit_gemm.cu",
        "more shares than have slabs",
        "grid.y = static_cast<unsigned>(used);",
        "grid.y = static_cast<unsigned>(shares);",
    ),
    (
        "implicit_gemm.cu",
        "vectors of a weight whose rows are not aligned",
        "{strides.group, strides.row, strides.axis[0],",
        "{strides.group, strides.axis[0],",
    ),
    (
        "implicit_gemm.cu",
        "vectors of results reach into the next group",
        "(channels == 1 || strides.channel == 1) && p.rows % kVector<T> == 0 &&",
        "(channels == 1 || strides.channel == 1) &&",
    ),
    (
        "implicit_gemm.cu",
        "the same of partial sums",
        "share.vectors = contraction.rows % kVector<float> == 0;",
        "share.vectors = channels % kVector<float> == 0;",
    ),
    (
        "implicit_gemm_weight.cuh",
        "padding modes of tensors without vectors",
        "find_source<true>(p, B::line(i), column, offset)",
        "find_source<false>(p, B::line(i), column, offset)",
    ),
    (
        "implicit_gemm_weight.cu",
        "more shares than have slabs",
        "grid.y = static_cast<unsigned>(used);",
        "grid.y = static_cast<unsigned>(shares);",
    ),
    (
        "mma_tile.cuh",
        "tf32 cut off instead of rounded",
        "operands[i] = simt::to_tf32(__builtin_bit_cast(float, operands[i]));",
        "operands[i] &= 0xffffe000u;",
    ),
    (
        "mma_tile.cuh",
        "half of the columns are not rounded to tf32",
        "round_operands<T>(b[j][0], 4);",
        "round_operands<T>(b[j][0], 2);",
    ),
    (
        "join_shares.cuh",
        "sums of shares are rounded on the way",
        "    if (p.bias != nullptr) sum +=",
        "    sum = simt::to_float(simt::from_float<T>(sum));\n    if (p.bias != nullptr) sum +=",
    ),
    (
        "join_chunks.cuh",
        "blocks stride too far",
        "i += static_cast<Index>(gridDim.x) * 256",
        "i += static_cast<Index>(gridDim.x + 1) * 256",
    ),
    (
        "fill.cuh",
        "blocks stride too far",
        "static_cast<int64_t>(gridDim.x) * 256;",
        "static_cast<int64_t>(gridDim.x + 1) * 256;",
    ),
    (
        "fold_padding.cuh",
        "the bias is forgotten",
        "if (p.bias != nullptr) sum = simt::to_float(simt::load(&p.bias[channel]));",
        "",
    ),
    (
        "fold_padding.cuh",
        "the last element of an axis is never the first",
        "if (i == last) {\n        runs.first[2]",
        "else if (i == last) {\n        runs.first[2]",
    ),
    (
        "site.cuh",
        "blocks stride too far",
        "row += static_cast<Index>(gridDim.x) * 256",
        "row += static_cast<Index>(gridDim.x + 1) * 256",
    ),
    (
        "site.cuh",
        "nowhere is near",
        "sizeof(Index) == 4 ? -(Index{1} << 30) :",
        "sizeof(Index) == 4 ? -(Index{1} << 20) :",
    ),
    (
        "fma_gemm.cu",
        "a launch on the default stream",
        "SIMT_LAUNCH((list_taps<Index>), grid_over(depth), dim3(256), 0, device.stream(),",
        "SIMT_LAUNCH((list_taps<Index>), grid_over(depth), dim3(256), 0, nullptr,",
    ),
    (
        "fma_gemm.cu",
        "vectors of pixels reach beyond the last one",
        "to.axis[2] == 1 && p.axis[2].count % n == 0 &&",
        "to.axis[2] == 1 &&",
    ),
    (
        "fma_tile.cuh",
        "double sums in single precision",
        "sum[i][j] += left[i / kVector].at[i % kVector] * right[j / kVector].at[j % kVector];",
        "sum[i][j] = static_cast<Acc>(static_cast<float>(sum[i][j] + left[i / kVector].at[i % "
        "kVector] * right[j / kVector].at[j % kVector]));",
    ),
    (
        "describe.h",
        "32 bits for gradients that are far apart",
        "extent(p, p.grad_strides) <= limit && extent(p, p.dest_strides) <= limit;",
        "extent(p, p.dest_strides) <= limit;",
    ),
    (
        "describe.h",
        "32 bits for more pixels than that",
        "return double(shape.batch) * double(shape.pixels()) <= limit &&",
        "return double(shape.pixels()) <= limit &&",
    ),
    (
        "problem.h",
        "a signed shift of what takes 32 bits",
        "return static_cast<int32_t>((high + static_cast<uint32_t>(n)) >> shift);",
        "return (static_cast<int32_t>(high) + n) >> shift;",
    ),
    (
        "depthwise_planar.cuh",
        "16-bit sums on the way",
        "        source += height.offset_step * tile.pitch;",
        "        for (Value& s : sum) s = simt::to_float(simt::from_float<T>(s));\n"
        "        source += height.offset_step * tile.pitch;",
    ),
    (
        "pool_reduce.cuh",
        "of NaNs in parts of a window the first",
        "(nan && (state.value == state.value || other.at > state.at));",
        "(nan && (state.value == state.value || other.at < state.at));",
    ),
    (
        "pool_reduce.cuh",
        "of equals in parts of a window the last",
        "(other.value == state.value && other.at < state.at) ||",
        "(other.value == state.value && other.at > state.at) ||",
    ),
    (
        "pool_plan.h",
        "32 bits although windows have more elements",
        "return std::max(largest, elements);",
        "return largest;",
    ),
    (
        "pool_plan.h",
        "32 bits up to the end, where the last block goes further",
        "(int64_t{1} << 31) - 4096;",
        "(int64_t{1} << 31);",
    ),
    (
        "implicit_gemm.cu",
        "vectors although groups begin between them",
        "p.depth % kVector<T> == 0 && strides.channel == 1",
        "strides.channel == 1",
    ),
    (
        "implicit_gemm_weight.cu",
        "vectors although groups of grad begin between them",
        "p.rows % kVector<T> == 0 &&\n",
        "",
    ),
    (
        "describe.h",
        "the distance to a second destination that there is not",
        "walk.count > 1 ? static_cast<Index>(walk.step) : 0",
        "static_cast<Index>(walk.step)",
    ),
    (
        "depthwise.cuh",
        "rows of the second tile of a stride",
        "top * p.axis[1].step + p.axis[1].offset",
        "top + p.axis[1].offset",
    ),
    (
        "depthwise.cu",
        "vectors of outputs that lie a stride apart",
        "to.axis[2] == 1 && p.axis[2].count % kRun == 0",
        "p.axis[2].count % kRun == 0",
    ),
    (
        "depthwise.cu",
        "the source channels of a group",
        "int64_t{p.depth} * p.axis[0].taps * p.axis[1].taps",
        "int64_t{1} * p.axis[0].taps * p.axis[1].taps",
    ),
    (
        "depthwise_plan.h",
        "more weights than shared memory holds",
        "std::clamp<int64_t>(kTapBytes / row_bytes, 1, p.axis[1].taps)",
        "p.axis[1].taps",
    ),
    (
        "depthwise_planar.cuh",
        "planes of the next image",
        "tile.planes < p.groups - first_group ? tile.planes : p.groups - first_group",
        "tile.planes",
    ),
    (
        "depthwise_weight.cuh",
        "what lies behind the last of few taps far apart",
        "if (first_tap + k >= width.taps) break;",
        "",
    ),
    (
        "pool_window.cuh",
        "slices of one row",
        "if (columns < count) {  // not one row",
        "if (rows > 1) {",
    ),
    (
        "pool_direct.cuh",
        "dilation along H",
        "y += height.step",
        "++y",
    ),
    (
        "pool_tile.cuh",
        "elements of a window counted at its place in the tile",
        "Op::weigh(p, value, z, y, x)",
        "Op::weigh(p, value, z, y - rows.begin, x)",
    ),
    (
        "pool_plan.h",
        "tiles that begin in the middle of a stride reach one window more",
        "(count - 1 + axis.kernel + axis.stride - 1) / axis.stride",
        "(count - 1 + axis.kernel) / axis.stride",
    ),
    (
        "pool_plan.h",
        "more random samples than elements",
        "std::max({g.input_plane(), g.output_plane(), int64_t{g.rank}})",
        "std::max({g.input_plane(), g.output_plane()})",
    ),
    (
        "pool_fractional.cuh",
        "sizes that 16 bits do not hold",
        "rounded(static_cast<Value>(input - kernel))",
        "static_cast<Value>(input - kernel)",
    ),
    (
        "pool_fractional.cuh",
        "windows behind the last place",
        "start < 0 ? 0 : start > last ? last : start",
        "start < 0 ? 0 : start",
    ),
    (
        "pool.cu",
        "as many threads as the plane that is read has elements",
        "blocks_of(g.batch * g.channels * g.output_plane(), kGatherThreads)",
        "blocks_of(g.batch * g.channels * g.input_plane(), kGatherThreads)",
    ),
    (
        "implicit_gemm.cuh",
        "groups are counted without their tiles",
        "blockIdx.x / tiles_across % groups",
        "blockIdx.x % groups",
    ),
    (
        "depthwise_plan.h",
        "elements between taps that 32 bits do not count",
        "double(reached(p.axis[2], tile.width)) > 1e6 ||",
        "double(reached(p.axis[2], tile.width)) > 1e30 ||",
    ),
    (
        "depthwise_plan.h",
        "a row of weights wider than shared memory",
        "if (row_bytes > kDepthwiseBytes) return false;",
        "",
    ),
)
