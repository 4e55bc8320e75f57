// What connect, local and rejoin refuse before they meet anybody.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/process_start.h"
#include "support/run_layer.h"
#include "waybill/group.h"
#include "window/memory_budget.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;

GroupOptions small_options() {
  GroupOptions options;
  options.timeout = 5s;
  options.window_bytes = testing::kTestWindowBytes;
  return options;
}

/// What the three ways to a group say.
std::vector<Status> all_ways(const GroupOptions& options) {
  const UniqueId id = UniqueId::create();
  return {Group::connect(id, 0, 1, options).status(),
          Group::local(1, options).status(),
          Group::rejoin(id, 0, 1, options).status()};
}

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  ~Variable() { unsetenv(name_); }

 private:
  const char* name_;
};

TEST(Connect, ReadsTheEnvironmentFirst) {
  const Variable timeout("WAYBILL_TIMEOUT", "soon");
  for (const Status& status : all_ways(small_options())) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), "WAYBILL_TIMEOUT: expected seconds, at least 0.001, got 'soon'");
  }
}

TEST(Connect, SaysThatMemoryIsMissing) {
  {
    const Variable memory("WAYBILL_MAX_MEMORY", "1K");
    for (const Status& status : all_ways(small_options())) {
      EXPECT_EQ(status.code(), StatusCode::kOutOfMemory);
      EXPECT_NE(status.message().find("for the control page"), std::string::npos)
          << status.message();
      EXPECT_NE(status.message().find("WAYBILL_MAX_MEMORY"), std::string::npos) << status.message();
    }
  }
  EXPECT_TRUE(Group::local(1, small_options()).ok()) << "the limit is gone with the variable";
}

TEST(Connect, SaysThatAddressSpaceIsMissing) {
  GroupOptions options = small_options();
  options.window_bytes = std::int64_t{1} << 50;
  for (const Status& status : all_ways(options)) {
    EXPECT_EQ(status.code(), StatusCode::kInternal);
    EXPECT_NE(status.message().find("address space of 1125899906842624 bytes for the window "
                                    "(WAYBILL_WINDOW_BYTES makes it smaller)"),
              std::string::npos)
        << status.message();
  }
}

TEST(Connect, ChecksTheWorld) {
  const UniqueId id = UniqueId::create();
  for (const Status& status : {Group::local(0).status(),
                               Group::local(1025).status(),
                               Group::connect(id, 0, 1025).status(),
                               Group::rejoin(id, 0, 0).status()}) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("connect: argument world_size: expected 1 to 1024, got "),
              std::string::npos)
        << status.message();
  }
  EXPECT_EQ(Group::rejoin(id, 3, 2).status().message(),
            "connect: argument rank: expected 0 <= rank < 2, got 3");
}

TEST(Connect, MayKnowTheProcesses) {
  GroupOptions options = small_options();
  options.processes = {{getpid(), process_start(getpid())}};
  EXPECT_TRUE(Group::connect(UniqueId::create(), 0, 1, options).ok());
  // Rank 1 is a process that has the same pid, but began at another time.
  options.processes = {{getpid(), process_start(getpid())}, {getpid(), 1}};
  const Status status = Group::connect(UniqueId::create(), 0, 2, options).status();
  EXPECT_EQ(status.code(), StatusCode::kPeerLost);
  EXPECT_EQ(status.info().ranks, std::vector<int>{1});
}

TEST(Connect, AGroupMoves) {
  auto first = Group::local(1, small_options());
  auto second = Group::local(1, small_options());
  ASSERT_TRUE(first.ok() && second.ok());
  Group& group = first->front();
  ASSERT_TRUE(group.expert_buffer(1, 4, DType::kFloat32).ok());
  second->front().close(1s);
  group = std::move(second->front());
  EXPECT_EQ(group.expert_buffer(1, 4, DType::kFloat32).status().code(), StatusCode::kInvalidState);
}

}  // namespace
}  // namespace waybill
