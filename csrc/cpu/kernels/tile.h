// The register tile: C[i][j] += sum over taps t and positions k of A[i][t][k] * B[t][k][j], the
// inner loop of every GEMM-shaped convolution kernel.
//
// A comes as one pointer for each row and tap, so it may lie anywhere: packed weights, pixels of a
// channels_last tensor in place, a row of zeros for padding. B is a row of registers for each k,
// packed side by side or planes of a tensor in place. Per k
// a full tile loads kTileVectors registers of B, broadcasts kTileRows elements of A and does
// kTileRows * kTileVectors FMAs. AVX-512: 6 x 4 = 24 accumulators, 4 of B and one broadcast fill 29
// of 32 registers, with 10 loads for 24 FMAs, so the two FMA ports are the limit and not the two
// load ports. With 16 registers: 6 x 2. Six row pointers and their offset stay in general
// registers.

constexpr int kTileRows = 6;
constexpr int kTileVectors = CNNOPS_VECTOR_BYTES == 64 ? 4 : 2;

/// Columns of a full tile.
template <class A>
constexpr int kTileColumns = kTileVectors * kLanes<A>;

/// Operands of one tile.
template <class A>
struct TileOperands {
  const A* const* rows;  // [taps][kTileRows]
  int64_t start;         // elements from there to the first k
  int64_t taps;
  int64_t run;               // positions k of a tap
  int64_t step;              // elements from one k to the next in A
  const A* b;                // [taps * run] rows of vectors * lanes elements
  int64_t b_step;            // elements from one row of B to the next
  int64_t b_tap = 0;         // from the first row of a tap to that of the next; 0: they follow
  const A* zeros = nullptr;  // a tap whose rows all point here is skipped
  const A* bias = nullptr;   // one for each row of C, added at the end
  const A* column_bias = nullptr;  // one for each column of C, likewise
  A* copy = nullptr;  // where B is copied to as it is read, rows of whole registers side by side
};

template <class A, int kRows, int kVectors, bool kCopies = false>
void multiply_tile(const TileOperands<A>& in, A* c, int64_t pitch, bool accumulate) {
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kRows][kVectors];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      sum[i][j] = accumulate ? load(c + i * pitch + j * lanes) : Vec<A>{};
    }
  }
  const int64_t b_tap = in.b_tap != 0 ? in.b_tap : in.run * in.b_step;
  A* copy = in.copy;
  const A* const* rows = in.rows;
  for (int64_t tap = 0; tap < in.taps; ++tap, rows += kTileRows) {
    const A* a[kRows];
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) a[i] = rows[i];
    bool reads = false;
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) reads |= a[i] != in.zeros;
    if (!reads) continue;
    const A* b = in.b + tap * b_tap;
    for (int64_t k = 0, offset = in.start; k < in.run; ++k, offset += in.step, b += in.b_step) {
      Vec<A> column[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) column[j] = load(b + j * lanes);
      if constexpr (kCopies) {
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) store(copy + j * lanes, column[j]);
        copy += kVectors * lanes;
      }
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) {
        const Vec<A> value = broadcast(a[i][offset]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sum[i][j] += value * column[j];
      }
    }
  }
  if (in.bias != nullptr) {
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const Vec<A> value = broadcast(in.bias[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] += value;
    }
  }
  if (in.column_bias != nullptr) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const Vec<A> value = load(in.column_bias + j * lanes);
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) sum[i][j] += value;
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(c + i * pitch + j * lanes, sum[i][j]);
  }
}

/// A number as a type.
template <int kValue>
struct Size {
  static constexpr int value = kValue;
};

/// Calls call(Size<rows>, Size<vectors>) for a tile of `rows` (1 to kTileRows) by `vectors` (1 to
/// kTileVectors) registers.
template <class Call>
inline void with_tile_size(int rows, int vectors, const Call& call) {
  const auto with_rows = [&](auto width) {
    switch (rows) {
      case 1: return call(Size<1>(), width);
      case 2: return call(Size<2>(), width);
      case 3: return call(Size<3>(), width);
      case 4: return call(Size<4>(), width);
      case 5: return call(Size<5>(), width);
      default: return call(Size<6>(), width);
    }
  };
  switch (vectors) {
    case 1: return with_rows(Size<1>());
    case 2: return with_rows(Size<2>());
#if CNNOPS_VECTOR_BYTES == 64
    case 3: return with_rows(Size<3>());
    case 4: return with_rows(Size<4>());
#endif
  }
}

/// C (+)= A * B for a tile of `rows` by `vectors` registers; C has `pitch` elements a row.
template <class A>
inline void multiply(const TileOperands<A>& in, A* c, int64_t pitch, bool accumulate, int rows,
                     int vectors) {
  with_tile_size(rows, vectors, [&](auto height, auto width) {
    constexpr int kRows = decltype(height)::value, kVectors = decltype(width)::value;
    if constexpr (kRows == kTileRows) {
      // Only the first of several tiles that share B copies it, and that one has all its rows.
      if (in.copy != nullptr) {
        return multiply_tile<A, kRows, kVectors, true>(in, c, pitch, accumulate);
      }
    }
    multiply_tile<A, kRows, kVectors>(in, c, pitch, accumulate);
  });
}

/// Registers that `columns` elements fill.
template <class A>
inline int vectors_for(int64_t columns) {
  return int((columns + kLanes<A> - 1) / kLanes<A>);
}
