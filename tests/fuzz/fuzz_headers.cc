// One real rank among peers that publish anything. Whatever they publish, a call of the rank ends
// with an error or with a result that keeps the contract, and reads nothing outside of their
// windows.

#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "contract/dispatch_contract.h"
#include "drawing.h"
#include "drawn_layer.h"
#include "forged_group.h"
#include "waybill/barrier.h"
#include "waybill/combine.h"
#include "waybill/dispatch.h"
#include "waybill/setup.h"

namespace waybill::fuzz {
namespace {

class Calls {
 public:
  explicit Calls(Draw& draw)
      : draw_(draw),
        has_tp_(draw.in(0, 3) == 3),
        layer_(draw, has_tp_),
        ep_(ForgedGroup::Kind::kEp, layer_.rank, layer_.num_ranks, draw) {
    if (has_tp_) {
      tp_rank_ = draw.flag() ? 1 : 0;
      tp_.emplace(ForgedGroup::Kind::kTp, tp_rank_, 2, draw);
    }
  }

  void run() {
    ep_.offer_returns(layer_.places(), layer_.local_experts());
    for (std::int64_t left = draw_.in(1, 3); left > 0 && !draw_.ended(); --left) {
      switch (draw_.in(0, has_tp_ ? 2 : 5)) {
        case 0:
          dispatch();
          break;
        case 1:
          combine();
          break;
        case 2:
          norm();
          break;
        case 3:
          dispatch_pair();
          break;
        case 4:
          combine_pair();
          break;
        default:
          barrier();
      }
    }
  }

 private:
  Group& group() { return ep_.group(); }

  template <typename Args>
  void add_tp(Args& args) {
    if (has_tp_) {
      args.tp_group = &tp_->group();
      args.tp_world_size = 2;
      args.tp_rank_id = tp_rank_;
    }
  }

  void expect_right(const Status& status) {
    expect(status.ok() || !status.message().empty(), "an error that says something");
    expect(status.code() != StatusCode::kOutOfMemory,
           "memory enough for a small layer, not " + status.message());
  }

  void dispatch() {
    DispatchArgs args = layer_.dispatch_args(draw_);
    args.form = draw_.flag() ? IndexForm::kTriples : IndexForm::kOccurrences;
    add_tp(args);
    auto result = waybill::dispatch(group(), args);
    expect_right(result.status());
    if (!result.ok()) {
      return;
    }
    const std::int64_t capacity = result->dynamic_scales.shape[0] / (has_tp_ ? 2 : 1);
    expect(result->rows >= 0 && result->rows <= capacity, "rows within A");
    check_counts(result->ep_recv_counts, 0, result->rows);
    if (has_tp_) {
      const auto* parts = result->tp_recv_counts.data<std::int32_t>();
      expect(parts[tp_rank_] == result->rows, "the own rows in tp_recv_counts");
      expect(parts[1 - tp_rank_] >= 0 && parts[1 - tp_rank_] <= capacity, "the peer's within A");
      check_counts(result->ep_recv_counts, layer_.num_ranks, parts[1 - tp_rank_]);
    }
    if (args.form == IndexForm::kTriples) {
      check_triples(*result);
    }
    if (draw_.flag()) {
      combine_back(args, *result);
    }
    dispatched_ = std::move(*result);
  }

  /// Prefix sums of `rows` rows, at `first`.
  void check_counts(const Tensor& tensor, std::int64_t first, std::int64_t rows) {
    const auto* counts = tensor.data<std::int32_t>() + first;
    const bool elastic = !layer_.elastic.empty();
    const std::int64_t local =
        layer_.rank < layer_.num_shared_ranks || has_tp_ ? 1 : layer_.experts_per_rank;
    const std::int64_t cells = elastic ? 0 : layer_.num_ranks * local;
    for (std::int64_t i = 0; i < cells; ++i) {
      expect(counts[i] >= (i == 0 ? 0 : counts[i - 1]), "counts that do not fall");
    }
    expect(cells == 0 || counts[cells - 1] == rows, "counts of all rows");
  }

  void check_triples(const DispatchResult& result) {
    const auto* triples = result.assist_info_for_combine.data<std::int32_t>();
    const std::int64_t gbs =
        layer_.global_bs == 0 ? layer_.bs * layer_.num_ranks : layer_.global_bs;
    for (std::int64_t row = 0; row < result.rows; ++row) {
      const std::int32_t* triple = triples + 3 * row;
      expect(triple[0] >= 0 && triple[0] < layer_.num_ranks, "a source rank");
      expect(triple[1] >= 0 && triple[1] < gbs / layer_.num_ranks, "a token");
      expect(triple[2] >= 0 && triple[2] < layer_.k + layer_.num_shared, "a slot");
    }
  }

  /// combine of what dispatch gave, in the place where it lies.
  void combine_back(const DispatchArgs& sent, const DispatchResult& result) {
    if (result.expand_x.dtype == DType::kInt8) {
      return;
    }
    CombineArgs args = layer_.combine_args(draw_, result.expand_x.view(), 0);
    args.form = sent.form;
    args.expert_ids = sent.expert_ids;
    args.x_active_mask = sent.x_active_mask;
    args.elastic_info = sent.elastic_info;
    args.assist_info_for_combine = result.assist_info_for_combine.view();
    args.ep_send_counts = result.ep_recv_counts.view();
    args.tp_send_counts = result.tp_recv_counts.view();
    add_tp(args);
    check_sum(args.expert_ids, args.expand_x, waybill::combine(group(), args));
  }

