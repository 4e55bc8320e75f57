#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "exchange/apart.h"
#include "exchange/plan.h"

namespace waybill::bench {

/// Groups that one run can have: each method that needs options of its own has one.
inline constexpr int kMaxGroups = 8;

/// What all ranks of a run share: its case, a barrier, clocks, the rows, the report.
struct Board {
  Case sizes;
  Effort effort;
  std::array<Text, kMaxGroups> ids;  ///< of the groups
  int cores = 1;                     ///< of all ranks together

  struct alignas(64) Stamps {
    std::int64_t begin_ns = 0;
    std::int64_t end_ns = 0;
    std::int64_t link_bytes = 0;  ///< that its host has sent in this phase; of one rank a host
  };
  std::array<Stamps, kMaxRanks> stamps;
  std::atomic<int> go_on{1};
  std::atomic<int> failed{0};
  std::array<char, std::size_t{1} << 20> report{};  ///< of rank 0, JSON

  alignas(64) std::atomic<std::uint32_t> arrived{0};
  alignas(64) std::atomic<std::uint64_t> turn{0};
};

/// A mapping of the shared memory: the board, then an arena for rows. Ranks of several machines
/// have a board each, which they keep alike through messages.
class SharedBoard {
 public:
  /// New memory. `apart`: the other ranks, where this program has not started them.
  SharedBoard(const Case& sizes,
              const Effort& effort,
              std::int64_t arena_bytes,
              Apart* apart = nullptr);
  /// That of another process of this machine.
  explicit SharedBoard(const std::string& path, Apart* apart = nullptr);
  SharedBoard(const SharedBoard&) = delete;
  SharedBoard& operator=(const SharedBoard&) = delete;
  ~SharedBoard();

  Board& operator*() const noexcept { return *board_; }
  Board* operator->() const noexcept { return board_; }
  std::byte* arena() const noexcept;
  /// Where another process opens it.
  std::string path() const;

  /// Null where this program has started all ranks.
  Apart* apart() const noexcept { return apart_; }
  /// Whether all ranks have this memory.
  bool is_shared() const noexcept { return shared_; }
  /// Of all ranks. Exits this process when a rank has failed.
  void barrier(Patience patience) const;
  /// Collective: makes every rank's stamps known to all.
  void share_stamps(int rank) const;
  /// Collective: makes rank 0's go_on known to all.
  void share_go_on() const;
  [[noreturn]] void fail(const std::string& why) const;

 private:
  void map(std::size_t bytes);

  int file_ = -1;
  std::size_t bytes_ = 0;
  Board* board_ = nullptr;
  bool crowded_ = false;
  Apart* const apart_ = nullptr;
  const bool shared_ = true;
};

/// Cores this process may run on; a rank that is pinned has one.
int num_cores();

}  // namespace waybill::bench
