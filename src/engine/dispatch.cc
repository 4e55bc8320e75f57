#include "engine/dispatch.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "base/errors.h"
#include "base/published.h"
#include "engine/dispatch_publish.h"
#include "engine/group_access.h"
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
  WAYBILL_RETURN_IF_ERROR(prepare());
  return signal();
}

Status Dispatch::prepare() {
  const numerics::DefaultFloatMode float_mode;
  WAYBILL_RETURN_IF_ERROR(tp_.begin());
  Status status = check();
  if (status.ok()) {
    status = allocate();
  }
  return status.ok() ? std::move(status) : tp_.refuse(std::move(status));
}

Status Dispatch::signal() {
  const numerics::DefaultFloatMode float_mode;
  fill_header();
  Status status = publish();
  return status.ok() ? std::move(status) : tp_.follow_ep(std::move(status));
}

Result<DispatchResult> Dispatch::complete() {
  const numerics::DefaultFloatMode float_mode;
  if (Status status = exchange(); !status.ok()) {
    return tp_.follow_ep(std::move(status));
  }
  if (tp_.exists()) {
    if (Status status = exchange_tp(); !status.ok()) {
      return tp_.follow_tp(std::move(status));
    }
  }
  if (session_.options().checked) {
    if (Status status = recheck_dispatch(call_.op(), args_, result_); !status.ok()) {
      if (tp_.exists()) {
        status = tp_.call().fail(Ending::kBroken, status);
      }
      return call_.fail(Ending::kFailedAlone, status);
    }
  }
  count();
  return std::move(result_);
}

Status Dispatch::exchange() {
  WAYBILL_RETURN_IF_ERROR(call_.gather());
  if (Status status = find_sources(); !status.ok()) {
    return call_.fail(Ending::kFailedAlone, status);
  }
  if (Status status = check_totals(); !status.ok()) {
    return call_.fail(Ending::kFailedTogether, status);
  }
  for (Status (Dispatch::*step)() : {&Dispatch::plan, &Dispatch::reserve, &Dispatch::pull}) {
    if (Status status = (this->*step)(); !status.ok()) {
      return call_.fail(Ending::kFailedAlone, status);
    }
  }
  write_mark();
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
  pairs_ = routing::ActivePairs(args_.x_active_mask, args_.expert_ids);
  return routing::count(call_.checker(), shape_.topology, pairs_, plan_.counts);
}

/// expand_idx. Before anything is published, since it comes from the inputs alone.
Status Dispatch::write_occurrences() {
  WAYBILL_RETURN_IF_ERROR(call_.make_output(occurrences_, DType::kInt32, {shape_.bs * shape_.k}));
  session_.pool().set_note(occurrences_.buffer, session_.dispatch_call());
  routing::count_occurrences(plan_.counts, pairs_, plan_.cursor, occurrences_.data<std::int32_t>());
  return {};
}

void Dispatch::fill_header() {
  const routing::SendCounts& counts = plan_.counts;
  CallHeader& header = call_.header();
  header.agreement = contract::agreement_of(shape_, args_);
  header.bs = shape_.bs;
  header.num_entries = counts.num_entries;
  header.num_active = counts.num_active;
  header.num_rows = rows_published(shape_, header);
  header.weighted = shape_.weighted ? 1 : 0;
  const std::int64_t share =
      shape_.max_bs() * std::min(shape_.topology.experts_per_rank(), shape_.k);
  const std::int32_t to_experts =
      counts.rows_to.empty() ? 0 : *std::max_element(counts.rows_to.begin(), counts.rows_to.end());
  header.exceeds_share = to_experts > share ? 1 : 0;
  header.most_rows = shape_.topology.num_shared > 0
                         ? std::max(to_experts, static_cast<std::int32_t>(counts.num_active))
                         : to_experts;
}

