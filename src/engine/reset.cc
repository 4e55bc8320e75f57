#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "base/errors.h"
#include "base/futex.h"
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

constexpr std::uint64_t pack(std::uint32_t high, std::uint32_t low) noexcept {
  return static_cast<std::uint64_t>(high) << 32 | low;
}

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
      own_.reset.joined.store(pack(attempt_, static_cast<std::uint32_t>(ResetStage::kGaveUp)));
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
  std::uint32_t attempt_of(int rank) const {
    return static_cast<std::uint32_t>(page(rank).reset.joined.load() >> 32);
  }
  ResetStage stage_of(int rank) const {
    return static_cast<ResetStage>(static_cast<std::uint32_t>(page(rank).reset.joined.load()));
  }
  bool lives(int rank) const {
    return rank == session_.rank() || !session_.transport().has_ended(rank);
  }

  /// The attempt that is under way, or the next one.
  Status choose_attempt() {
    std::uint32_t latest = session_.known_attempt;
    bool under_way = false;
    for (int r = 0; r < session_.world_size(); ++r) {
      const std::uint32_t attempt = attempt_of(r);
      const ResetStage stage = stage_of(r);
      if (r == session_.rank() || attempt < latest) {
        continue;
      }
      const bool open =
          (stage == ResetStage::kGathering || stage == ResetStage::kClosed) && lives(r);
      if (attempt > latest) {
        latest = attempt;
        under_way = open;
      } else {
        under_way = under_way || open;
      }
      if (stage == ResetStage::kConcluded && attempt > session_.known_attempt) {
        session_.known_attempt = attempt;
        if (!newcomer_) {
          return left_behind(attempt);
        }
      }
    }
    attempt_ = under_way && latest > session_.known_attempt ? latest : latest + 1;
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

  void join() {
    closer_ = -1;
    differing_ = -1;
    own_.reset.call.store(session_.number);
    own_.reset.joined.store(pack(attempt_, static_cast<std::uint32_t>(ResetStage::kGathering)));
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
      for (int r = 0; r < session_.world_size(); ++r) {
        if (r != session_.rank() && !concluded_) {
          look_at(r);
        }
      }
      if (concluded_) {
        return {};
      }
      if (excluded_) {
        session_.known_attempt = attempt;
        return newcomer_ ? Status() : left_behind(attempt);
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
      std::this_thread::sleep_for(kPoll);
    }
    return {};
  }

  /// Follows a later attempt, or the list that r has closed.
  void look_at(int r) {
    const std::uint32_t theirs = attempt_of(r);
    const ResetStage stage = stage_of(r);
    if (theirs > attempt_ && stage != ResetStage::kGaveUp && lives(r)) {
      // It may have concluded this attempt and be in its next reset already. What it accepted here
      // stays posted until this rank has come there, too.
      if (closer_ >= 0 && outcome(closer_) == Outcome::kHolds) {
        concluded_ = true;
        return;
      }
      excluded_ = stage == ResetStage::kConcluded;
      attempt_ = excluded_ ? attempt_ : theirs;
      return;
    }
    if (theirs != attempt_ || closer_ >= 0 || !has_list(r)) {
      return;
    }
    if (on_list(r, session_.rank())) {
      consider(r);
    } else {
      switch (outcome(r)) {
        case Outcome::kHolds:
          excluded_ = true;
          break;
        case Outcome::kBroken:
          ++attempt_;
          break;
        case Outcome::kOpen:
          break;
      }
    }
  }

  /// Accepts the list of r when it means the same processes as this rank does.
  void consider(int r) {
    if (page(r).reset.incarnations.load() == incarnations(r)) {
      accept(r);
      return;
    }
    const auto now = Clock::now();
    if (differing_ != r) {
      differing_ = r;
      differing_end_ = now + kGrace;
    } else if (now >= differing_end_) {
      ++attempt_;
    }
  }

  /// A hash over the members of r's list, as this rank knows their processes.
  std::uint64_t incarnations(int r) const {
    std::uint64_t hash = 0;
    for (int member = 0; member < session_.world_size(); ++member) {
      if (on_list(r, member)) {
        hash ^= mix(page(member).identity.incarnation + static_cast<std::uint64_t>(member));
      }
    }
    return hash;
  }
  static std::uint64_t mix(std::uint64_t value) {
    value = (value ^ value >> 32) * 0x9e3779b97f4a7c15;
    return (value ^ value >> 29) * 0xbf58476d1ce4e5b9;
  }

  bool has_list(int closer) const {
    return static_cast<std::uint32_t>(page(closer).reset.list.load() >> 32) == attempt_;
  }
  bool on_list(int closer, int rank) const {
    const std::uint64_t bits =
        page(closer).reset.members[static_cast<std::size_t>(rank / 64)].load();
    return (bits >> (rank % 64) & 1) != 0;
  }

  /// The lowest rank present closes, once every living rank has come or the time is over.
  /// Never one that came back: it does not know yet who else lives.
  bool may_close() const {
    if (newcomer_) {
      return false;
    }
    bool all_here = true;
    for (int r = 0; r < session_.world_size(); ++r) {
      if (!lives(r)) {
        continue;
      }
      const bool here = is_here(r);
      if (here && r < session_.rank() && page(r).newcomer.load() == 0) {
        return false;
      }
      all_here = all_here && here;
    }
    return all_here || Clock::now() >= gather_end_;
  }
  bool is_here(int r) const {
    return attempt_of(r) == attempt_ && stage_of(r) != ResetStage::kGaveUp;
  }

  /// Some rank that did not just come back is in this attempt.
  bool a_member_is_here() const {
    for (int r = 0; r < session_.world_size(); ++r) {
      if (r != session_.rank() && lives(r) && is_here(r) && page(r).newcomer.load() == 0) {
        return true;
      }
    }
    return false;
  }

  void close() {
    std::uint32_t call = 0;
    for (auto& word : own_.reset.members) {
      word.store(0);
    }
    for (int r = 0; r < session_.world_size(); ++r) {
      if (lives(r) && is_here(r)) {
        own_.reset.members[static_cast<std::size_t>(r / 64)].fetch_or(std::uint64_t{1} << (r % 64));
        call = std::max(call, static_cast<std::uint32_t>(page(r).reset.call.load()));
      }
    }
    own_.reset.incarnations.store(incarnations(session_.rank()));
    own_.reset.list.store(pack(attempt_, call));
    accept(session_.rank());
  }

  void accept(int closer) {
    closer_ = closer;
    own_.reset.accepted.store(pack(attempt_, static_cast<std::uint32_t>(closer) + 1));
    own_.reset.joined.store(pack(attempt_, static_cast<std::uint32_t>(ResetStage::kClosed)));
    accept_end_ = Clock::now() + session_.timeout();
  }

  /// Holds when all on it have accepted it. Broken for good when one has accepted another list of
  /// this attempt, or died without accepting.
  Outcome outcome(int closer) const {
    bool all = true;
    for (int r = 0; r < session_.world_size(); ++r) {
      if (!on_list(closer, r)) {
        continue;
      }
      if (!session_.transport().is_known(r)) {
        all = false;
        continue;
      }
      const bool alive = lives(r);  // before the word: what a dead rank posted is final
      const std::uint64_t accepted = page(r).reset.accepted.load();
      const bool same_attempt = static_cast<std::uint32_t>(accepted >> 32) == attempt_;
      if (same_attempt &&
          static_cast<std::uint32_t>(accepted) == static_cast<std::uint32_t>(closer) + 1) {
        continue;
      }
      if (same_attempt || !alive || stage_of(r) == ResetStage::kGaveUp) {
        return Outcome::kBroken;
      }
      all = false;
    }
    return all ? Outcome::kHolds : Outcome::kOpen;
  }

  void judge() {
    // Somebody on the list found that it holds: it does.
    for (int r = 0; r < session_.world_size(); ++r) {
      if (on_list(closer_, r) && attempt_of(r) == attempt_ &&
          stage_of(r) == ResetStage::kConcluded) {
        concluded_ = true;
        return;
      }
    }
    const Outcome now = outcome(closer_);
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
      (on_list(closer_, r) ? members_ : session_.absent).push_back(r);
    }
    for (std::vector<int>& users : session_.half_users) {
      users = members_;
    }
    session_.epoch = attempt_ + 1;
    session_.number = static_cast<std::uint32_t>(page(closer_).reset.list.load());
    session_.known_attempt = attempt_;
    session_.reset_needed.clear();
    own_.newcomer.store(0);
    const window::Stamp start = window::stamp(session_.epoch, session_.number);
    // The new epoch is out before anything of the old one is overwritten.
    session_.post(own_.signalled, start);
    session_.post(own_.done, start);
    numerics::stream_fence();
    own_.reset.joined.store(pack(attempt_, static_cast<std::uint32_t>(ResetStage::kConcluded)));
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
  open_setup.reset();
  if (!members.ok()) {
    reset_needed = members.status().message();
  }
  busy.store(false, std::memory_order_release);
  return members;
}

}  // namespace waybill::engine
