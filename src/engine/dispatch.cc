#include "waybill/dispatch.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <string>
#include <utility>

#include "base/errors.h"
#include "contract/dispatch_contract.h"
#include "engine/call.h"
#include "engine/dispatch_publish.h"
#include "engine/session.h"
#include "engine/stopwatch.h"
#include "numerics/float_mode.h"
#include "window/layout.h"

namespace waybill::engine {
namespace {

using contract::DispatchShape;
using window::CallHeader;
using window::DispatchLayout;

/// Rows past this size are copied past the caches: together they would not fit.
constexpr std::int64_t kStreamingBytes = std::int64_t{16} << 20;
constexpr std::int64_t kTripleInts = 3;

/// One call of dispatch.
class Dispatch {
 public:
  Dispatch(Session& session, const DispatchArgs& args)
      : session_(session), args_(args), call_(session, contract::Operator::kDispatchV2) {}

  Result<DispatchResult> run() {
    const numerics::DefaultFloatMode float_mode;
    WAYBILL_RETURN_IF_ERROR(call_.begin());
    if (Status status = check(); !status.ok()) {
      return call_.refuse(std::move(status));
    }
    WAYBILL_RETURN_IF_ERROR(publish());
    WAYBILL_RETURN_IF_ERROR(call_.gather());
    if (Status status = plan(); !status.ok()) {
      return call_.abandon(status);
    }
    if (Status status = allocate(); !status.ok()) {
      return call_.abandon(status);
    }
    Stopwatch watch;
    const Status pulled = pull();
    WAYBILL_RETURN_IF_ERROR(pulled.ok() ? call_.finish() : call_.abandon(pulled));
    count(watch.microseconds() + publish_us_);
    return std::move(result_);
  }

 private:
  Scratch& scratch() noexcept { return session_.scratch(); }
  int num_ranks() const noexcept { return shape_.topology.num_ranks; }

  Status check() {
    auto shape = contract::check_dispatch(session_.facts(), args_);
    if (!shape.ok()) {
      return shape.status();
    }
    shape_ = *shape;
    ids_ = routing::Grid<std::int32_t>(args_.expert_ids);
    return routing::count(
        call_.checker(), shape_.topology, ids_, pairs(), shape_.bs, shape_.k, scratch().counts);
  }

  routing::ActivePairs pairs() const { return {args_.x_active_mask, shape_.k}; }