/// Says in the header for how many rows this rank has memory, where that may not be enough.
void Dispatch::limit_rows() {
  const std::int64_t most = shape_.rows_capacity;
  const window::Pool& pool = (tp_.exists() ? *tp_.session() : session_).pool();
  const window::Pool& own = session_.pool();
  const std::array<window::Pool::Rows, 4> buffers = {
      {{&pool, &result_.expand_x.buffer, shape_.row_bytes()},
       {&pool, &result_.dynamic_scales.buffer, shape_.quantised ? 4 : 0},
       {&own,
        &result_.assist_info_for_combine.buffer,
        shape_.occurrences ? 0 : 4 * kTripleInts,
        4 * contract::kMarkInts},
       {&own, &result_.expand_scales.buffer, shape_.weighted ? 4 : 0}}};
  constexpr std::int64_t kMirrors = std::int64_t{1} << 30;  // more is seldom sent in one call
  const window::Pool::Affordable affordable = window::Pool::count_affordable(
      buffers, most, session_.transport().spans_hosts() ? kMirrors : 0);
  const std::int64_t limit = std::max<std::int64_t>(affordable.rows, 0);
  CallHeader& header = call_.header();
  header.mirror_beside = static_cast<std::int32_t>(
      std::min<std::int64_t>(affordable.bytes_left / window::kGranule, header.mirror_beside));
  if (limit >= most) {
    return;
  }
  header.rows_limit = static_cast<std::int32_t>(limit);
  header.says_limit = 1;
  std::int64_t own_outputs = 0;
  for (const Tensor* tensor : {&result_.expand_x,
                               &result_.dynamic_scales,
                               &result_.assist_info_for_combine,
                               &result_.expert_token_nums,
                               &result_.ep_recv_counts,
                               &result_.tp_recv_counts,
                               &result_.expand_scales}) {
    own_outputs += pool.offset_of(tensor->buffer.data(), 0) >= 0 ? 1 : 0;
  }
  limit_text_ = pool.describe_shortage(own_outputs);
}

Status Dispatch::publish() {
  const DispatchLayout layout = dispatch_layout(shape_, call_.header());
  auto half = call_.open_half(layout.end);
  if (!half.ok()) {
    return half.status();
  }
  limit_rows();  // what the half took of free memory of the pool is gone
  publish_dispatch(session_, plan_, {args_, shape_, pairs_, call_.header(), *half});
  call_.published_rows(*half + layout.rows.offset, shape_.row_bytes());
  if (call_.header().says_limit != 0) {
    call_.explain_limit(limit_text_);
  }
  call_.signal(
      [&](const std::vector<char>& on_host, CallHeader& header, transport::Parcel& parcel) {
        add_dispatch(plan_, {shape_, header, layout, *half, on_host}, parcel.extents);
        return layout.end;
      });
  return {};
}

/// Where the lists of each member lie; refuses headers that cannot be.
Status Dispatch::find_sources() {
  const contract::Topology& topology = shape_.topology;
  const std::int64_t first =
      topology.is_shared(topology.rank) ? 0 : topology.first_expert(topology.rank);
  auto& layouts = plan_.layouts;
  auto& sources = plan_.sources;
  layouts.clear();
  sources.clear();
  for (int r = 0; r < num_ranks(); ++r) {
    const CallHeader& header = call_.header_of(r);
    if (!has_sane_numbers(header)) {
      return corrupt(r);
    }
    layouts.push_back(dispatch_layout(shape_, header));
    if (!call_.ends_at(r, layouts.back().end)) {
      return corrupt(r);
    }
    const auto* offsets = at<std::int32_t>(call_.half_of(r), layout_of(r).expert_offsets);
    fetch_ahead(offsets + first, 4 * (shape_.local_experts() + 1));
    sources.push_back({offsets, header.num_entries, header.num_active});
  }
  return {};
}

/// Computes where every row comes from.
Status Dispatch::plan() {
  if (!routing::plan_receive(shape_.topology, plan_.sources, plan_.cells)) {
    return corrupt(-1);
  }
  result_.rows = routing::num_rows(plan_.cells);
  return result_.rows > shape_.rows_capacity ? corrupt(-1) : Status();
}

/// Those from which a layout can be computed.
bool Dispatch::has_sane_numbers(const CallHeader& header) const {
  return header.bs >= 0 && header.bs <= shape_.max_bs() && header.num_entries >= 0 &&
         header.num_entries <= header.bs * shape_.k && header.num_active >= 0 &&
         header.num_active <= header.bs && header.num_rows == rows_published(shape_, header);
}

Status Dispatch::corrupt(int r) const {
  return call_.cannot_be(r < 0 ? "a rank" : "rank " + std::to_string(call_.rank_of(r)));
}

/// Whether each rank can take what all of them send to it: too many rows, or too little memory.
/// Every rank looks at the numbers of all, so that all find the same.
Status Dispatch::check_totals() {
  bool exceeds = shape_.elastic.scaled;
  std::int64_t most = 0;
  std::int64_t limit = std::numeric_limits<std::int32_t>::max();
  for (int r = 0; r < num_ranks(); ++r) {
    const CallHeader& header = call_.header_of(r);
    exceeds = exceeds || header.exceeds_share != 0;
    most += header.most_rows;
    limit = std::min<std::int64_t>(limit, rows_limit_of(r));
  }
  if (!exceeds && most <= limit) {
    return {};
  }
  for (int target = 0; target < num_ranks(); ++target) {
    WAYBILL_RETURN_IF_ERROR(check_total(target, total_of(target)));
  }
  return {};
}

