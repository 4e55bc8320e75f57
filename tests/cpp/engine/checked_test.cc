#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/group_access.h"
#include "support/ranks.h"
#include "window/checks.h"

namespace waybill {
namespace {

using testing::expect_all_ok;
using testing::LayerCase;
using testing::on_threads;
using testing::plain_layer;
using testing::run_layer;
using testing::status_of;

thread_local int own_rank = -1;

std::vector<Group> checked_groups(int count, std::function<void(Phase)> on_phase = {}) {
  GroupOptions options;
  options.timeout = std::chrono::seconds(20);
  options.window_bytes = testing::kTestWindowBytes;
  options.checked = true;
  options.on_phase = std::move(on_phase);
  auto groups = Group::local(count, options);
  EXPECT_TRUE(groups.ok()) << groups.status().message();
  return std::move(*groups);
}

std::vector<Status> run(std::vector<Group>& groups, const std::function<Status(Group&)>& body) {
  return on_threads(groups.size(), [&](std::size_t r) {
    own_rank = static_cast<int>(r);
    return body(groups[r]);
  });
}

std::vector<Status> run_layers(std::vector<Group>& groups, const LayerCase& layer) {
  return run(groups, [&](Group& group) { return status_of(run_layer(group, layer)); });
}

TEST(CheckedMode, FindsNothingWhereNothingIsWrong) {
  for (int count : {1, 2, 4}) {
    std::vector<Group> groups = checked_groups(count);
    for (std::uint64_t seed = 1; seed < 12; ++seed) {
      expect_all_ok(run_layers(groups, testing::Ranks::layer_for(count, seed * 100)));
    }
  }
}

TEST(CheckedMode, FindsNothingWithTpEither) {
  setenv("WAYBILL_CHECK", "1", 1);
  testing::TpThreadGroup ranks(2);
  unsetenv("WAYBILL_CHECK");
  int pairs = 0;
  for (std::uint64_t seed = 1; pairs < 8; ++seed) {
    const std::vector<LayerCase> pair = testing::draw_tp_pair(seed, 2);
    if (pair[0].num_ranks == 2) {
      EXPECT_EQ(ranks.run(pair), "");
      ++pairs;
    }
  }
}

/// Rank 0 does `damage` to its window after its signal and before rank 1 looks.
struct Damage {
  const char* name;
  std::function<void(std::byte* half, const window::CallHeader& header)> damage;
  const char* text;
};

class DamagedWindow : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedWindow, IsAnErrorOnWhoeverReadsIt) {
  std::atomic<int> turn{0};
  std::vector<Group>* all = nullptr;
  std::vector<Group> groups = checked_groups(2, [&](Phase phase) {
    if (turn == 0 && own_rank == 0 && phase == Phase::kSignalled) {
      window::Window& window = engine::session_of((*all)[0]).window();
      GetParam().damage(window.halves[1].data(), window.control->headers[1]);
      turn = 1;
    }
    while (turn == 0 && own_rank == 1 && phase == Phase::kCheck) {
      std::this_thread::yield();
    }
  });
  all = &groups;
  const LayerCase layer = plain_layer(2);
  const auto results = run(groups, [&](Group& group) {
    return testing::dispatch_only(group, layer.dispatch_args(group.rank()));
  });
  EXPECT_EQ(results[1].code(), StatusCode::kInternal);
  EXPECT_NE(results[1].message().find(GetParam().text), std::string::npos) << results[1].message();
  EXPECT_NE(results[1].message().find("rank 0"), std::string::npos) << results[1].message();
  expect_all_ok(run(groups, [](Group& group) { return group.reset().status(); }));
  expect_all_ok(run_layers(groups, layer));
}

INSTANTIATE_TEST_SUITE_P(
    All,
    DamagedWindow,
    ::testing::Values(Damage{"ARow",
                             [](std::byte* half, const window::CallHeader& header) {
                               // The rows come last; there are three of 64 bytes.
                               for (int row = 1; row <= 3; ++row) {
                                 half[header.checked_end - 64 * row] ^= std::byte{1};
                               }
                             },
                             "to be read as it was published"},
                      Damage{"BehindTheEnd",
                             [](std::byte* half, const window::CallHeader& header) {
                               const auto tail =
                                   window::CheckedTail::of(header.checked_end, header.num_rows);
                               half[tail.canary.offset] ^= std::byte{1};
                             },
                             "to be intact behind what was published"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(CheckedMode, NamesWhoeverWritesPastAnOutput) {
  std::vector<Group> groups = checked_groups(2);
  const LayerCase layer = plain_layer(2);
  expect_all_ok(run(groups, [&](Group& group) {
    auto sent = dispatch(group, layer.dispatch_args(group.rank()));
    if (sent.ok() && group.rank() == 0) {
      const Tensor& x = sent->expand_x;
      const std::int64_t bytes = x.shape.product() * size_of(x.dtype);
      // Outputs begin on pages: the canary is at the end of the last one.
      x.buffer.data()[(bytes + window::kCanaryBytes + 4095) / 4096 * 4096 - 1] = std::byte{0};
    }
    return sent.status();
  }));
  const auto results = run(groups, [&](Group& group) {
    return testing::dispatch_only(group, layer.dispatch_args(group.rank()));
  });
  EXPECT_EQ(results[0].code(), StatusCode::kInternal);
  EXPECT_NE(results[0].message().find("past their end"), std::string::npos);
  EXPECT_EQ(results[1].code(), StatusCode::kMismatch);
  EXPECT_NE(results[1].message().find(results[0].message()), std::string::npos);
  expect_all_ok(run_layers(groups, layer));
}

}  // namespace
}  // namespace waybill
