#include "routing/send_plan.h"

#include <algorithm>
#include <string>

#include "contract/strict.h"

namespace waybill::routing {
namespace {

std::string range(std::int64_t begin, std::int64_t end) {
  return "[" + std::to_string(begin) + ", " + std::to_string(end) + ")";
}

std::string known_ids(const contract::Topology& topology, Strict strict) {
  std::string text = "ids in " + range(0, topology.num_experts);
  if (topology.special_end > topology.special_begin) {
    text += " or " + range(topology.special_begin, topology.special_end);
  }
  return text + contract::ways_to_leave_out("x_active_mask", strict);
}

Status unknown_id(const contract::Checker& check,
                  const contract::Topology& topology,
                  std::int32_t id,
                  std::int64_t token,
                  std::int64_t k) {
  return check.fail(
      "expert_ids",
      known_ids(topology, check.group().strict),
      std::to_string(id) + " at token " + std::to_string(token) + ", k " + std::to_string(k));
}

/// True for a MoE expert: not for a special one, nor where the pair does not take part.
bool is_sent(std::int32_t expert, std::int64_t num_experts) {
  return expert >= 0 && expert < num_experts;
}

}  // namespace

Status count(const contract::Checker& check,
             const contract::Topology& topology,
             const ActivePairs& pairs,
             SendCounts& counts) {
  const auto num_experts = static_cast<std::size_t>(topology.num_experts);
  counts.expert_offsets.assign(num_experts + 1, 0);
  counts.rows_to.assign(static_cast<std::size_t>(topology.num_ranks), 0);
  counts.num_active = 0;
  for (std::int64_t t = 0; t < pairs.bs(); ++t) {
    bool active = false;
    for (std::int64_t j = 0; j < pairs.k(); ++j) {
      const std::int32_t expert = pairs.id(t, j);
      if (topology.is_routed(expert)) {
        ++counts.expert_offsets[static_cast<std::size_t>(expert) + 1];
        active = true;
      } else if (topology.is_special(expert)) {
        active = true;
      } else if (expert != contract::kNotRouted) {
        return unknown_id(check, topology, expert, t, j);
      }
    }
    counts.num_active += active ? 1 : 0;
  }
  for (std::size_t e = 0; e < num_experts; ++e) {
    counts.rows_to[static_cast<std::size_t>(topology.owner_of(static_cast<std::int64_t>(e)))] +=
        counts.expert_offsets[e + 1];
    counts.expert_offsets[e + 1] += counts.expert_offsets[e];
  }
  counts.num_entries = counts.expert_offsets[num_experts];
  return {};
}

void sort_by_expert(const SendCounts& counts,
                    const ActivePairs& pairs,
                    std::vector<std::int32_t>& cursor,
                    std::span<std::int32_t> entries) {
  const auto num_experts = static_cast<std::int64_t>(counts.expert_offsets.size()) - 1;
  cursor.assign(counts.expert_offsets.begin(), counts.expert_offsets.end());
  for (std::int64_t t = 0; t < pairs.bs(); ++t) {
    for (std::int64_t j = 0; j < pairs.k(); ++j) {
      if (const std::int32_t expert = pairs.id(t, j); is_sent(expert, num_experts)) {
        std::int32_t& place = cursor[static_cast<std::size_t>(expert)];
        entries[static_cast<std::size_t>(place++)] = static_cast<std::int32_t>(t * pairs.k() + j);
      }
    }
  }
}

void count_occurrences(const SendCounts& counts,
                       const ActivePairs& pairs,
                       std::vector<std::int32_t>& cursor,
                       std::int32_t* occurrences) {
  const auto num_experts = static_cast<std::int64_t>(counts.expert_offsets.size()) - 1;
  cursor.assign(static_cast<std::size_t>(num_experts), 0);
  for (std::int64_t t = 0; t < pairs.bs(); ++t) {
    for (std::int64_t j = 0; j < pairs.k(); ++j) {
      const std::int32_t expert = pairs.id(t, j);
      *occurrences++ =
          is_sent(expert, num_experts) ? cursor[static_cast<std::size_t>(expert)]++ : 0;
    }
  }
}

void list_active(const ActivePairs& pairs, std::span<std::int32_t> tokens) {
  std::size_t next = 0;
  for (std::int64_t t = 0; t < pairs.bs(); ++t) {
    if (pairs.token(t)) {
      tokens[next++] = static_cast<std::int32_t>(t);
    }
  }
}

}  // namespace waybill::routing
