// A small fixed-width vector on the compilers' vector extension: Vec<T> is one machine register of
// the instruction set this file is compiled for, with +, -, *, comparisons and ?: from the
// language.
//
// Included once per instruction set, inside that set's namespace, with CNNOPS_VECTOR_BYTES
// set to the register width (isa/begin.h). It therefore has no include guard and no includes.
// Which intrinsics there are say CNNOPS_TARGET_AVX2 and CNNOPS_TARGET_AVX512, not the compiler's
// own macros: GCC reads a whole C++ file before it acts on the target pragma, and defines none of
// them.

template <class T, int kCount>
struct VectorOf {
  typedef T type __attribute__((vector_size(kCount * sizeof(T))));
};

/// Number of T in one register.
template <class T>
constexpr int kLanes = CNNOPS_VECTOR_BYTES / int(sizeof(T));

/// One register of T.
template <class T>
using Vec = typename VectorOf<T, kLanes<T>>::type;

/// The integer type whose vectors name lanes of elements of this size in a shuffle.
template <int kBytes>
struct IndexOf;
template <>
struct IndexOf<4> {
  using type = int32_t;
};
template <>
struct IndexOf<8> {
  using type = int64_t;
};

/// Unaligned load and store of one register.
template <class T>
inline Vec<T> load(const T* from) {
  Vec<T> v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}
template <class T>
inline void store(T* to, Vec<T> v) {
  __builtin_memcpy(to, &v, sizeof(v));
}

/// All lanes equal to `value`.
template <class T>
inline Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

// ---- storage <-> accumulator, one element -------------------------------------------------------

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <class T>
inline T widen(T value) {
  return value;
}
inline float widen(bfloat16 value) { return bit_cast<float>(uint32_t(value.bits) << 16); }
inline float widen(exact_bfloat16 value) { return widen(bfloat16{value.bits}); }

// Where no instruction converts halves, a call does: kernels would be mostly conversions otherwise.
#if defined(CNNOPS_TARGET_AVX512) || defined(CNNOPS_TARGET_AVX2)
#define CNNOPS_HALF_CONVERSION inline
#else
#define CNNOPS_HALF_CONVERSION [[gnu::noinline]] inline
#endif

CNNOPS_HALF_CONVERSION float widen(float16 value) {
#if defined(CNNOPS_TARGET_AVX512) || defined(CNNOPS_TARGET_AVX2)
  return _cvtsh_ss(value.bits);
#else
  // Multiplying by 2^112 re-biases the exponent and normalises subnormals in one step; infinities
  // and NaNs come out with the largest half exponent and are given the float one.
  const uint32_t magnitude = uint32_t(value.bits & 0x7fffu) << 13;
  uint32_t bits = bit_cast<uint32_t>(bit_cast<float>(magnitude) * 0x1p112f);
  if (magnitude >= 0x0f800000u) bits = magnitude | 0x7f800000u;
  return bit_cast<float>(bits | uint32_t(value.bits & 0x8000u) << 16);
#endif
}

