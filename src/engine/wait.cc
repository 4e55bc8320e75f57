#include "engine/wait.h"

#include <sched.h>

#include <algorithm>
#include <optional>
#include <thread>

#include "base/futex.h"
#include "base/pause.h"
#include "transport/other_hosts.h"

namespace waybill::engine {
namespace {

using Clock = std::chrono::steady_clock;
using transport::OtherHosts;

constexpr std::chrono::milliseconds kSlice{500};
constexpr std::chrono::microseconds kSpin{20};
constexpr std::chrono::microseconds kPoll{100};
constexpr std::chrono::milliseconds kLook{100};
constexpr int kYields = 100;
constexpr int kSpinsBetweenLooksAtTheClock = 64;

/// What a look at a rank that is missing found.
enum class Look {
  kGoOn,  ///< it may still come
  kDrop,  ///< nobody has to wait for it any more
  kEnd,   ///< it does not come: the wait ends
};

struct Finding {
  Look look = Look::kGoOn;
  WaitEnd end = WaitEnd::kArrived;  ///< of kEnd
  int rank = -1;                    ///< that is missing
  int because_of = -1;              ///< itself, or the rank that receives for it
};

/// Whether the owner of `page` has called reset since the epoch of `target` began: attempt a starts
/// epoch a + 1.
bool has_called_reset(const window::ControlPage& page, window::Stamp target) {
  return window::epoch_of(page.reset.joined.load()) >= window::epoch_of(target);
}

bool has_moved_on(const window::ControlPage& page, window::Stamp target) {
  return window::epoch_of(page.signalled.load()) > window::epoch_of(target);
}

/// How a WordWait looks at ranks. Owner: the Waiter.
class WordLook {
 public:
  WordLook(Session& session, const WordWait& what) : session_(session), what_(what) {}

  const std::vector<int>& ranks() const { return what_.ranks; }
  window::Stamp target() const { return what_.target; }
  std::chrono::milliseconds timeout() const { return what_.timeout; }
  const window::Word& word_of(int rank) const { return session_.peer(rank).control->*what_.word; }

  void note_wait(int rank, std::chrono::microseconds time) {
    session_.meter().wait_for(rank, time);
    if (what_.waited_us != nullptr) {
      (*what_.waited_us)[static_cast<std::size_t>(rank)] = time.count();
    }
  }

  void look_at(int rank, std::vector<Finding>& findings) const {
    const window::ControlPage& page = *session_.peer(rank).control;
    const auto end_with = [&](WaitEnd end) { findings.push_back({Look::kEnd, end, rank, rank}); };
    if (session_.is_gone(rank)) {
      findings.push_back(
          {what_.ended_is_arrived ? Look::kDrop : Look::kEnd, WaitEnd::kLost, rank, rank});
    } else if (has_moved_on(page, what_.target)) {
      end_with(WaitEnd::kMovedOn);
    } else if (has_called_reset(page, what_.target)) {
      end_with(WaitEnd::kReset);
    } else if (has_left_before(page.left.load(), what_.target)) {
      end_with(WaitEnd::kLeft);
    }
  }

 private:
  Session& session_;
  const WordWait& what_;
};

/// How an ArrivalWait looks at ranks. What a rank sends comes through its agent, so that both can
/// be why nothing comes. Owner: the Waiter.
class ArrivalLook {
 public:
  ArrivalLook(Session& session, const ArrivalWait& what) : session_(session), what_(what) {}

  const std::vector<int>& ranks() const { return session_.shipment().arriving(); }
  window::Stamp target() const { return what_.target; }
  std::chrono::milliseconds timeout() const { return what_.timeout; }
  const window::Word& word_of(int rank) const {
    return session_.shipment().arrival_of(session_.roll_call(), rank, what_.target);
  }

  void note_wait(int rank, std::chrono::microseconds time) {
    session_.meter().wait_for(rank, time);
  }

  void look_at(int rank, std::vector<Finding>& findings) const {
    look_at(rank, rank, findings);
    const int agent = session_.shipment().agent_of(session_.roll_call(), rank);
    if (agent != session_.rank()) {
      look_at(rank, agent, findings);
    }
  }

