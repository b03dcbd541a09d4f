// Tiles of a 1x1 convolution of planar tensors (pointwise_planar.h): they read planes of the source
// and write planes of the destination, in place, and fetch what lies pages apart.

/// Planes, and weights of a row, that are fetched ahead.
constexpr int64_t kPlanesAhead = 6, kWeightsAhead = 8;

/// So many tiles fetch the next panel: each with every so many-th plane that it multiplies one of
/// that panel, as few lines at a time as the rest of the work hides.
constexpr int64_t kTilesToFetch = 4;

/// Whether planes are fetched ahead: one that is a single line in a panel, as with registers of 32
/// bytes, costs as much to fetch as it gains. The processor's prefetchers follow planes that are
/// nearer than kFarBytes.
constexpr bool kFetchesPlanes = CNNOPS_VECTOR_BYTES == 64;
constexpr int64_t kFarBytes = 2048;

/// Up to kTileVectors registers of pixels, and where their planes are read.
template <class A>
struct PlanePanel {
  int64_t pixel, width;  // the first pixel, and how many there are in whole registers
  int64_t last;          // pixels of the last register
  const A* planes;       // where they are read,
  int64_t plane;         // and the elements from one to the next
  A* copy;               // where the next tile copies them to, side by side, if anywhere

  /// Turns to planes of the source, `stride` elements apart.
  void read(const A* source, int64_t stride) {
    planes = source + pixel, plane = stride, copy = nullptr;
  }
  /// Turns to a copy of these.
  void read_copy(const A* from) { planes = from, plane = width, copy = nullptr; }
};

/// What a tile does beside multiplying: nothing, fetch planes ahead, fetch those of the next panel
/// too, or all that and copy planes.
enum class PlaneReads { kPlain, kFetching, kFetchingNext, kCopying };

/// Copies `depth` planes of a panel side by side, of the last register what there is.
template <class A>
void copy_planes(const PlanePanel<A>& panel, int64_t depth, A* to) {
  const int64_t last = panel.width - kLanes<A>;
  const A* from = panel.planes;
  for (int64_t k = 0; k < depth; ++k, from += panel.plane, to += panel.width) {
    for (int64_t i = 0; i < last; i += kLanes<A>) {
      __builtin_prefetch(from + kPlanesAhead * panel.plane + i);
      store(to + i, load(from + i));
    }
    store(to + last, load_partial(from + last, panel.last));
  }
}

/// What the tiles of an item share.
struct PlaneTiles {
  int64_t weight_row, weight_step;  // elements from one row of the weight to the next, from k to k
  int64_t depth;                    // planes
  int64_t pitch;                    // elements from one plane of the destination to the next
  bool accumulate;                  // to what is in the destination
  int64_t next_plane = 0;  // elements between planes of the next panel, where it is fetched
};

/// A tile: kRows rows of the weight times the planes of a panel. Fetches the lines at `written`,
/// where the tile after it writes, and from `next` on planes of the next panel.
template <class A, int kRows, int kVectors, PlaneReads kReads>
void multiply_planes(const PlaneTiles& tiles, const A* weight, const PlanePanel<A>& panel,
                     const A* bias, A* dest, const A* written, const A* next) {
  using Sums = TileSums<A, kRows, kVectors>;
  constexpr bool kCopies = kReads == PlaneReads::kCopying;
  Sums sums;
  const A* rows[kRows];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) rows[i] = weight + i * tiles.weight_row;
  const A* planes = panel.planes;
  A* copy = panel.copy;
  const int64_t depth = tiles.depth, plane = panel.plane, step = tiles.weight_step;
  int64_t offset = 0;
  // Called at two places, and the sums would not stay in registers were it not inlined at both.
  const auto multiply_plane = [&](int64_t k) __attribute__((always_inline)) {
    if (kFetchesPlanes && kReads >= PlaneReads::kFetchingNext && k % kTilesToFetch == 0) {
      Sums::fetch_to_l2(next);
      next += tiles.next_plane;
    }
    if constexpr (kReads != PlaneReads::kPlain) Sums::fetch(planes + kPlanesAhead * plane);
    __builtin_prefetch(rows[kRows - 1] + offset + kWeightsAhead * step);
    sums.template add_products<kCopies>(rows, offset, planes, copy);
    planes += plane, offset += step;
    if constexpr (kCopies) copy += kVectors * kLanes<A>;
  };
  // One row of lines at a time: all at once, they would hold up the planes.
  const int64_t part = depth / kRows;
  for (int i = 0; i < kRows; ++i, written += tiles.pitch) {
    Sums::fetch_to_write(written);
    for (int64_t k = 0; k < part; ++k) multiply_plane(k);
  }
  for (int64_t k = part * kRows; k < depth; ++k) multiply_plane(k);
  if (bias != nullptr) sums.add_bias(bias);
  sums.store_to(dest, tiles.pitch, panel.last, tiles.accumulate);
}

/// The same for `rows` rows, and the registers of the panel. Of fewer rows than a full tile has
/// there are at most two tiles to a panel: not worth code of their own for each way to read.
template <class A>
void multiply_planes(PlaneReads reads, const PlaneTiles& tiles, int rows, const A* weight,
                     const PlanePanel<A>& panel, const A* bias, A* dest, const A* written,
                     const A* next) {
  with_tile_size(rows, int(panel.width / kLanes<A>), [&](auto height, auto width) {
    constexpr int kRows = decltype(height)::value, kVectors = decltype(width)::value;
    constexpr PlaneReads kMost = kFetchesPlanes ? PlaneReads::kFetchingNext : PlaneReads::kPlain;
    auto multiply = multiply_planes<A, kRows, kVectors, kMost>;
    if constexpr (kRows == kTileRows) {
      if (reads == PlaneReads::kCopying) {
        multiply = multiply_planes<A, kRows, kVectors, PlaneReads::kCopying>;
      } else if (reads == PlaneReads::kFetching && kFetchesPlanes) {
        multiply = multiply_planes<A, kRows, kVectors, PlaneReads::kFetching>;
      } else if (reads == PlaneReads::kPlain) {
        multiply = multiply_planes<A, kRows, kVectors, PlaneReads::kPlain>;
      }
    }
    multiply(tiles, weight, panel, bias, dest, written, next);
  });
}
