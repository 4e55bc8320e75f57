#include "engine/wait.h"

#include <sched.h>

#include <algorithm>
#include <mutex>

#include "base/futex.h"
#include "base/pause.h"

namespace waybill::engine {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kSlice{500};
constexpr std::chrono::microseconds kSpin{20};
constexpr int kYields = 100;
constexpr int kSpinsBetweenLooksAtTheClock = 64;

/// Who receives for this host what `rank` sends.
int agent_of(Session& session, int rank) {
  const Scratch& scratch = session.scratch();
  const auto at = std::find(scratch.members.begin(), scratch.members.end(), rank);
  return scratch.agents[static_cast<std::size_t>(at - scratch.members.begin())];
}

const window::Word& waited_word(Session& session, const WaitSpec& spec, int rank) {
  if (spec.word != nullptr) {
    return session.peer(rank).control->*spec.word;
  }
  const std::size_t half = window::call_of(spec.target) % 2;
  return session.transport().slot(agent_of(session, rank), rank, half).arrived;
}

class Waiter {
 public:
  Waiter(Session& session, const WaitSpec& spec)
      : session_(session), spec_(spec), missing_(session.scratch().waiting), begin_(Clock::now()) {
    missing_.assign(spec.ranks.begin(), spec.ranks.end());
  }

  WaitResult run() {
    if (scan() || spin()) {
      return finish(WaitEnd::kArrived, {});
    }
    WaitResult result = look_around();
    while (result.end == WaitEnd::kArrived && !missing_.empty()) {
      sleep();
      if (!scan()) {
        result = look_around();
      }
    }
    // The last look around may lie before the last sleep.
    return result.end == WaitEnd::kArrived ? finish(WaitEnd::kArrived, {}) : std::move(result);
  }

 private:
  const window::Word& word_of(int rank) const { return waited_word(session_, spec_, rank); }

  /// Takes those that arrived off the list; true when none is missing.
  bool scan() {
    const auto arrived = [this](int rank) {
      if (!has_reached(word_of(rank).load(), spec_.target)) {
        return false;
      }
      if (waited_) {
        note_wait(rank);
      }
      return true;
    };
    missing_.erase(std::remove_if(missing_.begin(), missing_.end(), arrived), missing_.end());
    waited_ = true;
    return missing_.empty();
  }

  void note_wait(int rank) {
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin_);
    const std::lock_guard lock(session_.stats_mutex);
    session_.counted.wait_us[static_cast<std::size_t>(rank)] += us.count();
    if (spec_.waited_us != nullptr) {
      (*spec_.waited_us)[static_cast<std::size_t>(rank)] = us.count();
    }
  }

  bool spin() {
    if (session_.transport().spans_hosts()) {
      return spin_and_drive();
    }
    // With more ranks than cores the one waited for needs this core.
    if (session_.transport().ranks_on_host() <= session_.cores()) {
      const auto end = begin_ + kSpin;
      do {
        for (int i = 0; i < kSpinsBetweenLooksAtTheClock; ++i) {
          pause();
        }
        if (scan()) {
          return true;
        }
      } while (Clock::now() < end);
    }
    for (int i = 0; i < kYields; ++i) {
      sched_yield();
      if (scan()) {
        return true;
      }
    }
    return false;
  }

  /// Moves messages as long as there are any.
  bool spin_and_drive() {
    transport::Transport& transport = session_.transport();
    transport.begin_drive();
    auto end = Clock::now() + kSpin;
    int yields = 0;
    bool arrived = scan();
    while (!arrived && yields < kYields) {
      if (transport.drive()) {
        yields = 0;
        end = Clock::now() + kSpin;
      } else if (Clock::now() >= end || transport.ranks_on_host() > session_.cores()) {
        ++yields;
        sched_yield();
      }
      arrived = scan();
      if (!arrived && Clock::now() - begin_ >= kSlice) {
        break;  // it is time to look around
      }
    }
    transport.end_drive(!arrived);
    return arrived;
  }

  /// Where nobody else moves messages.
  void sleep_and_drive() {
    transport::Transport& transport = session_.transport();
    const auto end = Clock::now() + kSlice;
    while (Clock::now() < end && Clock::now() - begin_ < spec_.timeout && !scan()) {
      if (!transport.drive()) {
        transport.sleep(std::chrono::milliseconds(1));
      }
    }
  }

