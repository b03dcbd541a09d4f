#include "cpu/winograd_switch.h"

#include "cpu/switches.h"
#include "precision.h"

namespace cnnops {

bool allows_winograd() {
  static const bool enabled = is_switched_on("CNNOPS_WINOGRAD");
  return enabled && conv_precision("mkldnn") != "ieee";
}

}  // namespace cnnops
