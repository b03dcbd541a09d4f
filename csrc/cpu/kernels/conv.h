// The table of conv kernels of one instruction set. Included by isa/conv_*.cpp.

template <class T>
const ConvKernels<T>& conv_kernels() {
  static constexpr ConvKernels<T> table{};
  return table;
}

#define CNNOPS_INSTANTIATE_KERNELS(T) template const ConvKernels<T>& conv_kernels<T>();
CNNOPS_FOR_EACH_CONV_TYPE(CNNOPS_INSTANTIATE_KERNELS)
