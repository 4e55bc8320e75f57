// How waits of a call that do not end well become errors.

#include <array>
#include <cstdio>
#include <string>
#include <utility>

#include "base/errors.h"
#include "engine/call.h"
#include "engine/whereabouts.h"

namespace waybill::engine {
namespace {

const char* phase_text(Phase phase) {
  switch (phase) {
    case Phase::kWaitHalf:
      return "waiting until an earlier call's rows were read";
    case Phase::kWaitReaders:
      return "waiting until its rows were read";
    default:
      return "waiting for signals";
  }
}

}  // namespace

Status Call::to_status(WaitResult result, Phase phase) {
  if (result.waited.count() > 0) {
    const std::lock_guard lock(session_.stats_mutex);
    session_.counted.wait_total_us += result.waited.count();
  }
  if (session_.options().log && !result.slept_for.empty()) {
    log_wait(result, phase);
  }
  if (result.end == WaitEnd::kArrived) {
    return {};
  }
  const std::string when = std::string(" (") + phase_text(phase) + ", call " +
                           std::to_string(session_.number) + ", epoch " +
                           std::to_string(session_.epoch) + ", rank " +
                           std::to_string(session_.rank()) + ")";
  const std::string who = result.ranks.empty() ? "" : name_ranks(result.ranks);
  switch (result.end) {
    case WaitEnd::kArrived:
      return {};
    case WaitEnd::kTimeout: {
      const std::string waited = std::to_string(timeout_.count()) + " ms" + when;
      const std::string where = whereabouts(result.ranks) + news_of(result.ranks);
      return fail(StatusCode::kTimeout,
                  who + " did not come within " + waited + "; " + where,
                  std::move(result.ranks));
    }
    case WaitEnd::kLost: {
      const char* text =
          result.ranks.size() == 1 ? " has ended its process" : " have ended their processes";
      const std::string news = news_of(result.ranks);
      return fail(StatusCode::kPeerLost, who + text + when + news, std::move(result.ranks));
    }
    case WaitEnd::kMovedOn:
      return fail(StatusCode::kInvalidState,
                  "this rank was left behind: " + who + " went on after a reset without it" + when,
                  {});
    case WaitEnd::kReset:
      return fail(StatusCode::kInvalidState, who + " called reset during this call" + when, {});
    case WaitEnd::kInterrupted:
      return fail(StatusCode::kInterrupted, "interrupted" + when, {});
  }
  return {};
}

/// Of ranks on other hosts.
std::string Call::news_of(const std::vector<int>& ranks) const {
  const std::string news = session_.transport().news_of(ranks);
  return news.empty() ? news : "; " + news;
}

std::string Call::whereabouts(const std::vector<int>& ranks) const {
  std::vector<const window::ControlPage*> pages;
  pages.reserve(ranks.size());
  for (const int rank : ranks) {
    pages.push_back(session_.peer(rank).control);
  }
  return describe_whereabouts(ranks, pages);
}

/// Who waited for whom, for people.
void Call::log_wait(const WaitResult& result, Phase phase) const {
  const double ms = static_cast<double>(result.waited.count()) / 1000;
  std::array<char, 64> waited{};
  std::snprintf(waited.data(), waited.size(), "%.1f ms", ms);
  session_.options().log("waybill: rank " + std::to_string(session_.rank()) + ": " +
                         contract::name_of(op_) + ", call " + std::to_string(session_.number) +
                         ", epoch " + std::to_string(session_.epoch) + ": " + phase_text(phase) +
                         ": " + waited.data() + " for " + name_ranks(result.slept_for));
}

Status Call::fail(StatusCode code, std::string message, std::vector<int> ranks) {
  failed_ = true;
  const std::string name = contract::name_of(op_);
  message = name + ": " + message;
  session_.reset_needed = message;
  // `left` before anything that this call published can be reused; see finish() of the readers.
  session_.transport().cancel(half_);
  session_.post(session_.page().left, stamp_);
  numerics::stream_fence();
  end();
  return error(code, name, "", std::move(message), std::move(ranks));
}

}  // namespace waybill::engine
