#pragma once

#include <tuple>

#include "contract/signature.h"
#include "waybill/barrier.h"
#include "waybill/combine.h"
#include "waybill/dispatch.h"
#include "waybill/setup.h"
#include "waybill/update_expert.h"

// The signature of each operator, a row for each parameter (docs/contract/operators.md section 1).
// From these tables come torch's schemas with their internal forms, the reading of arguments, and
// what a teardown has to repeat of its setup. Python's functions are checked against them when the
// package is imported.
namespace waybill::contract::signature {

/// group_ep to moe_expert_num, of the struct `Args` that kTo lead to.
template <typename Args, auto... kTo>
constexpr auto ranks() noexcept {
  return std::tuple(GroupName{"group_ep"},
                    input<kTo..., &Args::layer, &LayerArgs::ep_world_size>("ep_world_size"),
                    input<kTo..., &Args::layer, &LayerArgs::ep_rank_id>("ep_rank_id"),
                    input<kTo..., &Args::layer, &LayerArgs::moe_expert_num>("moe_expert_num"));
}

/// Who holds which expert.
template <typename Args, auto... kTo>
constexpr auto placement() noexcept {
  return std::tuple(
      option<kTo..., &Args::layer, &LayerArgs::expert_shard_type>("expert_shard_type"),
      option<kTo..., &Args::layer, &LayerArgs::shared_expert_num>("shared_expert_num"),
      option<kTo..., &Args::layer, &LayerArgs::shared_expert_rank_num>("shared_expert_rank_num"));
}

template <typename Args, auto... kTo>
constexpr auto tp() noexcept {
  return std::tuple(TpGroupName{"group_tp"},
                    option<kTo..., &Args::tp_world_size>("tp_world_size"),
                    option<kTo..., &Args::tp_rank_id>("tp_rank_id"));
}

template <typename Args, auto... kTo>
constexpr auto special_experts() noexcept {
  return std::tuple(option<kTo..., &Args::zero_expert_num>("zero_expert_num"),
                    option<kTo..., &Args::copy_expert_num>("copy_expert_num"),
                    option<kTo..., &Args::const_expert_num>("const_expert_num"));
}

inline constexpr auto kDispatch = signature<DispatchArgs>(
    Operator::kDispatch,
    input<&DispatchArgs::x>("x"),
    input<&DispatchArgs::expert_ids>("expert_ids"),
    ranks<DispatchArgs>(),
    option<&DispatchArgs::scales>("scales"),
    option<&DispatchArgs::x_active_mask>("x_active_mask"),
    option<&DispatchArgs::expert_scales>("expert_scales"),
    tp<DispatchArgs>(),
    placement<DispatchArgs>(),
    option<&DispatchArgs::quant_mode>("quant_mode"),
    symbolic<&DispatchArgs::layer, &LayerArgs::global_bs>("global_bs"),
    option<&DispatchArgs::expert_token_nums_type>("expert_token_nums_type"));

inline constexpr auto kDispatchV2 =
    signature<DispatchArgs>(Operator::kDispatchV2,
                            input<&DispatchArgs::x>("x"),
                            input<&DispatchArgs::expert_ids>("expert_ids"),
                            ranks<DispatchArgs>(),
                            option<&DispatchArgs::scales>("scales"),
                            option<&DispatchArgs::x_active_mask>("x_active_mask"),
                            option<&DispatchArgs::expert_scales>("expert_scales"),
                            option<&DispatchArgs::elastic_info>("elastic_info"),
                            written<&DispatchArgs::performance_info>("performance_info"),
                            tp<DispatchArgs>(),
                            placement<DispatchArgs>(),
                            option<&DispatchArgs::quant_mode>("quant_mode"),
                            symbolic<&DispatchArgs::layer, &LayerArgs::global_bs>("global_bs"),
                            option<&DispatchArgs::expert_token_nums_type>("expert_token_nums_type"),
                            option<&DispatchArgs::layer, &LayerArgs::comm_alg>("comm_alg"),
                            special_experts<DispatchArgs>(),
                            option<&DispatchArgs::y_dtype>("y_dtype"),
                            option<&DispatchArgs::x_dtype>("x_dtype"),
                            option<&DispatchArgs::scales_dtype>("scales_dtype"));

// Parts of the combines; kTo lead to their CombineArgs.

/// `index`: the operator's name for what says where rows belong.
template <auto... kTo>
constexpr auto returned_rows(const char* index) noexcept {
  return std::tuple(input<kTo..., &CombineArgs::expand_x>("expand_x"),
                    input<kTo..., &CombineArgs::expert_ids>("expert_ids"),
                    input<kTo..., &CombineArgs::assist_info_for_combine>(index),
                    input<kTo..., &CombineArgs::ep_send_counts>("ep_send_counts"),
                    input<kTo..., &CombineArgs::expert_scales>("expert_scales"));
}

template <auto... kTo>
constexpr auto tp_counts_and_mask() noexcept {
  return std::tuple(option<kTo..., &CombineArgs::tp_send_counts>("tp_send_counts"),
                    option<kTo..., &CombineArgs::x_active_mask>("x_active_mask"));
}

/// What has to be absent.
template <auto... kTo>
constexpr auto reserved_tensors() noexcept {
  return std::tuple(option<kTo..., &CombineArgs::activation_scale>("activation_scale"),
                    option<kTo..., &CombineArgs::weight_scale>("weight_scale"),
                    option<kTo..., &CombineArgs::group_list>("group_list"));
}

template <auto... kTo>
constexpr auto shared_rows() noexcept {
  return std::tuple(option<kTo..., &CombineArgs::expand_scales>("expand_scales"),
                    option<kTo..., &CombineArgs::shared_expert_x>("shared_expert_x"));
}

template <auto... kTo>
constexpr auto special_tensors() noexcept {
  return std::tuple(option<kTo..., &CombineArgs::elastic_info>("elastic_info"),
                    option<kTo..., &CombineArgs::ori_x>("ori_x"),
                    option<kTo..., &CombineArgs::const_expert_alpha_1>("const_expert_alpha_1"),
                    option<kTo..., &CombineArgs::const_expert_alpha_2>("const_expert_alpha_2"),
                    option<kTo..., &CombineArgs::const_expert_v>("const_expert_v"));
}

/// What v1 and add_rms_norm have in place of comm_quant_mode alone.
template <auto... kTo>
constexpr auto reserved_modes() noexcept {
  return std::tuple(option<kTo..., &CombineArgs::out_dtype>("out_dtype"),
                    option<kTo..., &CombineArgs::comm_quant_mode>("comm_quant_mode"),
                    option<kTo..., &CombineArgs::group_list_type>("group_list_type"));
}

inline constexpr auto kCombine =
    signature<CombineArgs>(Operator::kCombine,
                           returned_rows<>("expand_idx"),
                           ranks<CombineArgs>(),
                           tp_counts_and_mask<>(),
                           reserved_tensors<>(),
                           shared_rows<>(),
                           tp<CombineArgs>(),
                           placement<CombineArgs>(),
                           symbolic<&CombineArgs::layer, &LayerArgs::global_bs>("global_bs"),
                           reserved_modes<>());

inline constexpr auto kCombineV2 =
    signature<CombineArgs>(Operator::kCombineV2,
                           returned_rows<>("assist_info_for_combine"),
                           ranks<CombineArgs>(),
                           tp_counts_and_mask<>(),
                           shared_rows<>(),
                           special_tensors<>(),
                           written<&CombineArgs::performance_info>("performance_info"),
                           tp<CombineArgs>(),
                           placement<CombineArgs>(),
                           symbolic<&CombineArgs::layer, &LayerArgs::global_bs>("global_bs"),
                           option<&CombineArgs::comm_quant_mode>("comm_quant_mode"),
                           option<&CombineArgs::layer, &LayerArgs::comm_alg>("comm_alg"),
                           special_experts<CombineArgs>());

inline constexpr auto kInNorm = &CombineAddRmsNormArgs::combine;
inline constexpr auto kCombineAddRmsNorm = signature<CombineAddRmsNormArgs>(
    Operator::kCombineAddRmsNorm,
    returned_rows<kInNorm>("expand_idx"),
    input<&CombineAddRmsNormArgs::residual_x>("residual_x"),
    input<&CombineAddRmsNormArgs::gamma>("gamma"),
    ranks<CombineArgs, kInNorm>(),
    tp_counts_and_mask<kInNorm>(),
    reserved_tensors<kInNorm>(),
    shared_rows<kInNorm>(),
    special_tensors<kInNorm>(),
    tp<CombineArgs, kInNorm>(),
    placement<CombineArgs, kInNorm>(),
    symbolic<kInNorm, &CombineArgs::layer, &LayerArgs::global_bs>("global_bs"),
    reserved_modes<kInNorm>(),
    option<kInNorm, &CombineArgs::layer, &LayerArgs::comm_alg>("comm_alg"),
    option<&CombineAddRmsNormArgs::norm_eps>("norm_eps"),
    special_experts<CombineArgs, kInNorm>());

// The setup family. kTo lead to the SetupCommonArgs.

template <auto... kTo>
constexpr auto communication() noexcept {
  return std::tuple(option<kTo..., &SetupCommonArgs::comm_type>("comm_type"),
                    option<kTo..., &SetupCommonArgs::layer, &LayerArgs::comm_alg>("comm_alg"));
}

inline constexpr auto kInDispatchSetup = &DispatchSetupArgs::common;
inline constexpr auto kDispatchSetup = signature<DispatchSetupArgs>(
    Operator::kDispatchSetup,
    input<&DispatchSetupArgs::x>("x"),
    input<kInDispatchSetup, &SetupCommonArgs::expert_ids>("expert_ids"),
    ranks<SetupCommonArgs, kInDispatchSetup>(),
    option<&DispatchSetupArgs::scales>("scales"),
    option<&DispatchSetupArgs::x_active_mask>("x_active_mask"),
    placement<SetupCommonArgs, kInDispatchSetup>(),
    option<&DispatchSetupArgs::quant_mode>("quant_mode"),
    symbolic<kInDispatchSetup, &SetupCommonArgs::layer, &LayerArgs::global_bs>("global_bs"),
    communication<kInDispatchSetup>(),
    option<&DispatchSetupArgs::y_dtype>("y_dtype"));

inline constexpr auto kInDispatchTeardown = &DispatchTeardownArgs::common;
inline constexpr auto kDispatchTeardown = signature<DispatchTeardownArgs>(
    Operator::kDispatchTeardown,
    input<&DispatchTeardownArgs::x>("x"),
    UnreadTensor{"y"},
    input<kInDispatchTeardown, &SetupCommonArgs::expert_ids>("expert_ids"),
    input<&DispatchTeardownArgs::comm_cmd_info>("comm_cmd_info"),
    ranks<SetupCommonArgs, kInDispatchTeardown>(),
    placement<SetupCommonArgs, kInDispatchTeardown>(),
    option<&DispatchTeardownArgs::quant_mode>("quant_mode"),
    symbolic<kInDispatchTeardown, &SetupCommonArgs::layer, &LayerArgs::global_bs>("global_bs"),
    option<&DispatchTeardownArgs::expert_token_nums_type>("expert_token_nums_type"),
    communication<kInDispatchTeardown>());

inline constexpr auto kInCombineSetup = &CombineSetupArgs::common;
inline constexpr auto kCombineSetup = signature<CombineSetupArgs>(
    Operator::kCombineSetup,
    held<&CombineSetupArgs::expand_x, &CombineSetupArgs::expand_x_owner>("expand_x"),
    input<kInCombineSetup, &SetupCommonArgs::expert_ids>("expert_ids"),
    input<&CombineSetupArgs::assist_info_for_combine>("assist_info_for_combine"),
    ranks<SetupCommonArgs, kInCombineSetup>(),
    placement<SetupCommonArgs, kInCombineSetup>(),
    symbolic<kInCombineSetup, &SetupCommonArgs::layer, &LayerArgs::global_bs>("global_bs"),
    option<&CombineSetupArgs::comm_quant_mode>("comm_quant_mode"),
    communication<kInCombineSetup>());

inline constexpr auto kInCombineTeardown = &CombineTeardownArgs::common;
inline constexpr auto kCombineTeardown = signature<CombineTeardownArgs>(
    Operator::kCombineTeardown,
    input<&CombineTeardownArgs::expand_x>("expand_x"),
    UnreadTensor{"quant_expand_x"},
    input<kInCombineTeardown, &SetupCommonArgs::expert_ids>("expert_ids"),
    input<&CombineTeardownArgs::expand_idx>("expand_idx"),
    input<&CombineTeardownArgs::expert_scales>("expert_scales"),
    input<&CombineTeardownArgs::comm_cmd_info>("comm_cmd_info"),
    ranks<SetupCommonArgs, kInCombineTeardown>(),
    option<&CombineTeardownArgs::x_active_mask>("x_active_mask"),
    option<&CombineTeardownArgs::shared_expert_x>("shared_expert_x"),
    placement<SetupCommonArgs, kInCombineTeardown>(),
    symbolic<kInCombineTeardown, &SetupCommonArgs::layer, &LayerArgs::global_bs>("global_bs"),
    option<&CombineTeardownArgs::comm_quant_mode>("comm_quant_mode"),
    communication<kInCombineTeardown>());

inline constexpr auto kBarrier =
    signature<BarrierArgs>(Operator::kBarrier,
                           PassedTensor{"x_ref"},
                           GroupName{"group"},
                           input<&BarrierArgs::world_size>("world_size"),
                           option<&BarrierArgs::time_out>("time_out"),
                           option<&BarrierArgs::elastic_info>("elastic_info"));

inline constexpr auto kUpdateExpert =
    signature<UpdateExpertArgs>(Operator::kUpdateExpert,
                                input<&UpdateExpertArgs::expert_ids>("expert_ids"),
                                input<&UpdateExpertArgs::eplb_table>("eplb_table"),
                                option<&UpdateExpertArgs::expert_scales>("expert_scales"),
                                option<&UpdateExpertArgs::pruning_threshold>("pruning_threshold"),
                                option<&UpdateExpertArgs::active_mask>("active_mask"),
                                option<&UpdateExpertArgs::local_rank_id>("local_rank_id"),
                                option<&UpdateExpertArgs::world_size>("world_size"),
                                option<&UpdateExpertArgs::balance_mode>("balance_mode"));

inline constexpr auto kEplbUpdateExpert =
    signature<EplbUpdateExpertArgs>(Operator::kEplbUpdateExpert,
                                    input<&EplbUpdateExpertArgs::expert_ids>("expert_ids"),
                                    input<&EplbUpdateExpertArgs::eplb_table>("eplb_table"),
                                    input<&EplbUpdateExpertArgs::local_rank_id>("local_rank_id"),
                                    input<&EplbUpdateExpertArgs::world_size>("world_size"),
                                    option<&EplbUpdateExpertArgs::balance_mode>("balance_mode"));

}  // namespace waybill::contract::signature
