// Tables of elastic_info against a model: what docs/contract/operators.md section 8 allows is
// accepted, and gives the placement that it says; all else is an error.

#include <cstdint>
#include <string_view>
#include <vector>

#include "contract/check.h"
#include "contract/elastic.h"
#include "contract/layer.h"
#include "drawing.h"

namespace waybill::fuzz {
namespace {

using contract::Checker;
using contract::Layer;
using contract::LayerInputs;
using contract::Operator;

struct Given {
  int num_ranks;
  int rank;
  std::int64_t num_shared;  ///< S
  std::int64_t num_shared_ranks;
  std::int64_t experts_per_rank;
  std::int64_t num_experts() const { return experts_per_rank * (num_ranks - num_shared_ranks); }
};

Given draw_given(Draw& draw) {
  Given given{};
  given.num_ranks = static_cast<int>(draw.in(1, 9));
  given.rank = static_cast<int>(draw.in(0, given.num_ranks - 1));
  given.num_shared = draw.in(1, 3);
  given.num_shared_ranks = draw.in(0, (given.num_ranks - 1) / given.num_shared) * given.num_shared;
  given.num_shared = given.num_shared_ranks == 0 ? 1 : given.num_shared;
  given.experts_per_rank = draw.in(0, 3);
  return given;
}

/// Legal tables of some of the ranks, in an order of their own, and then changes.
std::vector<std::int32_t> draw_info(Draw& draw, const Given& given) {
  std::vector<std::int32_t> members;
  for (std::int32_t r = 0; r < given.num_ranks; ++r) {
    if (r == given.rank || !draw.seldom()) {
      members.insert(members.begin() + draw.in(0, static_cast<std::int64_t>(members.size())), r);
    }
  }
  const auto now = static_cast<std::int32_t>(members.size());
  const std::int64_t shared =
      given.num_shared_ranks == 0 ? 0 : draw.in(0, now / given.num_shared) * given.num_shared;
  std::vector<std::int32_t> info = {
      draw.seldom() ? 0 : 1,
      now,
      static_cast<std::int32_t>(shared),
      static_cast<std::int32_t>(given.experts_per_rank * (now - shared))};
  info.resize(4 + 2 * static_cast<std::size_t>(given.num_ranks), -1);
  for (std::int32_t i = 0; i < now; ++i) {
    const std::int32_t old = members[static_cast<std::size_t>(i)];
    info[static_cast<std::size_t>(4 + old)] = i;
    info[static_cast<std::size_t>(4 + given.num_ranks + i)] = old;
  }
  for (std::int64_t left = draw.flag() ? draw.in(0, 3) : 0; left > 0; --left) {
    const std::int64_t value = draw.flag() ? draw.in(-2, given.num_ranks) : draw.any();
    info[draw.index(info.size())] = static_cast<std::int32_t>(value);
  }
  return info;
}

/// Old ranks by their new ones; empty when the tables are not each other's inverse.
std::vector<int> members_of(const std::vector<std::int32_t>& info, const Given& given) {
  const std::int64_t now = info[1];
  const auto table1 = [&](int i) { return info[static_cast<std::size_t>(4 + i)]; };
  const auto table2 = [&](int i) {
    return info[static_cast<std::size_t>(4 + given.num_ranks + i)];
  };
  if (now < 1 || now > given.num_ranks || table1(given.rank) == -1) {
    return {};
  }
  std::vector<int> old_of(static_cast<std::size_t>(given.num_ranks), -1);
  std::int64_t named = 0;
  for (int old = 0; old < given.num_ranks; ++old) {
    const std::int32_t place = table1(old);
    if (place == -1) {
      continue;
    }
    if (place < 0 || place >= now || old_of[static_cast<std::size_t>(place)] != -1) {
      return {};
    }
    old_of[static_cast<std::size_t>(place)] = old;
    ++named;
  }
  for (int i = 0; i < given.num_ranks; ++i) {
    if (table2(i) != old_of[static_cast<std::size_t>(i)]) {
      return {};
    }
  }
  old_of.resize(static_cast<std::size_t>(now));
  return named == now ? old_of : std::vector<int>();
}

bool roles_are_legal(const std::vector<std::int32_t>& info, const Given& given) {
  const std::int64_t now = info[1];
  const std::int64_t shared = info[2];
  return shared >= 0 && shared < now && (shared > 0) == (given.num_shared_ranks > 0) &&
         shared % given.num_shared == 0 && info[3] == given.experts_per_rank * (now - shared) &&
         info[3] <= given.num_experts();
}

void check_accepted(const Layer& layer,
                    const std::vector<std::int32_t>& info,
                    const std::vector<int>& members,
                    const Given& given) {
  expect(layer.elastic.given, "elastic_info that was given");
  expect(layer.elastic.scaled == (info[0] != 0), "the flag");
  expect(layer.given.num_ranks == given.num_ranks && layer.given.num_experts == given.num_experts(),
         "arguments as they were given");
  expect(layer.local_experts_of_shapes() == std::max<std::int64_t>(given.experts_per_rank, 1),
         "max(1, L) in shapes");
  if (info[0] == 0) {
    expect(layer.topology.num_ranks == given.num_ranks && layer.topology.rank == given.rank,
           "the placement as given");
    return;
  }
  expect(layer.topology.num_ranks == info[1] && layer.topology.num_shared_ranks == info[2] &&
             layer.topology.num_experts == info[3],
         "newE, newSR and newM in force");
  expect(layer.topology.experts_per_rank() == given.experts_per_rank, "L as it was");
  for (int i = 0; i < info[1]; ++i) {
    const int old = members[static_cast<std::size_t>(i)];
    expect(layer.elastic.members[i] == old, "the members of table2");
    expect((old == given.rank) == (layer.topology.rank == i), "the own new rank");
  }
}

void run(Draw& draw) {
  const Given given = draw_given(draw);
  const std::vector<std::int32_t> info = draw_info(draw, given);
  const std::int64_t length = draw.wild(static_cast<std::int64_t>(info.size()));
  const auto value = [&](std::int64_t i) {
    const auto place = static_cast<std::size_t>(i);
    return place < info.size() ? info[place] : 0;
  };
  const std::optional<TensorView> view = draw.tensor(DType::kInt32, {length}, value);
  const std::optional<TensorView> none;
  const LayerArgs common{.ep_world_size = given.num_ranks,
                         .ep_rank_id = given.rank,
                         .moe_expert_num = given.num_experts(),
                         .shared_expert_num = given.num_shared,
                         .shared_expert_rank_num = given.num_shared_ranks};
  const LayerInputs args{.layer = common,
                         .tp_world_size = 0,
                         .tp_rank_id = 0,
                         .zero_expert_num = 0,
                         .copy_expert_num = 0,
                         .const_expert_num = 0,
                         .elastic_info = view,
                         .performance_info = none};
  const Checker check(Operator::kDispatchV2, {.rank = given.rank, .world_size = given.num_ranks});
  const Result<Layer> layer = contract::check_layer(check, args);
  const bool fits = length == static_cast<std::int64_t>(info.size());
  const std::vector<int> members =
      fits && info[0] != 0 ? members_of(info, given) : std::vector<int>();
  if (!fits || (info[0] != 0 && (members.empty() || !roles_are_legal(info, given)))) {
    expect_error(layer.status(), StatusCode::kInvalidArgument);
    expect(layer.status().info().argument == "elastic_info", "an error about elastic_info");
    return;
  }
  expect(layer.ok(), layer.status().message());
  check_accepted(*layer, info, members, given);
  const auto again = contract::read_elastic(check, draw.tensor(DType::kInt32, {length}, value));
  expect(again.ok() && again->tables_hash == layer->elastic.tables_hash, "the same hash");
}

}  // namespace
}  // namespace waybill::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  waybill::fuzz::Draw draw(data, size);
  waybill::fuzz::run(draw);
  return 0;
}
