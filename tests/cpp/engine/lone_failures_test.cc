// One rank fails alone at some point of a call. Whatever the programs do next, no rank ever gets
// rows of another layer: values carry the layer's number.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <new>
#include <string>
#include <tuple>
#include <vector>

#include "setup_calls.h"
#include "support/ranks.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::LayerCase;
using testing::plain_layer;
using testing::Ranks;

constexpr int kLayers = 6;
constexpr int kFailingLayer = 3;

/// What a thread is about to do.
thread_local int own_rank = -1;
thread_local int own_layer = 0;
thread_local bool combines = false;

/// Throws once, where rank `rank` comes to a phase of its call in the failing layer.
struct Trap {
  int rank = 0;
  bool in_combine = false;
  Phase phase = Phase::kCheck;
  int skip = 0;         ///< how often the phase is passed before
  bool sprung = false;  ///< only the thread of `rank` writes it

  void at(Phase reached) {
    if (own_rank != rank || own_layer != kFailingLayer || combines != in_combine ||
        reached != phase || sprung) {
      return;
    }
    if (skip-- == 0) {
      sprung = true;
      throw std::bad_alloc();
    }
  }
};

/// What a program does after an error.
enum class Next {
  kGoesOn,   ///< with its next layer
  kRetries,  ///< the layer
  kSkips,    ///< the failing rank leaves a layer out
  kResets,
};

/// Whether all elements are `expected`.
bool all_are(const Tensor& tensor, std::int64_t count, float expected) {
  const auto* values = tensor.data<float>();
  return std::all_of(values, values + count, [=](float value) { return value == expected; });
}

/// The plain layer whose values are the layer's number.
LayerCase numbered(LayerCase layer, int number) {
  for (LayerCase::RankInput& rank : layer.ranks) {
    auto* values = reinterpret_cast<float*>(rank.x.data());
    std::fill_n(values, rank.bs * layer.h, static_cast<float>(number));
  }
  return layer;
}

/// One rank's program: dispatch and combine of each layer, the experts give rows back unchanged.
class Program {
 public:
  Program(Group& group, LayerCase layer, Next next) : group_(group), layer_(layer), next_(next) {}
  Program(Group& group, Group& tp, LayerCase layer, Next next)
      : group_(group), tp_(&tp), layer_(layer), next_(next) {}

  Status run() {
    own_rank = group_.rank();
    int resets = 0;
    for (int number = 1; number <= kLayers; ++number) {
      own_layer = number;
      const Status status = run_layer(numbered(layer_, number));
      if (status.ok()) {
        continue;
      }
      ++errors;
      if (next_ == Next::kSkips && group_.rank() == 0) {
        ++number;
      } else if (next_ == Next::kRetries && errors == 1) {
        --number;
      } else if (next_ == Next::kResets) {
        if (++resets > 1) {
          return status;  // one failure, one reset
        }
        Status again = reset();
        if (!again.ok()) {
          return again;
        }
        number = kFailingLayer + 1;  // where all ranks go on together
      }
    }
    return {};
  }

  Status reset() {
    Status status = group_.reset().status();
    return status.ok() && tp_ != nullptr ? tp_->reset().status() : status;
  }

  int errors = 0;
  std::vector<std::string> wrong;  ///< values of other layers

 private:
  Status run_layer(const LayerCase& layer) {
    try {
      return layer.set_up ? run_split(layer) : run_whole(layer);
    } catch (const std::bad_alloc&) {
      return testing::status_of("no memory");
    }
  }

  Status run_whole(const LayerCase& layer) {
    DispatchArgs args = layer.dispatch_args(group_.rank());
    args.tp_group = tp_;
    combines = false;
    auto sent = dispatch(group_, args);
    if (!sent.ok()) {
      return sent.status();
    }
    check("dispatch", sent->expand_x, sent->rows * layer.h, 1);
    CombineArgs back = layer.combine_args(group_.rank(), sent->expand_x.view(), *sent);
    back.tp_group = tp_;
    combines = true;
    auto sums = combine(group_, back);
    if (!sums.ok()) {
      return sums.status();
    }
    check("combine", *sums, sums->shape.product(), tp_ != nullptr ? 2 : 1);
    return {};
  }

  Status run_split(const LayerCase& layer) {
    const SetupCalls calls{layer, group_.rank()};
    combines = false;
    auto begun = dispatch_setup(group_, calls.dispatch_args());
    if (!begun.ok()) {
      return begun.status();
    }
    auto sent = dispatch_teardown(group_, calls.dispatch_end(begun->comm_cmd_info));
    if (!sent.ok()) {
      return sent.status();
    }
    const auto* counts = sent->assist_info_for_combine.data<std::int32_t>();
    const std::int64_t rows = counts[layer.num_ranks * layer.local_experts(group_.rank()) - 1];
    check("dispatch_teardown", sent->expand_x, rows * layer.h, 1);
    combines = true;
    auto back = combine_setup(
        group_, calls.combine_args(sent->expand_x.view(), sent->assist_info_for_combine));
    if (!back.ok()) {
      return back.status();
    }
    auto sums = combine_teardown(
        group_, calls.combine_end(sent->expand_x.view(), begun->expand_idx, back->comm_cmd_info));
    if (!sums.ok()) {
      return sums.status();
    }
    check("combine_teardown", *sums, sums->shape.product(), 1);
    return {};
  }

