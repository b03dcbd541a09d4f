// Runs kernels: one block at a time, a fiber for each thread, in an order that Settings choose.
#include "emulator/emulator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "emulator/counters.h"
#include "emulator/fiber.h"
#include "emulator/memory.h"
#include "emulator/simt_host.h"
#include "emulator/text.h"
#include "emulator/warp.h"

namespace cnnops::simt::emulator {
namespace {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;

enum class State { kRuns, kAtBarrier, kAtCollective, kDone };

struct Copy {
  void* shared;
  const void* global;
  int bytes;
  bool inside;
};

struct Thread {
  Fiber fiber;
  State state = State::kDone;
  uint3 index{};
  Where where;                       // of the barrier or collective at which it waits
  const char* collective = nullptr;  // its name
  void* exchange = nullptr;          // what it brings there
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

struct Warp {
  uint32_t epoch = 0;
  int waiting = 0;
  WarpRequests requests;
  char order = 0;  // a key for ThreadSanitizer
};

/// The launch that runs, and what is kept from one to the next.
struct Machine {
  std::mutex one_launch;
  Settings settings;
  Counters counters;
  uint64_t launches = 0;

  std::string kernel;
  dim3 grid, block;
  size_t dynamic_bytes = 0;
  const std::function<void()>* body = nullptr;
  Schedule schedule = Schedule::kAscending;
  uint64_t seed = 0;
  std::mt19937_64 random;

  uint3 block_index{};
  int threads = 0;
  int current = -1;
  int live = 0;
  int at_barrier = 0;
  Where barrier;  // where they wait
  std::deque<Thread> thread;
  Warp warp[kMaxThreads / kWarp];
  SharedMemory shared;
  std::string failure;

