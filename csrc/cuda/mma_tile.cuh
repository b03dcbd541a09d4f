// A block's tile of a matrix product C = A * B on tensor cores: where its operands lie in shared
// memory, how warps fetch them into fragments and multiply, and how the tile goes to memory.
//
// C is kM x kN. Its operands pass through shared memory in slabs of the reduction axis, kSlabBytes
// deep: 32 elements of 2 bytes or 16 of 4, two mma steps. A slab is stored in one of two ways:
//   k-major   kM (kN) lines of kSlabBytes, the reduction axis contiguous: implicit_gemm.cuh
//   m-major   kSlabBytes / sizeof(T) lines of kM (kN) elements: implicit_gemm_weight.cuh
// as the tensors have them, so that both go from global memory to shared memory in 16-byte vectors.
// Fragments are the same afterwards: ldmatrix turns m-major 2-byte elements as it reads them.
//
// Vectors are permuted within 128 bytes (`swizzled`), so that neither the copies, which write along
// lines, nor the fragments, which read across them, meet bank conflicts, and no byte is padding.
#pragma once

#include "cuda/simt.cuh"
#include "dtype.h"

namespace cnnops::cuda {

/// Depth of a slab. With 64 bytes a stage of the largest tile is 16 KiB.
constexpr int kSlabBytes = 64;
/// What one cp.async copies and what one lane passes to ldmatrix.
constexpr int kVectorBytes = 16;

/// Elements of T in a vector, and in the depth of a slab.
template <class T>
constexpr int kVector = kVectorBytes / static_cast<int>(sizeof(T));
template <class T>
constexpr int kSlab = kSlabBytes / static_cast<int>(sizeof(T));

/// A shape: the tile of a block, the tile of each of its warps, the slabs in flight, and how many
/// such blocks an SM shall hold, which bounds the registers of a thread.
template <int kM_, int kN_, int kWarpM_, int kWarpN_, int kStages_, int kBlocks_>
struct Tile {
  static constexpr int kM = kM_;
  static constexpr int kN = kN_;
  static constexpr int kWarpM = kWarpM_;
  static constexpr int kWarpN = kWarpN_;
  static constexpr int kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;

  static constexpr int kWarpsAcross = kN / kWarpN;
  static constexpr int kThreads = 32 * (kM / kWarpM) * kWarpsAcross;
  static constexpr int kStageBytes = (kM + kN) * kSlabBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  /// Fragments of a warp: of A and C downwards, 16 rows each; of B and C across, 8 columns each.
  static constexpr int kDown = kWarpM / 16;
  static constexpr int kAcross = kWarpN / 8;

