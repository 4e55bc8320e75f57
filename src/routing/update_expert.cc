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

template <typename T, float (*kToFloat)(T)>
void prune(const Pruning& pruning, std::int64_t token, std::int64_t k, std::uint8_t* keep) {
  const Grid<T> scales(pruning.scales);
  float sum = 0.0f;
  for (std::int64_t i = 0; i < k; ++i) {
    sum = numerics::add_rn(sum, kToFloat(scales(token, i)));
  }
  for (std::int64_t i = 0; i < k; ++i) {
    const float least = numerics::mul_rn(pruning.threshold(0, i), sum);
    keep[i] = kToFloat(scales(token, i)) >= least ? 1 : 0;  // NaN on either side: 0
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

}  // namespace

template <typename Id>
void choose_instances(const Grid<Id>& ids,
                      const Grid<std::int32_t>& table,
                      const Balance& balance,
                      std::int64_t bs,
                      std::int64_t k,
                      Id* instances) {
  for (std::int64_t token = 0; token < bs; ++token) {
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int64_t expert = ids(token, i);
      const std::int64_t count = table(expert, 0);
      std::int64_t which = 0;
      if (count > 1 && balance.mode == 0) {
        const std::int64_t ranks_each =
            balance.world_size / count + (balance.world_size % count != 0 ? 1 : 0);
        which = balance.rank / ranks_each;
      } else if (count > 1) {
        which = token % count;
      }
      *instances++ = table(expert, 1 + which);
    }
  }
}

template void choose_instances(const Grid<std::int32_t>&,
                               const Grid<std::int32_t>&,
                               const Balance&,
                               std::int64_t,
                               std::int64_t,
                               std::int32_t*);
template void choose_instances(const Grid<std::int64_t>&,
                               const Grid<std::int32_t>&,
                               const Balance&,
                               std::int64_t,
                               std::int64_t,
                               std::int64_t*);

void keep_pairs(const std::optional<Pruning>& pruning,
                const ActivePairs& active,
                std::int64_t bs,
                std::int64_t k,
                std::uint8_t* keep) {
  const numerics::DefaultFloatMode float_mode;
  const Prune prune_token = pruning ? prune_for(pruning->scales.dtype) : nullptr;
  for (std::int64_t token = 0; token < bs; ++token, keep += k) {
    const bool kept = active.token(token);
    if (kept && prune_token != nullptr) {
      prune_token(*pruning, token, k, keep);
    } else {
      std::fill_n(keep, k, kept ? std::uint8_t{1} : std::uint8_t{0});
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

void balance(const UpdateExpertArgs& args, void* balanced_ids) {
  using routing::Grid;
  const Grid<std::int32_t> table(args.eplb_table);
  const routing::Balance how{args.balance_mode, args.local_rank_id, args.world_size};
  const std::int64_t bs = args.expert_ids.shape[0];
  const std::int64_t k = args.expert_ids.shape[1];
  if (args.expert_ids.dtype == DType::kInt32) {
    const Grid<std::int32_t> ids(args.expert_ids);
    routing::choose_instances(ids, table, how, bs, k, static_cast<std::int32_t*>(balanced_ids));
  } else {
    const Grid<std::int64_t> ids(args.expert_ids);
    routing::choose_instances(ids, table, how, bs, k, static_cast<std::int64_t*>(balanced_ids));
  }
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

}  // namespace

Status update_expert(const UpdateExpertArgs& args,
                     void* balanced_ids,
                     std::uint8_t* balanced_mask) {
  const auto strict = resolve(args.strict);
  if (!strict.ok()) {
    return strict.status();
  }
  WAYBILL_RETURN_IF_ERROR(contract::check_update_expert(args, *strict));
  balance(args, balanced_ids);
  std::optional<routing::Pruning> pruning;
  if (args.expert_scales) {
    pruning = {*args.expert_scales, routing::Grid<float>(as_row(*args.pruning_threshold))};
  }
  const std::int64_t k = args.expert_ids.shape[1];
  routing::keep_pairs(pruning,
                      routing::ActivePairs(args.active_mask, k),
                      args.expert_ids.shape[0],
                      k,
                      balanced_mask);
  return {};
}

Status eplb_update_expert(const EplbUpdateExpertArgs& args, void* balanced_ids) {
  const auto strict = resolve(args.strict);
  if (!strict.ok()) {
    return strict.status();
  }
  WAYBILL_RETURN_IF_ERROR(contract::check_eplb_update_expert(args, *strict));
  balance(contract::as_update_expert(args), balanced_ids);
  return {};
}

}  // namespace waybill
