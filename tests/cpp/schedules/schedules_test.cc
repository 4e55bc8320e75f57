// Random schedules: ranks as threads, a random delay before every step that others can see
// (window/words.h), calls that succeed, are refused, are skipped, come too late or leave ranks out,
// and resets. Only the thread sanitizer's build has the steps; elsewhere only phases are delayed.
// WAYBILL_SCHEDULES: how many (default 1000). A failure prints the smallest schedule that fails.

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sched.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/ranks.h"
#include "waybill/barrier.h"
#include "window/words.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::LayerCase;
using testing::plain_layer;
using testing::run_layer;

constexpr auto kPatience = 60s;
constexpr auto kShort = 2ms;  ///< the timeout of calls that somebody misses

constexpr int kPhases = 24;  ///< of a dispatch and a combine, about

enum class Kind {
  kLayer,
  kInPlace,
  kSetUp,
  kBarrier,
  kRefused,
  kSkipped,
  kLate,
  kShrunk,
  kLeftBehind,
  kReset
};

struct Turn {
  Kind kind;
  int rank;   ///< who refuses, skips, is late or is left out
  int where;  ///< how many phases, from kPhases on steps, before it is late
};

struct Schedule {
  int num_ranks;
  std::vector<Turn> turns;
  std::vector<std::vector<std::uint8_t>> delays;  ///< for each rank, one after the other, for ever
};

std::ostream& operator<<(std::ostream& out, const Schedule& schedule) {
  out << schedule.num_ranks << " ranks; turns (kind, rank, where):";
  for (const Turn& turn : schedule.turns) {
    out << " (" << static_cast<int>(turn.kind) << ", " << turn.rank << ", " << turn.where << ")";
  }
  for (const auto& delays : schedule.delays) {
    out << "; delays:";
    for (const std::uint8_t delay : delays) {
      out << " " << static_cast<int>(delay);
    }
  }
  return out;
}

/// What delays the steps of the rank of this thread.
struct Delays {
  const std::vector<std::uint8_t>* values = nullptr;
  std::size_t next = 0;
  int phases = -1;  ///< until one that takes longer than kShort
  int steps = -1;   ///< the same for steps
};
thread_local Delays own_delays;

void be_late_after(int& count) {
  if (count >= 0 && count-- == 0) {
    std::this_thread::sleep_for(4 * kShort);
  }
}

void wait_a_little() {
  Delays& own = own_delays;
  be_late_after(own.steps);
  if (own.values == nullptr || own.values->empty()) {
    return;
  }
  const int delay = (*own.values)[own.next++ % own.values->size()];
  if (delay >= 240) {
    std::this_thread::sleep_for(std::chrono::microseconds(delay - 200));
  } else if (delay >= 160) {
    sched_yield();
  }
}

/// One rank's way through a schedule. All ranks take the same turns.
class Player {
 public:
  Player(Group& group, const Schedule& schedule, std::barrier<>& all, std::atomic<bool>& failed)
      : group_(group), schedule_(schedule), all_(all), failed_(failed) {
    own_delays = {&schedule.delays[static_cast<std::size_t>(group.rank())]};
  }

  /// "" or what is wrong.
  std::string play() {
    std::string wrong;
    for (const Turn& turn : schedule_.turns) {
      group_.set_timeout(kPatience);
      const std::string found = take(turn);
      wrong = wrong.empty() ? found : wrong;
      all_.arrive_and_wait();
      const bool reset = failed_ || turn.kind == Kind::kShrunk || turn.kind == Kind::kReset;
      all_.arrive_and_wait();
      failed_ = false;
      if (reset) {
        const std::string bad = come_together();
        wrong = wrong.empty() ? bad : wrong;
      }
    }
    return wrong;
  }

 private:
  int rank() const { return group_.rank(); }

