#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "base/errors.h"
#include "engine/call.h"
#include "engine/session.h"
#include "window/control.h"
#include "window/page_reads.h"

namespace waybill::engine {
namespace {

using Clock = std::chrono::steady_clock;
using window::ControlPage;
using window::ResetList;
using window::ResetStage;

constexpr const char* kName = "reset";
constexpr std::chrono::milliseconds kPoll{1};
constexpr std::chrono::milliseconds kGrace{2000};
/// How often a process that comes back looks for ranks that it has not met.
constexpr std::chrono::milliseconds kCallAgain{50};

/// Where a rank is in one attempt of a reset.
enum class Stage {
  kGathering,  ///< it has accepted no list
  kAccepted,   ///< it has accepted list_, that of closer_
  kHeld,       ///< list_ holds
  kExcluded,   ///< a list without this rank held
  kOver,       ///< the attempt comes to nothing: attempt_ is the next one
};

/// One rank's part in the agreement on which ranks are there (docs/protocol.md, "Reset"). Owner:
/// Session::reset(), for one reset.
class Reset {
 public:
  explicit Reset(Session& session)
      : session_(session),
        board_(session.board()),
        newcomer_(session.page().newcomer.load() != 0) {}

  Result<std::vector<int>> run() {
    session_.enter(Phase::kReset, contract::Operator::kNone);
    come_end_ = Clock::now() + session_.timeout();
    alone_end_ = Clock::now() + kGrace;
    Status status = meet_others();
    if (status.ok()) {
      status = choose_attempt();
    }
    while (status.ok() && stage_ != Stage::kHeld) {
      join();
      status = agree();
      if (status.ok() && stage_ == Stage::kExcluded) {
        // The others went on without this new process; their next reset may take it in.
        status = choose_attempt();
      }
    }
    if (!status.ok()) {
      if (attempt_ > 0) {
        board_.give_up_reset(attempt_);
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
  bool lives(int rank) const { return rank == session_.rank() || !session_.is_gone(rank); }
  bool is_decided() const { return stage_ != Stage::kGathering && stage_ != Stage::kAccepted; }

  /// The attempt comes to nothing for this rank, which goes on to `next`.
  void leave_for(std::uint32_t next) {
    attempt_ = next;
    stage_ = Stage::kOver;
  }

  /// The attempt that is under way, or the next one. Never one that this rank was in: it may have
  /// accepted a list there.
  Status choose_attempt() {
    Standing& standing = session_.standing();
    const bool told = standing.knows_it_is_left_behind();
    const std::uint32_t before = standing.known_attempt();
    const std::uint32_t own = std::max(before, window::read_joined(session_.page()).attempt);
    std::uint32_t latest = own;
    bool under_way = false;
    for (const int r : others()) {
      const window::Joined theirs = window::read_joined(page(r));
      standing.learn_attempt(window::concluded_by(page(r)));
      if (theirs.attempt < latest) {
        continue;
      }
      const bool open =
          (theirs.stage == ResetStage::kGathering || theirs.stage == ResetStage::kClosed) &&
          lives(r);
      under_way = open || (under_way && theirs.attempt == latest);
      latest = theirs.attempt;
    }
    const std::uint32_t known = standing.known_attempt();
    if (known > before && !told && !newcomer_) {
      return left_behind(known);
    }
    const std::uint32_t past = std::max(own, known);
    attempt_ = under_way && latest > past ? latest : std::max(latest, past) + 1;
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
    if (stage_ == Stage::kGathering) {
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

  void join() {
    stage_ = Stage::kGathering;
    closer_ = -1;
    differing_ = -1;
    board_.join(attempt_, session_.standing().number());
    gather_end_ = Clock::now() + session_.timeout();
  }

  /// Until the list of this attempt holds, or the attempt is over and the next one begins.
  Status agree() {
    auto end = gather_end_ + session_.timeout() + kGrace;
    while (true) {
      WAYBILL_RETURN_IF_ERROR(meet_others());
      if (newcomer_ && !a_member_is_here()) {
        // The time to gather begins with the first rank that is not new.
        gather_end_ = Clock::now() + session_.timeout();
        end = gather_end_ + session_.timeout() + kGrace;
        if (Clock::now() >= come_end_) {
          return nobody_came();
        }
      }
      const bool sees_open_list = look_at_others();
      if (stage_ == Stage::kGathering && !sees_open_list && may_close()) {
        close();
      }
      if (stage_ == Stage::kAccepted) {
        judge();
      }
      if (stage_ == Stage::kExcluded) {
        session_.standing().learn_attempt(attempt_);
        session_.note_left_behind();
        return newcomer_ ? Status() : left_behind(session_.standing().known_attempt());
      }
      if (is_decided()) {
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
  }

  /// True where another rank has closed a list of this attempt that is still open.
  bool look_at_others() {
    bool sees_open_list = false;
    for (const int r : others()) {
      if (!is_decided()) {
        sees_open_list = look_at(r) || sees_open_list;
      }
    }
    return sees_open_list;
  }

  void pause() {
    if (session_.other_hosts() != nullptr) {
      session_.flush(kPoll);
    }
    std::this_thread::sleep_for(kPoll);
  }

  /// Follows a later attempt, or the list that r has closed. True where that list is still open.
  bool look_at(int r) {
    const window::Joined theirs = window::read_joined(page(r));
    if (theirs.attempt > attempt_ && theirs.stage != ResetStage::kGaveUp && lives(r)) {
      follow(r, theirs);
      return false;
    }
    if (theirs.attempt != attempt_) {
      return false;
    }
    if (theirs.stage == ResetStage::kConcluded) {
      const int closer = window::accepted_in(page(r), attempt_);
      if (stage_ != Stage::kAccepted || closer != closer_) {
        stage_ = closer >= 0 ? Stage::kExcluded : stage_;  // this rank has not accepted what held
      } else if (list_.has(r)) {
        stage_ = Stage::kHeld;  // a rank on the list found that it holds: it does
      }
      return false;
    }
    if (stage_ == Stage::kGathering) {
      if (const auto list = window::read_list(page(r), attempt_)) {
        return consider(r, *list);
      }
    }
    return false;
  }

  /// r is in a later attempt.
  void follow(int r, const window::Joined& theirs) {
    if (stage_ == Stage::kAccepted) {
      // r may have concluded this attempt and be in its next reset already. What it accepted here
      // stays posted until this rank has come there, too.
      if (outcome(closer_, list_) == Outcome::kHolds || has_begun(r)) {
        stage_ = Stage::kHeld;
        return;
      }
      // A rank that is not on the list may know already that it held, and ask for the next attempt,
      // when this rank does not: then the list has first to come to something.
      if (!list_.has(r)) {
        return;
      }
    }
    if (theirs.stage == ResetStage::kConcluded) {
      stage_ = Stage::kExcluded;
    } else {
      leave_for(theirs.attempt);
    }
  }

  /// r has concluded the accepted list: the epoch of this attempt is out. Words of other hosts come
  /// in order from each rank, but what r saw of a third one may reach this rank later.
  bool has_begun(int r) const {
    return list_.has(r) && window::accepted_in(page(r), attempt_) == closer_ &&
           window::epoch_of(page(r).signalled.load()) == attempt_ + 1;
  }

  /// Accepts the list of r when it names this rank and means the same processes as this rank does.
  /// True where the list is open and this rank does not accept it.
  bool consider(int r, const ResetList& list) {
    if (!list.has(session_.rank())) {
      switch (outcome(r, list)) {
        case Outcome::kHolds:
          stage_ = Stage::kExcluded;
          return false;
        case Outcome::kBroken:
          leave_for(attempt_ + 1);
          return false;
        case Outcome::kOpen:
          return true;
      }
    }
    if (list.incarnations == incarnations(list)) {
      accept(r, list);
      return false;
    }
    const auto now = Clock::now();
    if (differing_ != r) {
      differing_ = r;
      differing_end_ = now + kGrace;
    } else if (now >= differing_end_) {
      leave_for(attempt_ + 1);
    }
    return true;
  }

  /// The hash over the members of a list, as this rank knows their processes.
  std::uint64_t incarnations(const ResetList& list) const {
    std::uint64_t hash = 0;
    for (int r = 0; r < session_.world_size(); ++r) {
      hash ^= list.has(r) ? window::incarnation_hash(r, page(r)) : 0;
    }
    return hash;
  }

  bool is_here(int r) const {
    const window::Joined joined = window::read_joined(page(r));
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
    if (newcomer_) {
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
    board_.close(attempt_, list);
    accept(session_.rank(), list);
  }

  void accept(int closer, const ResetList& list) {
    stage_ = Stage::kAccepted;
    closer_ = closer;
    list_ = list;
    board_.accept(attempt_, closer);
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
      const int accepted = window::accepted_in(page(r), attempt_);
      if (accepted == closer) {
        continue;
      }
      if (accepted >= 0 || !alive || window::read_joined(page(r)).stage == ResetStage::kGaveUp) {
        return Outcome::kBroken;
      }
      all = false;
    }
    return all ? Outcome::kHolds : Outcome::kOpen;
  }

  void judge() {
    const Outcome now = outcome(closer_, list_);
    if (now == Outcome::kHolds) {
      stage_ = Stage::kHeld;
    } else if (now == Outcome::kBroken || Clock::now() >= accept_end_) {
      leave_for(attempt_ + 1);
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
    for (int r = 0; r < session_.world_size(); ++r) {
      if (list_.has(r)) {
        members_.push_back(r);
      }
    }
    Standing& standing = session_.standing();
    standing.begin_epoch(attempt_, list_.call, members_);
    board_.begin_epoch(attempt_, standing.stamp());
    numerics::stream_fence();  // the new epoch is out before anything of the old one is overwritten
    session_.meter().begin_epoch(standing.epoch(), standing.absent());
  }

  Session& session_;
  window::Board& board_;
  const bool newcomer_;  ///< this process came back under the rank of one that has ended
  Clock::time_point come_end_;
  Clock::time_point alone_end_;
  Clock::time_point called_;
  Clock::time_point gather_end_;
  Clock::time_point differing_end_;
  Clock::time_point accept_end_;
  std::uint32_t attempt_ = 0;
  Stage stage_ = Stage::kGathering;
  int closer_ = -1;     ///< of the accepted list
  ResetList list_;      ///< that was accepted
  int differing_ = -1;  ///< rank whose list means other processes than this rank knows
  std::vector<int> present_;
  std::vector<int> members_;
};

}  // namespace

Result<std::vector<int>> Session::reset() {
  WAYBILL_RETURN_IF_ERROR(occupy(kName));
  end_setup();
  Result<std::vector<int>> members = Reset(*this).run();
  drop_setup(members.ok());
  if (!members.ok()) {
    need_reset(members.status().message());
  }
  standing_.vacate();
  return members;
}

}  // namespace waybill::engine