  void sleep() {
    if (session_.transport().needs_driver()) {
      sleep_and_drive();
      return;
    }
    window::Word& asleep = session_.page().asleep;
    window::Word& waits_for = session_.page().waits_for;
    waits_for.value.store(static_cast<std::uint64_t>(missing_.size()) << 32 |
                              static_cast<std::uint32_t>(missing_.front() + 1),
                          std::memory_order_relaxed);
    if (session_.options().log && slept_for_.empty()) {
      slept_for_ = missing_;
    }
    const window::Word& word = word_of(missing_.front());
    window::step();
    asleep.value.store(1, std::memory_order_seq_cst);
    window::fence_all();
    const window::Stamp seen = word.load();
    if (!has_reached(seen, spec_.target)) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          begin_ + spec_.timeout - Clock::now());
      const auto slice = std::clamp(left, std::chrono::milliseconds(1), kSlice);
      futex_wait(word.value, window::call_of(seen), slice);
    }
    asleep.value.store(0, std::memory_order_relaxed);
    waits_for.value.store(0, std::memory_order_relaxed);
  }

  /// Why `rank` may not come, because of `who`: itself or whoever receives for it.
  struct Trouble {
    WaitEnd end;
    int rank;
    int who;
  };

  void note_trouble(std::vector<Trouble>& troubles, int rank, int who) {
    const window::ControlPage& page = *session_.peer(who).control;
    const std::uint32_t epoch = window::epoch_of(spec_.target);
    const window::Stamp left = page.left.load();
    if (spec_.word == nullptr && (left == spec_.target || window::epoch_of(left) > epoch)) {
      // Nothing more arrives: the call looks for itself.
      troubles.push_back({WaitEnd::kArrived, rank, who});
    } else if (session_.transport().has_ended(who)) {
      troubles.push_back({WaitEnd::kLost, rank, who});
    } else if (window::epoch_of(page.signalled.load()) > epoch) {
      troubles.push_back({WaitEnd::kMovedOn, rank, who});
    } else if (spec_.word == nullptr && who == rank) {
      // A rank that is through with the call may call reset while its rows are on their way: they
      // go to another rank than its words.
      return;
    } else if (window::epoch_of(page.reset.joined.load()) >= epoch) {
      troubles.push_back({WaitEnd::kReset, rank, who});  // attempt a starts epoch a + 1
    }
  }

  /// Anything but kArrived ends the wait.
  WaitResult look_around() {
    std::vector<Trouble> troubles;
    for (const int rank : missing_) {
      note_trouble(troubles, rank, rank);
      if (spec_.word == nullptr && agent_of(session_, rank) != session_.rank()) {
        note_trouble(troubles, rank, agent_of(session_, rank));
      }
    }
    // A word posted just before the end of its process counts.
    if (scan()) {
      return finish(WaitEnd::kArrived, {});
    }
    drop(whose(troubles, WaitEnd::kArrived, false));
    if (spec_.ended_is_arrived) {
      drop(whose(troubles, WaitEnd::kLost, false));
    }
    for (const WaitEnd end : {WaitEnd::kLost, WaitEnd::kMovedOn, WaitEnd::kReset}) {
      if (std::vector<int> ranks = whose(troubles, end, true); !ranks.empty()) {
        return finish(end, std::move(ranks));
      }
    }
    if (session_.options().interrupted && session_.options().interrupted()) {
      return finish(WaitEnd::kInterrupted, {});
    }
    if (!missing_.empty() && Clock::now() - begin_ >= spec_.timeout) {
      return finish(WaitEnd::kTimeout, missing_);
    }
    return finish(WaitEnd::kArrived, {});
  }

  static bool contains(const std::vector<int>& ranks, int rank) {
    return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
  }

  /// Those that are still missing for this reason, or who is the reason: each once, in order.
  std::vector<int> whose(const std::vector<Trouble>& troubles, WaitEnd end, bool who) const {
    std::vector<int> ranks;
    for (const Trouble& trouble : troubles) {
      if (trouble.end == end && contains(missing_, trouble.rank)) {
        ranks.push_back(who ? trouble.who : trouble.rank);
      }
    }
    std::sort(ranks.begin(), ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
    return ranks;
  }

  void drop(const std::vector<int>& ranks) {
    std::erase_if(missing_, [&](int rank) { return contains(ranks, rank); });
  }

  WaitResult finish(WaitEnd end, std::vector<int> ranks) {
    if (end != WaitEnd::kArrived) {
      for (const int rank : missing_) {
        note_wait(rank);
      }
    }
    return {end,
            std::move(ranks),
            std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin_),
            slept_for_};
  }

  Session& session_;
  const WaitSpec& spec_;
  std::vector<int>& missing_;
  const Clock::time_point begin_;
  bool waited_ = false;
  std::vector<int> slept_for_;
};

}  // namespace

WaitResult wait_for(Session& session, const WaitSpec& spec) {
  // Most waits are over before they begin: then not even the clock is read.
  const bool over = std::all_of(spec.ranks.begin(), spec.ranks.end(), [&](int rank) {
    return has_reached(waited_word(session, spec, rank).load(), spec.target);
  });
  return over ? WaitResult() : Waiter(session, spec).run();
}

}  // namespace waybill::engine