  std::string take(const Turn& turn) {
    const bool chosen = turn.rank == rank();
    LayerCase layer = plain_layer(schedule_.num_ranks);
    switch (turn.kind) {
      case Kind::kLayer:
        return run_layer(group_, layer);
      case Kind::kInPlace:
        layer.expert_rows = testing::ExpertRows::kInPlace;
        return run_layer(group_, layer);
      case Kind::kSetUp:
        layer.set_up = true;
        layer.form = IndexForm::kOccurrences;
        layer.expert_rows = testing::ExpertRows::kInPlace;
        return run_layer(group_, layer);
      case Kind::kBarrier:
        return barrier(group_, {.world_size = schedule_.num_ranks}).message() == "ok" ? ""
                                                                                      : "barrier";
      case Kind::kRefused:
        return refuse(layer, chosen);
      case Kind::kSkipped:
        group_.set_timeout(kShort);
        return chosen ? note_failure() : expect_failure(layer);
      case Kind::kLate:
        return come_late(layer, chosen ? turn.where : -1);
      case Kind::kShrunk:
        return shrink(turn.rank);
      case Kind::kLeftBehind:
        return leave_behind(layer, chosen);
      case Kind::kReset:
        return "";
    }
    return "";
  }

  std::string note_failure() {
    failed_ = true;
    return "";
  }

  std::string refuse(const LayerCase& layer, bool chosen) {
    DispatchArgs args = layer.dispatch_args(rank());
    args.quant_mode = chosen ? 7 : 0;
    const StatusCode code = testing::dispatch_only(group_, args).code();
    const StatusCode expected = chosen ? StatusCode::kInvalidArgument : StatusCode::kMismatch;
    return code == expected ? "" : std::string("a refusal gives ") + name_of(code);
  }

  /// The call cannot succeed: some rank does not make it.
  std::string expect_failure(const LayerCase& layer) {
    const StatusCode code = testing::dispatch_only(group_, layer.dispatch_args(rank())).code();
    failed_ = true;
    return code == StatusCode::kTimeout || code == StatusCode::kInvalidState
               ? ""
               : std::string("a skipped call gives ") + name_of(code);
  }

  /// A rank stops for longer than the timeout, somewhere: whatever is returned is right.
  std::string come_late(LayerCase& layer, int where) {
    layer.expert_rows = testing::ExpertRows::kInPlace;
    group_.set_timeout(kShort);
    own_delays.phases = where < kPhases ? where : -1;
    own_delays.steps = where < kPhases ? -1 : where - kPhases;
    const std::string wrong = run_layer(group_, layer);
    own_delays.phases = own_delays.steps = -1;
    const bool gave_up = wrong.find("did not come within") != std::string::npos ||
                         wrong.find("expected every rank") != std::string::npos ||
                         wrong.find("was left behind") != std::string::npos ||
                         wrong.find("called reset during") != std::string::npos;
    if (gave_up) {
      failed_ = true;
      write_over();
    }
    return gave_up ? "" : wrong;
  }

  /// What this rank published in place has gone back to the pool: the next output lies there.
  void write_over() {
    for (int i = 0; i < 4; ++i) {
      if (auto buffer = group_.expert_buffer(64, 16, DType::kFloat32); buffer.ok()) {
        std::memset(buffer->buffer.data(), 0x7f, 64 * 16 * 4);
      }
    }
  }

  /// Calls without one rank, which does nothing meanwhile.
  std::string shrink(int left_out) {
    std::vector<int> members;
    for (int r = 0; r < schedule_.num_ranks; ++r) {
      if (r != left_out) {
        members.push_back(r);
      }
    }
    return run_layer(group_, testing::scaled_in(schedule_.num_ranks, members));
  }

  /// The others reset without one rank, and perhaps without each other; it makes a call then.
  std::string leave_behind(const LayerCase& layer, bool chosen) {
    group_.set_timeout(kShort);
    if (!chosen) {
      note_told(group_.reset().status());
    }
    all_.arrive_and_wait();
    if (chosen) {
      note_told(testing::dispatch_only(group_, layer.dispatch_args(rank())));
    }
    failed_ = true;
    return "";
  }

  void note_told(const Status& status) {
    told_ = status.message().find("this rank was left behind") != std::string::npos ||
            status.message().find("this rank came too late") != std::string::npos;
  }

