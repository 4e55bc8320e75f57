#include "contract/agreement.h"

#include <map>
#include <string>
#include <vector>

#include "base/errors.h"

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
    default:
      return std::to_string(value);
  }
}

Status difference(const Checker& check,
                  Agreed field,
                  std::span<const Agreement> by_rank,
                  std::span<const int> members) {
  std::map<std::int64_t, std::vector<int>> ranks_of;
  for (std::size_t r = 0; r < by_rank.size(); ++r) {
    ranks_of[by_rank[r][field]].push_back(members[r]);
  }
  std::vector<int> odd;
  std::string values;
  for (const auto& [value, ranks] : ranks_of) {
    values += (values.empty() ? "" : ", ") + value_text(field, value) + " on " + name_ranks(ranks);
  }
  for (std::size_t r = 0; r < by_rank.size(); ++r) {
    if (ranks_of[by_rank[r][field]].size() * 2 <= by_rank.size()) {
      odd.push_back(members[r]);
    }
  }
  const FieldText text = text_of(field);
  std::string message = std::string(name_of(check.op())) + ": ";
  if (*text.argument != '\0') {
    message += "argument " + std::string(text.argument) + ": ";
  }
  message += "expected the same " + std::string(text.what) + " on all ranks, got " + values;
  return error(StatusCode::kMismatch,
               name_of(check.op()),
               text.argument,
               std::move(message),
               std::move(odd));
}

/// True when the values differ; kFormUnknown goes with every form.
bool differ(Agreed field, std::int64_t a, std::int64_t b) {
  return a != b && !(field == Agreed::kForm && (a == kFormUnknown || b == kFormUnknown));
}

}  // namespace

void set_elastic(Agreement& values, const Elastic& elastic) {
  values[Agreed::kElastic] = elastic.given ? (elastic.scaled ? 1 : 0) : -1;
  values[Agreed::kElasticRanks] = elastic.num_ranks;
  values[Agreed::kElasticShared] = elastic.num_shared_ranks;
  values[Agreed::kElasticExperts] = elastic.num_experts;
  values[Agreed::kElasticTables] = elastic.tables_hash;
}

Status compare(const Checker& check,
               std::span<const Agreement> by_rank,
               std::span<const int> members) {
  for (std::size_t f = 0; f < static_cast<std::size_t>(Agreed::kCount); ++f) {
    const auto field = static_cast<Agreed>(f);
    const Agreement* known = &by_rank[0];
    for (const Agreement& other : by_rank) {
      if (field == Agreed::kForm && (*known)[field] == kFormUnknown) {
        known = &other;
      }
      if (differ(field, other[field], (*known)[field])) {
        return difference(check, field, by_rank, members);
      }
    }
  }
  return {};
}

}  // namespace waybill::contract