  uint32_t epoch = 1;
  uint32_t launch_begin = 1;
  uint32_t block_begin = 1;
  char began = 0, ended = 0, met = 0;  // keys for ThreadSanitizer
};

Machine& machine() {
  static Machine* const the = [] {
    auto* made = new Machine;  // never destroyed: kernels may run while the process ends
    return made;
  }();
  return *the;
}

const char* const kScheduleNames[] = {"ascending", "descending", "ahead", "random", "mixed"};

Settings parse(const std::string& text) {
  Settings settings;
  std::stringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t equals = part.find('=');
    const std::string key = part.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : part.substr(equals + 1);
    bool known = false;
    if (key == "schedule") {
      for (int i = 0; i < 5; ++i) {
        if (value != kScheduleNames[i]) continue;
        settings.schedule = static_cast<Schedule>(i);
        known = true;
      }
    } else if (key == "seed") {
      char* end = nullptr;
      settings.seed = std::strtoull(value.c_str(), &end, 10);
      known = !value.empty() && *end == '\0';
    } else if (key == "races" || key == "count") {
      known = value == "0" || value == "1";
      (key == "races" ? settings.races : settings.count) = value == "1";
    }
    if (!known) throw std::runtime_error("emulator: cannot read the setting '" + part + "'");
  }
  return settings;
}

void read_environment() {
  static const bool once = [] {
    const char* text = std::getenv("CNNOPS_EMULATOR");
    if (text != nullptr) machine().settings = parse(text);
    return true;
  }();
  (void)once;
}

std::string describe_schedule(const Machine& m) {
  return std::string("schedule=") + kScheduleNames[static_cast<int>(m.schedule)] +
         ",seed=" + std::to_string(m.seed);
}

Thread& self() { return machine().thread[static_cast<size_t>(machine().current)]; }
Warp& own_warp() { return machine().warp[machine().current / kWarp]; }

Moment moment(Space space, const Where& where) {
  const Machine& m = machine();
  // Each block has shared memory of its own, whatever an earlier one left in it here.
  const uint32_t begin = space == Space::kShared ? m.block_begin : m.launch_begin;
  return {m.epoch, begin, m.block_begin, own_warp().epoch, m.current, where};
}

/// "threads 0..31 wait in __syncthreads at file:line", for all threads that do not run.
std::string who_waits() {
  const Machine& m = machine();
  std::string text;
  int begin = 0;
  const auto describe = [&](int i) -> std::string {
    const Thread& t = m.thread[static_cast<size_t>(i)];
    switch (t.state) {
      case State::kRuns: return "run";
      case State::kDone: return "have left";
      default: return std::string("wait in ") + t.collective + " at " + place(t.where);
    }
  };
  for (int i = 1; i <= m.threads; ++i) {
    if (i < m.threads && describe(i) == describe(begin)) continue;
    text += "\n  threads " + std::to_string(begin) + ".." + std::to_string(i - 1) + " " +
            describe(begin);
    begin = i;
  }
  return text;
}

std::string failure_text(const std::string& what) {
  const Machine& m = machine();
  std::string text = "emulator: kernel " + m.kernel + ": " + what + "; block " +
                     triple(m.block_index) + " of " + triple(m.grid);
  if (m.current >= 0) text += ", thread " + triple(self().index) + " of " + triple(m.block);
  return text + "; to repeat: CNNOPS_EMULATOR=" + describe_schedule(m);
}

/// Ends the launch from within a thread: `launch` raises.
[[noreturn]] void stop(const std::string& what) {
  machine().failure = failure_text(what);
  self().state = State::kDone;
  self().fiber.leave(true);
  std::abort();  // nothing resumes it
}

[[noreturn]] void stop(const std::string& what, const Where& where) {
  stop(what + " at " + place(where));
}

void finish_requests(Warp& warp) {
  Machine& m = machine();
  if (!m.settings.count) return;
  warp.requests.finish([&](WarpRequests::Kind kind, const Where& where, const Cost& cost) {
    m.counters.add(m.kernel, kind, where, cost);
  });
}

void run_thread() {
  Machine& m = machine();
  self().fiber.entered();
  observe(&m.began);
  (*m.body)();
  publish(&m.ended);
  self().state = State::kDone;
  --m.live;
  if (own_warp().waiting > 0) stop("a thread leaves while others of its warp wait" + who_waits());
  if (m.at_barrier > 0 && m.at_barrier == m.live) {
    stop("a thread leaves while others wait" + who_waits());
  }
  self().fiber.leave(true);
}

void wait(State state, const char* collective, const Where& where) {
  Thread& t = self();
  t.state = state;
  t.collective = collective;
  t.where = where;
  t.fiber.leave(false);
}

/// Brings `exchange` to a collective of the running thread's warp. The last lane to come calls
/// `combine` with what all have brought, and then all go on.
void meet(const char* name, const Where& where, void* exchange, void (*combine)(void* const*)) {
  Machine& m = machine();
  Warp& warp = own_warp();
  const int first = m.current / kWarp * kWarp;
  const int last = std::min(first + kWarp, m.threads);
  if (last - first != kWarp) stop(std::string(name) + " in a warp of less than 32 threads", where);
  self().exchange = exchange;
  if (++warp.waiting < kWarp) {
    for (int i = first; i < last; ++i) {
      if (m.thread[static_cast<size_t>(i)].state == State::kDone) {
        stop(std::string(name) + " after a lane of the warp has left", where);
      }
    }
    wait(State::kAtCollective, name, where);
    return;
  }
  warp.waiting = 0;
  void* all[kWarp];
  for (int i = 0; i < kWarp; ++i) {
    Thread& t = m.thread[static_cast<size_t>(first + i)];
    all[i] = t.exchange;
    if (first + i == m.current) continue;
    if (t.collective != name || !same_place(t.where, where)) {
      stop(std::string("lanes of a warp meet at different collectives: lane ") + std::to_string(i) +
               " in " + t.collective + " at " + place(t.where) + ", lane " +
               std::to_string(m.current - first) + " in " + name,
           where);
    }
  }
  if (combine != nullptr) combine(all);
  finish_requests(warp);
  for (int i = 0; i < kWarp; ++i) m.thread[static_cast<size_t>(first + i)].state = State::kRuns;
}

void check_race(const std::string& found, const char* does, const Where& where) {
  if (!found.empty()) stop(std::string("race: ") + does + " what was " + found + ";", where);
}

void count(WarpRequests::Kind kind, const void* p, size_t bytes, const Where& where) {
  if (!machine().settings.count) return;
  own_warp().requests.add(kind, machine().current % kWarp, p, bytes, where);
}

/// Checks bounds and alignment of an access and finds the history of its memory, if any is kept.
Shadow* check_access(Space space, bool writes, const void* p, size_t bytes, const Where& where) {
  if (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8 && bytes != 16) {
    stop("an access of " + std::to_string(bytes) + " bytes: only 1, 2, 4, 8 and 16 are one", where);
  }
  Machine& m = machine();
  std::string error;
  Shadow* shadow = space == Space::kShared ? m.shared.find(p, bytes, error)
                                           : find_global(p, bytes, writes, error);
  if (!error.empty()) stop(error, where);
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) {
    stop("misaligned access of " + std::to_string(bytes) + " bytes", where);
  }
  return m.settings.races ? shadow : nullptr;
}

void make_ready(Machine& m) {
  m.at_barrier = 0;
  for (int i = 0; i < m.threads; ++i) m.thread[static_cast<size_t>(i)].state = State::kRuns;
  ++m.epoch;
}

void resume(Machine& m, int i) {
  m.current = i;
  m.thread[static_cast<size_t>(i)].fiber.resume();
  m.current = -1;
}

bool runs(const Machine& m, int i) {
  return m.thread[static_cast<size_t>(i)].state == State::kRuns;
}

/// Lets every thread that can run do so once, in lock step.
bool run_in_step(Machine& m) {
  bool any = false;
  for (int k = 0; k < m.threads && m.failure.empty(); ++k) {
    const int i = m.schedule == Schedule::kDescending ? m.threads - 1 - k : k;
    if (!runs(m, i)) continue;
    any = true;
    resume(m, i);
  }
  return any;
}

/// Picks one warp and lets its threads run: until they all wait, or, at random, only once.
bool run_one_warp(Machine& m) {
  const int warps = (m.threads + kWarp - 1) / kWarp;
  const auto lanes_that_run = [&](int w) {
    std::vector<int> lanes;
    for (int i = w * kWarp; i < std::min((w + 1) * kWarp, m.threads); ++i) {
      if (runs(m, i)) lanes.push_back(i);
    }
    return lanes;
  };
  const int start = static_cast<int>(m.random() % static_cast<uint64_t>(warps));
  for (int k = 0; k < warps; ++k) {
    const int w = (start + k) % warps;
    std::vector<int> lanes = lanes_that_run(w);
    if (lanes.empty()) continue;
    do {
      std::shuffle(lanes.begin(), lanes.end(), m.random);
      for (int i : lanes) {
        if (!m.failure.empty()) return true;
        if (runs(m, i)) resume(m, i);
      }
      lanes = lanes_that_run(w);
    } while (!lanes.empty() && m.schedule == Schedule::kAhead);
    return true;
  }
  return false;
}

void run_block(Machine& m) {
  m.block_begin = ++m.epoch;
  m.live = m.threads;
  m.at_barrier = 0;
  m.shared.begin_block();
  publish(&m.began);
  for (int i = 0; i < m.threads; ++i) {
    Thread& t = m.thread[static_cast<size_t>(i)];
    const auto linear = static_cast<unsigned>(i);
    t.index = {linear % m.block.x, linear / m.block.x % m.block.y, linear / m.block.x / m.block.y};
    t.state = State::kRuns;
    t.groups.clear();
    t.open.clear();
    t.fiber.start(run_thread);
  }
  const int warps = (m.threads + kWarp - 1) / kWarp;
  for (int w = 0; w < warps; ++w) {
    m.warp[w].waiting = 0;
    m.warp[w].requests = {};
  }
  const bool in_step = m.schedule == Schedule::kAscending || m.schedule == Schedule::kDescending;
  while (m.live > 0 && m.failure.empty()) {
    const bool any = in_step ? run_in_step(m) : run_one_warp(m);
    if (!any && m.failure.empty()) {
      m.failure = failure_text("threads wait for each other" + who_waits());
    }
  }
  observe(&m.ended);
  if (!m.failure.empty()) return;
  for (int w = 0; w < warps; ++w) finish_requests(m.warp[w]);
  const std::string overrun = m.shared.end_block();
  if (!overrun.empty()) m.failure = failure_text(overrun);
}

/// The name of a kernel, without the namespace of all of them, in what `spelled` returned.
std::string name_in(std::string spelled) {
  static const std::string before = "kernel = ";
  const size_t begin = spelled.find(before) + before.size();
  std::string name = spelled.substr(begin, spelled.rfind(']') - begin);
  if (name[0] == '&') name.erase(0, 1);  // clang's spelling
  for (size_t at; (at = name.find("cnnops::")) != std::string::npos;) name.erase(at, 8);
  return name;
}

/// Each host thread has its own calls.
cudaStream_t& expected_stream() {
  thread_local cudaStream_t stream = nullptr;
  return stream;
}

void check_configuration(const Machine& m, cudaStream_t stream) {
  const dim3 &g = m.grid, &b = m.block;
  std::string wrong;
  if (g.x < 1 || g.y < 1 || g.z < 1 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) {
    wrong = "invalid grid " + triple(g);
  }
  const uint64_t threads = uint64_t{b.x} * b.y * b.z;
  if (threads < 1 || threads > kMaxThreads || b.x > 1024 || b.y > 1024 || b.z > 64) {
    wrong = "invalid block " + triple(b);
  }
  if (m.dynamic_bytes > SharedMemory::kMost) {
    wrong = std::to_string(m.dynamic_bytes) + " bytes of shared memory: a block has at most " +
            std::to_string(SharedMemory::kMost);
  }
  if (stream != expected_stream()) wrong = "launched on another stream than that of its call";
  if (!wrong.empty()) throw std::runtime_error("emulator: kernel " + m.kernel + ": " + wrong);
}

}  // namespace

