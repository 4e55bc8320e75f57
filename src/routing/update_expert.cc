#include "waybill/update_expert.h"

#include <algorithm>

#include "contract/check.h"
#include "contract/update_expert_contract.h"
#include "numerics/convert.h"
#include "numerics/float_mode.h"
#include "routing/update_expert.h"

namespace waybill {
namespace routing {
namespace {

constexpr float same(float value) noexcept { return value; }

/// One token of keep_pairs: on entry `keep` says which of its choices are routed.
template <typename T, float (*kToFloat)(T)>
void prune(const Pruning& pruning, std::int64_t token, std::int64_t k, std::uint8_t* keep) {
  const Grid<T> scales(pruning.scales);
  float sum = 0.0f;
  for (std::int64_t i = 0; i < k; ++i) {
    if (keep[i] != 0) {
      sum = numerics::add_rn(sum, kToFloat(scales(token, i)));
    }
  }
  for (std::int64_t i = 0; i < k; ++i) {
    const float least = numerics::mul_rn(pruning.threshold(0, i), sum);
    // NaN on either side: 0
    keep[i] = keep[i] != 0 && kToFloat(scales(token, i)) >= least ? 1 : 0;
  }
}

using Prune = void (*)(const Pruning&, std::int64_t, std::int64_t, std::uint8_t*);

Prune prune_for(DType dtype) noexcept {
  switch (dtype) {
    case DType::kBFloat16:
      return prune<std::uint16_t, numerics::bfloat16_to_float>;
    case DType::kFloat16:
      return prune<std::uint16_t, numerics::float16_to_float>;
    default:
      return prune<float, same>;
  }
}

/// Of a logical expert for one token.
std::int32_t instance_of(std::int64_t expert,
                         const Grid<std::int32_t>& table,
                         const Balance& balance,
                         std::int64_t token) {
  const std::int64_t count = table(expert, 0);
  std::int64_t which = 0;
  if (count > 1 && balance.mode == 0) {
    const std::int64_t ranks_each =
        balance.world_size / count + (balance.world_size % count != 0 ? 1 : 0);
    which = balance.rank / ranks_each;
  } else if (count > 1) {
    which = token % count;
  }
  return table(expert, 1 + which);
}

}  // namespace

template <typename Id>
void choose_instances(const Grid<Id>& ids,
                      const ActiveTokens& active,
                      const Grid<std::int32_t>& table,
                      const Balance& balance,
                      std::int64_t bs,
                      std::int64_t k,
                      Id* instances) {
  for (std::int64_t token = 0; token < bs; ++token) {
    const bool chooses = active(token);
    for (std::int64_t i = 0; i < k; ++i) {
      const Id id = ids(token, i);
      *instances++ = chooses && id != contract::kNotRouted
                         ? static_cast<Id>(instance_of(id, table, balance, token))
                         : id;
    }
  }
}

template <typename Id>
void keep_pairs(const std::optional<Pruning>& pruning,
                const Grid<Id>& ids,
                const ActiveTokens& active,
                std::int64_t bs,
                std::int64_t k,
                std::uint8_t* keep) {
  const numerics::DefaultFloatMode float_mode;
  const Prune prune_token = pruning ? prune_for(pruning->scales.dtype) : nullptr;
  for (std::int64_t token = 0; token < bs; ++token, keep += k) {
    if (!active(token)) {
      std::fill_n(keep, k, std::uint8_t{0});
      continue;
    }
    for (std::int64_t i = 0; i < k; ++i) {
      keep[i] = ids(token, i) != contract::kNotRouted ? 1 : 0;
    }
    if (prune_token != nullptr) {
      prune_token(*pruning, token, k, keep);
    }
  }
}

}  // namespace routing

namespace {

Result<Strict> resolve(Strict strict) {
  if (strict != Strict::kNone) {
    return strict;
  }
  auto env = Env::from_process();
  if (!env.ok()) {
    return env.status();
  }
  return env->strict;
}

/// (K,) as a row, like (1, K).
TensorView as_row(TensorView threshold) noexcept {
  if (threshold.shape.rank() == 1) {
    threshold.strides = {0, threshold.strides[0]};
    threshold.shape = {1, threshold.shape[0]};
    threshold.total_dims = 2;
  }
  return threshold;
}

/// `balanced_mask`: null where it is not asked for.
template <typename Id>
void run(const UpdateExpertArgs& args, void* balanced_ids, std::uint8_t* balanced_mask) {
  const std::int64_t bs = args.expert_ids.shape[0];
  const std::int64_t k = args.expert_ids.shape[1];
  const routing::Grid<Id> ids(args.expert_ids);
  const routing::ActiveTokens active(args.active_mask);
  routing::choose_instances(ids,
                            active,
                            routing::Grid<std::int32_t>(args.eplb_table),
                            {args.balance_mode, args.local_rank_id, args.world_size},
                            bs,
                            k,
                            static_cast<Id*>(balanced_ids));
  if (balanced_mask == nullptr) {
    return;
  }
  std::optional<routing::Pruning> pruning;
  if (args.expert_scales) {
    pruning = {*args.expert_scales, routing::Grid<float>(as_row(*args.pruning_threshold))};
  }
  routing::keep_pairs(pruning, ids, active, bs, k, balanced_mask);
}

void run(const UpdateExpertArgs& args, void* balanced_ids, std::uint8_t* balanced_mask) {
  if (args.expert_ids.dtype == DType::kInt32) {
    run<std::int32_t>(args, balanced_ids, balanced_mask);
  } else {
    run<std::int64_t>(args, balanced_ids, balanced_mask);
  }
}

}  // namespace

Status update_expert(const UpdateExpertArgs& args,
                     void* balanced_ids,
                     std::uint8_t* balanced_mask) {
  const auto strict = resolve(args.strict);
  if (!strict.ok()) {
    return strict.status();
  }
  WAYBILL_RETURN_IF_ERROR(contract::check_update_expert(args, *strict));
  run(args, balanced_ids, balanced_mask);
  return {};
}

Status eplb_update_expert(const EplbUpdateExpertArgs& args, void* balanced_ids) {
  const auto strict = resolve(args.strict);
  if (!strict.ok()) {
    return strict.status();
  }
  WAYBILL_RETURN_IF_ERROR(contract::check_eplb_update_expert(args, *strict));
  run(contract::as_update_expert(args), balanced_ids, nullptr);
  return {};
}

}  // namespace waybill