/// Rounds to nearest, ties to even, as torch does; NaN stays NaN. The instruction for bfloat16
/// takes subnormal numbers for zeros.
template <class T>
inline T narrow(Accumulator<T> value) {
  return value;
}
template <>
inline bfloat16 narrow<bfloat16>(float value) {
#if defined(CNNOPS_TARGET_AVX512_BF16)
  const auto all = (__m128i)_mm_cvtneps_pbh(_mm_set_ss(value));
  return {uint16_t(_mm_extract_epi16(all, 0))};
#else
  const uint32_t bits = bit_cast<uint32_t>(value);
  if (value != value) return {0x7fc0};
  return {uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}
template <>
inline exact_bfloat16 narrow<exact_bfloat16>(float value) {
  return {uint16_t(bit_cast<uint32_t>(value) >> 16)};
}
template <>
CNNOPS_HALF_CONVERSION float16 narrow<float16>(float value) {
#if defined(CNNOPS_TARGET_AVX512) || defined(CNNOPS_TARGET_AVX2)
  return {uint16_t(_cvtss_sh(value, 0))};
#else
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // rounds past 65504
  if (magnitude <
      0x38800000u) {  // subnormal: adding 0.5 leaves value / 2^-24, rounded, in the low bits
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    return {uint16_t(sign | (bit_cast<uint32_t>(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {uint16_t(sign | ((rounded - 0x38000000u) >> 13))};
#endif
}

// ---- storage <-> accumulator, one register of accumulators --------------------------------------

/// Whether elements are floating-point numbers, as their sums then are.
template <class T>
constexpr bool kFloats = __is_same(Accumulator<T>, float) || __is_same(Accumulator<T>, double);

/// Whether elements are the upper half of a float.
template <class T>
constexpr bool kIsBfloat16 = __is_same(T, bfloat16) || __is_same(T, exact_bfloat16);

/// The bits of as many 16-bit elements as there are floats in a register.
using Halves = typename VectorOf<uint16_t, kLanes<float>>::type;

/// Elements of a 16-bit type as floats.
template <class T>
inline Vec<float> widen_all(Halves half) {
  if constexpr (kIsBfloat16<T>) {
    return (Vec<float>)(__builtin_convertvector(half, Vec<uint32_t>) << 16);
  } else {
#if defined(CNNOPS_TARGET_AVX512)
    return (Vec<float>)_mm512_maskz_cvtph_ps(0xffff, (__m256i)half);
#elif defined(CNNOPS_TARGET_AVX2)
    return (Vec<float>)_mm256_cvtph_ps((__m128i)half);
#else
    Vec<float> wide;
    for (int i = 0; i < kLanes<float>; ++i) wide[i] = widen(float16{half[i]});
    return wide;
#endif
  }
}

/// The bits of floats rounded to bfloat16, which are the upper 16; what is below is left over.
inline Vec<uint32_t> rounded_bits(Vec<float> v) {
  const auto bits = (Vec<uint32_t>)v;
  const Vec<uint32_t> rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return v == v ? rounded : Vec<uint32_t>{} + 0x7fc00000u;
}

/// The way back, rounded unless T is exact.
template <class T>
inline Halves narrow_all(Vec<float> v) {
  if constexpr (__is_same(T, exact_bfloat16)) {
    return __builtin_convertvector((Vec<uint32_t>)v >> 16, Halves);
  } else if constexpr (__is_same(T, bfloat16)) {
#if defined(CNNOPS_TARGET_AVX512_BF16)
    return (Halves)_mm512_cvtneps_pbh((__m512)v);
#else
    return __builtin_convertvector(rounded_bits(v) >> 16, Halves);
#endif
  } else {
#if defined(CNNOPS_TARGET_AVX512)
    return (Halves)_mm512_maskz_cvtps_ph(0xffff, (__m512)v, 0);
#elif defined(CNNOPS_TARGET_AVX2)
    return (Halves)_mm256_cvtps_ph((__m256)v, 0);
#else
    Halves half;
    for (int i = 0; i < kLanes<float>; ++i) half[i] = narrow<float16>(v[i]).bits;
    return half;
#endif
  }
}

/// kLanes<Accumulator<T>> elements of storage type T, as one register of accumulators.
template <class T>
inline Vec<Accumulator<T>> load_wide(const T* from) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    return load(from);
  } else {
    Halves half;
    __builtin_memcpy(&half, from, sizeof(half));
    return widen_all<T>(half);
  }
}

/// Keeps `v` in a register where the compiler would rather load it again for each use.
template <class T>
inline void keep_in_register(Vec<T>& v) {
#if defined(CNNOPS_TARGET_AVX512)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#endif
}

/// The same for what is multiplied kUses times: GCC loads it again for two or three, and then loads
/// are the limit.
template <int kUses, class T>
inline void load_once(Vec<T>& v) {
  if constexpr (kUses == 2 || kUses == 3) keep_in_register<T>(v);
}

/// Stores one register of accumulators as elements of storage type T.
template <class T>
inline void store_narrow(T* to, Vec<Accumulator<T>> v) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    store(to, v);
  } else {
    const Halves half = narrow_all<T>(v);
    __builtin_memcpy(to, &half, sizeof(half));
  }
}

// ---- the first `count` elements of a register, 0 <= count <= lanes: never touches memory past them

/// Like load_wide for `count` elements; the other lanes are zero. Not by way of load_masked: GCC
/// then made kernels of small planes up to 15 % slower.
template <class T>
inline Vec<Accumulator<T>> load_partial(const T* from, int64_t count) {
  using A = Accumulator<T>;
#if defined(CNNOPS_TARGET_AVX512)
  const uint32_t mask = (1u << count) - 1;
  if constexpr (sizeof(T) == 8) return (Vec<A>)_mm512_maskz_loadu_epi64(__mmask8(mask), from);
  if constexpr (sizeof(T) == 4) return (Vec<A>)_mm512_maskz_loadu_epi32(__mmask16(mask), from);
  if constexpr (sizeof(T) == 2 && sizeof(A) == 4) {
    return widen_all<T>((Halves)_mm256_maskz_loadu_epi16(__mmask16(mask), from));
  }
#elif defined(CNNOPS_TARGET_AVX2)
  if constexpr (sizeof(T) == 8 || sizeof(T) == 4) {
    using Index = typename IndexOf<sizeof(T)>::type;
    Vec<Index> lane;
    for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
    const auto mask = (__m256i)(lane < broadcast(Index(count)));
    if constexpr (sizeof(T) == 8)
      return (Vec<A>)_mm256_maskload_epi64((const long long*)from, mask);
    if constexpr (sizeof(T) == 4) return (Vec<A>)_mm256_maskload_epi32((const int*)from, mask);
  }
#endif
  Vec<A> v{};
  for (int64_t i = 0; i < count; ++i) v[i] = widen(from[i]);
  return v;
}

#if defined(CNNOPS_TARGET_AVX512)
/// Like load for the lanes whose bit of `mask` is set; the others are zero, and are not read.
template <class T>
inline Vec<T> load_masked(const T* from, uint32_t mask) {
  if constexpr (sizeof(T) == 8) {
    return (Vec<T>)_mm512_maskz_loadu_epi64(__mmask8(mask), from);
  } else {
    return (Vec<T>)_mm512_maskz_loadu_epi32(__mmask16(mask), from);
  }
}

/// The same of elements of storage type T, as accumulators.
template <class T>
inline Vec<Accumulator<T>> load_wide_masked(const T* from, uint32_t mask) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    return load_masked(from, mask);
  } else {
    return widen_all<T>((Halves)_mm256_maskz_loadu_epi16(__mmask16(mask), from));
  }
}

