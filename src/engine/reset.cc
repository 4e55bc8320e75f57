#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "base/errors.h"
#include "base/futex.h"
#include "engine/reset_posts.h"
#include "engine/session.h"
#include "window/control.h"

namespace waybill::engine {
namespace {

using Clock = std::chrono::steady_clock;
using window::ControlPage;
using window::ResetStage;

constexpr const char* kName = "reset";
constexpr std::chrono::milliseconds kPoll{1};
constexpr std::chrono::milliseconds kGrace{2000};
/// How often a process that comes back looks for ranks that it has not met.
constexpr std::chrono::milliseconds kCallAgain{50};

/// One rank's part in the agreement on who is there (docs/protocol.md, "Reset").
class Reset {
 public:
  explicit Reset(Session& session)
      : session_(session), own_(session.page()), newcomer_(own_.newcomer.load() != 0) {}

  Result<std::vector<int>> run() {
    session_.enter(Phase::kReset, contract::Operator::kNone);
    come_end_ = Clock::now() + session_.timeout();
    alone_end_ = Clock::now() + kGrace;
    Status status = meet_others();
    if (status.ok()) {
      status = choose_attempt();
    }
    while (status.ok() && !concluded_) {
      join();
      status = agree();
      if (newcomer_ && excluded_) {
        // The others went on without it; their next reset may take it in.
        excluded_ = false;
        status = choose_attempt();
      }
    }
    if (!status.ok()) {
      if (attempt_ > 0) {
        post_joined(own_, attempt_, ResetStage::kGaveUp);
        tell(own_.reset.joined);
      }
      session_.enter(Phase::kIdle, contract::Operator::kNone);
      return status;
    }
    begin_epoch();
    session_.enter(Phase::kIdle, contract::Operator::kNone);
    return members_;
  }

 private:
  enum class Outcome { kOpen, kHolds, kBroken };

  const ControlPage& page(int rank) const { return *session_.peer(rank).control; }
  bool lives(int rank) const {
    return rank == session_.rank() || !session_.transport().has_ended(rank);
  }

  /// The attempt that is under way, or the next one. Never one that this rank was in: it may have
  /// accepted a list there.
  Status choose_attempt() {
    const std::uint32_t past = std::max(session_.known_attempt, read_joined(own_).attempt);
    std::uint32_t latest = past;
    bool under_way = false;
    bool late = false;
    for (const int r : others()) {
      const Joined theirs = read_joined(page(r));
      if (theirs.attempt < latest) {
        continue;
      }
      const bool open =
          (theirs.stage == ResetStage::kGathering || theirs.stage == ResetStage::kClosed) &&
          lives(r);
      under_way = open || (under_way && theirs.attempt == latest);
      latest = theirs.attempt;
      if (theirs.stage == ResetStage::kConcluded && theirs.attempt > session_.known_attempt) {
        session_.known_attempt = theirs.attempt;
        late = !newcomer_;
      }
    }
    if (late) {
      return left_behind(session_.known_attempt);
    }
    const std::uint32_t least = std::max(past, session_.known_attempt);
    attempt_ = under_way && latest > least ? latest : latest + 1;
    return {};
  }

  Status left_behind(std::uint32_t attempt) const {
    return error(StatusCode::kInvalidState,
                 kName,
                 "",
                 "reset: this rank came too late: the others went on without it in epoch " +
                     std::to_string(attempt + 1) +
                     "; expected another reset in which all take part"
                     " (rank " +
                     std::to_string(session_.rank()) + ")");
  }

  /// Processes that come back are taken in only while this rank has accepted no list: what a list
  /// means does not change under it.
  Status meet_others() {
    if (closer_ < 0) {
      session_.transport().take_in();
    }
    if (!newcomer_ || Clock::now() - called_ < kCallAgain) {
      return {};
    }
    called_ = Clock::now();
    if (session_.transport().call_others() > 0 || a_member_lives()) {
      alone_end_ = called_ + kGrace;
      return {};
    }
    // Others that come back, too, may be met before somebody who never left.
    if (others_alive().empty() || called_ >= alone_end_) {
      return error(StatusCode::kPeerLost,
                   "connect",
                   "",
                   "connect: expected ranks of this group that live, got none (rank " +
                       std::to_string(session_.rank()) + ")",
                   others());
    }
    return {};
  }

