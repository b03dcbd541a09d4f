// The convolution operators on the CPU.
#include "cpu/engine.h"

STABLE_TORCH_LIBRARY_IMPL(cnnops, CPU, m) {
  using Engine = cnnops::CpuEngine;
  m.impl("convolution", TORCH_BOX(&cnnops::convolution<Engine>));
  m.impl("convolution_grad_input", TORCH_BOX(&cnnops::convolution_grad_input<Engine>));
  m.impl("convolution_grad_weight", TORCH_BOX(&cnnops::convolution_grad_weight<Engine>));
}
