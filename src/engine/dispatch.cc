#include "engine/dispatch.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
#include <utility>

#include "base/errors.h"
#include "base/published.h"
#include "engine/dispatch_publish.h"
#include "engine/recheck.h"
#include "engine/row_pull.h"
#include "engine/travel.h"
#include "numerics/float_mode.h"
#include "window/layout.h"

namespace waybill::engine {
namespace {

constexpr std::int64_t kTripleInts = 3;

}  // namespace

using contract::Operator;
using window::CallHeader;
using window::DispatchLayout;

Status Dispatch::start() {
  const numerics::DefaultFloatMode float_mode;
  WAYBILL_RETURN_IF_ERROR(call_.begin());
  WAYBILL_RETURN_IF_ERROR(tp_.begin());
  if (Status status = check(); !status.ok()) {
    return tp_.refuse(std::move(status));
  }
  if (Status status = publish(); !status.ok()) {
    return tp_.follow_ep(std::move(status));
  }
  return {};
}

Result<DispatchResult> Dispatch::complete() {
  const numerics::DefaultFloatMode float_mode;
  if (Status status = exchange(); !status.ok()) {
    return tp_.follow_ep(std::move(status));
  }
  if (tp_.exists()) {
    if (Status status = exchange_tp(); !status.ok()) {
      return tp_.follow_tp(std::move(status), true);
    }
  }
  if (session_.options().checked) {
    WAYBILL_RETURN_IF_ERROR(recheck_dispatch(call_.op(), args_, result_));
  }
  count();
  return std::move(result_);
}

Status Dispatch::exchange() {
  WAYBILL_RETURN_IF_ERROR(call_.gather());
  for (Status (Dispatch::*step)() : {&Dispatch::plan, &Dispatch::allocate, &Dispatch::pull}) {
    if (Status status = (this->*step)(); !status.ok()) {
      return call_.abandon(status);
    }
  }
  return call_.finish();
}

Status Dispatch::check() {
  WAYBILL_RETURN_IF_ERROR(call_.choose_members(args_.elastic_info));
  auto shape = contract::check_dispatch(session_.facts(tp_.session()), args_, call_.op());
  if (!shape.ok()) {
    return shape.status();
  }
  shape_ = *shape;
  call_.measure(args_.performance_info);
  ids_ = routing::Grid<std::int32_t>(args_.expert_ids);
  WAYBILL_RETURN_IF_ERROR(routing::count(
      call_.checker(), shape_.topology, ids_, pairs(), shape_.bs, shape_.k, scratch().counts));
  return shape_.occurrences ? write_occurrences() : Status();
}

/// expand_idx. Before anything is published, since it comes from the inputs alone.
Status Dispatch::write_occurrences() {
  WAYBILL_RETURN_IF_ERROR(
      call_.make_output(result_.assist_info_for_combine, DType::kInt32, {shape_.bs * shape_.k}));
  routing::count_occurrences(scratch().counts,
                             ids_,
                             pairs(),
                             shape_.bs,
                             shape_.k,
                             scratch().cursor,
                             result_.assist_info_for_combine.data<std::int32_t>());
  return {};
}

void Dispatch::fill_header() {
  const routing::SendCounts& counts = scratch().counts;
  CallHeader& header = call_.header();
  header.agreement = contract::agreement_of(shape_, args_);
  header.bs = shape_.bs;
  header.num_entries = counts.num_entries;
  header.num_active = counts.num_active;
  header.num_rows = rows_published(shape_, header);
  header.weighted = shape_.weighted ? 1 : 0;
  const std::int64_t share =
      shape_.max_bs() * std::min(shape_.topology.experts_per_rank(), shape_.k);
  header.exceeds_share = std::any_of(counts.rows_to.begin(),
                                     counts.rows_to.end(),
                                     [share](std::int32_t rows) { return rows > share; });
}

Status Dispatch::publish() {
  fill_header();
  const DispatchLayout layout = dispatch_layout(shape_, call_.header());
  auto half = call_.open_half(layout.end);
  if (!half.ok()) {
    return half.status();
  }
  publish_dispatch(session_, args_, shape_, call_.header(), *half);
  call_.published_rows(*half + layout.rows.offset, shape_.row_bytes());
  call_.signal(
      [&](const std::vector<char>& on_host, CallHeader& header, transport::Parcel& parcel) {
        add_dispatch(session_, shape_, header, layout, *half, on_host, parcel.extents);
        return layout.end;
      });
  return {};
}

/// Computes where every row comes from; refuses headers that cannot be.
Status Dispatch::plan() {
  bool exceeds = false;
  auto& layouts = scratch().dispatch_layouts;
  layouts.clear();
  for (int r = 0; r < num_ranks(); ++r) {
    const CallHeader& header = call_.header_of(r);
    if (!has_sane_numbers(header)) {
      return corrupt(r);
    }
    layouts.push_back(dispatch_layout(shape_, header));
    if (!call_.ends_at(r, layouts.back().end)) {
      return corrupt(r);
    }
    exceeds = exceeds || header.exceeds_share != 0;
  }
  find_sources();
  if (exceeds || shape_.elastic.scaled) {
    WAYBILL_RETURN_IF_ERROR(check_capacity());
  }
  if (!routing::plan_receive(shape_.topology, scratch().sources, scratch().cells)) {
    return corrupt(-1);
  }
  result_.rows = routing::num_rows(scratch().cells);
  return result_.rows > shape_.rows_capacity ? corrupt(-1) : Status();
}

void Dispatch::find_sources() {
  const contract::Topology& topology = shape_.topology;
  const std::int64_t first =
      topology.is_shared(topology.rank) ? 0 : topology.first_expert(topology.rank);
  auto& sources = scratch().sources;
  sources.clear();
  for (int r = 0; r < num_ranks(); ++r) {
    const CallHeader& header = call_.header_of(r);
    const auto* offsets = at<std::int32_t>(call_.half_of(r), layout_of(r).expert_offsets);
    fetch_ahead(offsets + first, 4 * (shape_.local_experts() + 1));
    sources.push_back({offsets, header.num_entries, header.num_active});
  }
}

/// Those from which a layout can be computed.
bool Dispatch::has_sane_numbers(const CallHeader& header) const {
  return header.bs >= 0 && header.bs <= shape_.max_bs() && header.num_entries >= 0 &&
         header.num_entries <= header.bs * shape_.k && header.num_active >= 0 &&
         header.num_active <= header.bs && header.num_rows == rows_published(shape_, header);
}

Status Dispatch::corrupt(int r) const {
  return call_.corrupt(r < 0 ? "a rank" : "rank " + std::to_string(call_.rank_of(r)));
}

/// Every rank looks at the totals of all ranks, so that all report the same.
Status Dispatch::check_capacity() {
  for (int target = 0; target < num_ranks(); ++target) {
    std::int64_t total = 0;
    for (int r = 0; r < num_ranks(); ++r) {
      if (shape_.topology.is_shared(target)) {
        total += shape_.topology.sends_to_shared(r, target) ? call_.header_of(r).num_active : 0;
      } else {
        total += at<std::int32_t>(call_.half_of(r), layout_of(r).rows_to)[target];
      }
    }
    const std::int64_t capacity = shape_.capacity_of(target, shape_.k);
    if (total > capacity) {
      return call_.checker().fail(
          "expert_ids",
          "at most A = " + std::to_string(capacity) + " rows for each rank",
          std::to_string(total) + " for rank " + std::to_string(call_.rank_of(target)));
    }
  }
  return {};
}

Status Dispatch::allocate() {
  const contract::DispatchOutputs shapes = contract::output_shapes(shape_);
  const std::int64_t rows = result_.rows;
  const std::int64_t weights = shape_.weighted ? rows : shapes.expand_scales.product();
  WAYBILL_RETURN_IF_ERROR(make_rows(shapes));
  const bool counts_only = call_.op() == Operator::kDispatchTeardown;
  if (!shape_.occurrences || counts_only) {
    WAYBILL_RETURN_IF_ERROR(call_.make_output(
        result_.assist_info_for_combine,
        DType::kInt32,
        counts_only ? Dims{std::max(128 * shape_.rows_capacity, shapes.ep_recv_counts.product())}
                    : shapes.assist_info_for_combine,
        counts_only ? 4 * shapes.ep_recv_counts.product() : 4 * kTripleInts * rows));
  }
  WAYBILL_RETURN_IF_ERROR(
      call_.make_output(result_.expert_token_nums, DType::kInt64, shapes.expert_token_nums));
  WAYBILL_RETURN_IF_ERROR(
      call_.make_output(result_.ep_recv_counts, DType::kInt32, shapes.ep_recv_counts));
  WAYBILL_RETURN_IF_ERROR(
      call_.make_output(result_.tp_recv_counts, DType::kInt32, shapes.tp_recv_counts));
  WAYBILL_RETURN_IF_ERROR(
      call_.make_output(result_.expand_scales, DType::kFloat32, shapes.expand_scales, 4 * weights));
  fill_counts();
  std::fill_n(result_.tp_recv_counts.data<std::int32_t>(), shapes.tp_recv_counts.product(), 0);
  if (!shape_.weighted) {
    std::fill_n(result_.expand_scales.data<float>(), weights, 0.0F);
  }
  return {};
}

/// expand_x and dynamic_scales. With TP = 2 they lie in the TP group's pool, where the peer reads
/// them and where a later combine publishes them without a copy.
Status Dispatch::make_rows(const contract::DispatchOutputs& shapes) {
  Call& owner = tp_.exists() ? tp_.call() : call_;
  WAYBILL_RETURN_IF_ERROR(owner.make_output(
      result_.expand_x, shapes.expand_x_dtype, shapes.expand_x, result_.rows * shape_.row_bytes()));
  return owner.make_output(result_.dynamic_scales,
                           DType::kFloat32,
                           shapes.dynamic_scales,
                           shape_.quantised ? 4 * result_.rows : 0);
}

void Dispatch::fill_counts() {
  auto* counts = result_.ep_recv_counts.data<std::int32_t>();
  auto* nums = result_.expert_token_nums.data<std::int64_t>();
  const std::int64_t local = shape_.local_experts();
  std::int64_t next = 0;
  std::int64_t before = 0;
  for (std::int64_t l = 0; l < local; ++l) {
    for (int r = 0; r < num_ranks(); ++r) {
      const routing::Cell& cell = scratch().cells[static_cast<std::size_t>(next)];
      counts[next++] = static_cast<std::int32_t>(cell.first_row + cell.num_rows);
    }
    const std::int64_t total = counts[next - 1];
    nums[l] = args_.expert_token_nums_type == 1 ? total - before : total;
    before = total;
  }
  std::fill(counts + next, counts + result_.ep_recv_counts.shape.product(), 0);
  std::fill(nums + local, nums + result_.expert_token_nums.shape.product(), 0);
  if (call_.op() == Operator::kDispatchTeardown) {
    std::copy_n(counts,
                result_.ep_recv_counts.shape.product(),
                result_.assist_info_for_combine.data<std::int32_t>());
  }
}

Status Dispatch::pull() {
  call_.enter(Phase::kPullRows);
  const std::int64_t bytes = session_.bytes_of_core(result_.rows * shape_.row_bytes());
  const StoreChoice::Pull copy(session_.stores(), bytes);
  const RowPull rows(call_, session_, shape_, result_, copy.kind());
  std::atomic<std::int64_t> pulled{0};
  std::atomic<int> bad_source{-1};
  session_.workers().run(
      rows.num_items(), rows.least_items(), [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t count = rows.run(begin, end);
        numerics::stream_fence();
        if (count < 0) {
          bad_source = static_cast<int>(-1 - count);
        } else {
          pulled += count;
        }
      });
  if (bad_source >= 0) {
    return corrupt(bad_source);
  }
  // Entries that are not in order are found by none or by two parts.
  return pulled == result_.rows ? Status() : corrupt(-1);
}

void Dispatch::count() {
  const contract::Topology& topology = shape_.topology;
  tp_.note_completed();
  const std::lock_guard lock(session_.stats_mutex);
  GroupStats& stats = session_.counted;
  stats.completed = session_.number;
  stats.bytes_published += call_.header().num_rows * shape_.row_bytes();
  stats.bytes_copied += result_.rows * shape_.row_bytes();
  for (const routing::Cell& cell : scratch().cells) {
    const auto r = static_cast<std::size_t>(call_.rank_of(cell.source));
    stats.dispatch.rows_received[r] += cell.num_rows;
    stats.dispatch.bytes_received[r] += cell.num_rows * shape_.row_bytes();
  }
  for (int member = 0; member < num_ranks(); ++member) {
    std::int64_t rows = scratch().counts.rows_to[static_cast<std::size_t>(member)];
    if (topology.sends_to_shared(topology.rank, member)) {
      rows += scratch().counts.num_active;
    }
    const auto r = static_cast<std::size_t>(call_.rank_of(member));
    stats.dispatch.rows_sent[r] += rows;
    stats.dispatch.bytes_sent[r] += rows * shape_.row_bytes();
  }
}

}  // namespace waybill::engine

namespace waybill {

Result<DispatchResult> dispatch(Group& group, const DispatchArgs& args) {
  engine::Dispatch call(group.session(), args, contract::operator_of(args));
  if (Status status = call.start(); !status.ok()) {
    return status;
  }
  return call.complete();
}

}  // namespace waybill