/// The same as the first, with the lanes of `other` where a bit is not set.
template <class T>
inline Vec<T> load_masked(const T* from, uint32_t mask, Vec<T> other) {
  if constexpr (sizeof(T) == 8) {
    return (Vec<T>)_mm512_mask_loadu_epi64((__m512i)other, __mmask8(mask), from);
  } else {
    return (Vec<T>)_mm512_mask_loadu_epi32((__m512i)other, __mmask16(mask), from);
  }
}

/// The same for elements of storage type T.
template <class T>
inline Vec<Accumulator<T>> load_wide_masked(const T* from, uint32_t mask,
                                            Vec<Accumulator<T>> other) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    return load_masked(from, mask, other);
  } else {
    const Vec<float> v = load_wide_masked(from, mask);
    return (Vec<float>)_mm512_mask_mov_ps((__m512)other, __mmask16(mask), (__m512)v);
  }
}

/// Stores the lanes whose bit of `mask` is set; where the others would lie is not written.
template <class T>
inline void store_masked(T* to, Vec<T> v, uint32_t mask) {
  if constexpr (sizeof(T) == 8) {
    _mm512_mask_storeu_epi64(to, __mmask8(mask), (__m512i)v);
  } else {
    _mm512_mask_storeu_epi32(to, __mmask16(mask), (__m512i)v);
  }
}

/// The same as elements of storage type T.
template <class T>
inline void store_narrow_masked(T* to, Vec<Accumulator<T>> v, uint32_t mask) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    store_masked(to, v, mask);
  } else {
    _mm256_mask_storeu_epi16(to, __mmask16(mask), (__m256i)narrow_all<T>(v));
  }
}
#endif

/// Like store_narrow for the first `count` lanes.
template <class T>
inline void store_partial(T* to, Vec<Accumulator<T>> v, int64_t count) {
#if defined(CNNOPS_TARGET_AVX512)
  const uint32_t mask = (1u << count) - 1;
  if constexpr (sizeof(T) == 8) return _mm512_mask_storeu_epi64(to, __mmask8(mask), (__m512i)v);
  if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_epi32(to, __mmask16(mask), (__m512i)v);
  if constexpr (sizeof(T) == 2 && sizeof(Accumulator<T>) == 4) {
    return _mm256_mask_storeu_epi16(to, __mmask16(mask), (__m256i)narrow_all<T>(v));
  }
#elif defined(CNNOPS_TARGET_AVX2)
  if constexpr (sizeof(T) == 8 || sizeof(T) == 4) {
    using Index = typename IndexOf<sizeof(T)>::type;
    Vec<Index> lane;
    for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
    const auto mask = (__m256i)(lane < broadcast(Index(count)));
    if constexpr (sizeof(T) == 8) return _mm256_maskstore_epi64((long long*)to, mask, (__m256i)v);
    if constexpr (sizeof(T) == 4) return _mm256_maskstore_epi32((int*)to, mask, (__m256i)v);
  }
#endif
  for (int64_t i = 0; i < count; ++i) to[i] = narrow<T>(v[i]);
}