// ---- what kernels call ---------------------------------------------------------------------------

uint3 thread_index() { return self().index; }
uint3 block_index() { return machine().block_index; }
dim3 block_size() { return machine().block; }
dim3 grid_size() { return machine().grid; }
int lane() { return machine().current % kWarp; }

void* static_shared(const void* site, size_t bytes) {
  std::string error;
  void* memory = machine().shared.static_array(site, bytes, machine().dynamic_bytes, error);
  if (!error.empty()) stop(error);
  return memory;
}

void* dynamic_shared() {
  if (machine().dynamic_bytes == 0) stop("dynamic shared memory, but its launch asked for none");
  return machine().shared.dynamic_array(machine().dynamic_bytes);
}

void fail(const char* what, const Where& where) { stop(what, where); }

void access(Space space, Access kind, const void* p, size_t bytes, const Where& where) {
  const bool writes = kind == Access::kWrite;
  Shadow* shadow = check_access(space, writes, p, bytes, where);
  if (shadow != nullptr) {
    const Moment now = moment(space, where);
    check_race(writes ? shadow->write(p, bytes, now) : shadow->read(p, bytes, now),
               writes ? "writes" : "reads", where);
  }
  using Kind = WarpRequests::Kind;
  count(space == Space::kGlobal ? (writes ? Kind::kGlobalWrite : Kind::kGlobalRead)
                                : (writes ? Kind::kSharedWrite : Kind::kSharedRead),
        p, bytes, where);
}

