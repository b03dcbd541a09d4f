// The register tile for few columns: C[i][j] += sum over runs r and positions k of
// A[start(r) + k * k_step + i * row_step] * B[r][k][j].
//
// A tile of tile.h has 6 rows, whatever its columns. With one or two registers of columns that is
// too few: 6 or 12 sums neither hide the latency of an FMA nor share the loads of B among enough of
// them. Here the rows are evenly spaced, so that a tile needs no pointer for each of them and has
// as many as the registers hold: with AVX-512 24 x 1, 14 x 2, 9 x 3 or 6 x 4. There is code for
// every number of rows up to that, since what is left of a narrow image or a small K is no rest but
// all there is.

/// Registers of the instruction set.
constexpr int kRegisters = CNNOPS_VECTOR_BYTES == 64 ? 32 : 16;

/// Most rows of a tile: its sums leave room for a row of B and one broadcast, and more than 24 gain
/// nothing.
constexpr int affine_rows(int vectors) {
  const int rows = (kRegisters - 1 - vectors) / vectors;
  return rows < 24 ? rows : 24;
}

/// Tiles of fewer registers of columns load so often that they do not bring what is written next.
constexpr int kWritingVectors = 2;

/// Operands of one tile; there is at least one run, and none is empty.
template <class A>
struct AffineOperands {
  const A* a;           // row 0
  int64_t row_step;     // elements from row to row
  const int64_t* runs;  // where each run starts, in elements from `a`
  int64_t run_count;
  int64_t run;        // positions k of a run
  int64_t k_step;     // elements from one k to the next
  const A* b;         // [run_count * run] rows of whole registers
  int64_t b_step;     // elements from one row of B to the next
  A* copy = nullptr;  // unless null: where these are copied to as they are read, side by side
  const char* fetch = nullptr;  // unless null: a line of what is read or written later, brought at
  int64_t fetch_step = 0;       // the first k, and bytes to that of the next k
};

/// What is written later, which a tile brings a row of its registers with each k.
template <class T>
struct RowFetches {
  const T* from = nullptr;  // the first; null: none
  int64_t step = 0;         // elements from one to the next
  int64_t rows = 0;
};

/// Where a tile goes, stored as T, and what is added to it.
template <class T>
struct AffineResult {
  T* c;
  int64_t pitch;              // elements from row to row
  int64_t last;               // lanes of the last register of a row that are stored
  const Accumulator<T>* add;  // whole registers: a bias, or C itself
  int64_t add_pitch = 0;      // 0 for a bias
  RowFetches<T> next{};       // where there are kWritingVectors registers of columns
};

/// Rows next to each other, kNeighbours, take one pointer and constant distances; kCopies is for
/// these alone.
template <class T, bool kNeighbours, int kRows, int kVectors, bool kCopies = false>
void multiply_affine_tile(const AffineOperands<Accumulator<T>>& in, const AffineResult<T>& out) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>, of_line = sizeof(A) / sizeof(T);
  Vec<A> sum[kRows][kVectors];
#pragma GCC unroll 32
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[i][j] = load(out.add + i * out.add_pitch + j * lanes);
  }
  // What is written later comes while this tile multiplies, a row with each k: all at once, the
  // lines would hold up what is read.
  const T* written = out.next.from != nullptr ? out.next.from : out.c;
  const int64_t written_step = out.next.step;
  int64_t written_rows = out.next.rows;
  const A* b = in.b;
  A* copy = in.copy;
  const char* fetch = in.fetch != nullptr ? in.fetch : reinterpret_cast<const char*>(b);
  const int64_t one = in.row_step, two = 2 * one, three = 3 * one;
  int64_t r = 0;
  do {
    // Every fourth row has a pointer and the others a distance from it: as few as that stay in
    // general registers. The compiler would rather keep a distance for each row, on the stack.
    const A* fourth[(kRows + 3) / 4];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i += 4) fourth[i / 4] = in.a + in.runs[r] + i * one;
    const A* first = fourth[0];
    int64_t k = 0;
    do {
      Vec<A> column[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        column[j] = load(b + j * lanes);
        load_once<kRows, A>(column[j]);
        if constexpr (kCopies) store(copy + j * lanes, column[j]);
      }
      if constexpr (kCopies) copy += kVectors * lanes;
      if constexpr (kVectors >= kWritingVectors) {
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; j += of_line) __builtin_prefetch(written + j * lanes, 1);
        written += --written_rows > 0 ? written_step : 0;
      }
      __builtin_prefetch(fetch);
      fetch += in.fetch_step;
