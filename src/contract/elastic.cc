#include "contract/elastic.h"

#include <string>

namespace waybill::contract {
namespace {

constexpr const char* kName = "elastic_info";
constexpr int kHead = 4;  // flag, newE, newSR, newM

/// The elements, with the errors that name one.
class Reader {
 public:
  Reader(const Checker& check, const TensorView& view) noexcept
      : check_(check),
        data_(static_cast<const std::int32_t*>(view.data)),
        stride_(view.strides[0]),
        num_ranks_(check.group().world_size) {}

  std::int32_t at(int index) const noexcept { return data_[index * stride_]; }
  std::int32_t new_of(int old_rank) const noexcept { return at(kHead + old_rank); }
  std::int32_t old_of(int new_rank) const noexcept { return at(kHead + num_ranks_ + new_rank); }
  Members members() const noexcept { return {data_ + (kHead + num_ranks_) * stride_, stride_}; }

  Status check_tables(int num_members) const {
    for (int old_rank = 0; old_rank < num_ranks_; ++old_rank) {
      const std::int32_t now = new_of(old_rank);
      if (now < -1 || now >= num_members) {
        return bad(kHead + old_rank,
                   "-1 or the new rank of rank " + std::to_string(old_rank) +
                       ", below newE = " + std::to_string(num_members));
      }
      if (now >= 0 && old_of(now) != old_rank) {
        return bad(kHead + num_ranks_ + now,
                   std::to_string(old_rank) + ", since table1 gives rank " +
                       std::to_string(old_rank) + " the new rank " + std::to_string(now));
      }
    }
    // Each new rank has an old one, and above no two share one: table1 names as many as newE says.
    for (int now = 0; now < num_ranks_; ++now) {
      const std::int32_t old_rank = old_of(now);
      const bool in_use = now < num_members;
      if (in_use ? old_rank < 0 || old_rank >= num_ranks_ || new_of(old_rank) != now
                 : old_rank != -1) {
        return bad(kHead + num_ranks_ + now,
                   in_use ? "the rank that table1 gives the new rank " + std::to_string(now)
                          : "-1 past newE");
      }
    }
    return {};
  }

  Status bad(int index, const std::string& expected) const {
    return check_.fail(
        kName, expected, std::to_string(at(index)) + " at element " + std::to_string(index));
  }

  /// FNV-1a.
  std::int64_t hash() const noexcept {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (int i = kHead; i < kHead + 2 * num_ranks_; ++i) {
      hash = (hash ^ static_cast<std::uint32_t>(at(i))) * 0x100000001b3;
    }
    return static_cast<std::int64_t>(hash);
  }

 private:
  const Checker& check_;
  const std::int32_t* data_;
  std::int64_t stride_;
  int num_ranks_;
};

}  // namespace

Result<Elastic> read_elastic(const Checker& check, const std::optional<TensorView>& info) {
  Elastic elastic;
  if (!info) {
    return elastic;
  }
  const int num_ranks = check.group().world_size;
  WAYBILL_RETURN_IF_ERROR(
      check.expect(kName, *info, {kHead + 2 * num_ranks}, "(4 + 2E,)", DType::kInt32));
  elastic.given = true;
  const Reader reader(check, *info);
  if (reader.at(0) == 0) {
    return elastic;
  }
  elastic.scaled = true;
  elastic.num_ranks = reader.at(1);
  elastic.num_shared_ranks = reader.at(2);
  elastic.num_experts = reader.at(3);
  if (elastic.num_ranks < 1 || elastic.num_ranks > num_ranks) {
    return reader.bad(1, "1 <= newE <= E = " + std::to_string(num_ranks));
  }
  WAYBILL_RETURN_IF_ERROR(reader.check_tables(elastic.num_ranks));
  elastic.rank = reader.new_of(check.group().rank);
  if (elastic.rank < 0) {
    return reader.bad(kHead + check.group().rank, "a new rank for the rank that calls");
  }
  elastic.members = reader.members();
  elastic.tables_hash = reader.hash();
  return elastic;
}

Result<Topology> apply_elastic(const Checker& check,
                               const Elastic& elastic,
                               const Topology& given) {
  if (!elastic.scaled) {
    return given;
  }
  const auto fail = [&](const char* field, int index, const std::string& expected, auto got) {
    return check.fail(kName,
                      std::string(field) + " (element " + std::to_string(index) + ") " + expected,
                      static_cast<std::int64_t>(got));
  };
  const std::int64_t shared_ranks = elastic.num_shared_ranks;
  if (shared_ranks < 0 || shared_ranks >= elastic.num_ranks ||
      (shared_ranks > 0) != (given.num_shared_ranks > 0) ||
      (shared_ranks > 0 && shared_ranks % given.num_shared != 0)) {
    return fail("newSR",
                2,
                given.num_shared_ranks > 0
                    ? "a positive multiple of S = " + std::to_string(given.num_shared) +
                          " below newE = " + std::to_string(elastic.num_ranks)
                    : std::string("0, since shared_expert_rank_num is 0"),
                shared_ranks);
  }
  const std::int64_t moe_ranks = elastic.num_ranks - shared_ranks;
  if (elastic.num_experts != given.experts_per_rank() * moe_ranks) {
    return fail("newM",
                3,
                "L*(newE - newSR) = " + std::to_string(given.experts_per_rank() * moe_ranks) +
                    ", since L stays " + std::to_string(given.experts_per_rank()),
                elastic.num_experts);
  }
  if (elastic.num_experts > given.num_experts) {
    return fail("newM", 3, "at most M = " + std::to_string(given.num_experts), elastic.num_experts);
  }
  Topology now = given;
  now.num_ranks = elastic.num_ranks;
  now.rank = elastic.rank;
  now.num_experts = elastic.num_experts;
  now.num_shared_ranks = static_cast<int>(shared_ranks);
  return now;
}

}  // namespace waybill::contract