  std::vector<int> others_alive() const {
    std::vector<int> ranks = others();
    std::erase_if(ranks, [this](int r) { return !lives(r); });
    return ranks;
  }
  /// Some rank that this one has met and that did not just come back.
  bool a_member_lives() const {
    const std::vector<int> ranks = others_alive();
    return std::any_of(
        ranks.begin(), ranks.end(), [this](int r) { return page(r).newcomer.load() == 0; });
  }

  std::vector<int> others() const {
    std::vector<int> ranks;
    for (int r = 0; r < session_.world_size(); ++r) {
      if (r != session_.rank()) {
        ranks.push_back(r);
      }
    }
    return ranks;
  }

  Status nobody_came() const {
    std::vector<int> ranks = others();
    std::string message = "connect: timed out: " + name_ranks(ranks) +
                          " did not call reset to take this rank in (rank " +
                          std::to_string(session_.rank()) + ")";
    return error(StatusCode::kTimeout, "connect", "", std::move(message), std::move(ranks));
  }

  /// Ranks of other hosts do not see what is stored.
  void tell(const window::Word& word) { session_.transport().posted(word); }

  void join() {
    closer_ = -1;
    differing_ = -1;
    own_.reset.call.store(session_.number);
    tell(own_.reset.call);
    post_joined(own_, attempt_, ResetStage::kGathering);
    tell(own_.reset.joined);
    for (window::Word* word : {&own_.signalled, &own_.done}) {
      futex_wake_all(word->value);  // ranks that wait for this one in an old call
    }
    gather_end_ = Clock::now() + session_.timeout();
  }

  /// Until the list of this attempt holds, or the attempt is over and the next one begins.
  Status agree() {
    auto end = gather_end_ + session_.timeout() + kGrace;
    const std::uint32_t attempt = attempt_;
    while (!concluded_ && attempt_ == attempt) {
      if (Status status = meet_others(); !status.ok()) {
        return status;
      }
      if (newcomer_ && !a_member_is_here()) {
        // The time to gather begins with the first one who is not new.
        gather_end_ = Clock::now() + session_.timeout();
        end = gather_end_ + session_.timeout() + kGrace;
        if (Clock::now() >= come_end_) {
          return nobody_came();
        }
      }
      sees_open_list_ = false;
      for (const int r : others()) {
        if (!concluded_ && !excluded_ && attempt_ == attempt) {
          look_at(r);
        }
      }
      if (concluded_) {
        return {};
      }
      if (excluded_) {
        session_.known_attempt = std::max(session_.known_attempt, attempt);
        return newcomer_ ? Status() : left_behind(session_.known_attempt);
      }
      if (attempt_ != attempt) {
        return {};
      }
      if (closer_ < 0 && may_close()) {
        close();
      }
      if (closer_ >= 0) {
        judge();
      }
      if (concluded_ || attempt_ != attempt) {
        return {};
      }
      if (session_.options().interrupted && session_.options().interrupted()) {
        return error(StatusCode::kInterrupted, kName, "", "reset: interrupted");
      }
      if (Clock::now() >= end) {
        return timed_out();
      }
      pause();
    }
    return {};
  }

  void pause() {
    if (session_.transport().spans_hosts()) {
      session_.flush(kPoll);
    }
    std::this_thread::sleep_for(kPoll);
  }