  /// A reset of all, after which every rank is at the same point, and a call that works.
  std::string come_together() {
    group_.set_timeout(kPatience);
    auto members = group_.reset();
    // Whom nothing has told that others went on without it is told now.
    if (!std::exchange(told_, false) && members.status().code() == StatusCode::kInvalidState) {
      members = group_.reset();
    }
    if (!members.ok()) {
      return members.status().message();
    }
    if (static_cast<int>(members->size()) != schedule_.num_ranks) {
      return "reset: not everybody";
    }
    return run_layer(group_, plain_layer(schedule_.num_ranks));
  }

  Group& group_;
  const Schedule& schedule_;
  std::barrier<>& all_;
  std::atomic<bool>& failed_;
  bool told_ = false;  ///< that others went on without this rank
};

std::string play(const Schedule& schedule) {
  GroupOptions options;
  options.timeout = kPatience;
  options.window_bytes = testing::kTestWindowBytes;
  options.on_phase = [](Phase) {
    be_late_after(own_delays.phases);
    wait_a_little();
  };
#ifdef WAYBILL_TSAN
  window::before_step = &wait_a_little;
#endif
  auto groups = Group::local(schedule.num_ranks, options);
  if (!groups.ok()) {
    return groups.status().message();
  }
  std::barrier<> all(schedule.num_ranks);
  std::atomic<bool> failed{false};
  std::vector<std::string> wrong(groups->size());
  testing::on_threads(groups->size(), [&](std::size_t r) {
    wrong[r] = Player((*groups)[r], schedule, all, failed).play();
    own_delays = {};
    return Status();
  });
  for (std::size_t r = 0; r < wrong.size(); ++r) {
    if (!wrong[r].empty()) {
      return "rank " + std::to_string(r) + ": " + wrong[r];
    }
  }
  return "";
}

rc::Gen<Schedule> any_schedule() {
  return rc::gen::mapcat(rc::gen::inRange(2, 5), [](int num_ranks) {
    const auto turn = rc::gen::apply(
        [](int kind, int rank, int where) { return Turn{static_cast<Kind>(kind), rank, where}; },
        // Half of the turns have somebody who is late: most defects need that.
        rc::gen::oneOf(rc::gen::inRange(0, static_cast<int>(Kind::kReset) + 1),
                       rc::gen::just(static_cast<int>(Kind::kLate))),
        rc::gen::inRange(0, num_ranks),
        rc::gen::resize(100, rc::gen::inRange(0, kPhases + 24)));
    const auto delays =
        rc::gen::container<std::vector<std::uint8_t>>(17, rc::gen::arbitrary<std::uint8_t>());
    return rc::gen::apply(
        [num_ranks](std::vector<Turn> turns, std::vector<std::vector<std::uint8_t>> all) {
          return Schedule{num_ranks, std::move(turns), std::move(all)};
        },
        rc::gen::resize(6, rc::gen::container<std::vector<Turn>>(turn)),
        rc::gen::container<std::vector<std::vector<std::uint8_t>>>(
            static_cast<std::size_t>(num_ranks), delays));
  });
}

TEST(Schedules, NoneGivesAWrongRowOrAHang) {
  const char* wanted = std::getenv("WAYBILL_SCHEDULES");
  const int count = wanted == nullptr ? 1000 : std::atoi(wanted);
  rc::detail::TestMetadata metadata;
  metadata.id = "schedules";
  rc::detail::TestParams params = rc::detail::configuration().testParams;
  params.maxSuccess = count;
  const auto result = rc::detail::checkTestable(
      [] {
        const Schedule schedule = *any_schedule();
        RC_LOG() << schedule;
        const std::string wrong = play(schedule);
        if (!wrong.empty()) {
          RC_FAIL(wrong);
        }
      },
      metadata,
      params);
  std::ostringstream text;
  rc::detail::printResultMessage(result, text);
  std::cout << text.str() << '\n';
  EXPECT_TRUE(result.template is<rc::detail::SuccessResult>()) << text.str();
}

}  // namespace
}  // namespace waybill
