#include "transport/mirrors.h"

#include <algorithm>
#include <new>
#include <utility>

namespace waybill::transport {

using window::kGranule;
using window::MirrorSlot;

namespace {

/// Where so much memory is left, nobody counts what lies in free ranges of the pool.
constexpr std::int64_t kPlenty = std::int64_t{1} << 30;

std::int64_t granules_of(std::int64_t bytes) { return (bytes + kGranule - 1) / kGranule; }

}  // namespace

Mirrors::Mirrors(window::Window& window, Buffer table, int world_size)
    : window_(&window),
      table_(std::move(table)),
      mirrors_(2 * static_cast<std::size_t>(world_size)) {}

Result<Mirrors> Mirrors::create(window::Window& window, int world_size) {
  const std::int64_t slots = 2 * std::int64_t{world_size};
  const auto bytes = static_cast<std::int64_t>(sizeof(MirrorSlot)) * slots;
  auto table = window.pool.allocate(bytes);
  if (!table.ok()) {
    return table.status();
  }
  if (Status status = window.pool.commit(*table, bytes); !status.ok()) {
    return status;
  }
  for (std::int64_t i = 0; i < slots; ++i) {
    new (table->data() + i * static_cast<std::int64_t>(sizeof(MirrorSlot))) MirrorSlot();
  }
  window.board.publish_mirrors(window.pool.offset_of(table->data(), bytes));
  return Mirrors(window, std::move(*table), world_size);
}

MirrorSlot& Mirrors::slot_of(int from, std::size_t half) noexcept {
  return reinterpret_cast<MirrorSlot*>(table_.data())[window::slot_index(from, half)];
}

MirrorRoom Mirrors::room(std::size_t half, window::Stamp stamp) {
  Arena& arena = arenas_[half];
  if (arena.stamp < stamp) {
    begin_call(half, stamp);
  }
  if (arena.stamp > stamp || arena.had_no_memory) {
    return {};
  }
  MirrorRoom room;
  room.held = held_by(arena);
  room.left = window_->pool.bytes_left(kPlenty) / kGranule;
  // A mirror that lies apart may take twice its size of address space, and is aligned.
  const auto most = static_cast<std::int64_t>(mirrors_.size() / 2);
  const std::int64_t apart = window_->pool.largest_free() / (2 * kGranule) - most;
  room.span = arena.span + std::max(arena.capacity - arena.end, apart);
  return room;
}

std::int64_t Mirrors::held_by(const Arena& arena) const {
  const window::Pool& pool = window_->pool;
  std::int64_t bytes = arena.capacity == 0 ? 0
                                           : pool.committed_in(arena.buffer,
                                                               arena.data - arena.buffer.data(),
                                                               arena.capacity * kGranule);
  std::int64_t granules = bytes / kGranule;
  for (const Arena& apart : arena.apart) {
    granules += held_by(apart);
  }
  return granules;
}

/// What this rank says of its memory in its signal holds from there to its end.
bool Mirrors::may_take_memory(window::Stamp stamp) const noexcept {
  return window_->control->signalled.load() >= stamp && window_->control->done.load() < stamp;
}

/// The first thing that comes of a call ends what lies here of an earlier one.
void Mirrors::begin_call(std::size_t half, window::Stamp stamp) {
  Arena& arena = arenas_[half];
  for (std::size_t r = 0; r < mirrors_.size() / 2; ++r) {
    MirrorSlot& slot = slot_of(static_cast<int>(r), half);
    if (slot.arrived.value.load(std::memory_order_relaxed) != 0) {
      slot.arrived.store(0);
    }
  }
  window::fence_all();  // before any byte changes: see Transport::slot() and its readers
  if (arena.span > arena.capacity) {
    grow(arena);
  }
  arena.stamp = stamp;
  arena.end = 0;
  arena.span = 0;
  arena.claimed = 0;
  arena.had_no_memory = false;
  arena.touched.assign(static_cast<std::size_t>(arena.capacity), 0);
}

/// For as much as came at once. What had memory has it still.
void Mirrors::grow(Arena& arena) {
  const std::int64_t held = held_by(arena);
  const std::int64_t before = arena.capacity;
  arena.apart.clear();
  arena.buffer = Buffer();
  arena.capacity = 0;
  if (allocate(arena, arena.span) || allocate(arena, before)) {
    hold(arena, std::min(held, arena.capacity));
  }
}

/// A buffer in which so many granules lie wholly.
bool Mirrors::allocate(Arena& arena, std::int64_t granules) {
  auto buffer = window_->pool.allocate((granules + 1) * kGranule);
  if (!buffer.ok()) {
    return false;
  }
  arena.buffer = std::move(*buffer);
  const std::int64_t offset = window_->pool.offset_of(arena.buffer.data(), 0);
  arena.data = arena.buffer.data() + (granules_of(offset) * kGranule - offset);
  arena.capacity = granules;
  return true;
}

void Mirrors::begin(Mirror& mirror, Arena& arena, const MessageHead& head) {
  mirror = {.stamp = head.stamp};
  mirror.failed = head.value < 0 || head.value > window_->pool.region().size_bytes();
  if (mirror.failed) {
    return;
  }
  const std::int64_t span = granules_of(head.value);
  arena.span += span;
  if (span <= arena.capacity - arena.end) {
    mirror.data = arena.data + arena.end * kGranule;
    arena.end += span;
  } else {
    if (Arena own; allocate(own, span)) {
      mirror.data = own.data;
      mirror.apart = static_cast<int>(arena.apart.size());
      arena.apart.push_back(std::move(own));
    } else {
      mirror.failed = true;
      arena.had_no_memory = true;
      return;
    }
  }
  mirror.capacity = head.value;
}

std::byte* Mirrors::place(int from, const MessageHead& head, std::int64_t at, std::int64_t bytes) {
  Arena& arena = arenas_[head.half];
  if (head.stamp < arena.stamp) {
    return nullptr;  // of a call that is over: whoever sent it gave it up
  }
  if (head.stamp > arena.stamp) {
    begin_call(head.half, head.stamp);
  }
  Mirror& mirror = mirror_of(from, head.half);
  if (mirror.stamp != head.stamp) {
    begin(mirror, arena, head);
  }
  if (mirror.committed) {
    return nullptr;
  }
  const bool inside = head.value >= 0 && head.value <= mirror.capacity && at >= 0 && bytes >= 0 &&
                      bytes <= head.value && at <= head.value - bytes;
  mirror.failed = mirror.failed || !inside;
  // Holes, rows meant for other hosts, get no memory.
  if (!mirror.failed && !take(arena, mirror, at, bytes)) {
    mirror.failed = true;
    arena.had_no_memory = true;
  }
  if (mirror.failed) {
    return nullptr;
  }
  mirror.received += bytes;
  return mirror.data + at;
}

/// Memory for bytes of a mirror. Before this rank's signal, or where there is no more, in place of
/// what no mirror of the call has touched.
bool Mirrors::take(Arena& arena, const Mirror& mirror, std::int64_t at, std::int64_t bytes) {
  window::Pool& pool = window_->pool;
  const bool apart = mirror.apart >= 0;
  const Buffer& buffer =
      apart ? arena.apart[static_cast<std::size_t>(mirror.apart)].buffer : arena.buffer;
  const std::int64_t begin = mirror.data - buffer.data() + at;
  if (!apart && bytes > 0) {
    const std::int64_t first = (mirror.data + at - arena.data) / kGranule;
    const std::int64_t last = granules_of(mirror.data + at + bytes - arena.data);
    std::fill(arena.touched.begin() + first, arena.touched.begin() + last, 1);
  }
  const std::int64_t missing = pool.missing_in(buffer, begin, bytes);
  if (missing == 0) {
    return true;
  }
  if (may_take_memory(mirror.stamp) && pool.commit(buffer, begin, bytes).ok()) {
    return true;
  }
  return give_up_untouched(arena, missing / kGranule) && pool.commit(buffer, begin, bytes).ok();
}

/// True when there were so many.
bool Mirrors::give_up_untouched(Arena& arena, std::int64_t granules) {
  window::Pool& pool = window_->pool;
  for (std::int64_t i = arena.capacity - 1; i >= 0 && granules > 0; --i) {
    const std::int64_t begin = arena.data - arena.buffer.data() + i * kGranule;
    if (arena.touched[static_cast<std::size_t>(i)] == 0 &&
        pool.committed_in(arena.buffer, begin, kGranule) > 0) {
      pool.give_up(arena.buffer, begin, kGranule);
      --granules;
    }
  }
  return granules == 0;
}

/// Takes memory until there are so many. Where that fails, room() will tell.
void Mirrors::hold(Arena& arena, std::int64_t granules) {
  window::Pool& pool = window_->pool;
  std::int64_t missing = granules - held_by(arena);
  for (std::int64_t i = 0; i < arena.capacity && missing > 0; ++i) {
    const std::int64_t begin = arena.data - arena.buffer.data() + i * kGranule;
    if (pool.missing_in(arena.buffer, begin, kGranule) > 0) {
      if (!pool.commit(arena.buffer, begin, kGranule).ok()) {
        return;
      }
      --missing;
    }
  }
}

bool Mirrors::commit(int from, const MessageHead& head) {
  Arena& arena = arenas_[head.half];
  if (head.stamp < arena.stamp) {
    return false;
  }
  if (head.stamp > arena.stamp) {
    begin_call(head.half, head.stamp);
  }
  Mirror& mirror = mirror_of(from, head.half);
  MirrorSlot& slot = slot_of(from, head.half);
  if (mirror.stamp != head.stamp) {
    begin(mirror, arena, head);
  }
  if (mirror.committed || (!mirror.failed && mirror.received != head.at)) {
    return false;
  }
  mirror.committed = true;
  if (!mirror.failed) {
    arena.claimed += std::clamp<std::int64_t>(head.claim, 0, granules_of(mirror.capacity));
    // Who claims what it claimed in the last call of this half does not ask again, so it has to
    // find that there, although less may have come.
    if (may_take_memory(mirror.stamp)) {
      hold(arena, arena.claimed);
    }
  }
  slot.offset.store(mirror.failed ? 0 : window_->pool.offset_of(mirror.data, mirror.capacity),
                    std::memory_order_relaxed);
  slot.bytes.store(mirror.failed ? -1 : mirror.capacity, std::memory_order_relaxed);
  slot.arrived.store(mirror.stamp);
  return true;
}

}  // namespace waybill::transport
