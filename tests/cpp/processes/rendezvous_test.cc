#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

#include "support/layer_case.h"
#include "support/processes.h"
#include "support/run_layer.h"
#include "waybill/group.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::draw_case;
using testing::LayerCase;
using testing::Processes;

constexpr auto kPatience = 60s;

GroupOptions options_with(std::chrono::milliseconds timeout) {
  GroupOptions options;
  options.timeout = timeout;
  options.window_bytes = testing::kTestWindowBytes;
  return options;
}

std::string text_of(const Result<Group>& group) {
  if (group.ok()) {
    return "connected";
  }
  const Status status = group.status();
  std::string text = name_of(status.code());
  for (int rank : status.info().ranks) {
    text += " " + std::to_string(rank);
  }
  return text;
}

std::filesystem::path meeting_path(const char* name) {
  return std::filesystem::temp_directory_path() /
         ("waybill-test-" + std::to_string(getpid()) + "-" + name);
}

LayerCase layer_for(int num_ranks) {
  for (std::uint64_t seed = 0;; ++seed) {
    LayerCase layer = draw_case(seed, num_ranks);
    if (layer.num_ranks == num_ranks && layer.given_ranks() == num_ranks) {
      return layer;
    }
  }
}

TEST(Rendezvous, SixteenProcessesMeetByIdAndCompute) {
  const UniqueId id = UniqueId::create();
  const LayerCase layer = layer_for(16);
  Processes ranks(16, [&](int rank) {
    auto group = Group::connect(id, rank, 16, options_with(30s));
    return group.ok() ? run_layer(*group, layer) : group.status().message();
  });
  ASSERT_TRUE(ranks.join(kPatience));
  for (int r = 0; r < 16; ++r) {
    EXPECT_EQ(ranks.text(r), "");
  }
}

TEST(Rendezvous, AtAPathPassesAStaleFileOverAndTakesItAway) {
  const auto path = meeting_path("stale");
  std::ofstream(path) << UniqueId::create().to_string() << '\n';
  const LayerCase layer = layer_for(3);
  Processes ranks(3, [&](int rank) {
    if (rank == 0) {
      std::this_thread::sleep_for(100ms);  // the others find the stale file first
    }
    auto group = Group::connect(path, rank, 3, options_with(30s));
    return group.ok() ? run_layer(*group, layer) : group.status().message();
  });
  ASSERT_TRUE(ranks.join(kPatience));
  for (int r = 0; r < 3; ++r) {
    EXPECT_EQ(ranks.text(r), "");
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Rendezvous, NamesTheRanksThatDidNotCome) {
  const UniqueId id = UniqueId::create();
  Processes ranks(2, [&](int rank) {
    return text_of(Group::connect(id, rank == 0 ? 1 : 3, 4, options_with(2s)));
  });
  ASSERT_TRUE(ranks.join(kPatience));
  EXPECT_EQ(ranks.text(0), "Timeout 0 2");
  EXPECT_EQ(ranks.text(1), "Timeout 0 2");
}

TEST(Rendezvous, AtAPathNamesRankZero) {
  EXPECT_EQ(text_of(Group::connect(meeting_path("nobody"), 1, 2, options_with(100ms))),
            "Timeout 0");
}

TEST(Rendezvous, DifferentWorldSizesAreAnErrorOnBoth) {
  const UniqueId id = UniqueId::create();
  Processes ranks(
      2, [&](int rank) { return text_of(Group::connect(id, rank, 2 + rank, options_with(20s))); });
  ASSERT_TRUE(ranks.join(kPatience));
  EXPECT_EQ(ranks.text(0), "Mismatch 1");
  EXPECT_NE(ranks.text(1), "connected");
}

TEST(Rendezvous, ARankThatIsThereAlreadyIsRefused) {
  const UniqueId id = UniqueId::create();
  Processes ranks(2, [&](int rank) {
    std::this_thread::sleep_for(rank * 500ms);
    return text_of(Group::connect(id, 0, 2, options_with(rank == 0 ? 3s : 20s)));
  });
  ASSERT_TRUE(ranks.join(kPatience));
  EXPECT_EQ(ranks.text(0), "Timeout 1");
  EXPECT_EQ(ranks.text(1), "InvalidState");
}

TEST(Rendezvous, ARankThatDiesInItIsNoticed) {
  const UniqueId id = UniqueId::create();
  Processes ranks(3, [&](int rank) -> std::string {
    if (rank == 2) {
      std::this_thread::sleep_for(50ms);
      std::raise(SIGKILL);
    }
    return text_of(Group::connect(id, rank, 3, options_with(2s)));
  });
  ASSERT_TRUE(ranks.join(kPatience));
  EXPECT_EQ(ranks.text(0), "Timeout 2");
  EXPECT_EQ(ranks.text(1), "Timeout 2");
}

TEST(Rendezvous, InterruptEndsTheWait) {
  GroupOptions options = options_with(60s);
  options.interrupted = [] { return true; };
  EXPECT_EQ(text_of(Group::connect(UniqueId::create(), 0, 2, options)), "Interrupted");
}

TEST(Rendezvous, ChecksRankAndWorldSize) {
  const UniqueId id = UniqueId::create();
  EXPECT_EQ(text_of(Group::connect(id, 2, 2)), "InvalidArgument");
  EXPECT_EQ(text_of(Group::connect(id, -1, 2)), "InvalidArgument");
  EXPECT_EQ(text_of(Group::connect(id, 0, 0)), "InvalidArgument");
  GroupOptions odd;
  odd.window_bytes = 12345;
  EXPECT_EQ(text_of(Group::connect(id, 0, 1, odd)), "InvalidArgument");
  EXPECT_FALSE(UniqueId::from_string("xyz").ok());
  EXPECT_EQ(UniqueId::from_string(id.to_string())->to_string(), id.to_string());
}

TEST(Fork, TheChildGetsAnErrorAndOutputsStayReadable) {
  auto groups = Group::local(1, options_with(1s));
  ASSERT_TRUE(groups.ok());
  Group& group = groups->front();
  auto buffer = group.expert_buffer(4, 8, DType::kFloat32);
  ASSERT_TRUE(buffer.ok());
  buffer->data<float>()[31] = 5.0F;
  Processes child(1, [&](int) -> std::string {
    const LayerCase layer = layer_for(1);
    const auto sent = dispatch(group, layer.dispatch_args(0));
    const bool refused = sent.status().code() == StatusCode::kInvalidState;
    const bool readable = buffer->data<float>()[31] == 5.0F;
    *buffer = Tensor();  // the deleter leaves the parent's pool alone
    return refused && readable ? "good" : "bad";
  });
  ASSERT_TRUE(child.join(kPatience));
  EXPECT_EQ(child.text(0), "good");
  EXPECT_EQ(group.stats().pool_buffers, 1);
}

}  // namespace
}  // namespace waybill
