#include "window/pool.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "base/errors.h"
#include "base/fork.h"
#include "window/checks.h"

namespace waybill::window {
namespace {

constexpr std::int64_t kPage = 4096;
constexpr std::size_t kExpectedBuffers = 256;
/// Above this size, and up to this part of the pool, a buffer takes a power of two.
constexpr std::int64_t kLarge = std::int64_t{1} << 20;
constexpr std::int64_t kLargestPart = 16;

}  // namespace

PoolCore::PoolCore(Region region, int generation, bool checked) noexcept
    : region_(std::move(region)), fork_generation_(generation), checked_(checked) {
  free_.reserve(kExpectedBuffers);
  idle_blocks_.reserve(kExpectedBuffers);
  free_.push_back({0, region_.size_bytes()});
}

Result<Block*> PoolCore::allocate(std::int64_t bytes) {
  const std::int64_t canary = checked_ ? kCanaryBytes : 0;
  const std::int64_t size = std::max((bytes + canary + kPage - 1) / kPage * kPage, kPage);
  const std::lock_guard lock(mutex_);
  const auto first_with = [this](std::int64_t wanted) {
    return std::find_if(
        free_.begin(), free_.end(), [=](const Range& r) { return r.size_bytes >= wanted; });
  };
  std::int64_t span = size;
  if (size > kLarge && size <= region_.size_bytes() / kLargestPart) {
    span = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(size)));
  }
  auto range = first_with(span);
  if (range == free_.end()) {
    span = size;
    range = first_with(span);
  }
  if (range == free_.end()) {
    return error(StatusCode::kOutOfMemory,
                 "",
                 "",
                 "out of address space in the pool of outputs: wanted " + std::to_string(bytes) +
                     " bytes; " + std::to_string(references_ - 1) +
                     " outputs that are still held fill its " +
                     std::to_string(region_.size_bytes()) +
                     " bytes (WAYBILL_WINDOW_BYTES); an output is as large as the most rows that a"
                     " rank can receive: to keep what came, hold rows.clone() in its place");
  }
  if (idle_blocks_.empty()) {
    blocks_.emplace_back();
    idle_blocks_.push_back(&blocks_.back());
    idle_blocks_.reserve(blocks_.size());
  }
  Block* block = idle_blocks_.back();
  idle_blocks_.pop_back();
  block->core = this;
  block->references.store(1, std::memory_order_relaxed);
  block->offset = range->offset;
  block->size_bytes = size;
  block->span_bytes = span;
  range->offset += span;
  range->size_bytes -= span;
  if (range->size_bytes == 0) {
    free_.erase(range);
  }
  ++references_;
  if (checked_) {
    if (Status status = guard(block); !status.ok()) {
      give_back({block->offset, block->span_bytes});
      idle_blocks_.push_back(block);
      --references_;
      return status;
    }
  }
  return block;
}

/// Where the buffer's address space ends: its holder may write to all of it.
const std::byte* PoolCore::canary_of(const Block& block) const noexcept {
  return region_.data() + block.offset + block.size_bytes - kCanaryBytes;
}

Status PoolCore::guard(Block* block) {
  const std::int64_t offset = block->offset + block->size_bytes - kCanaryBytes;
  if (Status status = region_.commit(offset, kCanaryBytes); !status.ok()) {
    return status;
  }
  write_canary(region_.data() + offset);
  return {};
}

void PoolCore::inspect(const Block& block) noexcept {
  damaged_ += is_intact(canary_of(block)) ? 0 : 1;
  region_.fill(block.offset, block.size_bytes, kPoison);
}

Status PoolCore::commit(std::int64_t offset, std::int64_t bytes) {
  const std::lock_guard lock(mutex_);
  Status status = region_.commit(offset, bytes);
  if (status.code() == StatusCode::kOutOfMemory) {
    trim();
    status = region_.commit(offset, bytes);
  }
  return status;
}

void PoolCore::trim() noexcept {
  for (const Range& range : free_) {
    region_.punch(range.offset, range.size_bytes);
  }
}

/// What trim() would give back.
std::int64_t PoolCore::free_bytes() const {
  const std::lock_guard lock(mutex_);
  std::int64_t bytes = 0;
  for (const Range& range : free_) {
    bytes += region_.committed_in(range.offset, range.size_bytes);
  }
  return bytes;
}