 private:
  void look_at(int rank, int because_of, std::vector<Finding>& findings) const {
    const window::ControlPage& page = *session_.peer(because_of).control;
    const window::Stamp left = page.left.load();
    const auto end_with = [&](WaitEnd end) {
      findings.push_back({Look::kEnd, end, rank, because_of});
    };
    if (left == what_.target || window::epoch_of(left) > window::epoch_of(what_.target)) {
      findings.push_back({Look::kDrop, WaitEnd::kArrived, rank, because_of});
    } else if (session_.is_gone(because_of)) {
      end_with(WaitEnd::kLost);
    } else if (has_moved_on(page, what_.target)) {
      end_with(WaitEnd::kMovedOn);
    } else if (because_of != rank && has_called_reset(page, what_.target)) {
      // The rank itself may call reset once it is through with the call, while its rows are still
      // on their way: they go to another rank than its words.
      end_with(WaitEnd::kReset);
    }
  }

  Session& session_;
  const ArrivalWait& what_;
};

/// One wait, from its first look to its end. `What` says which word of a rank is waited for, and
/// why a rank may not come. Owner: wait_for().
template <typename What>
class Waiter {
 public:
  Waiter(Session& session, What what)
      : session_(session),
        others_(session.other_hosts()),
        what_(what),
        missing_(session.lend_missing()),
        begin_(Clock::now()) {
    missing_.assign(what_.ranks().begin(), what_.ranks().end());
  }

  WaitResult run() {
    if (scan() || spin()) {
      return finish(WaitEnd::kArrived, {});
    }
    while (true) {
      if (auto ended = look_around()) {
        return std::move(*ended);
      }
      sleep();
      if (scan()) {
        return finish(WaitEnd::kArrived, {});
      }
    }
  }

 private:
  std::chrono::microseconds waited() const {
    return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin_);
  }

  /// Takes those that arrived off the list; true when none is missing.
  bool scan() {
    const auto arrived = [this](int rank) {
      if (!has_reached(what_.word_of(rank).load(), what_.target())) {
        return false;
      }
      if (has_scanned_) {
        what_.note_wait(rank, waited());
      }
      return true;
    };
    missing_.erase(std::remove_if(missing_.begin(), missing_.end(), arrived), missing_.end());
    has_scanned_ = true;
    return missing_.empty();
  }

  bool spin() {
    if (others_ != nullptr) {
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
    others_->begin_drive();
    auto end = Clock::now() + kSpin;
    int yields = 0;
    bool arrived = scan();
    while (!arrived && yields < kYields) {
      if (others_->drive()) {
        yields = 0;
        end = Clock::now() + kSpin;
      } else if (Clock::now() >= end || session_.transport().ranks_on_host() > session_.cores()) {
        ++yields;
        sched_yield();
      }
      arrived = scan();
      if (!arrived && Clock::now() - begin_ >= kSlice) {
        break;  // it is time to look around
      }
    }
    others_->end_drive(!arrived);
    return arrived;
  }

  /// Where no other thread moves messages.
  void sleep_and_drive() {
    const auto end = Clock::now() + kSlice;
    while (Clock::now() < end && Clock::now() - begin_ < what_.timeout() && !scan()) {
      if (!others_->drive()) {
        others_->sleep(std::chrono::milliseconds(1));
      }
    }
  }

  /// The rank that stores the word wakes whoever it sees asleep; so this rank says that it sleeps
  /// before it looks at the word for the last time.
  void sleep() {
    if (others_ != nullptr && others_->needs_driver()) {
      sleep_and_drive();
      return;
    }
    if (session_.options().log && slept_for_.empty()) {
      slept_for_ = missing_;
    }
    const window::Word& word = what_.word_of(missing_.front());
    session_.board().sleep(missing_.size(), missing_.front());
    const window::Stamp seen = word.load();
    if (!has_reached(seen, what_.target())) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          begin_ + what_.timeout() - Clock::now());
      const auto slice = std::clamp(left, std::chrono::milliseconds(1), kSlice);
      futex_wait(word.value, window::call_of(seen), slice);
    }
    session_.board().wake();
  }

