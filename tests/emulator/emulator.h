// Control of the emulator from outside of kernels.
#pragma once

#include <cstdint>
#include <string>

namespace cnnops::simt::emulator {

/// The order in which the threads of a block, and the blocks of a grid, run.
enum class Schedule {
  kAscending,   // in lock step, by thread number
  kDescending,  // in lock step, backwards
  kAhead,       // one warp runs until it must wait, then another
  kRandom,      // warps change at random, wherever they wait
  kMixed,       // each launch another of these
};

struct Settings {
  Schedule schedule = Schedule::kMixed;
  uint64_t seed = 0;
  bool races = true;   // look for accesses that no barrier orders
  bool count = false;  // count transactions of memory requests
};

/// Reads settings such as "schedule=ahead,seed=7,races=0,count=1"; RuntimeError where it cannot. At
/// first they are those of the environment variable CNNOPS_EMULATOR.
void configure(const std::string& text);
/// The settings as `configure` reads them.
std::string settings_text();

/// What was counted since the last `clear_counters`: lines of kernel, kind, place, requests,
/// transactions and the least number of these, separated by tabs.
std::string counter_report();
void clear_counters();

}  // namespace cnnops::simt::emulator