// ---- numbers kept in bytes -----------------------------------------------------------------------

/// The lanes of v whose byte of `bytes` is `byte`, zeros in the others.
template <class T>
inline Vec<T> where_byte(const uint8_t* bytes, uint8_t byte, Vec<T> v) {
#if defined(CNNOPS_TARGET_AVX512)
  const __m128i wanted = _mm_set1_epi8(char(byte));
  if constexpr (sizeof(T) == 4) {
    const __m128i all = _mm_loadu_si128((const __m128i*)bytes);
    return (Vec<T>)_mm512_maskz_mov_epi32(_mm_cmpeq_epi8_mask(all, wanted), (__m512i)v);
  }
  const __mmask8 equal = _mm_cmpeq_epi8_mask(_mm_loadl_epi64((const __m128i*)bytes), wanted);
  return (Vec<T>)_mm512_maskz_mov_epi64(equal, (__m512i)v);
#elif defined(CNNOPS_TARGET_AVX2)
  if constexpr (sizeof(T) == 4) {
    const __m256i all = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes));
    return (Vec<T>)_mm256_and_si256(_mm256_cmpeq_epi32(all, _mm256_set1_epi32(byte)), (__m256i)v);
  }
  const __m256i all = _mm256_cvtepu8_epi64(_mm_loadu_si32(bytes));
  return (Vec<T>)_mm256_and_si256(_mm256_cmpeq_epi64(all, _mm256_set1_epi64x(byte)), (__m256i)v);
#else
  // Widened by interleaving with zeros, which every instruction set does in one step.
  uint32_t some = 0;
  __builtin_memcpy(&some, bytes, kLanes<T>);
  const auto all = (Vec<uint8_t>)Vec<uint32_t>{some};
  const auto words = (Vec<uint16_t>)__builtin_shuffle(
      all, Vec<uint8_t>{}, Vec<uint8_t>{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23});
  const auto wide = (Vec<uint32_t>)__builtin_shuffle(words, Vec<uint16_t>{},
                                                     Vec<uint16_t>{0, 8, 1, 9, 2, 10, 3, 11});
  if constexpr (sizeof(T) == 4) {
    return wide == uint32_t(byte) ? v : Vec<T>{};
  } else {
    const auto wider =
        (Vec<uint64_t>)__builtin_shuffle(wide, Vec<uint32_t>{}, Vec<uint32_t>{0, 4, 1, 5});
    return wider == uint64_t(byte) ? v : Vec<T>{};
  }
#endif
}

/// Stores the first `count` lanes, integers of 32 or 64 bits below 256, as bytes.
template <class Index>
inline void store_bytes(uint8_t* to, Vec<Index> v, int64_t count = kLanes<Index>) {
#if defined(CNNOPS_TARGET_AVX512)
  const uint32_t mask = (1u << count) - 1;
  if constexpr (sizeof(Index) == 4) {
    return _mm512_mask_cvtepi32_storeu_epi8(to, __mmask16(mask), (__m512i)v);
  }
  return _mm512_mask_cvtepi64_storeu_epi8(to, __mmask8(mask), (__m512i)v);
#else
  Index all[kLanes<Index>];
  store(all, v);
  for (int64_t i = 0; i < count; ++i) to[i] = uint8_t(all[i]);
#endif
}

// ---- elements that lie `stride` apart -----------------------------------------------------------

/// Like load_wide for elements `stride` apart.
template <class T>
inline Vec<Accumulator<T>> load_strided(const T* from, int64_t stride) {
  using A = Accumulator<T>;
#if defined(CNNOPS_TARGET_AVX512) || defined(CNNOPS_TARGET_AVX2)
  if constexpr (sizeof(T) == 4 && sizeof(A) == 4) {
    if (stride <= INT32_MAX / kLanes<T>) {
      Vec<int32_t> lane;
      for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
      lane *= broadcast(int32_t(stride));
#if defined(CNNOPS_TARGET_AVX512)
      return (Vec<A>)_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), 0xffff, (__m512i)lane,
                                                 from, 4);
#else
      return (Vec<A>)_mm256_i32gather_epi32((const int*)from, (__m256i)lane, 4);
#endif
    }
  }
