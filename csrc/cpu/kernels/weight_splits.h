// Shares of the reduction of weight gradients, each with sums of its own, where there are too few
// items otherwise.

/// Workspace beyond one set of sums.
constexpr int64_t kMaxSplitBytes = int64_t(16) << 20;

/// Pixels of a share of the reduction at least. Writing its sums, and reading them again, takes as
/// long as adding 20 products to each or, beyond L2, 60: a few shares are worth that, for threads
/// that would have nothing to do, and more of them if they are larger.
constexpr int64_t kMinSplitPixels = 384, kMinPixelsOfMany = 1536, kFewSplits = 4;

/// Shares of the reduction: not more than make kWantedItems of `items`, within the workspace bound,
/// and none of them empty.
inline int64_t choose_splits(int64_t items, int64_t chunks, int64_t bytes_each) {
  int64_t splits = kWantedItems / (items < 1 ? 1 : items);
  if (splits * bytes_each > kMaxSplitBytes) splits = kMaxSplitBytes / bytes_each;
  if (splits > chunks) splits = chunks;
  return splits <= 1 ? 1 : ceil_div(chunks, ceil_div(chunks, splits));
}

/// The same for products of matrices: shares of at least so many pixels.
inline int64_t choose_product_splits(const ContractionShape& shape, int64_t items, int64_t chunks,
                                     int64_t bytes_each, int64_t least = kMinSplitPixels) {
  const int64_t pixels = shape.batch * shape.pixels(), few = pixels / least;
  const int64_t many = pixels / kMinPixelsOfMany;
  const int64_t most = many > kFewSplits ? many : few < kFewSplits ? few : kFewSplits;
  const int64_t splits = choose_splits(items, chunks, bytes_each);
  return splits <= most ? splits : most <= 1 ? 1 : ceil_div(chunks, ceil_div(chunks, most));
}

/// Chunks [begin, end) of share `split`, of which each has `each`; there may be none for the last.
struct SplitRange {
  int64_t begin, end;

  SplitRange(int64_t split, int64_t each, int64_t count)
      : begin(split * each), end(begin + each < count ? begin + each : count) {}
};