  /// Nothing: the wait goes on.
  std::optional<WaitResult> look_around() {
    std::vector<Finding> findings;
    for (const int rank : missing_) {
      what_.look_at(rank, findings);
    }
    // A word posted just before the end of its process counts.
    if (scan()) {
      return finish(WaitEnd::kArrived, {});
    }
    drop(findings);
    for (const WaitEnd end : {WaitEnd::kLost, WaitEnd::kMovedOn, WaitEnd::kReset, WaitEnd::kLeft}) {
      if (std::vector<int> ranks = reasons(findings, end); !ranks.empty()) {
        return finish(end, std::move(ranks));
      }
    }
    if (session_.options().interrupted && session_.options().interrupted()) {
      return finish(WaitEnd::kInterrupted, {});
    }
    if (missing_.empty()) {
      return finish(WaitEnd::kArrived, {});
    }
    if (Clock::now() - begin_ >= what_.timeout()) {
      return finish(WaitEnd::kTimeout, missing_);
    }
    return std::nullopt;
  }

  bool is_missing(int rank) const {
    return std::find(missing_.begin(), missing_.end(), rank) != missing_.end();
  }

  /// Takes those off the list for which nobody has to wait any more.
  void drop(const std::vector<Finding>& findings) {
    for (const Finding& finding : findings) {
      if (finding.look == Look::kDrop) {
        std::erase(missing_, finding.rank);
      }
    }
  }

  /// The ranks because of which some rank does not come, each once, in order.
  std::vector<int> reasons(const std::vector<Finding>& findings, WaitEnd end) const {
    std::vector<int> ranks;
    for (const Finding& finding : findings) {
      if (finding.look == Look::kEnd && finding.end == end && is_missing(finding.rank)) {
        ranks.push_back(finding.because_of);
      }
    }
    std::sort(ranks.begin(), ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
    return ranks;
  }

  WaitResult finish(WaitEnd end, std::vector<int> ranks) {
    if (end != WaitEnd::kArrived) {
      for (const int rank : missing_) {
        what_.note_wait(rank, waited());
      }
    }
    return {end, std::move(ranks), waited(), slept_for_};
  }

  Session& session_;
  OtherHosts* const others_;
  What what_;
  std::vector<int>& missing_;
  const Clock::time_point begin_;
  bool has_scanned_ = false;  ///< from the second look on, a rank that arrives was waited for
  std::vector<int> slept_for_;
};

template <typename What>
WaitResult run_wait(Session& session, const What& what) {
  // Most waits are over before they begin: then not even the clock is read.
  const bool over = std::all_of(what.ranks().begin(), what.ranks().end(), [&](int rank) {
    return has_reached(what.word_of(rank).load(), what.target());
  });
  return over ? WaitResult() : Waiter<What>(session, what).run();
}

}  // namespace

WaitResult wait_for(Session& session, const WordWait& what) {
  return run_wait(session, WordLook(session, what));
}

WaitResult wait_for(Session& session, const ArrivalWait& what) {
  return run_wait(session, ArrivalLook(session, what));
}

WaitResult wait_until_sent(Session& session, std::size_t half, std::chrono::milliseconds timeout) {
  OtherHosts* const others = session.other_hosts();
  WaitResult result;
  if (others == nullptr || others->is_sent(half)) {
    return result;
  }
  const auto begin = Clock::now();
  auto look = begin + kLook;
  others->begin_drive();
  while (!others->is_sent(half) && result.end == WaitEnd::kArrived) {
    const auto now = Clock::now();
    if (now >= look) {
      look = now + kLook;
      if (session.options().interrupted && session.options().interrupted()) {
        result.end = WaitEnd::kInterrupted;
      } else if (now - begin >= timeout) {
        result.end = WaitEnd::kTimeout;
      }
    }
    if (!others->drive()) {
      std::this_thread::sleep_for(kPoll);
    }
  }
  others->end_drive(false);
  result.waited = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin);
  return result;
}

}  // namespace waybill::engine
