// How much of a call is an item: what one thread does without asking for more.

/// Most rows of a row block: their sums, 384 x 64 floats, stay in L2 beside the panel.
constexpr int64_t kMaxRowBlock = 384;

/// Items that keep a few cores busy; more would gather panels more often.
constexpr int64_t kWantedItems = 16;

/// Items that are enough for a few, where each has copies of its own.
constexpr int64_t kFewItems = kWantedItems / 4;

/// Multiply-adds that pay for waking another thread.
constexpr int64_t kSmallestWork = 1 << 16;

/// Rows of a row block: few enough that `blocks_before` blocks make kWantedItems items.
inline int64_t choose_row_block(int64_t rows, int64_t blocks_before) {
  const int64_t parts = ceil_div(kWantedItems, blocks_before < 1 ? 1 : blocks_before);
  const int64_t wanted = round_up(ceil_div(rows, parts), kTileRows);
  const int64_t least = 8 * kTileRows;  // fewer would gather the panel more often than they use it
  return wanted < least ? least : wanted > kMaxRowBlock ? kMaxRowBlock : wanted;
}

/// Packed or transformed weights of up to so many bytes are made by each thread that reads them:
/// fetching them from the thread that has made them takes several times as long (parallel.h).
constexpr int64_t kOwnBytes = 1 << 20;

/// Memory for a packed weight, if there is one: of the call, whose threads share it, or of each
/// thread, which packs it before its items.
struct PackedWeight {
  int64_t bytes = 0;
  bool shared = false;

  int64_t of_call() const { return shared ? bytes : 0; }
  int64_t of_thread() const { return shared ? 0 : bytes; }
};

/// That of all of a weight. Of several groups, or of more blocks of rows than there are blocks of
/// pixels, a thread reads a part only: they are shared.
inline PackedWeight packed_weight(int64_t bytes, int64_t groups, int64_t pixel_blocks,
                                  int64_t row_blocks) {
  return {bytes, bytes > kOwnBytes || groups > 1 || pixel_blocks < row_blocks};
}