  void check_sum(const TensorView& ids, const TensorView& rows, const Result<Tensor>& result) {
    expect_right(result.status());
    if (result.ok()) {
      expect(result->shape == Dims{ids.shape[0], rows.shape[1]}, "(BS, H)");
    }
  }

  /// Rows that combine returns: of the pool or of the caller.
  TensorView expand_x(std::int64_t rows) {
    Group& owner = has_tp_ ? tp_->group() : group();
    if (draw_.flag()) {
      return draw_.wild_tensor(layer_.dtype, {rows, layer_.h});
    }
    auto made = owner.expert_buffer(rows, layer_.h, layer_.dtype);
    expect_right(made.status());
    std::memset(made->buffer.data(),
                0x3e,
                static_cast<std::size_t>(rows * layer_.h * size_of(layer_.dtype)));
    held_.push_back(std::move(*made));
    return held_.back().view();
  }

  CombineArgs combine_args() {
    const std::int64_t rows = draw_.flag() ? 0 : draw_.in(1, 6);
    const std::int64_t peer_rows = has_tp_ ? draw_.in(0, 4) : 0;
    CombineArgs args =
        layer_.combine_args(draw_, expand_x(rows + peer_rows + draw_.in(0, 1)), rows);
    args.tp_send_counts = draw_.tensor(
        DType::kInt32, {2}, [&](std::int64_t i) { return i == tp_rank_ ? rows : peer_rows; });
    add_tp(args);
    return args;
  }

  void combine() {
    const CombineArgs args = combine_args();
    check_sum(args.expert_ids, args.expand_x, waybill::combine(group(), args));
  }

  void norm() {
    const CombineAddRmsNormArgs args = layer_.norm_args(draw_, combine_args());
    auto result = waybill::combine_add_rms_norm(group(), args);
    expect_right(result.status());
    if (result.ok()) {
      const std::int64_t bs = args.combine.expert_ids.shape[0];
      const Dims rows = {bs, 1, args.combine.expand_x.shape[1]};
      expect(result->y.shape == rows && result->x.shape == rows, "(BS, 1, H)");
      expect(result->rstd.shape == Dims{bs, 1, 1}, "(BS, 1, 1)");
    }
  }

  void dispatch_pair() {
    const DispatchArgs drawn = layer_.dispatch_args(draw_);
    DispatchSetupArgs setup{.common = layer_.common_args(draw_), .x = drawn.x};
    setup.quant_mode = drawn.quant_mode;
    setup.x_active_mask = drawn.x_active_mask;
    if (setup.quant_mode == 2 && draw_.flag()) {
      const std::int64_t rows = layer_.num_shared + layer_.num_experts;
      setup.scales = draw_.wild_tensor(DType::kFloat32, {rows, layer_.h});
    }
    auto opened = waybill::dispatch_setup(group(), setup);
    expect_right(opened.status());
    if (!opened.ok()) {
      return;
    }
    DispatchTeardownArgs args{
        .common = setup.common, .x = setup.x, .comm_cmd_info = opened->comm_cmd_info.view()};
    args.quant_mode = setup.quant_mode;
    args.expert_token_nums_type = static_cast<int>(draw_.wild(1));
    expect_right(waybill::dispatch_teardown(group(), args).status());
  }

  void combine_pair() {
    const std::int64_t rows = draw_.flag() ? 0 : draw_.in(1, 6);
    const CombineArgs drawn = layer_.combine_args(draw_, expand_x(rows), rows);
    CombineSetupArgs setup{.common = layer_.common_args(draw_), .expand_x = drawn.expand_x};
    setup.assist_info_for_combine = drawn.ep_send_counts;
    setup.comm_quant_mode = drawn.comm_quant_mode;
    auto opened = waybill::combine_setup(group(), setup);
    expect_right(opened.status());
    if (!opened.ok()) {
      return;
    }
    CombineTeardownArgs args{.common = setup.common, .expand_x = setup.expand_x};
    args.expand_idx = drawn.assist_info_for_combine;
    args.expert_scales = drawn.expert_scales;
    args.comm_cmd_info = opened->comm_cmd_info.view();
    args.x_active_mask = drawn.x_active_mask;
    args.shared_expert_x = drawn.shared_expert_x;
    args.comm_quant_mode = setup.comm_quant_mode;
    check_sum(args.common.expert_ids, args.expand_x, waybill::combine_teardown(group(), args));
  }

  void barrier() {
    BarrierArgs args{.world_size = layer_.num_ranks};
    if (draw_.seldom()) {
      args.time_out = draw_.wild_tensor(DType::kInt32, {1});
    }
    expect_right(waybill::barrier(group(), args));
  }

  Draw& draw_;
  const bool has_tp_;
  const DrawnLayer layer_;
  std::vector<Tensor> held_;
  DispatchResult dispatched_;
  ForgedGroup ep_;
  std::optional<ForgedGroup> tp_;
  int tp_rank_ = 0;
};

}  // namespace
}  // namespace waybill::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // What is too much for this rank's own memory is no matter of its peers.
  constexpr std::int64_t kMostSize = 50;
  waybill::fuzz::Draw draw(data, size, kMostSize);
  waybill::fuzz::Calls(draw).run();
  return 0;
}