void copy_async(void* shared, const void* global, int bytes, bool inside, const Where& where) {
  const auto size = static_cast<size_t>(bytes);
  if (inside) access(Space::kGlobal, Access::kRead, global, size, where);
  Shadow* shadow = check_access(Space::kShared, true, shared, size, where);
  if (shadow != nullptr) {
    check_race(shadow->begin_copy(shared, size, moment(Space::kShared, where)), "copies to", where);
  }
  count(WarpRequests::Kind::kSharedWrite, shared, size, where);
  saw_write(shared, size);
  fill_unseen(shared, size);  // nobody may rely on either the old or the new bytes
  self().open.push_back({shared, global, bytes, inside});
}

void commit_copies() {
  self().groups.push_back(std::move(self().open));
  self().open.clear();
}

void wait_copies(int groups) {
  Machine& m = machine();
  auto& all = self().groups;
  while (static_cast<int>(all.size()) > groups) {
    for (const Copy& copy : all.front()) {
      const auto size = static_cast<size_t>(copy.bytes);
      if (m.settings.races) {
        std::string error;
        Shadow* shadow = m.shared.find(copy.shared, size, error);
        shadow->finish_copy(copy.shared, size, moment(Space::kShared, {}));
      }
      saw_write(copy.shared, size);
      if (copy.inside) {
        saw_read(copy.global, size);
        std::memcpy(copy.shared, copy.global, size);
      } else {
        std::memset(copy.shared, 0, size);
      }
    }
    all.erase(all.begin());
  }
}

void block_barrier(const Where& where) {
  Machine& m = machine();
  if (m.live < m.threads) stop("__syncthreads after a thread has left" + who_waits(), where);
  if (m.at_barrier == 0) m.barrier = where;
  if (!same_place(m.barrier, where)) {
    stop("threads meet at different __syncthreads: others at " + place(m.barrier) + ", this one",
         where);
  }
  publish(&m.met);
  if (++m.at_barrier < m.threads) {
    wait(State::kAtBarrier, "__syncthreads", where);
  } else {
    for (int w = 0; w < (m.threads + kWarp - 1) / kWarp; ++w) finish_requests(m.warp[w]);
    make_ready(m);
  }
  observe(&m.met);
}

void warp_barrier(const Where& where) {
  Warp& warp = own_warp();
  publish(&warp.order);
  meet("__syncwarp", where, nullptr, [](void* const*) { ++own_warp().epoch; });
  observe(&warp.order);
}