  static_assert(kM % kWarpM == 0 && kN % kWarpN == 0 && kWarpM % 16 == 0 && kWarpN % 16 == 0);
  static_assert(kThreads * 16 * kWarpN * sizeof(float) / 32 <= kSharedBytes, "see store_tile");
};

/// The sums of a warp's tile; [..][..][4] as mma has them: lane l holds row l / 4, columns
/// l % 4 * 2 and the next, then the same of row l / 4 + 8.
template <class Tile>
using Sums = float[Tile::kDown][Tile::kAcross][4];

/// How operands get from global memory to shared memory.
enum class Copies {
  /// In whole vectors, by cp.async: the channels of a group, the strides and the addresses are
  /// multiples of 16 bytes, and padding is zeros.
  vectors,
  /// The same with padding of every mode.
  mapped_vectors,
  /// Element by element, through registers: any strides, number of channels and padding.
  elements,
};

/// How blocks that compute the same tile share the reduction axis: block y of the grid takes slabs
/// [y * slabs, (y + 1) * slabs).
struct Share {
  int32_t slabs = 0;
  /// Sums of block y as [y][row of C][column of C]; nullptr where there is one block, which writes
  /// the result itself.
  float* partial = nullptr;
  bool vectors = false;  // may rows of what the blocks write be written in 16-byte vectors?
};

/// Where a thread stands.
template <class Tile>
struct Place {
  int lane = static_cast<int>(threadIdx.x) % 32;
  int warp = static_cast<int>(threadIdx.x) / 32;
  int m = warp / Tile::kWarpsAcross * Tile::kWarpM;  // of the warp's tile in the block's
  int n = warp % Tile::kWarpsAcross * Tile::kWarpN;
};

/// Where vector `vector` of line `line` lies, in vectors, for lines of kLine vectors. Eight
/// consecutive accesses of 16 bytes have no bank conflict when they are
///   - eight consecutive vectors of one line, or of all lines that 128 bytes hold (the copies), or
///   - kWidth adjacent vectors, from a multiple of kWidth, of 8 / kWidth consecutive lines.
template <int kLine, int kWidth = 1>
SIMT_DEVICE int swizzled(int line, int vector) {
  static_assert((kLine & (kLine - 1)) == 0 && kLine >= kWidth);
  constexpr int kLinesTogether = kLine < 8 ? 8 / kLine : 1;  // in 128 bytes: once round the banks
  constexpr int kMask = (kLine < 8 ? kLine : 8) - 1;
  return line * kLine + (vector ^ (line / kLinesTogether * kWidth & kMask));
}

/// A k-major slab. Its lines are rows of A or columns of B.
template <class T>
struct KMajor {
  static constexpr int kLine = kSlabBytes / kVectorBytes;
  const unsigned char* slab;

  /// The vector that a copy writes: `vector` along the reduction axis, of row or column `line`.
  static SIMT_DEVICE int copied(int line, int vector) { return swizzled<kLine>(line, vector); }

  /// Rows [m, m + 16) of A for mma step `step`.
  SIMT_DEVICE void load_a(uint32_t (&a)[4], int m, int step, int lane) const {
    const int at = swizzled<kLine>(m + lane % 16, step * 2 + lane / 16);
    simt::ldmatrix_x4(a, slab + at * kVectorBytes);
  }
  /// Columns [n, n + 8) and [n + 8, n + 16) of B.
  SIMT_DEVICE void load_b(uint32_t (&b)[2][2], int n, int step, int lane) const {
    const int at = swizzled<kLine>(n + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2);
    uint32_t four[4];
    simt::ldmatrix_x4(four, slab + at * kVectorBytes);
    b[0][0] = four[0], b[0][1] = four[1], b[1][0] = four[2], b[1][1] = four[3];
  }
};

/// An m-major slab of kExtent rows of A or columns of B. Its lines are the positions on the
/// reduction axis.
template <class T, int kExtent>
struct MMajor {
  static constexpr int kLine = kExtent / kVector<T>;
  const unsigned char* slab;

  static SIMT_DEVICE int copied(int line, int vector) { return swizzled<kLine>(line, vector); }

  SIMT_DEVICE void load_a(uint32_t (&a)[4], int m, int step, int lane) const {
    const int line = step * 16 + lane / 16 * 8 + lane % 8;
    const int at = swizzled<kLine>(line, m / kVector<T> + lane / 8 % 2);
    simt::ldmatrix_x4_trans(a, slab + at * kVectorBytes);
  }
  SIMT_DEVICE void load_b(uint32_t (&b)[2][2], int n, int step, int lane) const {
    const int line = step * 16 + lane % 16;
    const int at = swizzled<kLine>(line, n / kVector<T> + lane / 16);
    uint32_t four[4];
    simt::ldmatrix_x4_trans(four, slab + at * kVectorBytes);
    b[0][0] = four[0], b[0][1] = four[1], b[1][0] = four[2], b[1][1] = four[3];
  }
};

/// ldmatrix turns elements of 2 bytes only: elements of 4 come one by one, a request taking 8
/// columns (2 vectors) of 4 lines.
template <int kExtent>
struct MMajor<float, kExtent> {
  static constexpr int kLine = kExtent / kVector<float>;
  const unsigned char* slab;

