#include "emulator/counters.h"

#include <algorithm>

#include "emulator/text.h"

namespace cnnops::simt::emulator {
namespace {

constexpr int kWarp = 32;
constexpr uintptr_t kSector = 32;
constexpr uintptr_t kBankBytes = 4;
constexpr uintptr_t kBanks = 32;

int64_t distinct(std::vector<uintptr_t>& values) {
  std::sort(values.begin(), values.end());
  return std::unique(values.begin(), values.end()) - values.begin();
}

}  // namespace

void WarpRequests::add(Kind kind, int lane, const void* p, size_t bytes,
                       const std::source_location& where) {
  auto site = std::find_if(sites_.begin(), sites_.end(), [&](const Site& s) {
    return s.kind == kind && same_place(s.where, where);
  });
  if (site == sites_.end()) {
    sites_.push_back({kind, where, {}, {}});
    site = sites_.end() - 1;
  }
  const size_t k = site->count[lane]++;
  if (k >= site->requests.size()) site->requests.emplace_back();
  Request& request = site->requests[k];
  request.bytes = bytes;
  request.lanes |= 1u << lane;
  request.address[lane] = reinterpret_cast<uintptr_t>(p);
}

Cost WarpRequests::cost(Kind kind, const Request& request) {
  Cost cost{1, 0, 0};
  if (kind == Kind::kGlobalRead || kind == Kind::kGlobalWrite) {
    std::vector<uintptr_t> sectors, addresses;
    for (int lane = 0; lane < kWarp; ++lane) {
      if ((request.lanes >> lane & 1) == 0) continue;
      const uintptr_t address = request.address[lane];
      addresses.push_back(address);
      for (uintptr_t s = address / kSector; s <= (address + request.bytes - 1) / kSector; ++s) {
        sectors.push_back(s);
      }
    }
    cost.transactions = distinct(sectors);
    const auto bytes = static_cast<uintptr_t>(distinct(addresses)) * request.bytes;
    cost.ideal = static_cast<int64_t>((bytes + kSector - 1) / kSector);
    return cost;
  }
  const int phases = request.bytes <= 4 ? 1 : static_cast<int>(request.bytes / 4);
  const int lanes = kWarp / phases;
  for (int phase = 0; phase < phases; ++phase) {
    std::vector<uintptr_t> words;
    for (int lane = phase * lanes; lane < (phase + 1) * lanes; ++lane) {
      if ((request.lanes >> lane & 1) == 0) continue;
      const uintptr_t address = request.address[lane];
      for (uintptr_t w = address / kBankBytes; w <= (address + request.bytes - 1) / kBankBytes;
           ++w) {
        words.push_back(w);
      }
    }
    if (words.empty()) continue;
    words.resize(static_cast<size_t>(distinct(words)));
    int64_t in_bank[kBanks] = {};
    for (uintptr_t word : words) ++in_bank[word % kBanks];
    cost.transactions += *std::max_element(in_bank, in_bank + kBanks);
    cost.ideal += 1;
  }
  return cost;
}

void Counters::add(const std::string& kernel, WarpRequests::Kind kind,
                   const std::source_location& where, const Cost& cost) {
  static const char* const names[] = {"global read", "global write", "shared read", "shared write"};
  Cost& sum = costs_[kernel + "\t" + names[static_cast<int>(kind)] + "\t" + place(where)];
  sum.requests += cost.requests;
  sum.transactions += cost.transactions;
  sum.ideal += cost.ideal;
}

std::string Counters::report() const {
  std::string text;
  for (const auto& [key, cost] : costs_) {
    text += key + "\t" + std::to_string(cost.requests) + "\t" + std::to_string(cost.transactions) +
            "\t" + std::to_string(cost.ideal) + "\n";
  }
  return text;
}

}  // namespace cnnops::simt::emulator
