// torch.ops.cnnops_inference: operators that prepare the weight of a convolution, and the
// convolution that takes one prepared.
#include "cpu/prepared.h"

#include "conv_op.h"
#include "cpu/engine.h"

namespace cnnops {

thread_local PreparedWeights* PreparedWeights::current_ = nullptr;

PreparedWeights::PreparedWeights(const std::vector<Tensor>& prepared, bool required)
    : required_(required) {
  for (const Tensor& each : prepared) {
    CNNOPS_CHECK(each.is_cpu() && each.scalar_type() == ScalarType::Byte && each.dim() == 1 &&
                     each.is_contiguous(),
                 "prepared: expected what torch.ops.cnnops_inference.prepare_weight returned");
    all_.push_back({data_of<uint8_t>(each), each.numel()});
  }
  current_ = this;
}

const void* PreparedWeights::next(const PieceHeader& wanted) {
  const int64_t bytes = piece_bytes(wanted);
  for (Pieces& pieces : all_) {
    if (bytes > pieces.bytes || __builtin_memcmp(pieces.at, &wanted, sizeof(wanted)) != 0) {
      pieces.bytes = 0;
      continue;
    }
    const uint8_t* piece = pieces.at + sizeof(PieceHeader);
    pieces.at += bytes;
    pieces.bytes -= bytes;
    return wanted.bytes > 0 ? piece : nullptr;
  }
  CNNOPS_CHECK(!required_ || wanted.bytes == 0, "no prepared weight is one for this convolution");
  return nullptr;
}

Tensor convolution_kept(const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const std::vector<Tensor>& prepared,
                        const IntList& stride, const IntList& padding, const IntList& dilation,
                        int64_t groups, const std::string& padding_mode) {
  const PreparedWeights pieces(prepared, true);
  return convolution<CpuEngine>(input, weight, bias, stride, padding, dilation, groups,
                                padding_mode);
}

namespace {

/// What the contractions of a call would keep. With `to` they write it there.
struct Preparation {
  int64_t format = 0;
  int64_t bytes = 0;
  bool keeps = false;
  uint8_t* to = nullptr;
};
thread_local Preparation preparation;

/// The engine of conv_op.h that prepares weights where CpuEngine would run kernels.
class PreparingEngine : public CpuEngine {
 public:
  using CpuEngine::CpuEngine;

  // Sources and results are looked at, but never in.
  template <class T>
  T* write(const Tensor&) const {
    return nullptr;
  }
  Tensor to_channels_last(const Tensor& tensor) const {
    return allocate(sizes_of(tensor), tensor, true);
  }
  void copy(const Tensor&, const Tensor&) const {}

  template <class T>
  void run(Contraction<T>& p) const {
    OrderedTaps taps;
    const auto plan = plan_of(p, channels_last(), taps);
    const PieceHeader header = piece_header(plan, p);
    Preparation& to = preparation;
    if (to.to != nullptr) {
      __builtin_memcpy(to.to + to.bytes, &header, sizeof(header));
      if (header.bytes > 0) plan.kernel.prepare(p, to.to + to.bytes + sizeof(header));
    }
    to.format = to.format * 31 + static_cast<int64_t>(header.key >> 2);
    to.bytes += piece_bytes(header);
    to.keeps = to.keeps || header.bytes > 0;
  }
  template <class T>
  void fill(const Fill<T>&) const {}
};

/// Runs the call without computing it; pieces go to `to` where it is given.
Preparation prepare(uint8_t* to, const Tensor& input, const Tensor& weight, const IntList& stride,
                    const IntList& padding, const IntList& dilation, int64_t groups,
                    const std::string& padding_mode) {
  preparation = {};
  preparation.to = to;
  convolution<PreparingEngine>(input, weight, std::nullopt, stride, padding, dilation, groups,
                               padding_mode);
  return preparation;
}

int64_t weight_format(const Tensor& input, const Tensor& weight, const IntList& stride,
                      const IntList& padding, const IntList& dilation, int64_t groups,
                      const std::string& padding_mode) {
  const Preparation found =
      prepare(nullptr, input, weight, stride, padding, dilation, groups, padding_mode);
  return found.keeps ? found.format | 1 : 0;
}

Tensor prepare_weight(const Tensor& input, const Tensor& weight, const IntList& stride,
                      const IntList& padding, const IntList& dilation, int64_t groups,
                      const std::string& padding_mode) {
  const int64_t bytes =
      prepare(nullptr, input, weight, stride, padding, dilation, groups, padding_mode).bytes;
  const Tensor prepared = allocate(IntList{bytes}, weight, false, ScalarType::Byte);
  prepare(mutable_data_of<uint8_t>(prepared), input, weight, stride, padding, dilation, groups,
          padding_mode);
  return prepared;
}

Tensor convolution_prepared(const Tensor& input, const Tensor& weight,
                            const std::optional<Tensor>& bias, const Tensor& prepared,
                            const IntList& stride, const IntList& padding, const IntList& dilation,
                            int64_t groups, const std::string& padding_mode) {
  const PreparedWeights pieces({prepared}, false);
  return convolution<CpuEngine>(input, weight, bias, stride, padding, dilation, groups,
                                padding_mode);
}

}  // namespace
}  // namespace cnnops

// A namespace of their own: they have no derivative and serve eager inference alone.
#define CONVOLUTION_ARGUMENTS \
  "int[] stride, int[] padding, int[] dilation, int groups, str padding_mode"

STABLE_TORCH_LIBRARY(cnnops_inference, m) {
  // What a prepared weight depends on, as a number: 0 where nothing would be prepared.
  m.def("weight_format(Tensor input, Tensor weight, " CONVOLUTION_ARGUMENTS ") -> int");
  m.def("prepare_weight(Tensor input, Tensor weight, " CONVOLUTION_ARGUMENTS ") -> Tensor");
  // torch.ops.cnnops.convolution, with a prepared weight that was made from `weight`.
  m.def(
      "convolution(Tensor input, Tensor weight, Tensor? bias, Tensor prepared, " CONVOLUTION_ARGUMENTS
      ") -> Tensor");
}

#undef CONVOLUTION_ARGUMENTS

STABLE_TORCH_LIBRARY_IMPL(cnnops_inference, CPU, m) {
  m.impl("weight_format", TORCH_BOX(&cnnops::weight_format));
  m.impl("prepare_weight", TORCH_BOX(&cnnops::prepare_weight));
  m.impl("convolution", TORCH_BOX(&cnnops::convolution_prepared));
}
