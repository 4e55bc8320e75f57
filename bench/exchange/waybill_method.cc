#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>
#include <stdexcept>

#include "exchange/method.h"
#include "exchange/variant.h"
#include "waybill/combine.h"
#include "waybill/dispatch.h"
#include "waybill/setup.h"

namespace waybill::bench {
namespace {

/// The library's own calls.
class Waybill : public Method {
 public:
  Waybill(const Workload& workload, Groups& groups, const Variant& variant)
      : Method(variant.name),
        workload_(workload),
        sizes_(workload.sizes()),
        variant_(variant),
        group_(groups.get(variant.group, variant.options)),
        inputs_(workload, variant) {
    if (!variant.in_pool) {
      private_rows_ = Rows(workload.num_received() * sizes_.row_bytes());
    }
  }

  bool has_combine() const override { return variant_.quant == 0; }

  void dispatch() override {
    if (variant_.pair) {
      dispatch_pair();
      return;
    }
    DispatchArgs args = {.x = inputs_.x(),
                         .expert_ids = inputs_.ids(),
                         .layer = {.ep_world_size = sizes_.ranks,
                                   .ep_rank_id = workload_.rank(),
                                   .moe_expert_num = sizes_.experts()}};
    args.quant_mode = variant_.quant;
    args.x_active_mask = inputs_.mask();
    args.elastic_info = inputs_.elastic();
    args.const_expert_num = variant_.alpha_dims > 0 ? 1 : 0;
    if (variant_.smooth) {
      args.scales = inputs_.smooth();
    }
    sent_ = take(waybill::dispatch(group_, args));
    rows_ = &sent_.expand_x;
  }

  void experts() override {
    const std::int64_t bytes = workload_.num_received() * sizes_.row_bytes();
    if (variant_.in_pool) {
      // With a constant expert fewer rows come.
      write_again(rows_->data<std::byte>(), variant_.alpha_dims > 0 ? 0 : bytes);
    } else {
      std::memcpy(private_rows_.data(), rows_->data<std::byte>(), static_cast<std::size_t>(bytes));
    }
  }

  void combine() override {
    if (variant_.pair) {
      combine_pair();
      return;
    }
    CombineArgs args = {.expand_x = rows_view(),
                        .expert_ids = inputs_.ids(),
                        .assist_info_for_combine = sent_.assist_info_for_combine.view(),
                        .ep_send_counts = sent_.ep_recv_counts.view(),
                        .expert_scales = inputs_.weights(),
                        .layer = {.ep_world_size = sizes_.ranks,
                                  .ep_rank_id = workload_.rank(),
                                  .moe_expert_num = sizes_.experts()}};
    args.x_active_mask = inputs_.mask();
    args.elastic_info = inputs_.elastic();
    args.comm_quant_mode = variant_.comm_quant;
    if (variant_.alpha_dims > 0) {
      args.const_expert_num = 1;
      args.ori_x = inputs_.x();
      args.const_expert_alpha_1 = inputs_.alpha_1();
      args.const_expert_alpha_2 = inputs_.alpha_2();
      args.const_expert_v = inputs_.constant();
    }
    if (variant_.norm) {
      auto result = take(combine_add_rms_norm(
          group_, {.combine = args, .residual_x = inputs_.residual(), .gamma = inputs_.gamma()}));
      normalised_ = std::move(result.y);
      sums_ = std::move(result.x);
    } else {
      sums_ = take(waybill::combine(group_, args));
    }
  }

  std::string check_dispatch(bool all) const override {
    const auto first = workload_.first_pair()[static_cast<std::size_t>(workload_.rank())];
    if (variant_.alpha_dims > 0) {
      return "";  // its rows are fewer; the sums show them
    }
    const std::int64_t bytes = variant_.quant == 0 ? sizes_.row_bytes() : sizes_.hidden;
    for (const std::int64_t i : sampled(workload_.num_received(), all)) {
      const auto expected =
          inputs_.expected_row(workload_.pairs()[static_cast<std::size_t>(first + i)]);
      auto wrong = compare_rows(rows_->data<std::byte>() + i * bytes,
                                expected.data(),
                                bytes,
                                name() + ": row " + std::to_string(i));
      if (!wrong.empty()) {
        return wrong;
      }
    }
    return "";
  }

  std::string check_combine(bool all) const override {
    for (const std::int64_t t : sampled(sizes_.bs, all)) {
      const Expected expected = inputs_.expected_sum(t);
      auto wrong = compare_rows(sums_.data<std::byte>() + t * sizes_.row_bytes(),
                                expected.sum.data(),
                                sizes_.row_bytes(),
                                name() + ": sum of token " + std::to_string(t));
      if (wrong.empty() && variant_.norm) {
        wrong = compare_rows(normalised_.data<std::byte>() + t * sizes_.row_bytes(),
                             expected.normalised.data(),
                             sizes_.row_bytes(),
                             name() + ": norm of token " + std::to_string(t));
      }
      if (!wrong.empty()) {
        return wrong;
      }
    }
    return "";
  }

  void drop() override {
    sent_ = {};
    normalised_ = {};
    sums_ = {};
    published_ = {};
    arrived_ = {};
  }

 private:
  template <typename T>
  T take(Result<T> result) const {
    if (!result.ok()) {
      workload_.board().fail(name() + ": " + result.status().message());
    }
    return std::move(*result);
  }

  TensorView rows_view() const {
    return variant_.in_pool
               ? rows_->view()
               : TensorView::contiguous(
                     private_rows_.data(), sizes_.dtype, {workload_.num_received(), sizes_.hidden});
  }

  SetupCommonArgs common() const {
    return {.expert_ids = inputs_.ids(),
            .layer = {.ep_world_size = sizes_.ranks,
                      .ep_rank_id = workload_.rank(),
                      .moe_expert_num = sizes_.experts()}};
  }

  void dispatch_pair() {
    published_ = take(dispatch_setup(group_, {.common = common(), .x = inputs_.x()}));
    arrived_ = take(dispatch_teardown(
        group_,
        {.common = common(), .x = inputs_.x(), .comm_cmd_info = published_.comm_cmd_info.view()}));
    rows_ = &arrived_.expand_x;
  }

  void combine_pair() {
    const auto setup =
        take(combine_setup(group_,
                           {.common = common(),
                            .expand_x = rows_->view(),
                            .assist_info_for_combine = arrived_.assist_info_for_combine.view()}));
    sums_ = take(combine_teardown(group_,
                                  {.common = common(),
                                   .expand_x = rows_->view(),
                                   .expand_idx = published_.expand_idx.view(),
                                   .expert_scales = inputs_.weights(),
                                   .comm_cmd_info = setup.comm_cmd_info.view()}));
  }

  const Workload& workload_;
  const Case& sizes_;
  const Variant variant_;
  Group& group_;
  const Inputs inputs_;
  Rows private_rows_;
  DispatchResult sent_;
  const Tensor* rows_ = nullptr;
  Tensor normalised_;
  Tensor sums_;
  DispatchSetupResult published_;
  DispatchTeardownResult arrived_;
};

}  // namespace

std::unique_ptr<Method> make_waybill(const Workload& workload,
                                     Groups& groups,
                                     const std::string& name) {
  return std::make_unique<Waybill>(workload, groups, variant_of(name, workload.sizes()));
}

}  // namespace waybill::bench