/// For how many rows a rank has memory beside what it receives for its host.
std::int64_t Dispatch::rows_limit_of(int r) const {
  const std::int64_t limit = call_.header_of(r).rows_limit;
  const std::int64_t missing = call_.mirrors_beside(r);
  if (missing == 0) {
    return limit;
  }
  // Memory is taken in granules: fewer rows may leave up to one more in each of the four outputs
  // that have an entry a row.
  const std::int64_t bytes = (missing + 4) * window::kGranule;
  const std::int64_t rows = (bytes + shape_.row_bytes() - 1) / shape_.row_bytes();
  return std::max<std::int64_t>(
      std::min<std::int64_t>(limit, shape_.capacity_of(r, shape_.k)) - rows, 0);
}

/// Rows that all ranks send to one.
std::int64_t Dispatch::total_of(int target) const {
  std::int64_t total = 0;
  for (int r = 0; r < num_ranks(); ++r) {
    if (shape_.topology.is_shared(target)) {
      total += shape_.topology.sends_to_shared(r, target) ? call_.header_of(r).num_active : 0;
    } else {
      total += read_once(at<std::int32_t>(call_.half_of(r), layout_of(r).rows_to)[target]);
    }
  }
  return total;
}

Status Dispatch::check_total(int target, std::int64_t total) const {
  const std::string who = "rank " + std::to_string(call_.rank_of(target));
  const std::int64_t capacity = shape_.capacity_of(target, shape_.k);
  if (total > capacity) {
    return call_.checker().fail(
        "expert_ids",
        "at most A = " + std::to_string(capacity) + " rows for each rank",
        std::to_string(total) + " for " + who + ": a token names an expert more than once");
  }
  const std::int64_t limit = rows_limit_of(target);
  if (total <= limit) {
    return {};
  }
  const std::string name = contract::name_of(call_.op());
  const std::string why = call_.limit_text(target);
  return error(StatusCode::kOutOfMemory,
               name,
               "",
               name + ": out of memory: expected at most " + std::to_string(limit) + " rows for " +
                   who + ", got " + std::to_string(total) + (why.empty() ? "" : ": " + why),
               {call_.rank_of(target)});
}

/// All outputs, before the signal, so that a shortage is known to all ranks in this call. Of what
/// has an entry a received row only address space is taken here: how many there are is known later.
Status Dispatch::allocate() {
  const contract::DispatchOutputs shapes = contract::output_shapes(shape_);
  if (shape_.occurrences) {
    WAYBILL_RETURN_IF_ERROR(write_occurrences());
  }
  WAYBILL_RETURN_IF_ERROR(make_rows(shapes));
  if (tp_.exists()) {
    const std::int64_t most = shape_.rows_capacity;
    const auto layout = window::TpDispatchLayout::of(num_ranks(), most, shape_.quantised, 0);
    WAYBILL_RETURN_IF_ERROR(tp_.call().reserve_half(layout.end, most));
  }
  const std::int64_t counts = shapes.ep_recv_counts.product();
  if (is_split()) {
    const std::int64_t ints = std::max(128 * shape_.rows_capacity, counts);
    WAYBILL_RETURN_IF_ERROR(call_.make_output(result_.assist_info_for_combine,
                                              DType::kInt32,
                                              {ints},
                                              4 * std::min(ints, counts + contract::kMarkInts)));
  } else if (!shape_.occurrences) {
    WAYBILL_RETURN_IF_ERROR(call_.make_output(result_.assist_info_for_combine,
                                              DType::kInt32,
                                              shapes.assist_info_for_combine,
                                              std::int64_t{0}));
  } else {
    result_.assist_info_for_combine = occurrences_;
  }
  WAYBILL_RETURN_IF_ERROR(
      call_.make_output(result_.expert_token_nums, DType::kInt64, shapes.expert_token_nums));
  WAYBILL_RETURN_IF_ERROR(
      call_.make_output(result_.ep_recv_counts, DType::kInt32, shapes.ep_recv_counts));
  WAYBILL_RETURN_IF_ERROR(
      call_.make_output(result_.tp_recv_counts, DType::kInt32, shapes.tp_recv_counts));
  return call_.make_output(result_.expand_scales,
                           DType::kFloat32,
                           shapes.expand_scales,
                           shape_.weighted ? 0 : 4 * shapes.expand_scales.product());
}

/// expand_x and dynamic_scales. With TP = 2 they lie in the TP group's pool, where the peer reads
/// them and where a later combine publishes them without a copy.
Status Dispatch::make_rows(const contract::DispatchOutputs& shapes) {
  Call& owner = tp_.exists() ? tp_.call() : call_;
  WAYBILL_RETURN_IF_ERROR(
      owner.make_output(result_.expand_x, shapes.expand_x_dtype, shapes.expand_x, std::int64_t{0}));
  return owner.make_output(
      result_.dynamic_scales, DType::kFloat32, shapes.dynamic_scales, std::int64_t{0});
}

