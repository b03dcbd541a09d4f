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

/// Rows of the next tile, `most` at most, where `left` are left: the last two tiles share theirs,
/// as one or two rows are too few for the units that multiply.
inline int tile_rows(int64_t left, int most = kTileRows) {
  return int(left >= 2 * most ? most : left > most ? (left + 1) / 2 : left);
}

/// Columns of a full tile.
template <class A>
constexpr int kTileColumns = kTileVectors * kLanes<A>;

/// Lines of what is read later, which a tile brings one with each k, so that they hold up nothing:
/// to the cache after the nearest, which is full of what is multiplied.
template <class A>
struct LineFetches {
  const A* from = nullptr;  // the first; null: none
  int64_t step = 0;         // elements from one to the next,
  int64_t run = 0;          // after so many of them, unless 0,
  int64_t skip = 0;         // so many more
};

/// Operands of one tile. They are in memory, and what is zero is zeroed in whole registers: of a
/// store that spans two cache lines, loads would wait until all stores before it are done.
template <class A>
struct alignas(64) TileOperands {
  const A* const* rows;  // [taps][kTileRows]
  int64_t start;         // elements from there to the first k
  int64_t taps;
  int64_t run;               // positions k of a tap
  int64_t step;              // elements from one k to the next in A
  const A* b;                // [taps * run] rows of vectors * lanes elements
  int64_t b_step;            // elements from one row of B to the next
  int64_t last = kLanes<A>;  // elements of the last register of a row of C, which C ends with

  alignas(64) int64_t b_tap = 0;  // from the first row of a tap to that of the next; 0: they follow
  const A* zeros = nullptr;       // a tap whose rows all point here is skipped
  const A* bias = nullptr;        // one for each row of C, added at the end
  const A* column_bias = nullptr;  // one for each column of C, likewise
  A* copy = nullptr;  // where B is copied to as it is read, rows of whole registers side by side
  LineFetches<A> fetches = {};  // unless B is copied
};

/// What a tile does beside multiplying: nothing, copy B, or fetch.
enum class TileReads { kPlain, kCopying, kFetching };

/// The sums of a tile, in registers.
template <class A, int kRows, int kVectors>
struct TileSums {
  static constexpr int lanes = kLanes<A>;
  Vec<A> sum[kRows][kVectors] = {};

  /// Adds the products of the column of A at a[i][offset] and the row of B at `b`, which is copied
  /// to `copy` if kCopies.
  template <bool kCopies = false>
  inline void add_products(const A* const (&a)[kRows], int64_t offset, const A* b,
                           A* copy = nullptr) {
    Vec<A> column[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      column[j] = load(b + j * lanes);
      load_once<kRows, A>(column[j]);
    }
    if constexpr (kCopies) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) store(copy + j * lanes, column[j]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const Vec<A> value = broadcast(a[i][offset]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] += value * column[j];
    }
  }

  /// Adds a number for each row.
  inline void add_bias(const A* bias) {
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const Vec<A> value = broadcast(bias[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] += value;
    }
  }
  /// Adds a number for each column, of which the last register has `last`.
  inline void add_column_bias(const A* bias, int64_t last) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const A* from = bias + j * lanes;
      const Vec<A> value = ends(j, last) ? load_partial(from, last) : load(from);
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) sum[i][j] += value;
    }
  }

  /// Stores the sums, added to what there is if `accumulate`, as rows `pitch` elements apart; the
  /// last register of a row has `last`.
  inline void store_to(A* c, int64_t pitch, int64_t last, bool accumulate) {
    if (accumulate) {
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
          const A* from = c + i * pitch + j * lanes;
          sum[i][j] += ends(j, last) ? load_partial(from, last) : load(from);
        }
      }
    }
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        A* to = c + i * pitch + j * lanes;
        if (ends(j, last)) {
          store_partial(to, sum[i][j], last);
        } else {
          store(to, sum[i][j]);
        }
      }
    }
  }

  /// Brings the lines that a row of sums goes to.
  static inline void fetch_to_write(const A* row) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) __builtin_prefetch(row + j * lanes, 1);
  }
  /// Brings the lines of a row of B.
  static inline void fetch(const A* row) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) __builtin_prefetch(row + j * lanes);
  }
  /// The same, to the cache after the nearest.
  static inline void fetch_to_l2(const A* row) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) __builtin_prefetch(row + j * lanes, 0, 2);
  }

 private:
  /// Whether register j ends a row, and `last` elements are a part of it.
  static inline bool ends(int j, int64_t last) { return j + 1 == kVectors && last < lanes; }
};

template <class A, int kRows, int kVectors, TileReads kReads = TileReads::kPlain>
void multiply_tile(const TileOperands<A>& in, A* c, int64_t pitch, bool accumulate) {
  TileSums<A, kRows, kVectors> sums;
  const int64_t b_tap = in.b_tap != 0 ? in.b_tap : in.run * in.b_step;
  constexpr bool kCopies = kReads == TileReads::kCopying;
  A* copy = in.copy;
  const LineFetches<A>& fetches = in.fetches;
  const A* fetch = fetches.from;
  int64_t left_of_run = fetches.run;
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
    int64_t offset = in.start;
    const auto multiply_row = [&] {
      sums.template add_products<kCopies>(a, offset, b, copy);
      offset += in.step, b += in.b_step;
      if constexpr (kCopies) copy += kVectors * kLanes<A>;
      if constexpr (kReads == TileReads::kFetching) {
        __builtin_prefetch(fetch, 0, 2);
        fetch += fetches.step;
        if (--left_of_run == 0) left_of_run = fetches.run, fetch += fetches.skip;
      }
    };
    int64_t k = 0;
    const int64_t until = tap + 1 < in.taps ? in.run : in.run - kRows;
    for (; k < until; ++k) multiply_row();
    // The lines that sums go to come while the last positions are multiplied.
    for (const A* row = c; k < in.run; ++k, row += pitch) {
      sums.fetch_to_write(row);
      multiply_row();
    }
  }
  if (in.bias != nullptr) sums.add_bias(in.bias);
  if (in.column_bias != nullptr) sums.add_column_bias(in.column_bias, in.last);
  sums.store_to(c, pitch, in.last, accumulate);
}

/// A number as a type.
template <int kValue>
struct Size {
  static constexpr int value = kValue;
};

/// Calls call(Size<count>) for a count of 1 to kMost.
template <int kMost, class Call>
inline void with_count(int64_t count, const Call& call) {
  if constexpr (kMost > 1) {
    if (count < kMost) return with_count<kMost - 1>(count, call);
  }
  call(Size<kMost>());
}

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
        return multiply_tile<A, kRows, kVectors, TileReads::kCopying>(in, c, pitch, accumulate);
      }
      if (in.fetches.from != nullptr) {
        return multiply_tile<A, kRows, kVectors, TileReads::kFetching>(in, c, pitch, accumulate);
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