void PoolCore::give_back(Range range) {
  auto next = std::lower_bound(
      free_.begin(), free_.end(), range.offset, [](const Range& r, std::int64_t offset) {
        return r.offset < offset;
      });
  const bool joins_next = next != free_.end() && range.offset + range.size_bytes == next->offset;
  const auto previous = next == free_.begin() ? free_.end() : next - 1;
  const bool joins_previous =
      previous != free_.end() && previous->offset + previous->size_bytes == range.offset;
  if (joins_previous && joins_next) {
    previous->size_bytes += range.size_bytes + next->size_bytes;
    free_.erase(next);
  } else if (joins_previous) {
    previous->size_bytes += range.size_bytes;
  } else if (joins_next) {
    next->offset = range.offset;
    next->size_bytes += range.size_bytes;
  } else {
    free_.insert(next, range);
  }
}

void PoolCore::free(Block* block) noexcept {
  if (fork_generation_ != fork_generation()) {
    return;  // the parent owns the memory; its bookkeeping here is a copy
  }
  {
    const std::lock_guard lock(mutex_);
    if (checked_) {
      inspect(*block);
    }
    std::erase_if(notes_, [block](const Note& note) { return note.offset == block->offset; });
    give_back({block->offset, block->span_bytes});
    idle_blocks_.push_back(block);
  }
  drop();
}

void PoolCore::drop() noexcept {
  bool last = false;
  {
    const std::lock_guard lock(mutex_);
    last = --references_ == 0;
  }
  if (last) {
    delete this;
  }
}

Result<Pool> Pool::create(std::int64_t bytes, MemoryBudget& budget, bool checked) {
  auto region = Region::create("the pool of outputs", bytes, budget, kPoolFile);
  if (!region.ok()) {
    return region.status();
  }
  return Pool(new PoolCore(std::move(*region), fork_generation(), checked));
}

Pool::~Pool() {
  if (core_ != nullptr && core_->fork_generation_ == fork_generation()) {
    core_->drop();
  }
}

const Region& Pool::region() const noexcept { return core_->region_; }

Result<Buffer> Pool::allocate(std::int64_t bytes) {
  auto block = core_->allocate(bytes);
  if (!block.ok()) {
    return block.status();
  }
  return Buffer(*block);
}

Status Pool::commit(const Buffer& buffer, std::int64_t begin, std::int64_t bytes) {
  return core_->commit(buffer.data() - core_->data() + begin, bytes);
}

std::int64_t Pool::bytes_left(std::int64_t wanted) const {
  const std::int64_t left = core_->budget().bytes_left(wanted);
  // To count the pages of free ranges takes long, and limits may be exceeded.
  return left >= wanted ? left : std::max<std::int64_t>(left + core_->free_bytes(), 0);
}

std::int64_t Pool::largest_free() const {
  const std::lock_guard lock(core_->mutex_);
  std::int64_t largest = 0;
  for (const PoolCore::Range& range : core_->free_) {
    largest = std::max(largest, range.size_bytes);
  }
  return std::max<std::int64_t>(largest - (core_->checked_ ? kCanaryBytes : 0), 0);
}

std::int64_t Pool::missing_in(const Buffer& buffer, std::int64_t begin, std::int64_t bytes) const {
  const std::lock_guard lock(core_->mutex_);
  return core_->region_.missing_in(buffer.data() - core_->data() + begin, bytes);
}

std::int64_t Pool::committed_in(const Buffer& buffer,
                                std::int64_t begin,
                                std::int64_t bytes) const {
  const std::lock_guard lock(core_->mutex_);
  return core_->region_.committed_in(buffer.data() - core_->data() + begin, bytes);
}

void Pool::give_up(const Buffer& buffer, std::int64_t begin, std::int64_t bytes) noexcept {
  const std::lock_guard lock(core_->mutex_);
  core_->region_.punch(buffer.data() - core_->data() + begin, bytes);
}

