#include "window/page_reads.h"

#include <atomic>
#include <cstring>

namespace waybill::window {

bool read_header(const ControlPage& page, Stamp stamp, CallHeader& header) noexcept {
  const CallHeader& stored = page.headers[half_of_call(stamp)];
  step();
  std::memcpy(&header, &stored, sizeof(header));
  step();
  fence_reads();
  // Peers map the page read-only; an atomic load does not write.
  std::atomic_ref<Stamp> published(const_cast<Stamp&>(stored.stamp));
  return header.stamp == stamp && published.load(std::memory_order_acquire) == stamp;
}

Joined read_joined(const ControlPage& page) noexcept {
  const Stamp word = page.reset.joined.load();
  return {epoch_of(word), static_cast<ResetStage>(call_of(word))};
}

int accepted_in(const ControlPage& page, std::uint32_t attempt) noexcept {
  const Stamp word = page.reset.accepted.load();
  return epoch_of(word) == attempt ? static_cast<int>(call_of(word)) - 1 : -1;
}

std::optional<ResetList> read_list(const ControlPage& page, std::uint32_t attempt) noexcept {
  const Stamp word = page.reset.list.load();
  if (epoch_of(word) != attempt) {
    return std::nullopt;
  }
  ResetList list;
  list.call = call_of(word);
  list.incarnations = page.reset.incarnations.load();
  for (std::size_t i = 0; i < list.members.size(); ++i) {
    step();
    list.members[i] = page.reset.members[i].load();
  }
  fence_reads();
  if (read_joined(page).attempt != attempt) {
    return std::nullopt;
  }
  return list;
}

std::uint32_t concluded_by(const ControlPage& page) noexcept {
  // `signalled` is in the new epoch before `joined` says that the attempt was concluded, and other
  // ranks may see the one without the other. A new process under an old rank has no epoch yet.
  const std::uint32_t epoch = epoch_of(page.signalled.load());
  return epoch == 0 ? 0 : epoch - 1;
}

std::uint64_t incarnation_hash(int rank, const ControlPage& page) noexcept {
  std::uint64_t value = page.identity.incarnation + static_cast<std::uint64_t>(rank);
  value = (value ^ value >> 32) * 0x9e3779b97f4a7c15;
  return (value ^ value >> 29) * 0xbf58476d1ce4e5b9;
}

}  // namespace waybill::window
