// Counts what memory requests of warps cost on a GPU: 32-byte sectors of global memory, and
// transactions of shared memory.
//
// The hardware serves a warp's 32 accesses by one instruction together. The emulator runs the lanes
// one after the other, so a request is put together from the k-th access of each lane at one place
// in the source since the warp last met at a collective.
//
// Shared memory has 32 banks of 4 bytes. A request of 8-byte accesses is served in two phases of 16
// lanes, one of 16-byte accesses and each matrix of ldmatrix in phases of 8 lanes, and a phase
// takes as many transactions as the fullest bank holds different words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <source_location>
#include <string>
#include <vector>

namespace cnnops::simt::emulator {

/// What the requests of one place in a kernel cost, and what they would at best.
struct Cost {
  int64_t requests = 0;
  int64_t transactions = 0;
  int64_t ideal = 0;
};

/// The accesses of one warp since it last met.
class WarpRequests {
 public:
  enum class Kind { kGlobalRead, kGlobalWrite, kSharedRead, kSharedWrite };

  void add(Kind kind, int lane, const void* p, size_t bytes, const std::source_location& where);

  /// Adds the costs of all requests to `costs` and forgets them.
  template <class F>
  void finish(const F& add_cost) {
    for (Site& site : sites_) {
      for (const Request& request : site.requests) {
        add_cost(site.kind, site.where, cost(site.kind, request));
      }
    }
    sites_.clear();
  }

 private:
  struct Request {
    size_t bytes = 0;
    uint32_t lanes = 0;
    uintptr_t address[32];
  };
  struct Site {
    Kind kind;
    std::source_location where;
    std::vector<Request> requests;
    size_t count[32] = {};
  };
  static Cost cost(Kind kind, const Request& request);

  std::vector<Site> sites_;
};

/// The costs of all launches, by kernel, place and kind of access.
class Counters {
 public:
  void add(const std::string& kernel, WarpRequests::Kind kind, const std::source_location& where,
           const Cost& cost);
  void clear() { costs_.clear(); }
  /// Lines "kernel \t kind \t file:line \t requests \t transactions \t ideal".
  std::string report() const;

 private:
  std::map<std::string, Cost> costs_;
};

}  // namespace cnnops::simt::emulator
