// The table of pool kernels of one instruction set. Included by isa/pool_*.cpp.

template <class T>
const PoolKernels<T>& pool_kernels() {
  static constexpr PoolKernels<T> table{};
  return table;
}

#define CNNOPS_INSTANTIATE_KERNELS(T) template const PoolKernels<T>& pool_kernels<T>();
CNNOPS_FOR_EACH_POOL_TYPE(CNNOPS_INSTANTIATE_KERNELS)
