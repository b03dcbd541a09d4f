// Texts of the emulator's messages.
#pragma once

#include <source_location>
#include <string>

namespace cnnops::simt::emulator {

/// "implicit_gemm.cuh:120", the file without its folders.
inline std::string place(const std::source_location& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

/// Are these the same place? Each place has its file name once.
inline bool same_place(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && a.column() == b.column() && a.file_name() == b.file_name();
}

/// "(1, 2, 3)", of dim3 and uint3.
template <class T>
std::string triple(const T& v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

}  // namespace cnnops::simt::emulator
