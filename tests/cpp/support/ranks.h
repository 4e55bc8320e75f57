#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/connect.h"
#include "engine/group_access.h"
#include "support/layer_case.h"
#include "support/run_layer.h"
#include "transport/local_wire.h"
#include "waybill/group.h"

namespace waybill::testing {

/// Runs body(i) for i in [0, count) on a thread each; what each returns.
inline std::vector<Status> on_threads(std::size_t count,
                                      const std::function<Status(std::size_t)>& body) {
  std::vector<Status> results(count);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < count; ++i) {
    threads.emplace_back([&, i] { results[i] = body(i); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return results;
}

/// A comparison's text as an error.
inline Status status_of(const std::string& text) {
  return text.empty() ? Status() : Status(ErrorInfo{StatusCode::kInternal, "", "", {}, text});
}

inline void expect_all_ok(const std::vector<Status>& results) {
  for (const Status& status : results) {
    EXPECT_TRUE(status.ok()) << status.message();
  }
}

/// Ranks as threads of one test; every test may run several calls on them.
class Ranks {
 public:
  explicit Ranks(int count,
                 std::chrono::milliseconds timeout = std::chrono::seconds(20),
                 std::function<void(Phase)> on_phase = {})
      : Ranks(std::vector<std::string>(static_cast<std::size_t>(count)), timeout, on_phase) {}

  /// On these hosts, a name a rank. `links`: between their wires, for tests to make bad.
  explicit Ranks(std::vector<std::string> hosts,
                 std::chrono::milliseconds timeout = std::chrono::seconds(20),
                 std::function<void(Phase)> on_phase = {},
                 const transport::LocalLinks* links = nullptr) {
    GroupOptions options;
    options.timeout = timeout;
    options.window_bytes = kTestWindowBytes;
    options.on_phase = std::move(on_phase);
    options.hosts = std::move(hosts);
    make(options, links);
  }

  /// With other options: a rank for each of its hosts.
  explicit Ranks(const GroupOptions& options, const transport::LocalLinks* links = nullptr) {
    make(options, links);
  }

  int size() const noexcept { return static_cast<int>(groups_.size()); }
  Group& operator[](int rank) { return groups_[static_cast<std::size_t>(rank)]; }

  /// body(group) on every rank at once; what each returns.
  std::vector<Status> run(const std::function<Status(Group&)>& body) {
    return on_threads(groups_.size(), [&](std::size_t r) { return body(groups_[r]); });
  }

  /// A whole layer, compared with the model.
  void expect_works(std::uint64_t seed = 1) {
    const LayerCase layer = layer_for(static_cast<int>(groups_.size()), seed);
    expect_all_ok(run([&](Group& group) { return status_of(run_layer(group, layer)); }));
  }

  void expect_resets() {
    expect_all_ok(run([](Group& group) { return group.reset().status(); }));
  }

  static LayerCase layer_for(int ranks, std::uint64_t seed) {
    for (;; ++seed) {
      LayerCase layer = draw_case(seed, ranks);
      if (layer.num_ranks == ranks && layer.given_ranks() == ranks) {
        return layer;
      }
    }
  }

 private:
  void make(const GroupOptions& options, const transport::LocalLinks* links) {
    const auto count = static_cast<int>(options.hosts.size());
    auto sessions = engine::local_sessions(UniqueId::create().to_string(), count, options, links);
    ASSERT_TRUE(sessions.ok()) << sessions.status().message();
    for (auto& session : *sessions) {
      groups_.push_back(engine::GroupAccess::make(std::move(session)));
    }
  }

  std::vector<Group> groups_;
};

/// A variable of the environment while groups are made.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

/// A test that takes the number of its hosts.
class OverHosts : public ::testing::TestWithParam<int> {
 protected:
  /// The host of each rank, in turns.
  static std::vector<std::string> hosts(int ranks) {
    std::vector<std::string> names;
    for (int rank = 0; rank < ranks; ++rank) {
      names.push_back("host" + std::to_string(rank % GetParam()));
    }
    return names;
  }
};

/// A plain layer: 3 tokens to each rank, float32, no options. M = 2 E.
inline LayerCase plain_layer(int ranks, std::int64_t experts_per_rank = 2) {
  LayerCase layer;
  layer.num_ranks = ranks;
  layer.h = 16;
  layer.k = 2;
  layer.x_stride = 16;
  layer.num_experts = experts_per_rank * ranks;
  layer.dtype = DType::kFloat32;
  for (int r = 0; r < ranks; ++r) {
    LayerCase::RankInput input;
    input.bs = 3;
    input.x.resize(3 * 16 * 4, std::byte{static_cast<unsigned char>(r + 1)});
    for (std::int32_t i = 0; i < 6; ++i) {
      input.ids.push_back((i * 5 + r) % static_cast<std::int32_t>(layer.num_experts));
    }
    input.weights.assign(6, 0.5F);
    input.dispatch_scales.assign(6, 0.25F);
    input.shared_x.resize(3 * 16 * 4);
    input.ori_x.resize(3 * 16 * 4);
    layer.ranks.push_back(std::move(input));
  }
  return layer;
}

/// The plain layer with rows so wide that each travels to other hosts from where it lies.
inline LayerCase wide_layer(int ranks) {
  LayerCase layer = plain_layer(ranks);
  layer.h = 8192;
  layer.x_stride = layer.h;
  for (LayerCase::RankInput& input : layer.ranks) {
    const auto bytes = static_cast<std::size_t>(input.bs * layer.h * 4);
    input.x.resize(bytes, input.x.front());
    input.shared_x.resize(bytes);
    input.ori_x.resize(bytes);
  }
  return layer;
}

/// The plain layer of `members`, what elastic_info leaves of `given_ranks`.
inline LayerCase scaled_in(int given_ranks, const std::vector<int>& members) {
  LayerCase layer = plain_layer(static_cast<int>(members.size()));
  layer.global_bs = 3 * given_ranks;
  LayerCase::Given& given = layer.given;
  given.num_ranks = given_ranks;
  given.num_experts = 2 * given_ranks;
  given.members = members;
  given.info = {1, layer.num_ranks, 0, static_cast<std::int32_t>(layer.num_experts)};
  given.info.resize(4 + 2 * static_cast<std::size_t>(given_ranks), -1);
  for (std::size_t now = 0; now < members.size(); ++now) {
    given.info[4 + static_cast<std::size_t>(members[now])] = static_cast<std::int32_t>(now);
    given.info[4 + static_cast<std::size_t>(given_ranks) + now] =
        static_cast<std::int32_t>(members[now]);
  }
  return layer;
}

inline Status dispatch_only(Group& group, const DispatchArgs& args) {
  return dispatch(group, args).status();
}

}  // namespace waybill::testing