  void fill_header() {
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

  Status publish() {
    fill_header();
    const DispatchLayout layout = dispatch_layout(shape_, call_.header());
    auto half = call_.open_half(layout.end);
    if (!half.ok()) {
      return half.status();
    }
    const Stopwatch watch;
    publish_dispatch(session_, args_, shape_, call_.header(), *half);
    publish_us_ = watch.microseconds();
    call_.signal();
    return {};
  }

  /// Computes where every row comes from; refuses headers that cannot be.
  Status plan() {
    auto& sources = scratch().sources;
    sources.assign(static_cast<std::size_t>(num_ranks()), {});
    bool exceeds = false;
    for (int r = 0; r < num_ranks(); ++r) {
      const CallHeader& header = call_.header_of(r);
      if (!is_sane(header, r)) {
        return corrupt(r);
      }
      const DispatchLayout layout = dispatch_layout(shape_, header);
      sources[static_cast<std::size_t>(r)] = {
          at<std::int32_t>(call_.half_of(r), layout.expert_offsets),
          header.num_entries,
          header.num_active};
      exceeds = exceeds || header.exceeds_share != 0;
    }
    if (exceeds) {
      WAYBILL_RETURN_IF_ERROR(check_capacity());
    }
    if (!routing::plan_receive(shape_.topology, sources, scratch().cells)) {
      return corrupt(-1);
    }
    result_.rows = routing::num_rows(scratch().cells);
    return result_.rows > shape_.rows_capacity ? corrupt(-1) : Status();
  }

  bool is_sane(const CallHeader& header, int r) const {
    return header.bs >= 0 && header.bs <= shape_.max_bs() && header.num_entries >= 0 &&
           header.num_entries <= header.bs * shape_.k && header.num_active >= 0 &&
           header.num_active <= header.bs && header.num_rows == rows_published(shape_, header) &&
           dispatch_layout(shape_, header).end <= session_.peer(r).window_bytes;
  }

  Status corrupt(int r) const {
    const std::string name = contract::name_of(contract::Operator::kDispatchV2);
    return error(StatusCode::kInternal,
                 name,
                 "",
                 name + ": what " + (r < 0 ? "a rank" : "rank " + std::to_string(r)) +
                     " published cannot be (rank " + std::to_string(session_.rank()) + ")");
  }

  /// Every rank looks at the totals of all ranks, so that all report the same.
  Status check_capacity() {
    for (int target = 0; target < num_ranks(); ++target) {
      if (shape_.topology.is_shared(target)) {
        continue;
      }
      std::int64_t total = 0;
      for (int r = 0; r < num_ranks(); ++r) {
        const DispatchLayout layout = dispatch_layout(shape_, call_.header_of(r));
        total += at<std::int32_t>(call_.half_of(r), layout.rows_to)[target];
      }
      const std::int64_t capacity =
          contract::capacity(shape_.topology, target, shape_.gbs, shape_.k);
      if (total > capacity) {
        return call_.checker().fail(
            "expert_ids",
            "at most A = " + std::to_string(capacity) + " rows for each rank",
            std::to_string(total) + " for rank " + std::to_string(target));
      }
    }
    return {};
  }

  Status allocate() {
    const contract::DispatchOutputs shapes = contract::output_shapes(shape_, args_.tp_world_size);
    const std::int64_t rows = result_.rows;
    const std::int64_t counts = shapes.ep_recv_counts.product();
    const std::int64_t weights = shape_.weighted ? rows : shapes.expand_scales.product();
    WAYBILL_RETURN_IF_ERROR(call_.make_output(
        result_.expand_x, shapes.expand_x_dtype, shapes.expand_x, rows * shape_.row_bytes()));
    WAYBILL_RETURN_IF_ERROR(call_.make_output(result_.dynamic_scales,
                                              DType::kFloat32,
                                              shapes.dynamic_scales,
                                              shape_.quantised ? 4 * rows : 0));
    WAYBILL_RETURN_IF_ERROR(call_.make_output(result_.assist_info_for_combine,
                                              DType::kInt32,
                                              shapes.assist_info_for_combine,
                                              4 * kTripleInts * rows));
    WAYBILL_RETURN_IF_ERROR(call_.make_output(result_.expert_token_nums,
                                              DType::kInt64,
                                              shapes.expert_token_nums,
                                              8 * shapes.expert_token_nums.product()));
    WAYBILL_RETURN_IF_ERROR(call_.make_output(
        result_.ep_recv_counts, DType::kInt32, shapes.ep_recv_counts, 4 * counts));
    WAYBILL_RETURN_IF_ERROR(call_.make_output(result_.tp_recv_counts,
                                              DType::kInt32,
                                              shapes.tp_recv_counts,
                                              4 * shapes.tp_recv_counts.product()));
    WAYBILL_RETURN_IF_ERROR(call_.make_output(
        result_.expand_scales, DType::kFloat32, shapes.expand_scales, 4 * weights));
    fill_counts(counts);
    std::fill_n(result_.tp_recv_counts.data<std::int32_t>(), shapes.tp_recv_counts.product(), 0);
    if (!shape_.weighted) {
      std::fill_n(result_.expand_scales.data<float>(), weights, 0.0F);
    }
    return {};
  }

  void fill_counts(std::int64_t size) {
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
    std::fill(counts + next, counts + size, 0);
  }

  Status pull() {
    const bool streaming = result_.rows * shape_.row_bytes() * num_ranks() > kStreamingBytes;
    const auto kind = streaming ? numerics::StoreKind::kStreaming : numerics::StoreKind::kOrdinary;
    std::atomic<int> bad_source{-1};
    session_.workers().run(
        result_.rows, least_items(shape_.row_bytes()), [&](std::int64_t begin, std::int64_t end) {
          const int bad = pull_rows(begin, end, kind);
          if (bad >= 0) {
            bad_source = bad;
          }
          numerics::stream_fence();
        });
    return bad_source < 0 ? Status() : corrupt(bad_source);
  }

  /// Rows [begin, end) of the output; the source whose entries cannot be, or -1.
  int pull_rows(std::int64_t begin, std::int64_t end, numerics::StoreKind kind) {
    const auto& cells = scratch().cells;
    auto cell = std::upper_bound(
        cells.begin(), cells.end(), begin, [](std::int64_t row, const routing::Cell& c) {
          return row < c.first_row + c.num_rows;
        });
    for (; cell != cells.end() && cell->first_row < end; ++cell) {
      const std::int64_t first = std::max(begin, cell->first_row);
      const std::int64_t last = std::min(end, cell->first_row + cell->num_rows);
      if (first < last && !pull_cell(*cell, first, last, kind)) {
        return cell->source;
      }
    }
    return -1;
  }

  bool pull_cell(const routing::Cell& cell,
                 std::int64_t first,
                 std::int64_t last,
                 numerics::StoreKind kind) {
    const CallHeader& header = call_.header_of(cell.source);
    const DispatchLayout layout = dispatch_layout(shape_, header);
    const std::byte* half = call_.half_of(cell.source);
    const bool shared = shape_.topology.is_shared(shape_.topology.rank);
    const std::int64_t expert = shared ? shape_.topology.shared_of(shape_.topology.rank) : 0;
    const auto* entries = at<std::int32_t>(half, shared ? layout.active : layout.entries);
    const std::int64_t row_bytes = shape_.row_bytes();
    auto* triples = result_.assist_info_for_combine.data<std::int32_t>();
    for (std::int64_t row = first; row < last; ++row) {
      const std::int64_t place = cell.first_entry + row - cell.first_row;
      const std::int64_t entry = entries[place];
      const std::int64_t token = shared ? entry : entry / shape_.k;
      if (entry < 0 || token >= header.bs) {
        return false;
      }
      const std::int64_t slot = shared ? shape_.k + expert : entry - token * shape_.k;
      std::int64_t published = token;
      if (shape_.smooth) {
        published = shared ? header.num_entries + expert * header.num_active + place : place;
      }
      session_.kernels().copy(result_.expand_x.buffer.data() + row * row_bytes,
                              half + layout.rows.offset + published * row_bytes,
                              static_cast<std::size_t>(row_bytes),
                              kind);
      triples[kTripleInts * row] = cell.source;
      triples[kTripleInts * row + 1] = static_cast<std::int32_t>(token);
      triples[kTripleInts * row + 2] = static_cast<std::int32_t>(slot);
      if (shape_.quantised) {
        result_.dynamic_scales.data<float>()[row] = at<float>(half, layout.row_scales)[published];
      }
      if (shape_.weighted) {
        result_.expand_scales.data<float>()[row] = shared ? 1.0F
                                                   : header.weighted != 0
                                                       ? at<float>(half, layout.weights)[entry]
                                                       : 0.0F;
      }
    }
    return true;
  }

  void count(std::int64_t copy_us) {
    const contract::Topology& topology = shape_.topology;
    const std::lock_guard lock(session_.stats_mutex);
    GroupStats& stats = session_.counted;
    stats.completed = session_.number;
    stats.copy_total_us += copy_us;
    stats.bytes_published += call_.header().num_rows * shape_.row_bytes();
    stats.bytes_copied += result_.rows * shape_.row_bytes();
    for (const routing::Cell& cell : scratch().cells) {
      const auto r = static_cast<std::size_t>(cell.source);
      stats.dispatch.rows_received[r] += cell.num_rows;
      stats.dispatch.bytes_received[r] += cell.num_rows * shape_.row_bytes();
    }
    for (int r = 0; r < num_ranks(); ++r) {
      std::int64_t rows = scratch().counts.rows_to[static_cast<std::size_t>(r)];
      if (topology.sends_to_shared(topology.rank, r)) {
        rows += scratch().counts.num_active;
      }
      stats.dispatch.rows_sent[static_cast<std::size_t>(r)] += rows;
      stats.dispatch.bytes_sent[static_cast<std::size_t>(r)] += rows * shape_.row_bytes();
    }
  }

  Session& session_;
  const DispatchArgs& args_;
  Call call_;
  DispatchShape shape_;
  routing::Grid<std::int32_t> ids_;
  std::int64_t publish_us_ = 0;
  DispatchResult result_;
};

}  // namespace
}  // namespace waybill::engine

namespace waybill {

Result<DispatchResult> dispatch(Group& group, const DispatchArgs& args) {
  return engine::Dispatch(group.session(), args).run();
}

}  // namespace waybill
