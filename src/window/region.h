#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "waybill/status.h"
#include "window/memory_budget.h"
#include "window/placement.h"

namespace waybill::window {

/// Memory is reserved in pieces of this size.
inline constexpr std::int64_t kGranule = 64 << 10;

/// Memory that other processes can read: one sparse memfd of fixed size, mapped once. Pages exist
/// where commit() was called. Owner: one rank, one thread at a time; peers map it read-only.
class Region {
 public:
  /// `bytes` of address space, a multiple of kGranule, between two pages that nobody can touch.
  /// `purpose` is used in errors, `file` names the memory file for tools.
  static Result<Region> create(std::string purpose,
                               std::int64_t bytes,
                               MemoryBudget& budget,
                               const char* file = "waybill");
  Region() noexcept = default;
  Region(Region&& other) noexcept { swap(other); }
  Region& operator=(Region&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Region();

  std::byte* data() const noexcept { return data_; }
  std::int64_t size_bytes() const noexcept { return size_bytes_; }
  /// Any thread.
  std::int64_t committed_bytes() const noexcept {
    return __atomic_load_n(&committed_bytes_, __ATOMIC_RELAXED);
  }
  /// Bytes with pages in the granules that [offset, offset+bytes) wholly covers.
  std::int64_t committed_in(std::int64_t offset, std::int64_t bytes) const noexcept;
  /// Bytes that commit() of [offset, offset+bytes) would have to reserve.
  std::int64_t missing_in(std::int64_t offset, std::int64_t bytes) const noexcept;
  MemoryBudget& budget() const noexcept { return *budget_; }
  /// The NUMA nodes of what was committed: of all pages, or of kMostPages evenly among them.
  Placement placement() const;
  /// A new descriptor that can only read, for peers. The caller closes it.
  Result<int> open_read_only() const;

  /// Makes sure that [offset, offset+bytes) has pages. Costs nothing where it has them already.
  Status commit(std::int64_t offset, std::int64_t bytes);
  /// Fills what has pages in the range.
  void fill(std::int64_t offset, std::int64_t bytes, std::byte value) noexcept;
  /// Gives the pages of the granules that lie wholly in the range back. Their content is lost.
  void punch(std::int64_t offset, std::int64_t bytes) noexcept;

 private:
  void swap(Region& other) noexcept;
  bool has(std::int64_t granule) const noexcept {
    return (pages_[static_cast<std::size_t>(granule / 64)] >> (granule % 64) & 1) != 0;
  }
  std::int64_t count_granules(std::int64_t first, std::int64_t last) const noexcept;
  Status commit_run(std::int64_t first, std::int64_t last);
  void count_committed(std::int64_t bytes) noexcept {
    __atomic_store_n(&committed_bytes_, committed_bytes_ + bytes, __ATOMIC_RELAXED);
  }

  std::string purpose_;
  MemoryBudget* budget_ = nullptr;
  int fd_ = -1;
  std::byte* data_ = nullptr;
  std::int64_t size_bytes_ = 0;
  std::int64_t committed_bytes_ = 0;
  std::vector<std::uint64_t> pages_;  ///< a bit a granule: has pages
};

/// A peer's region, mapped read-only.
class PeerMapping {
 public:
  /// Takes the descriptor over.
  static Result<PeerMapping> map(int fd, std::int64_t bytes);
  PeerMapping() noexcept = default;
  PeerMapping(PeerMapping&& other) noexcept;
  PeerMapping& operator=(PeerMapping&& other) noexcept;
  ~PeerMapping();

  const std::byte* data() const noexcept { return data_; }
  std::int64_t size_bytes() const noexcept { return size_bytes_; }

 private:
  const std::byte* data_ = nullptr;
  std::int64_t size_bytes_ = 0;
};

}  // namespace waybill::window