  /// Follows a later attempt, or the list that r has closed.
  void look_at(int r) {
    const Joined theirs = read_joined(page(r));
    if (theirs.attempt > attempt_ && theirs.stage != ResetStage::kGaveUp && lives(r)) {
      // It may have concluded this attempt and be in its next reset already. What it accepted here
      // stays posted until this rank has come there, too.
      if (closer_ >= 0 && (outcome(closer_, list_) == Outcome::kHolds || has_begun(r))) {
        concluded_ = true;
        return;
      }
      excluded_ = theirs.stage == ResetStage::kConcluded;
      if (excluded_) {
        session_.known_attempt = theirs.attempt;  // the next reset does not report it again
      } else {
        attempt_ = theirs.attempt;
      }
      return;
    }
    if (theirs.attempt != attempt_) {
      return;
    }
    if (theirs.stage == ResetStage::kConcluded) {
      const int closer = accepted_in(page(r), attempt_);
      if (closer_ >= 0 && closer == closer_) {
        concluded_ = list_.has(r);  // somebody on the list found that it holds: it does
      } else if (closer >= 0) {
        excluded_ = true;  // a list held that this rank has not accepted
      }
      return;
    }
    if (closer_ < 0) {
      if (const auto list = read_list(page(r), attempt_)) {
        consider(r, *list);
      }
    }
  }

  /// r has concluded the accepted list: the epoch of this attempt is out. Words of other hosts come
  /// in order from each rank, but what r saw of a third one may reach this rank later.
  bool has_begun(int r) const {
    return list_.has(r) && accepted_in(page(r), attempt_) == closer_ &&
           window::epoch_of(page(r).signalled.load()) == attempt_ + 1;
  }

  /// Accepts the list of r when it names this rank and means the same processes as this rank does.
  void consider(int r, const ResetList& list) {
    if (!list.has(session_.rank())) {
      switch (outcome(r, list)) {
        case Outcome::kHolds:
          excluded_ = true;
          break;
        case Outcome::kBroken:
          ++attempt_;
          break;
        case Outcome::kOpen:
          sees_open_list_ = true;
          break;
      }
      return;
    }
    if (list.incarnations == incarnations(list)) {
      accept(r, list);
      return;
    }
    sees_open_list_ = true;
    const auto now = Clock::now();
    if (differing_ != r) {
      differing_ = r;
      differing_end_ = now + kGrace;
    } else if (now >= differing_end_) {
      ++attempt_;
    }
  }

  /// The hash over the members of a list, as this rank knows their processes.
  std::uint64_t incarnations(const ResetList& list) const {
    std::uint64_t hash = 0;
    for (int r = 0; r < session_.world_size(); ++r) {
      hash ^= list.has(r) ? incarnation_hash(r, page(r)) : 0;
    }
    return hash;
  }

  bool is_here(int r) const {
    const Joined joined = read_joined(page(r));
    return joined.attempt == attempt_ && joined.stage != ResetStage::kGaveUp;
  }

  /// Some rank that did not just come back is in this attempt.
  bool a_member_is_here() const {
    const std::vector<int> ranks = others();
    return std::any_of(ranks.begin(), ranks.end(), [this](int r) {
      return lives(r) && is_here(r) && page(r).newcomer.load() == 0;
    });
  }

  /// The lowest rank present that never left closes, once every living rank has come or the time is
  /// over; never one that came back: it does not know yet who else lives. Notes who is present: the
  /// list has those of one look.
  bool may_close() {
    if (newcomer_ || sees_open_list_) {
      return false;
    }
    present_.clear();
    bool all_here = true;
    for (int r = 0; r < session_.world_size(); ++r) {
      if (!lives(r)) {
        continue;
      }
      const bool here = is_here(r);
      if (here && r < session_.rank() && page(r).newcomer.load() == 0) {
        return false;
      }
      if (here) {
        present_.push_back(r);
      }
      all_here = all_here && here;
    }
    return all_here || Clock::now() >= gather_end_;
  }

  void close() {
    ResetList list;
    for (const int r : present_) {
      list.add(r);
      list.call = std::max(list.call, static_cast<std::uint32_t>(page(r).reset.call.load()));
    }
    list.incarnations = incarnations(list);
    post_list(own_, attempt_, list);
    tell(own_.reset.list);
    accept(session_.rank(), list);
  }

  void accept(int closer, const ResetList& list) {
    closer_ = closer;
    list_ = list;
    post_accepted(own_, attempt_, closer);
    tell(own_.reset.accepted);
    post_joined(own_, attempt_, ResetStage::kClosed);
    tell(own_.reset.joined);
    accept_end_ = Clock::now() + session_.timeout();
  }