Pool::Affordable Pool::count_affordable(std::span<const Rows> buffers,
                                        std::int64_t most,
                                        std::int64_t beside) {
  std::int64_t wanted = 0;
  for (const Rows& rows : buffers) {
    // Two granules more than the bytes may be touched, at either end.
    wanted += rows.row_bytes > 0 ? most * rows.row_bytes + rows.more_bytes + 2 * kGranule : 0;
  }
  if (buffers.empty()) {
    return {most, 0};
  }
  std::int64_t gain = buffers.front().pool->core_->budget().bytes_left(wanted);
  if (wanted + beside <= gain) {
    return {most, gain - wanted};
  }
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const auto same = [&](const Rows& rows) { return rows.pool == buffers[i].pool; };
    if (std::none_of(buffers.begin(), buffers.begin() + static_cast<std::ptrdiff_t>(i), same)) {
      gain += buffers[i].pool->core_->free_bytes();
    }
  }
  const auto missing_for = [&](std::int64_t count) {
    std::int64_t missing = 0;
    for (const Rows& rows : buffers) {
      missing += rows.row_bytes > 0 ? rows.pool->missing_in(
                                          *rows.buffer, 0, count * rows.row_bytes + rows.more_bytes)
                                    : 0;
    }
    return missing;
  };
  std::int64_t enough = -1;
  std::int64_t too_many = most + 1;
  while (too_many - enough > 1) {
    const std::int64_t middle = enough + (too_many - enough) / 2;
    (missing_for(middle) <= gain ? enough : too_many) = middle;
  }
  return {enough, enough < 0 ? 0 : gain - missing_for(enough)};
}

std::string Pool::describe_shortage(std::int64_t own) const {
  const MemoryHeadroom headroom = core_->region_.budget().recent_headroom();
  const Usage now = usage();
  return std::to_string(headroom.bytes) + " bytes are left under " + headroom.limited_by + "; " +
         std::to_string(now.buffers - own) + " outputs that are held take " +
         std::to_string(now.in_use_bytes) + " bytes";
}

void Pool::set_note(const Buffer& buffer, std::int64_t note) {
  const std::lock_guard lock(core_->mutex_);
  core_->notes_.push_back({buffer.data() - core_->data(), note});
}

std::int64_t Pool::note_at(const void* data) const {
  const std::int64_t offset = offset_of(data, 0);
  const std::lock_guard lock(core_->mutex_);
  for (const PoolCore::Note& note : core_->notes_) {
    if (note.offset == offset) {
      return note.value;
    }
  }
  return 0;
}

std::int64_t Pool::offset_of(const void* data, std::int64_t bytes) const noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const auto base = reinterpret_cast<std::uintptr_t>(core_->region_.data());
  const auto size = static_cast<std::uintptr_t>(core_->region_.size_bytes());
  if (address < base || address - base > size ||
      static_cast<std::uintptr_t>(bytes) > size - (address - base)) {
    return -1;
  }
  return static_cast<std::int64_t>(address - base);
}

void Pool::trim() noexcept {
  const std::lock_guard lock(core_->mutex_);
  core_->trim();
}

std::int64_t Pool::take_damaged() noexcept {
  const std::lock_guard lock(core_->mutex_);
  return std::exchange(core_->damaged_, 0);
}

Pool::Usage Pool::usage() const {
  const std::lock_guard lock(core_->mutex_);
  Usage usage{core_->region_.committed_bytes(), 0, 0};
  usage.in_use_bytes = usage.reserved_bytes;
  for (const PoolCore::Range& range : core_->free_) {
    usage.in_use_bytes -= core_->region_.committed_in(range.offset, range.size_bytes);
  }
  usage.buffers = core_->references_ - 1;
  return usage;
}

Placement Pool::placement() const {
  const std::lock_guard lock(core_->mutex_);
  return core_->region_.placement();
}

}  // namespace waybill::window

namespace waybill {

Buffer::Buffer(const Buffer& other) noexcept : block_(other.block_) {
  if (block_ != nullptr) {
    block_->references.fetch_add(1, std::memory_order_relaxed);
  }
}

Buffer::~Buffer() {
  if (block_ != nullptr && block_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    block_->core->free(block_);
  }
}

std::byte* Buffer::data() const noexcept {
  return block_ == nullptr ? nullptr : block_->core->data() + block_->offset;
}

}  // namespace waybill