  void check(const char* what, const Tensor& tensor, std::int64_t count, int times) {
    if (!all_are(tensor, count, static_cast<float>(times * own_layer))) {
      wrong.push_back(std::string(what) + " of layer " + std::to_string(own_layer) + " on rank " +
                      std::to_string(group_.rank()));
    }
  }

  Group& group_;
  Group* tp_ = nullptr;
  const LayerCase layer_;
  const Next next_;
};

const std::vector<Phase> kPhases = {Phase::kCheck,
                                    Phase::kWaitHalf,
                                    Phase::kPublish,
                                    Phase::kPublishRows,
                                    Phase::kSignalled,
                                    Phase::kWaitSignals,
                                    Phase::kPull,
                                    Phase::kPullRows,
                                    Phase::kWaitReaders};

enum class Family { kV2, kV1, kSetup };

/// A family of operators on so many hosts.
class FailsAlone : public ::testing::TestWithParam<std::tuple<Family, int>> {
 protected:
  static LayerCase layer() {
    LayerCase layer = plain_layer(3);
    const Family family = std::get<0>(GetParam());
    layer.form = family == Family::kV2 ? IndexForm::kTriples : IndexForm::kOccurrences;
    layer.set_up = family == Family::kSetup;
    return layer;
  }
  static std::vector<std::string> hosts() {
    std::vector<std::string> names;
    for (int rank = 0; rank < 3; ++rank) {
      names.push_back("host" + std::to_string(rank % std::get<1>(GetParam())));
    }
    return names;
  }
};

INSTANTIATE_TEST_SUITE_P(
    OverHosts,
    FailsAlone,
    ::testing::Combine(::testing::Values(Family::kV2, Family::kV1, Family::kSetup),
                       ::testing::Values(1, 2, 3)));

TEST_P(FailsAlone, AtAnyPointNobodyGetsRowsOfAnotherLayer) {
  for (const Next next : {Next::kGoesOn, Next::kRetries, Next::kSkips, Next::kResets}) {
    for (const bool in_combine : {false, true}) {
      for (const Phase phase : kPhases) {
        SCOPED_TRACE(std::string(name_of(phase)) + (in_combine ? " of combine" : " of dispatch") +
                     ", then " + std::to_string(static_cast<int>(next)));
        Trap trap{.in_combine = in_combine, .phase = phase};
        Ranks ranks(hosts(), 20s, [&](Phase reached) { trap.at(reached); });
        const auto begin = std::chrono::steady_clock::now();
        std::vector<Program> programs;
        for (int r = 0; r < 3; ++r) {
          programs.emplace_back(ranks[r], layer(), next);
        }
        testing::expect_all_ok(
            testing::on_threads(3, [&](std::size_t r) { return programs[r].run(); }));
        for (const Program& program : programs) {
          EXPECT_EQ(program.wrong, std::vector<std::string>());
          EXPECT_EQ(program.errors > 0, trap.sprung);
        }
        EXPECT_LT(std::chrono::steady_clock::now() - begin, 15s) << "somebody waited in vain";
        if (next != Next::kResets && trap.sprung) {
          ranks.expect_resets();
        }
        own_layer = 0;
        ranks.expect_works();
      }
    }
  }
}

TEST(FailsAloneWithTp, InEitherGroupNobodyGetsRowsOfAnotherLayer) {
  LayerCase layer = plain_layer(2, 1);
  for (auto& rank : layer.ranks) {
    rank.ids = {0, 1, 1, 0, 0, 1};
  }
  for (const Next next : {Next::kGoesOn, Next::kSkips, Next::kResets}) {
    for (const bool in_combine : {false, true}) {
      for (const Phase phase : kPhases) {
        for (const int skip : {0, 1}) {
          SCOPED_TRACE(std::string(name_of(phase)) + (in_combine ? " of combine" : " of dispatch") +
                       ", number " + std::to_string(skip) + ", then " +
                       std::to_string(static_cast<int>(next)));
          // The thread of EP rank 0 and TP rank 0 alone is rank 0 here.
          Trap trap{.in_combine = in_combine, .phase = phase, .skip = skip};
          thread_local bool second_tp = false;
          const auto hook = [&](Phase reached) {
            if (!second_tp) {
              trap.at(reached);
            }
          };
          std::vector<Ranks> ep;
          std::vector<Ranks> tp;
          for (int i = 0; i < 2; ++i) {
            ep.emplace_back(2, 20s, hook);
            tp.emplace_back(2, 20s, hook);
          }
          std::vector<Program> programs;
          for (int i = 0; i < 4; ++i) {
            LayerCase own = layer;
            own.tp_rank = i % 2;
            programs.emplace_back(ep[static_cast<std::size_t>(i % 2)][i / 2],
                                  tp[static_cast<std::size_t>(i / 2)][i % 2],
                                  own,
                                  next);
          }
          const auto begin = std::chrono::steady_clock::now();
          testing::expect_all_ok(testing::on_threads(4, [&](std::size_t i) {
            second_tp = i % 2 == 1;
            Status status = programs[i].run();
            return next == Next::kResets && !trap.sprung ? Status() : status;
          }));
          for (const Program& program : programs) {
            EXPECT_EQ(program.wrong, std::vector<std::string>());
            EXPECT_EQ(program.errors > 0, trap.sprung);
          }
          EXPECT_LT(std::chrono::steady_clock::now() - begin, 15s) << "somebody waited in vain";
        }
      }
    }
  }
}

}  // namespace
}  // namespace waybill
