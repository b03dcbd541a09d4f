// Weights packed for kernels with vectors along destination channels, as [group][column block][tap]
// [channel][columns of the block]: once per call, or kept between calls.

/// Packs the register of destination channels from `first` on, with source channels [channel,
/// channel + count) of all taps, as [tap][channel] rows of `width` elements.
template <class T>
void pack_weight_register(const Contraction<T>& p, const int64_t* taps, int64_t group,
                          int64_t first, int64_t channel, int64_t count, int64_t width,
                          Accumulator<T>* to) {
  read_weight_columns(p, taps, group, first, channel, channel + count,
                      [&](int64_t tap, int64_t c, Vec<Accumulator<T>> v) {
                        store(to + (tap * count + c - channel) * width, v);
                      });
}

/// Packs `lanes` destination channels of a group times all of K, register `piece` of [blocks][tap]
/// [channel][columns of the block]; the pieces of a block interleave. `to` is where column `first`,
/// with which a block begins, is to be.
template <class T>
void pack_weight_piece(const Contraction<T>& p, const int64_t* taps, int64_t group, int64_t piece,
                       Accumulator<T>* to, int64_t first = 0) {
  using A = Accumulator<T>;
  const int64_t inner = p.depth * p.taps(), channel = piece * kLanes<A>;
  const EvenBlocks<A> blocks(p.rows);
  const int64_t block = blocks.of(piece), column = blocks.begin(block);
  const int64_t width = blocks.width(block);
  A* out = to + (column - first) * inner + (channel - column);
  pack_weight_register(p, taps, group, channel, 0, p.depth, width, out);
}

/// Packs the weights of all groups, one behind the other.
template <class T>
void pack_weight_columns(const Contraction<T>& p, const int64_t* taps, Accumulator<T>* to) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t inner = p.depth * p.taps(), pieces = EvenBlocks<A>(p.rows).registers;
  parallel_for(p.groups * pieces, ceil_div(16384, inner * lanes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / pieces;
      pack_weight_piece(p, taps, group, i % pieces, to + group * pieces * lanes * inner);
    }
  });
}

template <class T>
void prepare_columns(const Contraction<T>& p, void* to) {
  Scratch offsets(sizeof(int64_t) * p.taps());
  tap_offsets(p, p.weight_strides, offsets.as<int64_t>());
  pack_weight_columns(p, offsets.as<int64_t>(), static_cast<Accumulator<T>*>(to));
}

/// The packed weights of a call: those that were kept, or `bytes` that are packed here.
template <class T>
class PackedColumns {
 public:
  PackedColumns(const Contraction<T>& p, int64_t bytes)
      : kept_(static_cast<const Accumulator<T>*>(p.prepared)),
        packed_(kept_ != nullptr ? 0 : bytes) {
    if (kept_ == nullptr && bytes > 0) prepare_columns(p, packed_.template as<void>());
  }
  const Accumulator<T>* data() const {
    return kept_ != nullptr ? kept_ : packed_.template as<Accumulator<T>>();
  }

 private:
  const Accumulator<T>* kept_;
  Scratch packed_;
};