  static SIMT_DEVICE int copied(int line, int vector) { return swizzled<kLine, 2>(line, vector); }

  /// Element `column` of line `line`.
  SIMT_DEVICE uint32_t load(int column, int line) const {
    const int at = swizzled<kLine, 2>(line, column / 4) * 4 + column % 4;
    return simt::load_shared(reinterpret_cast<const uint32_t*>(slab) + at);
  }
  SIMT_DEVICE void load_a(uint32_t (&a)[4], int m, int step, int lane) const {
    for (int i = 0; i < 4; ++i) {
      a[i] = load(m + i % 2 * 8 + lane / 4, step * 8 + i / 2 * 4 + lane % 4);
    }
  }
  SIMT_DEVICE void load_b(uint32_t (&b)[2][2], int n, int step, int lane) const {
    for (int i = 0; i < 4; ++i) {
      b[i / 2][i % 2] = load(n + i / 2 * 8 + lane / 4, step * 8 + i % 2 * 4 + lane % 4);
    }
  }
};

/// sums += A * B over one mma step: 32 bytes of the reduction axis.
template <class T>
SIMT_DEVICE void mma(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  simt::mma_m16n8k16(sums, a, b, T{});
}
template <>
SIMT_DEVICE void mma<float>(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  simt::mma_m16n8k8_tf32(sums, a, b);
}

/// float operands rounded to the nearest tf32 (the tensor core alone would cut them off).
template <class T>
SIMT_DEVICE void round_operands(uint32_t* operands, int count) {
  if constexpr (sizeof(T) == 4) {
    for (int i = 0; i < count; ++i) {
      operands[i] = simt::to_tf32(__builtin_bit_cast(float, operands[i]));
    }
  }
}

/// sums += the product of two slabs, KMajor or MMajor, for the warp's tile.
template <class T, class Tile, class SlabA, class SlabB>
SIMT_DEVICE void multiply(Sums<Tile>& sums, const SlabA& a_slab, const SlabB& b_slab,
                          const Place<Tile>& place) {
#pragma unroll
  for (int step = 0; step < kSlabBytes / 32; ++step) {
    uint32_t a[Tile::kDown][4], b[Tile::kAcross / 2][2][2];
#pragma unroll
    for (int i = 0; i < Tile::kDown; ++i) {
      a_slab.load_a(a[i], place.m + i * 16, step, place.lane);
      round_operands<T>(a[i], 4);
    }
#pragma unroll
    for (int j = 0; j < Tile::kAcross / 2; ++j) {
      b_slab.load_b(b[j], place.n + j * 16, step, place.lane);
      round_operands<T>(b[j][0], 4);
    }
#pragma unroll
    for (int i = 0; i < Tile::kDown; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kAcross; ++j) mma<T>(sums[i][j], a[i], b[j / 2][j % 2]);
    }
  }
}

/// sums = the product of `slabs` slabs, kStages - 1 of them in flight while one is multiplied.
/// `operands.copy(a, b)` starts this thread's copies of the next slab of A and of B. Afterwards
/// `shared`, of Tile::kSharedBytes, is free.
template <class T, class Tile, class SlabA, class SlabB, class Operands>
SIMT_DEVICE void run_pipeline(Sums<Tile>& sums, unsigned char* shared, const Place<Tile>& place,
                              Operands& operands, int slabs) {
  constexpr int kSlabBytesOfA = Tile::kM * kSlabBytes;
  const auto copy_into = [&](int stage) {
    unsigned char* a = shared + stage * Tile::kStageBytes;
    operands.copy(a, a + kSlabBytesOfA);
  };
#pragma unroll
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) {
    if (stage < slabs) copy_into(stage);
    simt::cp_commit();
  }
  int stage = 0, free_stage = Tile::kStages - 1;
  for (int slab = 0; slab < slabs; ++slab) {
    // Every slab commits a group, with or without copies: all but the newest kStages - 2 include
    // the copies of this slab.
    simt::cp_wait<Tile::kStages - 2>();
    __syncthreads();  // all see this slab, and none reads the one before any more
    if (slab + Tile::kStages - 1 < slabs) copy_into(free_stage);
    simt::cp_commit();
    const unsigned char* a = shared + stage * Tile::kStageBytes;
    multiply<T, Tile>(sums, SlabA{a}, SlabB{a + kSlabBytesOfA}, place);
    free_stage = stage;
    stage = stage + 1 == Tile::kStages ? 0 : stage + 1;
  }
  __syncthreads();
}

