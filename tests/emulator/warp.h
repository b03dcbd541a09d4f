// What a warp does together: ldmatrix and mma on the registers of its 32 lanes, after the fragment
// layouts of the PTX ISA manual.
#pragma once

#include <cstdint>

namespace cnnops::simt::emulator {

/// What a lane brings to ldmatrix and takes from it.
struct MatrixExchange {
  const void* row;
  uint32_t result[4];
  const void* read[8];  // where the 16-bit halves of the results were
};
void gather_rows(void* const* lanes);
void gather_columns(void* const* lanes);

/// What a lane brings to mma.
struct MultiplyExchange {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};
void multiply_bfloat16(void* const* lanes);
void multiply_float16(void* const* lanes);
void multiply_tf32(void* const* lanes);

}  // namespace cnnops::simt::emulator
