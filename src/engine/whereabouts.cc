#include "engine/whereabouts.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace waybill::engine {
namespace {

std::string seconds(std::chrono::nanoseconds time) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f s", std::chrono::duration<double>(time).count());
  return text.data();
}

std::string describe(const Whereabouts& where) {
  std::string text;
  if (where.phase == Phase::kIdle) {
    text = "idle for " + seconds(where.since) + " after call " + std::to_string(where.call);
  } else if (where.phase == Phase::kReset) {
    text = "in reset for " + seconds(where.since);
  } else {
    text = std::string("in ") + contract::name_of(where.op) + " (" + name_of(where.phase) +
           " for " + seconds(where.since) + ", call " + std::to_string(where.call) + ")";
  }
  return text + (where.needs_reset ? ", needs a reset" : "");
}

}  // namespace

Whereabouts whereabouts_of(const window::ControlPage& page) {
  Whereabouts where;
  const std::uint64_t phase = page.phase.load();
  where.phase = static_cast<Phase>(phase >> 32);
  where.op = static_cast<contract::Operator>(static_cast<std::uint32_t>(phase));
  const window::Stamp call = page.call.load();
  where.call = window::call_of(call);
  where.epoch = std::max(window::epoch_of(call), window::epoch_of(page.signalled.load()));
  const window::Stamp left = page.left.load();
  where.needs_reset = window::call_of(left) != 0 && window::epoch_of(left) == where.epoch;
  const std::uint64_t waits_for = page.waits_for.load();
  where.num_missing = static_cast<int>(waits_for >> 32);
  where.waits_for = static_cast<int>(static_cast<std::uint32_t>(waits_for)) - 1;
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  where.since = now - std::chrono::nanoseconds(page.phase_since.load());
  where.since = page.phase_since.load() == 0 ? std::chrono::nanoseconds(0) : where.since;
  return where;
}

std::string describe_whereabouts(const std::vector<int>& ranks,
                                 const std::vector<const window::ControlPage*>& pages) {
  std::string text;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    text += (text.empty() ? "" : "; ") + std::string("rank ") + std::to_string(ranks[i]) + ": " +
            describe(whereabouts_of(*pages[i]));
  }
  return text;
}

}  // namespace waybill::engine
