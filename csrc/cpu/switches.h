// Environment variables that turn off what the CPU or the library could do.
#pragma once

#include <cstdlib>
#include <cstring>

namespace cnnops {

/// Whether the environment variable `name` does not say 0.
inline bool is_switched_on(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr || std::strcmp(value, "0") != 0;
}

}  // namespace cnnops
