#include "engine/combine.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/combine_sum.h"
#include "engine/group_access.h"
#include "engine/row_source.h"
#include "numerics/float_mode.h"
#include "numerics/kernels.h"

namespace waybill::engine {

using contract::Operator;
using window::CallHeader;
using window::CombineLayout;
using window::ReturnEntry;

Status Combine::start() {
  WAYBILL_RETURN_IF_ERROR(prepare());
  return signal();
}

Status Combine::prepare() {
  const numerics::DefaultFloatMode float_mode;
  WAYBILL_RETURN_IF_ERROR(tp_.begin());
  Status status = check();
  if (status.ok()) {
    status = allocate();
  }
  return status.ok() ? std::move(status) : tp_.refuse(std::move(status));
}

Status Combine::signal() {
  const numerics::DefaultFloatMode float_mode;
  fill_header();
  // The half of the EP group first: a shortage there is known before the TP peer gets a signal.
  auto half = open_half();
  if (!half.ok()) {
    return tp_.follow_ep(half.status());
  }
  if (!tp_.exists()) {
    publish(*half);
    return {};
  }
  Status status = exchange_tp(*half);
  return status.ok() ? std::move(status) : tp_.follow_tp(std::move(status));
}

Result<CombineOutputs> Combine::complete() {
  const numerics::DefaultFloatMode float_mode;
  Status status = call_.gather();
  if (status.ok()) {
    status = locate();
    if (status.ok()) {
      status = sum();
    }
    if (status.ok() && session_.options().checked) {
      verify_rows();
    }
    status = status.ok() ? call_.finish() : call_.fail(Ending::kFailedAlone, status);
  }
  if (tp_.exists() && call_.needs_reset()) {
    status = tp_.call().fail(Ending::kBroken, status);
  }
  WAYBILL_RETURN_IF_ERROR(wait_readers(status));
  count();
  return std::move(outputs_);
}

std::int64_t Combine::row_bytes() const noexcept {
  return shape_.quantised ? shape_.h : shape_.h * size_of(shape_.dtype);
}

std::int64_t Combine::scales_bytes() const noexcept {
  return shape_.quantised ? numerics::num_comm_groups(shape_.h) * size_of(shape_.dtype) : 0;
}

CombineLayout Combine::layout_of(const CallHeader& header, int member) const noexcept {
  const std::int64_t form = header.agreement[contract::Agreed::kForm];
  const std::int64_t cells = num_ranks() * shape_.topology.local_experts(member);
  return CombineLayout::of(
      {.num_ranks = num_ranks(),
       .num_entries = form == contract::kFormOccurrences ? 0 : header.num_entries,
       .num_counts = form == contract::kFormTriples ? 0 : cells,
       .copied_rows = header.in_pool != 0 ? 0 : header.num_rows,
       .row_bytes = row_bytes(),
       .scales_bytes = scales_bytes()});
}

Status Combine::check() {
  WAYBILL_RETURN_IF_ERROR(call_.choose_members(args_.elastic_info));
  auto shape = contract::check_rows(session_.facts(tp_.session()), args_, call_.op());
  if (!shape.ok()) {
    return shape.status();
  }
  shape_ = *shape;
  call_.measure(args_.performance_info);
  if (call_.op() != Operator::kCombineSetup) {
    WAYBILL_RETURN_IF_ERROR(check_own_tokens(call_.op()));
  }
  if (norm_ != nullptr) {
    WAYBILL_RETURN_IF_ERROR(contract::check_norm(session_.facts(), shape_, *norm_));
  }
  return plan_returns();
}

Status Combine::check_own_tokens(Operator op) {
  WAYBILL_RETURN_IF_ERROR(contract::check_tokens(session_.facts(), shape_, args_, op));
  pairs_ = routing::ActivePairs(args_.x_active_mask, args_.expert_ids);
  const contract::Checker checker(op, session_.facts());
  return routing::count(checker, shape_.topology, pairs_, plan_.counts);
}

Status Combine::take_tokens(const CombineArgs& args) {
  args_ = args;
  return check_own_tokens(Operator::kCombineTeardown);
}

/// Counts the rows that go back to each owner.
Status Combine::plan_returns() {
  auto& offsets = plan_.owner_offsets;
  if (shape_.form == contract::kFormTriples) {
    triples_ = {static_cast<const std::int32_t*>(args_.assist_info_for_combine.data),
                args_.assist_info_for_combine.strides[0],
                shape_.rows};
    return routing::count_returns(
        call_.checker(),
        triples_,
        {.num_ranks = num_ranks(), .max_bs = shape_.max_bs(), .slots = shape_.slots()},
        offsets);
  }
  const routing::Grid<std::int32_t> counts(args_.ep_send_counts);
  offsets.assign(static_cast<std::size_t>(num_ranks()) + 1, 0);
  std::int32_t before = 0;
  for (std::int64_t i = 0; i < num_ranks() * shape_.local_experts(); ++i) {
    offsets[static_cast<std::size_t>(i % num_ranks()) + 1] += counts(i, 0) - before;
    before = counts(i, 0);
  }
  for (std::size_t r = 1; r < offsets.size(); ++r) {
    offsets[r] += offsets[r - 1];
  }
  return {};
}

/// Before the signal, so that a shortage is known to all ranks in this call.
Status Combine::allocate() {
  const Dims rows = norm_ != nullptr ? Dims{shape_.bs, 1, shape_.h} : Dims{shape_.bs, shape_.h};
  WAYBILL_RETURN_IF_ERROR(call_.make_output(outputs_.x, shape_.dtype, rows));
  if (norm_ != nullptr) {
    WAYBILL_RETURN_IF_ERROR(call_.make_output(outputs_.y, shape_.dtype, rows));
    WAYBILL_RETURN_IF_ERROR(call_.make_output(outputs_.rstd, DType::kFloat32, {shape_.bs, 1, 1}));
  }
  return {};
}

/// Of which dispatch the rows are, as far as it can be known. dispatch leaves its mark behind the
/// triples or, for combine_setup, behind the counts; expand_idx has no room for one, and is known
/// by its place in the pool.
contract::DispatchCall Combine::dispatch_call() const {
  if (call_.op() == Operator::kCombineSetup) {
    return contract::read_mark(args_.ep_send_counts, num_ranks() * shape_.local_experts());
  }
  switch (shape_.form) {
    case contract::kFormTriples:
      return contract::read_mark(args_.assist_info_for_combine, 3 * shape_.rows);
    case contract::kFormOccurrences:
      return session_.pool().note_at(args_.assist_info_for_combine.data);
    default:
      return contract::kUnmarked;
  }
}

void Combine::fill_header() {
  CallHeader& header = call_.header();
  header.agreement = contract::agreement_of(shape_, args_.comm_quant_mode);
  header.agreement[contract::Agreed::kDispatchCall] = dispatch_call();
  header.bs = shape_.bs;
  header.num_entries = shape_.rows;
  header.num_rows = shape_.rows;
  if (!shape_.quantised && !tp_.exists() && args_.expand_x.is_contiguous()) {
    header.pool_offset = session_.pool().offset_of(args_.expand_x.data, shape_.rows * row_bytes());
    in_place_ = header.pool_offset >= 0;
    header.in_pool = in_place_ ? 1 : 0;
  }
}

Result<std::byte*> Combine::open_half() {
  return call_.open_half(layout_of(call_.header(), shape_.topology.rank).end);
}

void Combine::publish(std::byte* half) {
  const CombineLayout layout = layout_of(call_.header(), shape_.topology.rank);
  publish_places(half, layout);
  call_.enter(Phase::kPublishRows);
  if (tp_.exists()) {
    add_peer_rows(half + layout.rows.offset);
  } else if (!in_place_) {
    copy_rows(half, layout);
  }
  call_.published_rows(
      in_place_ ? static_cast<const std::byte*>(args_.expand_x.data) : half + layout.rows.offset,
      row_bytes());
  call_.signal(
      [&](const std::vector<char>& on_host, CallHeader& travels, transport::Parcel& parcel) {
        return describe(half, layout, on_host, travels, parcel);
      });
}

void Combine::publish_places(std::byte* half, const CombineLayout& layout) {
  std::memcpy(half + layout.owner_offsets.offset,
              plan_.owner_offsets.data(),
              static_cast<std::size_t>(layout.owner_offsets.bytes));
  if (shape_.form == contract::kFormTriples) {
    routing::sort_by_owner(triples_,
                           plan_.owner_offsets,
                           plan_.cursor,
                           std::span(reinterpret_cast<ReturnEntry*>(half + layout.entries.offset),
                                     static_cast<std::size_t>(shape_.rows)));
    return;
  }
  const routing::Grid<std::int32_t> counts(args_.ep_send_counts);
  auto* published = reinterpret_cast<std::int32_t*>(half + layout.counts.offset);
  for (std::int64_t i = 0; i < num_ranks() * shape_.local_experts(); ++i) {
    published[i] = counts(i, 0);
  }
}

void Combine::copy_rows(std::byte* half, const CombineLayout& layout) {
  const RowSource source(args_.expand_x);
  std::byte* rows = half + layout.rows.offset;
  std::byte* scales = half + layout.scales.offset;
  const numerics::StoreKind kind =
      session_.stores().for_rows(session_.bytes_of_core(shape_.rows * row_bytes()));
  session_.workers().run(
      shape_.rows, least_items(row_bytes()), [&](std::int64_t begin, std::int64_t end) {
        std::vector<std::byte> gathered(source.scratch_bytes());
        for (std::int64_t i = begin; i < end; ++i) {
          const std::byte* row = source.get(i, gathered.data());
          if (shape_.quantised) {
            session_.kernels().comm_quantise_row(
                row,
                shape_.dtype,
                shape_.h,
                reinterpret_cast<std::int8_t*>(rows + i * row_bytes()),
                scales + i * scales_bytes());
          } else {
            session_.kernels().copy(
                rows + i * row_bytes(), row, static_cast<std::size_t>(row_bytes()), kind);
          }
        }
        numerics::stream_fence();
      });
}

Status Combine::sum() {
  call_.enter(Phase::kPullRows);
  const TokenSums sums(session_.kernels(), plan_, shape_, args_, norm_, outputs_);
  session_.workers().run(shape_.bs,
                         least_items(row_bytes() * shape_.slots()),
                         [&](std::int64_t begin, std::int64_t end) { sums.run(begin, end); });
  return {};
}

/// Checked mode: the rows that were summed are still those that were published.
void Combine::verify_rows() const {
  for (const std::byte* row : plan_.rows) {
    for (int member = 0; row != nullptr && member < num_ranks(); ++member) {
      const std::byte* first = plan_.returns[static_cast<std::size_t>(member)].rows;
      if (row >= first && row < first + call_.header_of(member).num_rows * row_bytes()) {
        call_.verify_row(member, (row - first) / row_bytes(), row, row_bytes());
        break;
      }
    }
  }
}

std::int64_t Combine::returned_to(int r) {
  const auto& offsets = plan_.owner_offsets;
  return offsets[static_cast<std::size_t>(r) + 1] - offsets[static_cast<std::size_t>(r)];
}

/// Also after an error of this rank alone: peers still read the rows that lie in the pool.
Status Combine::wait_readers(const Status& ended) {
  if (in_place_ && !call_.has_left()) {
    auto& readers = plan_.readers;
    readers.clear();
    for (int r = 0; r < num_ranks(); ++r) {
      if (returned_to(r) > 0) {
        readers.push_back(call_.rank_of(r));
      }
    }
    WAYBILL_RETURN_IF_ERROR(call_.wait_readers(readers));
  }
  if (tp_in_place_ && !tp_.call().has_left()) {
    if (Status status = tp_.call().wait_readers({tp_.peer()}); !status.ok()) {
      return tp_.follow_tp(std::move(status));
    }
  }
  return ended;
}

void Combine::count() {
  tp_.note_completed();
  const std::int64_t bytes = row_bytes() + scales_bytes();
  session_.complete_call([&](GroupStats& stats) {
    if (in_place_) {
      stats.rows_in_place += shape_.rows;
    } else {
      stats.bytes_published += shape_.rows * bytes;
    }
    for (int member = 0; member < num_ranks(); ++member) {
      const auto r = static_cast<std::size_t>(call_.rank_of(member));
      const std::int64_t received = plan_.received_rows[static_cast<std::size_t>(member)];
      stats.combine.rows_sent[r] += returned_to(member);
      stats.combine.bytes_sent[r] += returned_to(member) * bytes;
      stats.combine.rows_received[r] += received;
      stats.combine.bytes_received[r] += received * bytes;
      stats.bytes_reduced += received * bytes;
    }
  });
}

}  // namespace waybill::engine

namespace waybill {

Result<Tensor> combine(Group& group, const CombineArgs& args) {
  engine::Combine call(engine::session_of(group), args, contract::operator_of(args));
  if (Status status = call.start(); !status.ok()) {
    return status;
  }
  auto outputs = call.complete();
  if (!outputs.ok()) {
    return outputs.status();
  }
  return std::move(outputs->x);
}

Result<CombineAddRmsNormResult> combine_add_rms_norm(Group& group,
                                                     const CombineAddRmsNormArgs& args) {
  engine::Combine call(
      engine::session_of(group), args.combine, contract::Operator::kCombineAddRmsNorm, &args);
  if (Status status = call.start(); !status.ok()) {
    return status;
  }
  auto outputs = call.complete();
  if (!outputs.ok()) {
    return outputs.status();
  }
  return CombineAddRmsNormResult{
      std::move(outputs->y), std::move(outputs->rstd), std::move(outputs->x)};
}

}  // namespace waybill
