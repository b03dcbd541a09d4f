// Weights kept as a kernel rearranged them: packed for a GEMM, transformed for Winograd.
//
// A prepared weight is one buffer with a piece for each contraction of a call, in their order: a
// header that names the kernel and the shape it is for, and what the kernel's `prepare` wrote. A
// contraction takes its piece only if the header is the one that it would write itself, and reads
// the weight as ever where it is not. So a prepared weight that does not fit costs time, and can do
// no harm.
#pragma once

#include <vector>

#include "conv_op.h"
#include "cpu/plan.h"
#include "cpu/scratch.h"

namespace cnnops {

/// In front of every piece; one cache line, which keeps the pieces aligned.
struct PieceHeader {
  uint64_t key;
  int64_t bytes;  // of the piece, without this header; 0 where the kernel prepares nothing
  uint8_t unused[48];
};
static_assert(sizeof(PieceHeader) == kScratchAlignment);

/// The header of the piece of `p`.
template <class T>
PieceHeader piece_header(const Plan<Contraction<T>>& plan, const Contraction<T>& p) {
  PieceHeader header{0xcbf29ce484222325u, 0, {}};
  const auto add = [&](uint64_t value) {  // FNV-1a, a word at a time
    header.key = (header.key ^ value) * 0x100000001b3u;
    header.key ^= header.key >> 32;
  };
  for (const char* name : {plan.kernel.name, current_isa()}) {
    while (*name != '\0') add(*name++);
    add(0);
  }
  for (const int64_t size : {int64_t(sizeof(T)), p.groups, p.rows, p.depth}) add(size);
  for (const Walk& walk : p.walk) {
    add(walk.tap_count);
    for (int64_t t = 0; t < walk.tap_count; ++t) {
      add(walk.taps[t].kernel);
      add(walk.taps[t].offset - walk.taps[0].offset);
    }
  }
  if (plan.kernel.prepare != nullptr) {
    const int64_t bytes = plan.kernel.prepared_bytes(p);
    if (plan::worth_keeping(plan.choice.algorithm, p, bytes)) header.bytes = bytes;
  }
  return header;
}

/// Bytes of a piece with its header.
inline int64_t piece_bytes(const PieceHeader& header) {
  const int64_t line = sizeof(PieceHeader);
  return line + (header.bytes + line - 1) / line * line;
}

/// The prepared weights whose pieces the contractions of this thread take while this object lives.
class PreparedWeights {
 public:
  /// With `required`, contractions raise that would take a piece and find none.
  PreparedWeights(const std::vector<Tensor>& prepared, bool required);
  ~PreparedWeights() { current_ = nullptr; }
  PreparedWeights(const PreparedWeights&) = delete;
  PreparedWeights& operator=(const PreparedWeights&) = delete;

  /// The piece of `p` if it is the next one of a prepared weight, or nullptr.
  template <class T>
  static const void* take(const Plan<Contraction<T>>& plan, const Contraction<T>& p) {
    return current_ != nullptr ? current_->next(piece_header(plan, p)) : nullptr;
  }

 private:
  /// What is left of a prepared weight.
  struct Pieces {
    const uint8_t* at;
    int64_t bytes;
  };

  const void* next(const PieceHeader& wanted);

  static thread_local PreparedWeights* current_;
  std::vector<Pieces> all_;
  bool required_;
};

/// The operator `convolution` with what is kept of the weight: any number of prepared weights. It
/// raises where preparing another one would help.
Tensor convolution_kept(const Tensor& input, const Tensor& weight,
                        const std::optional<Tensor>& bias, const std::vector<Tensor>& prepared,
                        const IntList& stride, const IntList& padding, const IntList& dilation,
                        int64_t groups, const std::string& padding_mode);

}  // namespace cnnops