/// Writes the tile as elements of Out, in vectors where `vectors` says that columns lie side by
/// side and whole vectors of them. Each warp turns 16 rows at a time in its own share of `staging`
/// from the lanes' fragments into whole lines, so that 16-byte stores cover 64 bytes or more of a
/// row.
///
/// `offset_of(m)` is the offset of row m of the block's tile from `dest`, or -1 for a row beyond
/// the result, to which `column_offset(n)` adds; of columns only those below `columns` are written.
/// No warp may still be using `staging` for anything else.
template <class Out, class Index, class Tile, class OffsetOf, class ColumnOffset>
SIMT_DEVICE void store_tile(const Sums<Tile>& sums, unsigned char* staging,
                            const Place<Tile>& place, Out* dest, Index columns, bool vectors,
                            const OffsetOf& offset_of, const ColumnOffset& column_offset) {
  constexpr int kLine = Tile::kWarpN / kVector<Out>;
  constexpr int kWidth = sizeof(Out) / 2;  // vectors that 8 columns, a fragment's row, take
  using Pair = simt::Vector<Out, 2>;
  using Whole = simt::Vector<Out, kVector<Out>>;
  unsigned char* mine = staging + place.warp * 16 * kLine * kVectorBytes;
#pragma unroll
  for (int i = 0; i < Tile::kDown; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::kAcross; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int byte = (j * 8 + place.lane % 4 * 2) * static_cast<int>(sizeof(Out));
        const int at = swizzled<kLine, kWidth>(place.lane / 4 + half * 8, byte / kVectorBytes);
        const Pair pair{{simt::from_float<Out>(sums[i][j][half * 2]),
                         simt::from_float<Out>(sums[i][j][half * 2 + 1])}};
        simt::store_shared(reinterpret_cast<Pair*>(mine + at * kVectorBytes + byte % kVectorBytes),
                           pair);
      }
    }
    const Index own_offset = offset_of(place.m + i * 16 + place.lane % 16);
    __syncwarp();
    if (vectors) {
      constexpr int kLinesAtOnce = 32 / kLine;
      const int vector = place.lane % kLine;
      const Index column = place.n + vector * kVector<Out>;
#pragma unroll
      for (int first = 0; first < 16; first += kLinesAtOnce) {
        const int line = first + place.lane / kLine;
        const Index offset = __shfl_sync(simt::kFullMask, own_offset, line);
        const Whole values = simt::load_shared(reinterpret_cast<const Whole*>(mine) +
                                               swizzled<kLine, kWidth>(line, vector));
        if (offset >= 0 && column < columns) {
          simt::store(reinterpret_cast<Whole*>(dest + offset + column), values);
        }
      }
    } else {
#pragma unroll 1
      for (int at = place.lane; at < 16 * Tile::kWarpN; at += 32) {
        const int line = at / Tile::kWarpN, in_line = at % Tile::kWarpN;
        const int vector = swizzled<kLine, kWidth>(line, in_line / kVector<Out>);
        const Index column = place.n + in_line;
        const Index offset = __shfl_sync(simt::kFullMask, own_offset, line);
        const Out value = simt::load_shared(reinterpret_cast<const Out*>(mine) +
                                            vector * kVector<Out> + in_line % kVector<Out>);
        if (offset >= 0 && column < columns) {
          simt::store(dest + offset + column_offset(column), value);
        }
      }
    }
    __syncwarp();
  }
}

}  // namespace cnnops::cuda
