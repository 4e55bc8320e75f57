#include "engine/reset_posts.h"

namespace waybill::engine {

using window::ControlPage;
using window::ResetStage;

namespace {

constexpr std::uint64_t pack(std::uint32_t high, std::uint32_t low) noexcept {
  return static_cast<std::uint64_t>(high) << 32 | low;
}
constexpr std::uint32_t high(std::uint64_t word) noexcept {
  return static_cast<std::uint32_t>(word >> 32);
}
constexpr std::uint32_t low(std::uint64_t word) noexcept {
  return static_cast<std::uint32_t>(word);
}

}  // namespace

Joined read_joined(const ControlPage& page) noexcept {
  const std::uint64_t word = page.reset.joined.load();
  return {high(word), static_cast<ResetStage>(low(word))};
}

void post_joined(ControlPage& page, std::uint32_t attempt, ResetStage stage) noexcept {
  page.reset.joined.store(pack(attempt, static_cast<std::uint32_t>(stage)));
}

int accepted_in(const ControlPage& page, std::uint32_t attempt) noexcept {
  const std::uint64_t word = page.reset.accepted.load();
  return high(word) == attempt ? static_cast<int>(low(word)) - 1 : -1;
}

void post_accepted(ControlPage& page, std::uint32_t attempt, int closer) noexcept {
  page.reset.accepted.store(pack(attempt, static_cast<std::uint32_t>(closer) + 1));
}

std::optional<ResetList> read_list(const ControlPage& page, std::uint32_t attempt) noexcept {
  const std::uint64_t word = page.reset.list.load();
  if (high(word) != attempt) {
    return std::nullopt;
  }
  ResetList list;
  list.call = low(word);
  list.incarnations = page.reset.incarnations.load();
  for (std::size_t i = 0; i < list.members.size(); ++i) {
    window::step();
    list.members[i] = page.reset.members[i].load();
  }
  window::fence_reads();
  if (read_joined(page).attempt != attempt) {
    return std::nullopt;
  }
  return list;
}

void post_list(ControlPage& page, std::uint32_t attempt, const ResetList& list) noexcept {
  for (std::size_t i = 0; i < list.members.size(); ++i) {
    window::step();
    page.reset.members[i].store(list.members[i]);
  }
  page.reset.incarnations.store(list.incarnations);
  page.reset.list.store(pack(attempt, list.call));
}

std::uint64_t incarnation_hash(int rank, const ControlPage& page) noexcept {
  std::uint64_t value = page.identity.incarnation + static_cast<std::uint64_t>(rank);
  value = (value ^ value >> 32) * 0x9e3779b97f4a7c15;
  return (value ^ value >> 29) * 0xbf58476d1ce4e5b9;
}

}  // namespace waybill::engine