/// Memory for the rows that come. It was there when the header was written.
Status Dispatch::reserve() {
  const char* name = contract::name_of(call_.op());
  const std::int64_t rows = result_.rows;
  Session& owner = tp_.exists() ? *tp_.session() : session_;
  WAYBILL_RETURN_IF_ERROR(owner.reserve(name, result_.expand_x, rows * shape_.row_bytes()));
  if (shape_.quantised) {
    WAYBILL_RETURN_IF_ERROR(owner.reserve(name, result_.dynamic_scales, 4 * rows));
  }
  if (!shape_.occurrences) {
    const Tensor& triples = result_.assist_info_for_combine;
    const std::int64_t ints =
        std::min(triples.shape.product(), kTripleInts * rows + contract::kMarkInts);
    WAYBILL_RETURN_IF_ERROR(session_.reserve(name, triples, 4 * ints));
  }
  if (shape_.weighted) {
    WAYBILL_RETURN_IF_ERROR(session_.reserve(name, result_.expand_scales, 4 * rows));
  } else {
    std::fill_n(result_.expand_scales.data<float>(), result_.expand_scales.shape.product(), 0.0F);
  }
  fill_counts();
  std::fill_n(
      result_.tp_recv_counts.data<std::int32_t>(), result_.tp_recv_counts.shape.product(), 0);
  return {};
}

/// So that combine knows of which dispatch its rows are.
void Dispatch::write_mark() {
  if (shape_.occurrences && !is_split()) {
    return;
  }
  const Tensor& list = result_.assist_info_for_combine;
  const std::int64_t used =
      is_split() ? result_.ep_recv_counts.shape.product() : kTripleInts * result_.rows;
  contract::write_mark({list.data<std::int32_t>(), static_cast<std::size_t>(list.shape.product())},
                       used,
                       session_.dispatch_call());
}

void Dispatch::fill_counts() {
  auto* counts = result_.ep_recv_counts.data<std::int32_t>();
  auto* nums = result_.expert_token_nums.data<std::int64_t>();
  const std::int64_t local = shape_.local_experts();
  std::int64_t next = 0;
  std::int64_t before = 0;
  for (std::int64_t l = 0; l < local; ++l) {
    for (int r = 0; r < num_ranks(); ++r) {
      const routing::Cell& cell = plan_.cells[static_cast<std::size_t>(next)];
      counts[next++] = static_cast<std::int32_t>(cell.first_row + cell.num_rows);
    }
    const std::int64_t total = counts[next - 1];
    nums[l] = args_.expert_token_nums_type == 1 ? total - before : total;
    before = total;
  }
  std::fill(counts + next, counts + result_.ep_recv_counts.shape.product(), 0);
  std::fill(nums + local, nums + result_.expert_token_nums.shape.product(), 0);
  if (is_split()) {
    std::copy_n(counts,
                result_.ep_recv_counts.shape.product(),
                result_.assist_info_for_combine.data<std::int32_t>());
  }
}

Status Dispatch::pull() {
  call_.enter(Phase::kPullRows);
  const std::int64_t bytes = session_.bytes_of_core(result_.rows * shape_.row_bytes());
  const StoreChoice::Pull copy(session_.stores(), bytes);
  const RowPull rows(call_, session_.kernels(), plan_, shape_, result_, copy.kind());
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
  session_.complete_call([&](GroupStats& stats) {
    stats.bytes_published += call_.header().num_rows * shape_.row_bytes();
    stats.bytes_copied += result_.rows * shape_.row_bytes();
    for (const routing::Cell& cell : plan_.cells) {
      const auto r = static_cast<std::size_t>(call_.rank_of(cell.source));
      stats.dispatch.rows_received[r] += cell.num_rows;
      stats.dispatch.bytes_received[r] += cell.num_rows * shape_.row_bytes();
    }
    for (int member = 0; member < num_ranks(); ++member) {
      std::int64_t rows = plan_.counts.rows_to[static_cast<std::size_t>(member)];
      if (topology.sends_to_shared(topology.rank, member)) {
        rows += plan_.counts.num_active;
      }
      const auto r = static_cast<std::size_t>(call_.rank_of(member));
      stats.dispatch.rows_sent[r] += rows;
      stats.dispatch.bytes_sent[r] += rows * shape_.row_bytes();
    }
  });
}

}  // namespace waybill::engine

namespace waybill {

Result<DispatchResult> dispatch(Group& group, const DispatchArgs& args) {
  engine::Dispatch call(engine::session_of(group), args, contract::operator_of(args));
  if (Status status = call.start(); !status.ok()) {
    return status;
  }
  return call.complete();
}

}  // namespace waybill
