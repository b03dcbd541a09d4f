#include "cpu/winograd_switch.h"

#include <cstdlib>
#include <cstring>

#include "precision.h"

namespace cnnops {

bool allows_winograd() {
  static const bool enabled = [] {
    const char* value = std::getenv("CNNOPS_WINOGRAD");
    return value == nullptr || std::strcmp(value, "0") != 0;
  }();
  return enabled && conv_precision("mkldnn") != "ieee";
}

}  // namespace cnnops
