// planted BUG SETTINGS: runs the kernels with a bug planted and prints what was found of it, and
// what was counted, if the settings say so.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator/emulator.h"
#include "emulator/planted/kernels.cuh"

namespace planted {
namespace {

using cnnops::simt::emulator::configure;

std::vector<float> integers(size_t count) {
  std::mt19937 random(1);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(static_cast<int>(random() % 17) - 8);
  return values;
}

template <class T>
void expose(const std::vector<T>& v, bool writable) {
  simt::expose_memory(v.data(), v.size() * sizeof(T), writable);
}

/// Every result is a small integer, so that it is exact.
template <Bug bug>
bool gemm_is_right() {
  constexpr int M = 70, N = 20, K = 96;
  const std::vector<float> a = integers(M * K), b = integers(N * K);
  std::vector<bfloat16> A, B;
  for (float v : a) A.push_back(simt::from_float<bfloat16>(v));
  for (float v : b) B.push_back(simt::from_float<bfloat16>(v));
  std::vector<float> C(M * N, NAN);
  expose(A, false);
  expose(B, false);
  expose(C, true);
  SIMT_LAUNCH(gemm<bug>, dim3((M + kTileM - 1) / kTileM, (N + kTileN - 1) / kTileN), dim3(64), 0,
              nullptr, A.data(), B.data(), C.data(), M, N, K);
  bool right = true;
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) {
      float sum = 0;
      for (int k = 0; k < K; ++k) sum += a[m * K + k] * b[n * K + k];
      right = right && C[m * N + n] == sum;
    }
  }
  return right;
}

template <Bug bug>
bool sum_is_right() {
  constexpr int n = 5000, blocks = 5;
  const std::vector<float> x = integers(n);
  std::vector<float> out(blocks, NAN);
  expose(x, false);
  expose(out, true);
  SIMT_LAUNCH(block_sum<bug>, dim3(blocks), dim3(128), 0, nullptr, x.data(), out.data(), n);
  float sum = 0, all = 0;
  for (float v : x) sum += v;
  for (float v : out) all += v;
  return sum == all;
}

template <Bug bug>
bool reversal_is_right() {
  const std::vector<float> x = integers(256);
  std::vector<float> out(256, NAN);
  expose(x, false);
  expose(out, true);
  SIMT_LAUNCH(reverse<bug>, dim3(2), dim3(128), 128 * sizeof(float), nullptr, x.data(), out.data());
  bool right = true;
  for (int i = 0; i < 256; ++i) right = right && out[i] == x[i / 32 * 32 + 31 - i % 32];
  return right;
}

template <Bug bug>
std::string run() {
  if (!gemm_is_right<bug>()) return "wrong result of gemm";
  simt::forget_memory();
  if (!sum_is_right<bug>()) return "wrong result of block_sum";
  simt::forget_memory();
  if (!reversal_is_right<bug>()) return "wrong result of reverse";
  simt::forget_memory();
  return "";
}

template <int bug = 0>
std::string run(int wanted) {
  if constexpr (bug < static_cast<int>(Bug::kCount)) {
    return wanted == bug ? run<static_cast<Bug>(bug)>() : run<bug + 1>(wanted);
  } else {
    return "no such bug";
  }
}

}  // namespace

/// What was found with this bug planted; empty where nothing was.
std::string find(int bug, const std::string& settings) {
  std::string found;
  try {
    configure(settings);
    found = run(bug);
  } catch (const std::runtime_error& error) {
    found = error.what();
  }
  simt::forget_memory();
  return found;
}

}  // namespace planted

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::string found = planted::find(std::atoi(argv[1]), argv[2]);
  std::printf("%s%s\n", found.c_str(), cnnops::simt::emulator::counter_report().c_str());
  return found.empty() ? 0 : 1;
}