uint64_t shuffle(const char* name, unsigned mask, uint64_t value, int source, const Where& where) {
  if (mask != 0xffffffffu) stop(std::string(name) + " with less than the full mask", where);
  struct Exchange {
    uint64_t value, result;
    int source;
  } mine{value, 0, source};
  if (source < 0 || source >= kWarp) stop(std::string(name) + " from a lane beyond 31", where);
  meet(name, where, &mine, [](void* const* all) {
    for (int i = 0; i < kWarp; ++i) {
      auto* to = static_cast<Exchange*>(all[i]);
      to->result = static_cast<Exchange*>(all[to->source])->value;
    }
  });
  return mine.result;
}

unsigned match(const char* name, unsigned mask, uint64_t value, const Where& where) {
  if (mask != 0xffffffffu) stop(std::string(name) + " with less than the full mask", where);
  struct Exchange {
    uint64_t value;
    unsigned result;
  } mine{value, 0};
  meet(name, where, &mine, [](void* const* all) {
    for (int i = 0; i < kWarp; ++i) {
      auto* to = static_cast<Exchange*>(all[i]);
      for (int j = 0; j < kWarp; ++j) {
        if (static_cast<Exchange*>(all[j])->value == to->value) to->result |= 1u << j;
      }
    }
  });
  return mine.result;
}

void load_matrices(uint32_t (&r)[4], const void* row, bool transposed, const Where& where) {
  // Every lane reads the row whose address it gives, so that a request is one row of each lane.
  access(Space::kShared, Access::kRead, row, 16, where);
  MatrixExchange mine{row, {}, {}};
  meet(transposed ? "ldmatrix.trans" : "ldmatrix", where, &mine,
       transposed ? gather_columns : gather_rows);
  for (int i = 0; i < 4; ++i) {
    r[i] = mine.result[i];
    for (int half = 0; half < 2; ++half) saw_read(mine.read[2 * i + half], 2);
  }
}

void multiply(Element element, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              const Where& where) {
  MultiplyExchange mine{d, a, b};
  switch (element) {
    case Element::kBfloat16: return meet("mma.bf16", where, &mine, multiply_bfloat16);
    case Element::kFloat16: return meet("mma.f16", where, &mine, multiply_float16);
    case Element::kTf32: return meet("mma.tf32", where, &mine, multiply_tf32);
  }
}

void launch(const char* kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
            const std::function<void()>& thread) {
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.one_launch);
  read_environment();
  m.kernel = name_in(kernel);
  m.grid = grid;
  m.block = block;
  m.dynamic_bytes = shared;
  check_configuration(m, stream);
  m.body = &thread;
  m.threads = static_cast<int>(block.x * block.y * block.z);
  m.failure.clear();
  while (static_cast<int>(m.thread.size()) < m.threads) m.thread.emplace_back();

  m.schedule = m.settings.schedule;
  m.seed = m.settings.seed;
  if (m.schedule == Schedule::kMixed) {
    const uint64_t turn = m.launches++ + m.seed;
    m.schedule = static_cast<Schedule>(turn % 4);
    m.seed = turn;
  }
  m.random.seed(m.seed);
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  std::vector<uint64_t> order(blocks);
  for (uint64_t i = 0; i < blocks; ++i) order[i] = i;
  if (m.schedule == Schedule::kDescending) std::reverse(order.begin(), order.end());
  if (m.schedule == Schedule::kAhead || m.schedule == Schedule::kRandom) {
    std::shuffle(order.begin(), order.end(), m.random);
  }
  m.launch_begin = ++m.epoch;
  for (uint64_t i : order) {
    m.block_index = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                     static_cast<unsigned>(i / grid.x / grid.y)};
    run_block(m);
    if (!m.failure.empty()) {
      // The threads that did not end are given up; their stacks and copies are made anew.
      m.thread.clear();
      m.shared.reset();
      throw std::runtime_error(m.failure);
    }
  }
}

// ---- control -------------------------------------------------------------------------------------

void configure(const std::string& text) {
  const Settings settings = parse(text);
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.one_launch);
  read_environment();
  m.settings = settings;
  m.launches = 0;
}

std::string settings_text() {
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.one_launch);
  read_environment();
  return std::string("schedule=") + kScheduleNames[static_cast<int>(m.settings.schedule)] +
         ",seed=" + std::to_string(m.settings.seed) + ",races=" + (m.settings.races ? "1" : "0") +
         ",count=" + (m.settings.count ? "1" : "0");
}

std::string counter_report() {
  const std::lock_guard<std::mutex> lock(machine().one_launch);
  return machine().counters.report();
}

void clear_counters() {
  const std::lock_guard<std::mutex> lock(machine().one_launch);
  machine().counters.clear();
}

}  // namespace cnnops::simt::emulator

namespace cnnops::simt {

void expect_stream(cudaStream_t stream) { emulator::expected_stream() = stream; }

}  // namespace cnnops::simt
