#include "transport/mirrors.h"

#include <new>
#include <utility>

namespace waybill::transport {

using window::MirrorSlot;

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
  window.control->mirrors.store(window.pool.offset_of(table->data(), bytes) + 1,
                                std::memory_order_release);
  return Mirrors(window, std::move(*table), world_size);
}

MirrorSlot& Mirrors::slot_of(int from, std::size_t half) noexcept {
  return reinterpret_cast<MirrorSlot*>(table_.data())[window::slot_index(from, half)];
}

void Mirrors::begin(Mirror& mirror, MirrorSlot& slot, const MessageHead& head) {
  slot.arrived.store(0);
  window::fence_all();  // before any byte changes: see Transport::slot() and its readers
  mirror.stamp = head.stamp;
  mirror.received = 0;
  mirror.committed = false;
  mirror.failed = head.value < 0 || head.value > window_->pool.region().size_bytes();
  if (mirror.failed || (mirror.buffer && mirror.capacity >= head.value)) {
    return;
  }
  mirror.buffer = Buffer();
  mirror.capacity = 0;
  auto buffer = window_->pool.allocate(head.value);
  mirror.failed = !buffer.ok();
  if (buffer.ok()) {
    mirror.buffer = std::move(*buffer);
    mirror.capacity = head.value;
  }
}

std::byte* Mirrors::place(int from, const MessageHead& head, std::int64_t at, std::int64_t bytes) {
  Mirror& mirror = mirrors_[static_cast<std::size_t>(window::slot_index(from, head.half))];
  if (mirror.stamp != head.stamp) {
    begin(mirror, slot_of(from, head.half), head);
  }
  if (mirror.committed) {
    return nullptr;
  }
  const bool inside = head.value >= 0 && head.value <= mirror.capacity && at >= 0 && bytes >= 0 &&
                      bytes <= head.value && at <= head.value - bytes;
  mirror.failed = mirror.failed || !inside;
  // Holes, rows meant for other hosts, get no memory.
  if (mirror.failed || !window_->pool.commit(mirror.buffer, at, bytes).ok()) {
    mirror.failed = true;
    return nullptr;
  }
  mirror.received += bytes;
  return mirror.buffer.data() + at;
}

bool Mirrors::commit(int from, const MessageHead& head) {
  Mirror& mirror = mirrors_[static_cast<std::size_t>(window::slot_index(from, head.half))];
  MirrorSlot& slot = slot_of(from, head.half);
  if (mirror.stamp != head.stamp) {
    begin(mirror, slot, head);
  }
  if (mirror.committed || (!mirror.failed && mirror.received != head.at)) {
    return false;
  }
  mirror.committed = true;
  slot.offset.store(
      mirror.failed ? 0 : window_->pool.offset_of(mirror.buffer.data(), mirror.capacity),
      std::memory_order_relaxed);
  slot.bytes.store(mirror.failed ? -1 : mirror.capacity, std::memory_order_relaxed);
  slot.arrived.store(mirror.stamp);
  return true;
}

}  // namespace waybill::transport
