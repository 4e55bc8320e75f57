#include "contract/agreement.h"

#include <map>
#include <string>
#include <vector>

#include "base/errors.h"
#include "contract/dispatch_mark.h"

namespace waybill::contract {
namespace {

struct FieldText {
  const char* argument;  ///< the name a user knows
  const char* what;      ///< what differs
};

constexpr FieldText text_of(Agreed field) {
  switch (field) {
    case Agreed::kOperator:
      return {"", "operator"};
    case Agreed::kEpWorldSize:
      return {"ep_world_size", "E"};
    case Agreed::kDtype:
      return {"x", "dtype"};
    case Agreed::kHidden:
      return {"x", "hidden size H"};
    case Agreed::kTopK:
      return {"expert_ids", "K"};
    case Agreed::kMoeExpertNum:
      return {"moe_expert_num", "M"};
    case Agreed::kSharedExpertNum:
      return {"shared_expert_num", "S"};
    case Agreed::kSharedExpertRankNum:
      return {"shared_expert_rank_num", "SR"};
    case Agreed::kTpWorldSize:
      return {"tp_world_size", "TP"};
    case Agreed::kQuantMode:
      return {"quant_mode", "value"};
    case Agreed::kYDtype:
      return {"y_dtype", "value"};
    case Agreed::kScalesGiven:
      return {"scales", "presence"};
    case Agreed::kCommQuantMode:
      return {"comm_quant_mode", "value"};
    case Agreed::kZeroExpertNum:
      return {"zero_expert_num", "value"};
    case Agreed::kCopyExpertNum:
      return {"copy_expert_num", "value"};
    case Agreed::kConstExpertNum:
      return {"const_expert_num", "value"};
    case Agreed::kGlobalBs:
      return {"global_bs", "global batch (global_bs, or BS*E where it is 0)"};
    case Agreed::kElastic:
      return {"elastic_info", "flag"};
    case Agreed::kElasticRanks:
      return {"elastic_info", "newE"};
    case Agreed::kElasticShared:
      return {"elastic_info", "newSR"};
    case Agreed::kElasticExperts:
      return {"elastic_info", "newM"};
    case Agreed::kElasticTables:
      return {"elastic_info", "tables (by their hash)"};
    case Agreed::kForm:
      return {"expand_idx", "form"};
    case Agreed::kEpRankId:
      return {"ep_rank_id", "EP rank of both TP peers"};
    case Agreed::kDispatchCall:
      return {"assist_info_for_combine", "dispatch behind the rows"};
    case Agreed::kHistory:
      return {"", "operators in the calls before"};
    case Agreed::kCount:
      break;
  }
  return {"", ""};
}

/// The name of an enumerator; of a number that cannot be one, which a peer may send, the number.
template <typename Enum>
std::string enumerator_text(std::int64_t value) {
  const auto enumerator = static_cast<Enum>(value);
  return static_cast<std::int64_t>(enumerator) == value ? name_of(enumerator)
                                                        : std::to_string(value);
}

std::string value_text(Agreed field, std::int64_t value) {
  switch (field) {
    case Agreed::kOperator:
      return enumerator_text<Operator>(value);
    case Agreed::kDtype:
      return enumerator_text<DType>(value);
    case Agreed::kScalesGiven:
      return value != 0 ? "given" : "None";
    case Agreed::kElastic:
      return value < 0 ? "None" : std::to_string(value);
    case Agreed::kForm:
      return value == kFormTriples       ? "triples"
             : value == kFormOccurrences ? "occurrence indices"
             : value == kFormUnknown     ? "either"
                                         : std::to_string(value);
    case Agreed::kDispatchCall:
      return dispatch_call_text(value);
    case Agreed::kHistory:
      return "sequence " + std::to_string(static_cast<std::uint64_t>(value) >> 48);
    default:
      return std::to_string(value);
  }
}

/// True for a field in which only ranks at different places of their programs differ.
bool tells_place(Agreed field) {
  return field == Agreed::kOperator || field == Agreed::kHistory || field == Agreed::kForm ||
         field == Agreed::kDispatchCall;
}

/// The ranks of each value.
template <typename Values>
auto group_ranks(const Values& value_of, std::span<const int> members) {
  std::map<std::int64_t, std::vector<int>> ranks_of;
  for (std::size_t r = 0; r < members.size(); ++r) {
    ranks_of[value_of(r)].push_back(members[r]);
  }
  return ranks_of;
}

template <typename Text>
std::string list_values(const std::map<std::int64_t, std::vector<int>>& ranks_of,
                        const Text& text_of_value) {
  std::string values;
  for (const auto& [value, ranks] : ranks_of) {
    values += (values.empty() ? "" : ", ") + text_of_value(value) + " on " + name_ranks(ranks);
  }
  return values;
}

Comparison difference(const Checker& check,
                      Agreed field,
                      std::span<const Agreement> by_rank,
                      std::span<const int> members,
                      std::span<const std::uint32_t> completed) {
  auto ranks_of = group_ranks([&](std::size_t r) { return by_rank[r][field]; }, members);
  std::vector<int> odd;
  const std::string values =
      list_values(ranks_of, [field](std::int64_t value) { return value_text(field, value); });
  for (std::size_t r = 0; r < by_rank.size(); ++r) {
    if (ranks_of[by_rank[r][field]].size() * 2 <= by_rank.size()) {
      odd.push_back(members[r]);
    }
  }
  const FieldText text = text_of(field);
  const char* argument =
      field == Agreed::kDispatchCall ? index_argument(check.op()) : text.argument;
  std::string message = std::string(name_of(check.op())) + ": ";
  if (*argument != '\0') {
    message += "argument " + std::string(argument) + ": ";
  }
  message += "expected the same " + std::string(text.what) + " on all ranks, got " + values;
  if (tells_place(field)) {
    message += "; the ranks are out of step and need a reset; completed calls: " +
               list_values(group_ranks([&](std::size_t r) { return completed[r]; }, members),
                           [](std::int64_t value) { return std::to_string(value); });
  }
  return {
      error(
          StatusCode::kMismatch, name_of(check.op()), argument, std::move(message), std::move(odd)),
      tells_place(field)};
}

/// True for a value that goes with every other one.
bool fits_all(Agreed field, std::int64_t value) {
  return (field == Agreed::kForm && value == kFormUnknown) ||
         (field == Agreed::kDispatchCall && value == kUnmarked);
}

Comparison compare_field(const Checker& check,
                         Agreed field,
                         std::span<const Agreement> by_rank,
                         std::span<const int> members,
                         std::span<const std::uint32_t> completed) {
  const Agreement* known = &by_rank[0];
  for (const Agreement& other : by_rank) {
    if (fits_all(field, (*known)[field])) {
      known = &other;
    }
    if (other[field] != (*known)[field] && !fits_all(field, other[field])) {
      return difference(check, field, by_rank, members, completed);
    }
  }
  return {};
}

}  // namespace

void set_elastic(Agreement& values, const Elastic& elastic) {
  values[Agreed::kElastic] = elastic.given ? (elastic.scaled ? 1 : 0) : -1;
  values[Agreed::kElasticRanks] = elastic.num_ranks;
  values[Agreed::kElasticShared] = elastic.num_shared_ranks;
  values[Agreed::kElasticExperts] = elastic.num_experts;
  values[Agreed::kElasticTables] = elastic.tables_hash;
}

Comparison compare(const Checker& check,
                   std::span<const Agreement> by_rank,
                   std::span<const int> members,
                   std::span<const std::uint32_t> completed) {
  Comparison found = compare_operators(check, by_rank, members, completed);
  for (std::size_t f = 0; f < static_cast<std::size_t>(Agreed::kCount) && found.status.ok(); ++f) {
    found = compare_field(check, static_cast<Agreed>(f), by_rank, members, completed);
  }
  return found;
}

Comparison compare_operators(const Checker& check,
                             std::span<const Agreement> by_rank,
                             std::span<const int> members,
                             std::span<const std::uint32_t> completed) {
  Comparison found = compare_field(check, Agreed::kOperator, by_rank, members, completed);
  return found.status.ok() ? compare_field(check, Agreed::kHistory, by_rank, members, completed)
                           : found;
}

}  // namespace waybill::contract