#endif
  Vec<A> v;
  for (int i = 0; i < kLanes<A>; ++i) v[i] = widen(from[i * stride]);
  return v;
}

/// Like store_narrow for elements `stride` apart.
template <class T>
inline void store_strided(T* to, Vec<Accumulator<T>> v, int64_t stride) {
#if defined(CNNOPS_TARGET_AVX512)
  if constexpr (sizeof(T) == 4 && sizeof(Accumulator<T>) == 4) {
    if (stride <= INT32_MAX / kLanes<T>) {
      Vec<int32_t> lane;
      for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
      _mm512_i32scatter_epi32(to, (__m512i)(lane * broadcast(int32_t(stride))), (__m512i)v, 4);
      return;
    }
  }
#endif
  for (int i = 0; i < kLanes<Accumulator<T>>; ++i) to[i * stride] = narrow<T>(v[i]);
}

/// Like load_wide for the elements that `index` names; lanes with a negative index are zero.
template <class T>
inline Vec<Accumulator<T>> load_indexed(const T* from, const int32_t* index) {
  using A = Accumulator<T>;
#if defined(CNNOPS_TARGET_AVX512)
  if constexpr (sizeof(T) == 4 && sizeof(A) == 4) {
    const __m512i at = _mm512_loadu_si512(index);
    const __mmask16 valid = _mm512_cmpge_epi32_mask(at, _mm512_setzero_si512());
    return (Vec<A>)_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), valid, at, from, 4);
  }
  if constexpr (sizeof(T) == 2 && sizeof(A) == 4) {
    // There is no gather of 16 bits: take the aligned 32 that an element is half of, which lie on
    // its page, and then that half.
    const int32_t odd = int32_t(reinterpret_cast<uintptr_t>(from) / 2 & 1);
    const Vec<int32_t> at = load(index) + odd;
    const __mmask16 valid = _mm512_cmpge_epi32_mask((__m512i)at, _mm512_set1_epi32(odd));
    const auto words = (Vec<uint32_t>)_mm512_mask_i32gather_epi32(
        _mm512_setzero_si512(), valid, (__m512i)(at >> 1), from - odd, 4);
    const Vec<uint32_t> wanted = words >> (Vec<uint32_t>)((at & 1) << 4);
    const auto half = __builtin_convertvector(wanted, VectorOf<uint16_t, 16>::type);
    return load_wide(reinterpret_cast<const T*>(&half));
  }
#elif defined(CNNOPS_TARGET_AVX2)
  if constexpr (sizeof(T) == 4 && sizeof(A) == 4) {
    const __m256i at = _mm256_loadu_si256((const __m256i*)index);
    const __m256i valid = _mm256_cmpgt_epi32(at, _mm256_set1_epi32(-1));
    return (Vec<A>)_mm256_mask_i32gather_epi32(_mm256_setzero_si256(), (const int*)from, at, valid,
                                               4);
  }
#endif
  Vec<A> v;
  for (int i = 0; i < kLanes<A>; ++i) v[i] = index[i] < 0 ? A(0) : A(widen(from[index[i]]));
  return v;
}

/// Stores the first `count` lanes to every second element; what lies between is left alone.
template <class T>
inline void store_every_second(T* to, Vec<Accumulator<T>> v, int64_t count) {
#if defined(CNNOPS_TARGET_AVX512)
  if constexpr (sizeof(T) == 4 && sizeof(Accumulator<T>) == 4) {
    Vec<int32_t> low, high;
    for (int i = 0; i < 16; ++i) {
      low[i] = i / 2;
      high[i] = 8 + i / 2;
    }
    const uint32_t lanes = uint32_t((uint64_t(1) << 2 * count) - 1) & 0x55555555u;
    _mm512_mask_storeu_epi32(to, __mmask16(lanes), (__m512i)__builtin_shuffle(v, low));
    _mm512_mask_storeu_epi32(to + 16, __mmask16(lanes >> 16), (__m512i)__builtin_shuffle(v, high));
    return;
  }
#endif
  for (int64_t i = 0; i < count; ++i) to[2 * i] = narrow<T>(v[i]);
}