  /// Holds when all on it have accepted it. Broken for good when one has accepted another list of
  /// this attempt, or died without accepting.
  Outcome outcome(int closer, const ResetList& list) const {
    bool all = true;
    for (int r = 0; r < session_.world_size(); ++r) {
      if (!list.has(r)) {
        continue;
      }
      if (!session_.transport().is_known(r)) {
        all = false;
        continue;
      }
      const bool alive = lives(r);  // before the word: what a dead rank posted is final
      const int accepted = accepted_in(page(r), attempt_);
      if (accepted == closer) {
        continue;
      }
      if (accepted >= 0 || !alive || read_joined(page(r)).stage == ResetStage::kGaveUp) {
        return Outcome::kBroken;
      }
      all = false;
    }
    return all ? Outcome::kHolds : Outcome::kOpen;
  }

  void judge() {
    const Outcome now = outcome(closer_, list_);
    concluded_ = now == Outcome::kHolds;
    if (now == Outcome::kBroken || (now == Outcome::kOpen && Clock::now() >= accept_end_)) {
      ++attempt_;
    }
  }

  Status timed_out() const {
    std::vector<int> missing;
    for (int r = 0; r < session_.world_size(); ++r) {
      if (lives(r) && !is_here(r)) {
        missing.push_back(r);
      }
    }
    std::string message =
        "reset: timed out: no list was agreed on; missing: " + join_ranks(missing) + " (rank " +
        std::to_string(session_.rank()) + ")";
    return error(StatusCode::kTimeout, kName, "", std::move(message), std::move(missing));
  }

  void begin_epoch() {
    session_.absent.clear();
    for (int r = 0; r < session_.world_size(); ++r) {
      (list_.has(r) ? members_ : session_.absent).push_back(r);
    }
    for (std::vector<int>& users : session_.half_users) {
      users = members_;
    }
    session_.epoch = attempt_ + 1;
    session_.number = list_.call;
    session_.known_attempt = attempt_;
    session_.reset_needed.clear();
    own_.newcomer.store(0);
    const window::Stamp start = window::stamp(session_.epoch, session_.number);
    // The new epoch is out before anything of the old one is overwritten.
    session_.post(own_.signalled, start);
    session_.post(own_.done, start);
    numerics::stream_fence();
    post_joined(own_, attempt_, ResetStage::kConcluded);
    tell(own_.reset.joined);
    const std::lock_guard lock(session_.stats_mutex);
    session_.counted.epoch = session_.epoch;
    session_.counted.absent = session_.absent;
  }

  Session& session_;
  ControlPage& own_;
  const bool newcomer_;  ///< this process came back under the rank of one that has ended
  Clock::time_point come_end_;
  Clock::time_point alone_end_;
  Clock::time_point called_;
  Clock::time_point gather_end_;
  Clock::time_point differing_end_;
  Clock::time_point accept_end_;
  std::uint32_t attempt_ = 0;
  int closer_ = -1;
  int differing_ = -1;  ///< whose list means other processes than this rank knows
  bool concluded_ = false;
  bool excluded_ = false;
  bool sees_open_list_ = false;  ///< somebody else's, of this attempt
  ResetList list_;               ///< that of closer_
  std::vector<int> present_;
  std::vector<int> members_;
};

}  // namespace

Result<std::vector<int>> Session::reset() {
  if (Status status = occupy(kName); !status.ok()) {
    return status;
  }
  if (open_setup != nullptr) {
    open_setup->end();
  }
  Result<std::vector<int>> members = Reset(*this).run();
  if (open_setup != nullptr) {
    open_setup->withdraw();
  }
  if (!members.ok() && open_setup != nullptr) {
    // Its rows may lie in the pool, and go now: whoever reads on gets an error.
    post(page().left, window::stamp(epoch + 1, 0));
    numerics::stream_fence();
  }
  open_setup.reset();
  if (!members.ok()) {
    reset_needed = members.status().message();
  }
  busy.store(false, std::memory_order_release);
  return members;
}

}  // namespace waybill::engine