#pragma GCC unroll 32
      for (int i = 0; i < kRows; ++i) {
        const int64_t distance = i % 4 == 0 ? 0 : i % 4 == 1 ? one : i % 4 == 2 ? two : three;
        const Vec<A> value = broadcast(kNeighbours ? first[i] : fourth[i / 4][distance]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sum[i][j] += value * column[j];
      }
      first += in.k_step;
#pragma GCC unroll 8
      for (int i = 0; i < kRows && !kNeighbours; i += 4) {
        fourth[i / 4] += in.k_step;
        asm("" : "+r"(fourth[i / 4]));
      }
      b += in.b_step;
    } while (++k < in.run);
  } while (++r < in.run_count);
  // Both in registers: for all the compiler knows, a store could change what `out` holds.
  T* c = out.c;
  const int64_t pitch = out.pitch, last = out.last;
#pragma GCC unroll 32
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j + 1 < kVectors; ++j) store_narrow(c + i * pitch + j * lanes, sum[i][j]);
  }
  c += (kVectors - 1) * lanes;
  if (last == lanes) {
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i, c += pitch) store_narrow(c, sum[i][kVectors - 1]);
  } else {
#pragma GCC unroll 32
    for (int i = 0; i < kRows; ++i, c += pitch) store_partial(c, sum[i][kVectors - 1], last);
  }
}

/// The tile of `rows` rows, kLeast to kMost, found by halves.
template <class T, int kVectors, int kLeast = 1, int kMost = affine_rows(kVectors)>
inline void multiply_affine_rows(const AffineOperands<Accumulator<T>>& in,
                                 const AffineResult<T>& out, int64_t rows) {
  if constexpr (kLeast == kMost) {
    if constexpr (__is_same(T, Accumulator<T>) && kLeast == affine_rows(kVectors)) {
      // Only the first of several tiles that share B copies it, and that one has all its rows.
      if (in.copy != nullptr) {
        return multiply_affine_tile<T, true, kLeast, kVectors, true>(in, out);
      }
    }
    if (in.row_step == 1) return multiply_affine_tile<T, true, kLeast, kVectors>(in, out);
    multiply_affine_tile<T, false, kLeast, kVectors>(in, out);
  } else {
    constexpr int middle = (kLeast + kMost) / 2;
    if (rows <= middle) {
      multiply_affine_rows<T, kVectors, kLeast, middle>(in, out, rows);
    } else {
      multiply_affine_rows<T, kVectors, middle + 1, kMost>(in, out, rows);
    }
  }
}

/// C = A * B and what is added, for a tile of `rows` (1 to affine_rows) by `vectors` (1 to
/// kTileVectors) registers.
template <class T>
inline void multiply_affine(const AffineOperands<Accumulator<T>>& in, const AffineResult<T>& out,
                            int64_t rows, int vectors) {
  switch (vectors) {
    case 1: return multiply_affine_rows<T, 1>(in, out, rows);
    case 2: return multiply_affine_rows<T, 2>(in, out, rows);
#if CNNOPS_VECTOR_BYTES == 64
    case 3: return multiply_affine_rows<T, 3>(in, out, rows);
    case 4: return multiply_affine_rows<T, 4>(in, out, rows);
#endif
  }
}
