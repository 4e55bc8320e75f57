#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "waybill/status.h"
#include "waybill/tensor.h"
#include "window/region.h"

namespace waybill::window {

class PoolCore;

/// Name of a pool's memory file.
inline constexpr const char* kPoolFile = "waybill-pool";

/// One buffer of a pool: address space from the pool, of which commit() reserved a first part.
struct Block {
  PoolCore* core = nullptr;
  std::atomic<int> references{0};
  std::int64_t offset = 0;  ///< in the pool's region
  std::int64_t size_bytes = 0;
  std::int64_t span_bytes = 0;  ///< taken for it in the pool, >= size_bytes
};

/// Where outputs live. Buffers are address space of the worst case; only what will be written is
/// reserved. Freed ranges keep their pages and are used again lowest address first, so a program
/// that repeats itself writes warm memory; and what a large buffer takes of the address space is a
/// power of two, so that what lies behind it finds nearly the same place, and the same pages, in
/// calls of every size. Thread safe. Buffers may outlive the pool.
class Pool {
 public:
  /// `checked`: buffers get a canary behind their end and are poisoned when freed.
  static Result<Pool> create(std::int64_t bytes, MemoryBudget& budget, bool checked = false);
  Pool(Pool&& other) noexcept : core_(std::exchange(other.core_, nullptr)) {}
  Pool& operator=(Pool&& other) noexcept {
    std::swap(core_, other.core_);
    return *this;
  }
  ~Pool();

  const Region& region() const noexcept;
  /// A buffer of `bytes` of address space.
  Result<Buffer> allocate(std::int64_t bytes);
  /// Reserves the first `bytes` of the buffer. Where the limits refuse, pages of free ranges are
  /// given back and it is tried again.
  Status commit(const Buffer& buffer, std::int64_t bytes) { return commit(buffer, 0, bytes); }
  /// The same for a part of the buffer.
  Status commit(const Buffer& buffer, std::int64_t begin, std::int64_t bytes);
  /// A buffer of which each of a number of rows takes as many bytes, and all together some more.
  struct Rows {
    const Pool* pool;
    const Buffer* buffer;
    std::int64_t row_bytes;
    std::int64_t more_bytes = 0;
  };
  struct Affordable {
    std::int64_t rows;        ///< -1 where not even what they take without rows could be reserved
    std::int64_t bytes_left;  ///< beside these
  };
  /// For how many rows, at most `most`, the beginnings of all these buffers could be reserved now.
  /// Others may take the memory meanwhile. `beside`: so much else may be wanted; bytes_left is
  /// exact where it is less than that.
  static Affordable count_affordable(std::span<const Rows> buffers,
                                     std::int64_t most,
                                     std::int64_t beside = 0);
  /// Why count_affordable() is less than what was asked for. `own` outputs are those of the call
  /// that asks.
  std::string describe_shortage(std::int64_t own) const;
  /// What could be reserved; where that is less than `wanted`, with the pages of free ranges. As
  /// old as MemoryBudget::bytes_left() says.
  std::int64_t bytes_left(std::int64_t wanted) const;
  /// Bytes of the largest buffer that there is address space for.
  std::int64_t largest_free() const;
  /// Bytes of a part of a buffer that commit() would have to reserve, and those of the granules
  /// wholly in it that have pages.
  std::int64_t missing_in(const Buffer& buffer, std::int64_t begin, std::int64_t bytes) const;
  std::int64_t committed_in(const Buffer& buffer, std::int64_t begin, std::int64_t bytes) const;
  /// Gives the pages of the granules wholly in the part back; their content is lost.
  void give_up(const Buffer& buffer, std::int64_t begin, std::int64_t bytes) noexcept;
  /// A number that goes with a buffer until it is freed, and the one of the buffer that begins at
  /// `data`: 0 where there is none.
  void set_note(const Buffer& buffer, std::int64_t note);
  std::int64_t note_at(const void* data) const;
  /// Offset of [data, data+bytes) in the region, or -1 when it does not lie in it.
  std::int64_t offset_of(const void* data, std::int64_t bytes) const noexcept;
  /// Gives the pages of all free ranges back.
  void trim() noexcept;

  struct Usage {
    std::int64_t reserved_bytes;
    std::int64_t in_use_bytes;  ///< reserved part of the buffers somebody holds
    std::int64_t buffers;
  };
  Usage usage() const;
  Placement placement() const;
  /// Checked mode: buffers found written past their end since the last time.
  std::int64_t take_damaged() noexcept;

 private:
  explicit Pool(PoolCore* core) noexcept : core_(core) {}
  PoolCore* core_;
};

/// The part of a pool that lives until its last buffer is gone.
class PoolCore {
 public:
  PoolCore(Region region, int generation, bool checked) noexcept;

  std::byte* data() const noexcept { return region_.data(); }
  void drop() noexcept;  ///< one reference fewer: a buffer or the pool itself
  void free(Block* block) noexcept;

 private:
  friend class Pool;
  struct Range {
    std::int64_t offset;
    std::int64_t size_bytes;
  };

  Result<Block*> allocate(std::int64_t bytes);
  Status commit(std::int64_t offset, std::int64_t bytes);
  void give_back(Range range);
  void trim() noexcept;
  Status guard(Block* block);
  void inspect(const Block& block) noexcept;
  const std::byte* canary_of(const Block& block) const noexcept;
  MemoryBudget& budget() const noexcept { return region_.budget(); }
  std::int64_t free_bytes() const;

  mutable std::mutex mutex_;
  Region region_;
  const int fork_generation_;
  const bool checked_;
  std::int64_t damaged_ = 0;
  std::int64_t references_ = 1;
  std::vector<Range> free_;   ///< by offset, never adjacent
  std::deque<Block> blocks_;  ///< stable addresses
  std::vector<Block*> idle_blocks_;
  struct Note {
    std::int64_t offset;  ///< of the buffer
    std::int64_t value;
  };
  std::vector<Note> notes_;
};

}  // namespace waybill::window
