#include "emulator/warp.h"

#include <cstring>

namespace cnnops::simt::emulator {
namespace {

constexpr int kWarp = 32;

float from_bfloat16(uint32_t bits) {
  bits <<= 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

float from_float16(uint32_t bits) {
  const auto half = static_cast<uint16_t>(bits);
  _Float16 value;
  std::memcpy(&value, &half, 2);
  return value;
}

/// The hardware ignores the 13 bits that tf32 lacks.
float from_tf32(uint32_t bits) {
  bits &= 0xffffe000u;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

/// The elements of a register: two of 16 bits, the lower one first, or one of 32.
template <int per_register, float (*convert)(uint32_t)>
void unpack(uint32_t bits, float* out) {
  if (per_register == 1) {
    out[0] = convert(bits);
  } else {
    out[0] = convert(bits & 0xffffu);
    out[1] = convert(bits >> 16);
  }
}

/// d (16 x 8) += a (16 x K) * b (K x 8), K = 8 registers' columns.
///
/// A group of 4 lanes holds a row of a and of d and a column of b: group g rows g and g + 8. Lane t
/// of it holds columns t * per_register onwards, in the left half of a (registers 0 and 1) and the
/// right (2 and 3); of d always columns 2 * t and 2 * t + 1.
template <int per_register, float (*convert)(uint32_t)>
void multiply(void* const* lanes) {
  constexpr int kHalf = 4 * per_register;
  constexpr int kDepth = 2 * kHalf;
  float a[16][kDepth], b[8][kDepth];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto* from = static_cast<const MultiplyExchange*>(lanes[lane]);
    const int group = lane / 4, column = lane % 4 * per_register;
    for (int right = 0; right < 2; ++right) {
      for (int lower = 0; lower < 2; ++lower) {
        unpack<per_register, convert>(from->a[2 * right + lower],
                                      &a[group + 8 * lower][kHalf * right + column]);
      }
      unpack<per_register, convert>(from->b[right], &b[group][kHalf * right + column]);
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    float* d = static_cast<const MultiplyExchange*>(lanes[lane])->d;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
      // Products are exact and added with more than float32 has, as the hardware does.
      double sum = d[i];
      for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(a[row][k]) * b[column][k];
      d[i] = static_cast<float>(sum);
    }
  }
}

/// result[m] of a lane: elements (row, column) and its successor of matrix m, or, transposed,
/// (column, row) and its successor in that order.
template <bool transposed>
void gather(void* const* lanes) {
  for (int lane = 0; lane < kWarp; ++lane) {
    auto* to = static_cast<MatrixExchange*>(lanes[lane]);
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t halves[2];
      for (int half = 0; half < 2; ++half) {
        const int major = lane / 4, minor = lane % 4 * 2 + half;
        const int row = transposed ? minor : major, column = transposed ? major : minor;
        const auto* from = static_cast<const MatrixExchange*>(lanes[8 * matrix + row]);
        const auto* element = static_cast<const char*>(from->row) + 2 * column;
        to->read[2 * matrix + half] = element;
        std::memcpy(&halves[half], element, 2);
      }
      std::memcpy(&to->result[matrix], halves, 4);
    }
  }
}

}  // namespace

void gather_rows(void* const* lanes) { gather<false>(lanes); }
void gather_columns(void* const* lanes) { gather<true>(lanes); }

void multiply_bfloat16(void* const* lanes) { multiply<2, from_bfloat16>(lanes); }
void multiply_float16(void* const* lanes) { multiply<2, from_float16>(lanes); }
void multiply_tf32(void* const* lanes) { multiply<1, from_tf32>(lanes); }

}  // namespace cnnops::simt::emulator
