// The products of tiles of lines and of columns (pair_weights.h), by either of two CPUs'
// instructions that add up the products of pairs.
//
// The matrix unit (AMX). A tile register holds 16 rows of 64 bytes: a tile of lines or of columns
// (pair_weights.h). Their product adds to 16 x 16 sums of float32. Two tiles of lines meet two of
// columns, so that four tiles are loaded for four products.
//
// Dot products (AVX512_BF16). A register holds a pair each of 16 columns, meets a pair of a line in
// all lanes, and adds to 16 sums. Eight lines and two registers of columns are 16 sums; with two
// registers of columns and eight broadcasts for them 10 loads go with 16 products, of which one
// starts per cycle.
//
// Both round to float32 after each product of their own, and take subnormal numbers for zeros, as
// does the rounding to bfloat16 at the end.

#define CNNOPS_MATRIX_UNIT __attribute__((target(CNNOPS_TARGET ",amx-tile,amx-bf16")))

/// The products of up to 32 lines and 32 columns: rows of sums, one of each line.
struct PairProduct {
  const PairLines* lines;  // the tiles of the first 16, one for each chunk,
  int64_t pitch;           // and how far behind those of the others are
  int64_t count;           // of lines
  const bfloat16* columns;
  int64_t chunk, tile;  // from a chunk of columns to the next, and to the others of the same
  const bool* empty;    // chunks whose columns are all padding, and not there; null: none
  bool wide;            // more than 16 columns
  int64_t chunks;
  float* sums;
  int64_t sums_pitch;
  bool accumulate;
};

/// What the tiles are, as the CPU wants to be told: all of them 16 rows of 64 bytes.
struct alignas(64) MatrixConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A constant: to a compiler the intrinsic reads no more than a pointer's worth of it.
constexpr MatrixConfig kMatrixConfig;

/// Adds up the chunks of K for kLines x kColumns tiles of 16 x 16 sums.
template <int kLines, int kColumns>
CNNOPS_MATRIX_UNIT void multiply_tiles(const PairProduct& p) {
  const int64_t pitch = p.sums_pitch * int64_t(sizeof(float));
  float* const sums = p.sums;
  float* const next = sums + kPairRows * p.sums_pitch;
  asm volatile("" ::: "memory");  // the intrinsics do not say that they read memory
  if (p.accumulate) {
    _tile_loadd(0, sums, pitch);
    if constexpr (kColumns > 1) _tile_loadd(1, sums + kPairRows, pitch);
    if constexpr (kLines > 1) _tile_loadd(2, next, pitch);
    if constexpr (kLines > 1 && kColumns > 1) _tile_loadd(3, next + kPairRows, pitch);
  } else {
    _tile_zero(0);
    if constexpr (kColumns > 1) _tile_zero(1);
    if constexpr (kLines > 1) _tile_zero(2);
    if constexpr (kLines > 1 && kColumns > 1) _tile_zero(3);
  }
  const PairLines *a = p.lines, *below = a + p.pitch;
  const bfloat16* b = p.columns;
  for (int64_t k = 0; k < p.chunks; ++k, b += p.chunk) {
    if (p.empty != nullptr && p.empty[k]) continue;
    _tile_loadd(4, b, 64);
    _tile_loadd(6, a[k].at, a[k].stride);
    _tile_dpbf16ps(0, 6, 4);
    if constexpr (kColumns > 1) {
      _tile_loadd(5, b + p.tile, 64);
      _tile_dpbf16ps(1, 6, 5);
    }
    if constexpr (kLines > 1) {
      _tile_loadd(7, below[k].at, below[k].stride);
      _tile_dpbf16ps(2, 7, 4);
      if constexpr (kColumns > 1) _tile_dpbf16ps(3, 7, 5);
    }
  }
  _tile_stored(0, sums, pitch);
  if constexpr (kColumns > 1) _tile_stored(1, sums + kPairRows, pitch);
  if constexpr (kLines > 1) _tile_stored(2, next, pitch);
  if constexpr (kLines > 1 && kColumns > 1) _tile_stored(3, next + kPairRows, pitch);
}

/// The matrix unit, between begin() and end().
struct MatrixUnit {
  static constexpr const char *kName = "matrix_unit", *kWeightName = "weight_matrix_unit";
  static constexpr bool kWhole = true;  // reads what is zeros at the end of a chunk

  CNNOPS_MATRIX_UNIT static void begin() { _tile_loadconfig(&kMatrixConfig); }
  CNNOPS_MATRIX_UNIT static void end() { _tile_release(); }

  static void multiply(const PairProduct& p) {
    const bool both = p.count > kPairRows;
    const auto run = both     ? p.wide ? multiply_tiles<2, 2> : multiply_tiles<2, 1>
                     : p.wide ? multiply_tiles<1, 2>
                              : multiply_tiles<1, 1>;
    run(p);
  }
};

/// Lines that meet registers of columns at a time.
constexpr int kDotLines = 8;

/// Adds up the chunks of K for the lines from `first` on of tiles and kRegisters of columns.
template <int kRegisters>
void multiply_dots(const PairProduct& p, const PairLines* lines, int64_t first, float* sums) {
  __m512 sum[kDotLines][kRegisters] = {};
  if (p.accumulate) {
#pragma GCC unroll 8
    for (int i = 0; i < kDotLines; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < kRegisters; ++j) {
        sum[i][j] = _mm512_loadu_ps(sums + i * p.sums_pitch + j * kPairRows);
      }
    }
  }
  const bfloat16* b = p.columns;
  for (int64_t k = 0; k < p.chunks; ++k, b += p.chunk) {
    if (p.empty != nullptr && p.empty[k]) continue;
    const int64_t stride = lines[k].stride;
    const char* at[kDotLines];
#pragma GCC unroll 8
    for (int i = 0; i < kDotLines; ++i) {
      at[i] = reinterpret_cast<const char*>(lines[k].at) + (first + i) * stride;
    }
    for (int64_t pair = 0; pair < lines[k].pairs; ++pair) {
      __m512bh column[kRegisters];
#pragma GCC unroll 2
      for (int j = 0; j < kRegisters; ++j) {
        column[j] = (__m512bh)_mm512_loadu_si512(b + j * p.tile + pair * 2 * kPairRows);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kDotLines; ++i) {
        int32_t both;
        __builtin_memcpy(&both, at[i] + pair * 4, sizeof(both));
        const __m512bh value = (__m512bh)_mm512_set1_epi32(both);
#pragma GCC unroll 2
        for (int j = 0; j < kRegisters; ++j)
          sum[i][j] = _mm512_dpbf16_ps(sum[i][j], value, column[j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kDotLines; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kRegisters; ++j) {
      _mm512_storeu_ps(sums + i * p.sums_pitch + j * kPairRows, sum[i][j]);
    }
  }
}

/// Dot products in the vector registers.
struct DotProducts {
  static constexpr const char *kName = "dot_products", *kWeightName = "weight_dot_products";
  static constexpr bool kWhole = false;

  static void begin() {}
  static void end() {}

  static void multiply(const PairProduct& p) {
    for (int64_t i = 0; i < p.count; i += kDotLines) {
      const PairLines* lines = p.lines + i / kPairRows * p.pitch;
      const auto run = p.wide ? multiply_dots<2> : multiply_dots<1>;
      run(p, lines, i % kPairRows, p.sums + i * p.sums_pitch);
    }
  }
};