// ---- rearranging registers ----------------------------------------------------------------------

/// One round of `transpose`: swaps the off-diagonal kHalf x kHalf blocks of every 2 kHalf square.
template <int kHalf, class T>
inline void swap_blocks(Vec<T> (&row)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  Vec<typename IndexOf<sizeof(T)>::type> upper,
      lower;  // lane numbers; n + i is lane i of the second
  for (int lane = 0; lane < n; ++lane) {
    const bool second = (lane & kHalf) != 0;
    upper[lane] = second ? n + lane - kHalf : lane;
    lower[lane] = second ? n + lane : lane + kHalf;
  }
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    if (i & kHalf) continue;
    const Vec<T> a = row[i], b = row[i + kHalf];
    row[i] = __builtin_shuffle(a, b, upper);
    row[i + kHalf] = __builtin_shuffle(a, b, lower);
  }
}

/// Transposes a square of kLanes registers in place, in log2(kLanes) rounds of shuffles.
template <class T>
inline void transpose(Vec<T> (&row)[kLanes<T>]) {
  if constexpr (kLanes<T> >= 16) swap_blocks<8, T>(row);
  if constexpr (kLanes<T> >= 8) swap_blocks<4, T>(row);
  if constexpr (kLanes<T> >= 4) swap_blocks<2, T>(row);
  swap_blocks<1, T>(row);
}

// ---- pairs of registers --------------------------------------------------------------------------

/// Splits the 2 * kLanes<T> elements of (low, high) into those at even and at odd positions.
template <class T>
inline void deinterleave(Vec<T> low, Vec<T> high, Vec<T>* even, Vec<T>* odd) {
  Vec<typename IndexOf<sizeof(T)>::type> index;
  for (int lane = 0; lane < kLanes<T>; ++lane) index[lane] = 2 * lane;
  *even = __builtin_shuffle(low, high, index);
  *odd = __builtin_shuffle(low, high, index + 1);
}

/// The sums of the lanes of each register, always in the same order: lane i is that of register i.
template <class T>
inline Vec<T> sum_each(Vec<T> (&all)[kLanes<T>]) {
#pragma GCC unroll 4
  for (int half = kLanes<T> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      Vec<T> even, odd;
      deinterleave<T>(all[2 * i], all[2 * i + 1], &even, &odd);
      all[i] = even + odd;
    }
  }
  return all[0];
}

/// The inverse of deinterleave.
template <class T>
inline void interleave(Vec<T> even, Vec<T> odd, Vec<T>* low, Vec<T>* high) {
  constexpr int n = kLanes<T>;
  Vec<typename IndexOf<sizeof(T)>::type> index;  // n + i is lane i of `odd`
  for (int lane = 0; lane < n; ++lane) index[lane] = lane / 2 + lane % 2 * n;
  *low = __builtin_shuffle(even, odd, index);
  *high = __builtin_shuffle(even, odd, index + n / 2);
}

/// Puts kCount registers in order: lane j of register i becomes element j * kCount + i of all.
template <int kCount, class T>
inline void interleave_all(Vec<T> (&all)[kCount]) {
  if constexpr ((kCount & (kCount - 1)) == 0) {
#pragma GCC unroll 4
    for (int round = 1; round < kCount; round *= 2) {
      Vec<T> next[kCount];
#pragma GCC unroll 8
      for (int i = 0; i < kCount / 2; ++i) {
        interleave<T>(all[i], all[i + kCount / 2], &next[2 * i], &next[2 * i + 1]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kCount; ++i) all[i] = next[i];
    }
  } else {
    constexpr int n = kLanes<T>;
    Vec<T> ordered[kCount];
#pragma GCC unroll 8
    for (int to = 0; to < kCount; ++to) {
      // The first register is taken as it is, and what the others have is put in one by one.
      ordered[to] = all[0];
#pragma GCC unroll 8
      for (int from = 1; from < kCount; ++from) {
        Vec<typename IndexOf<sizeof(T)>::type> index;
        for (int lane = 0; lane < n; ++lane) {
          const int element = to * n + lane;
          index[lane] = element % kCount == from ? n + element / kCount
                        : from == 1              ? element / kCount
                                                 : lane;
        }
        ordered[to] = __builtin_shuffle(ordered[to], all[from], index);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) all[i] = ordered[i];
  }
}
