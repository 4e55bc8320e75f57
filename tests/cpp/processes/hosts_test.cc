#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "base/descriptor.h"
#include "support/processes.h"
#include "support/ranks.h"
#include "support/run_layer.h"
#include "transport/ucx/ucx_wire.h"
#include "waybill/group.h"

namespace waybill {
namespace {

using namespace std::chrono_literals;
using testing::Processes;

constexpr int kRanks = 4;
constexpr int kCalls = 20;

/// An address of the loopback that nobody uses.
std::string free_address() {
  const Descriptor probe(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof(place);
  bind(probe.get(), reinterpret_cast<sockaddr*>(&place), bytes);
  getsockname(probe.get(), reinterpret_cast<sockaddr*>(&place), &bytes);
  return "127.0.0.1:" + std::to_string(ntohs(place.sin_port));
}

/// Two processes on each of two hosts, which are names only, and nothing but the id.
std::string life_of(const UniqueId& id, int rank) {
  setenv("WAYBILL_HOST", rank % 2 == 0 ? "even" : "odd", 1);
  GroupOptions options;
  options.timeout = 20s;
  options.window_bytes = testing::kTestWindowBytes;
  auto group = Group::connect(id, rank, kRanks, options);
  if (!group.ok()) {
    return group.status().message();
  }
  const testing::LayerCase layer = testing::plain_layer(kRanks);
  for (int i = 0; i < kCalls; ++i) {
    std::string text = testing::run_layer(*group, layer);
    if (!text.empty()) {
      return text;
    }
  }
  const auto routes = group->routes();
  const bool right = routes[static_cast<std::size_t>((rank + 2) % kRanks)].how == "shared memory" &&
                     routes[static_cast<std::size_t>((rank + 1) % kRanks)].how == "UCX";
  return right ? "" : "other routes than expected";
}

TEST(Hosts, MeetWithNothingButTheId) {
  // Asked in a child: UCX, once loaded, does not go through a fork.
  Processes asking(1, [](int) {
    const auto ucx = transport::ucx_version();
    return ucx.ok() ? std::string() : ucx.status().message();
  });
  ASSERT_TRUE(asking.join(20s));
  if (!asking.text(0).empty()) {
    GTEST_SKIP() << asking.text(0);
  }
  const UniqueId id = UniqueId::create(free_address());
  Processes ranks(kRanks, [&](int rank) { return life_of(id, rank); });
  ASSERT_TRUE(ranks.join(60s));
  for (int rank = 0; rank < kRanks; ++rank) {
    EXPECT_EQ(ranks.text(rank), "") << "rank " << rank;
  }
}

}  // namespace
}  // namespace waybill
