// The convolution operators on the CPU.
#include "cpu/engine.h"
#include "cpu/plain_call.h"

namespace cnnops {

PyMethodDef conv_plain_calls[] = {
    plain_method<convolution<CpuEngine>>("convolution"),
    plain_method<convolution_grad_input<CpuEngine>>("convolution_grad_input"),
    plain_method<convolution_grad_weight<CpuEngine>>("convolution_grad_weight"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace cnnops

STABLE_TORCH_LIBRARY_IMPL(cnnops, CPU, m) {
  using Engine = cnnops::CpuEngine;
  m.impl("convolution", TORCH_BOX(&cnnops::convolution<Engine>));
  m.impl("convolution_grad_input", TORCH_BOX(&cnnops::convolution_grad_input<Engine>));
  m.impl("convolution_grad_weight", TORCH_BOX(&cnnops::convolution_grad_weight<Engine>));
}
