#include "waybill/combine.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>

#include "base/errors.h"
#include "contract/combine_contract.h"
#include "engine/call.h"
#include "engine/row_source.h"
#include "engine/session.h"
#include "engine/stopwatch.h"
#include "numerics/float_mode.h"
#include "routing/return_plan.h"
#include "window/layout.h"

namespace waybill::engine {
namespace {

using contract::CombineShape;
using window::CallHeader;
using window::CombineLayout;
using window::ReturnEntry;

/// One call of combine.
class Combine {
 public:
  Combine(Session& session, const CombineArgs& args)
      : session_(session), args_(args), call_(session, contract::Operator::kCombineV2) {}

  Result<Tensor> run() {
    const numerics::DefaultFloatMode float_mode;
    WAYBILL_RETURN_IF_ERROR(call_.begin());
    if (Status status = check(); !status.ok()) {
      return call_.refuse(std::move(status));
    }
    WAYBILL_RETURN_IF_ERROR(publish());
    WAYBILL_RETURN_IF_ERROR(call_.gather());
    const Stopwatch watch;
    Status status = locate();
    if (status.ok()) {
      status = call_.make_output(output_, shape_.dtype, {shape_.bs, shape_.h});
    }
    if (status.ok()) {
      sum();
    }
    const std::int64_t sum_us = watch.microseconds();
    Status ended = status.ok() ? call_.finish() : call_.abandon(status);
    // Also after an error of this rank alone: peers still read the rows that lie in the pool.
    if (in_place_ && !call_.has_failed()) {
      WAYBILL_RETURN_IF_ERROR(wait_readers());
    }
    WAYBILL_RETURN_IF_ERROR(std::move(ended));
    count(sum_us + publish_us_);
    return std::move(output_);
  }

 private:
  Scratch& scratch() noexcept { return session_.scratch(); }
  int num_ranks() const noexcept { return shape_.topology.num_ranks; }

  // Rows as they travel: with comm_quant_mode int8 and, beside them, scales.
  std::int64_t row_bytes() const noexcept {
    return shape_.quantised ? shape_.h : shape_.h * size_of(shape_.dtype);
  }
  std::int64_t scales_bytes() const noexcept {
    return shape_.quantised ? numerics::num_comm_groups(shape_.h) * size_of(shape_.dtype) : 0;
  }
  std::int64_t least_tokens() const noexcept { return least_items(row_bytes() * shape_.slots()); }

  CombineLayout layout_of(const CallHeader& header) const noexcept {
    return CombineLayout::of({.num_ranks = num_ranks(),
                              .num_entries = header.num_entries,
                              .copied_rows = header.in_pool != 0 ? 0 : header.num_rows,
                              .row_bytes = row_bytes(),
                              .scales_bytes = scales_bytes()});
  }

  Status check() {
    auto shape = contract::check_combine(session_.facts(), args_);
    if (!shape.ok()) {
      return shape.status();
    }
    shape_ = *shape;
    ids_ = routing::Grid<std::int32_t>(args_.expert_ids);
    WAYBILL_RETURN_IF_ERROR(routing::count(
        call_.checker(), shape_.topology, ids_, pairs(), shape_.bs, shape_.k, scratch().counts));
    triples_ = {static_cast<const std::int32_t*>(args_.assist_info_for_combine.data),
                args_.assist_info_for_combine.strides[0],
                shape_.rows};
    return routing::count_returns(
        call_.checker(),
        triples_,
        {.num_ranks = num_ranks(), .max_bs = shape_.gbs / num_ranks(), .slots = shape_.slots()},
        scratch().owner_offsets);
  }

  routing::ActivePairs pairs() const { return {args_.x_active_mask, shape_.k}; }

  Status publish() {
    CallHeader& header = call_.header();
    header.agreement = contract::agreement_of(shape_, args_);
    header.bs = shape_.bs;
    header.num_entries = shape_.rows;
    header.num_rows = shape_.rows;
    if (!shape_.quantised && args_.expand_x.is_contiguous()) {
      header.pool_offset =
          session_.pool().offset_of(args_.expand_x.data, shape_.rows * row_bytes());
      in_place_ = header.pool_offset >= 0;
      header.in_pool = in_place_ ? 1 : 0;
    }
    const CombineLayout layout = layout_of(header);
    auto half = call_.open_half(layout.end);
    if (!half.ok()) {
      return half.status();
    }
    const Stopwatch watch;
    std::memcpy(*half + layout.owner_offsets.offset,
                scratch().owner_offsets.data(),
                static_cast<std::size_t>(layout.owner_offsets.bytes));
    routing::sort_by_owner(triples_,
                           scratch().owner_offsets,
                           scratch().cursor,
                           std::span(reinterpret_cast<ReturnEntry*>(*half + layout.entries.offset),
                                     static_cast<std::size_t>(shape_.rows)));
    if (!in_place_) {
      copy_rows(*half, layout);
    }
    publish_us_ = watch.microseconds();
    call_.signal();
    return {};
  }

  void copy_rows(std::byte* half, const CombineLayout& layout) {
    const RowSource source(args_.expand_x);
    std::byte* rows = half + layout.rows.offset;
    std::byte* scales = half + layout.scales.offset;
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
              std::memcpy(rows + i * row_bytes(), row, static_cast<std::size_t>(row_bytes()));
            }
          }
        });
  }

  Status corrupt(int r) const {
    const std::string name = contract::name_of(contract::Operator::kCombineV2);
    return error(StatusCode::kInternal,
                 name,
                 "",
                 name + ": what rank " + std::to_string(r) + " published cannot be (rank " +
                     std::to_string(session_.rank()) + ")");
  }

  bool is_sane(const CallHeader& header, int r) const {
    const std::int64_t bytes = session_.peer(r).window_bytes;
    const std::int64_t most = bytes / std::max<std::int64_t>(row_bytes(), sizeof(ReturnEntry));
    return header.num_entries >= 0 && header.num_entries <= most &&
           header.num_rows == header.num_entries && layout_of(header).end <= bytes &&
           (header.in_pool == 0 || (!shape_.quantised && header.pool_offset >= 0 &&
                                    header.pool_offset <= bytes - header.num_rows * row_bytes()));
  }

  /// Finds where the row of every (token, slot) of this rank lies.
  Status locate() {
    const auto places = static_cast<std::size_t>(shape_.bs * shape_.slots());
    scratch().rows.assign(places, nullptr);
    scratch().received_rows.clear();
    scratch().scales.assign(shape_.quantised ? places : 0, nullptr);
    for (int r = 0; r < num_ranks(); ++r) {
      if (!is_sane(call_.header_of(r), r)) {
        return corrupt(r);
      }
      WAYBILL_RETURN_IF_ERROR(locate_from(r));
    }
    return check_complete();
  }

  Status locate_from(int r) {
    const CallHeader& header = call_.header_of(r);
    const CombineLayout layout = layout_of(header);
    const std::byte* half = call_.half_of(r);
    const auto* offsets = reinterpret_cast<const std::int32_t*>(half + layout.owner_offsets.offset);
    const std::int64_t begin = offsets[shape_.topology.rank];
    const std::int64_t end = offsets[shape_.topology.rank + 1];
    if (begin < 0 || begin > end || end > header.num_entries) {
      return corrupt(r);
    }
    scratch().received_rows.push_back(end - begin);
    const auto* entries = reinterpret_cast<const ReturnEntry*>(half + layout.entries.offset);
    const std::byte* rows = header.in_pool != 0 ? session_.peer(r).pool + header.pool_offset
                                                : half + layout.rows.offset;
    for (std::int64_t i = begin; i < end; ++i) {
      const ReturnEntry entry = entries[i];
      if (entry.row < 0 || entry.row >= header.num_rows || entry.token < 0 || entry.slot < 0 ||
          entry.slot >= shape_.slots()) {
        return corrupt(r);
      }
      if (entry.token >= shape_.bs || !expects(entry.token, entry.slot)) {
        continue;
      }
      const auto place = static_cast<std::size_t>(entry.token * shape_.slots() + entry.slot);
      if (scratch().rows[place] != nullptr) {
        return call_.checker().fail("assist_info_for_combine",
                                    "one row for token " + std::to_string(entry.token) + ", slot " +
                                        std::to_string(entry.slot),
                                    "a second one, from rank " + std::to_string(r));
      }
      scratch().rows[place] = rows + entry.row * row_bytes();
      if (shape_.quantised) {
        scratch().scales[place] = half + layout.scales.offset + entry.row * scales_bytes();
      }
    }
    return {};
  }

  bool expects(std::int64_t token, std::int64_t slot) const {
    return slot < shape_.k ? pairs().pair(token, slot) : pairs().token(token);
  }

  Status check_complete() {
    for (std::int64_t t = 0; t < shape_.bs; ++t) {
      for (std::int64_t slot = 0; slot < shape_.slots(); ++slot) {
        if (scratch().rows[static_cast<std::size_t>(t * shape_.slots() + slot)] == nullptr &&
            expects(t, slot)) {
          return call_.checker().fail(
              "assist_info_for_combine",
              "a row for token " + std::to_string(t) + ", slot " + std::to_string(slot),
              "none from any rank");
        }
      }
    }
    return {};
  }

  void sum() {
    session_.workers().run(shape_.bs, least_tokens(), [&](std::int64_t begin, std::int64_t end) {
      sum_tokens(begin, end);
    });
  }

  /// Terms in the order of ops.md section 7.2: k, then shared experts, then shared_expert_x.
  void sum_tokens(std::int64_t begin, std::int64_t end) {
    const routing::ActivePairs active = pairs();
    const routing::Grid<float> weights(args_.expert_scales);
    const std::int64_t out_bytes = shape_.h * size_of(shape_.dtype);
    thread_local std::vector<numerics::Term> terms;
    thread_local std::vector<std::byte> dequantised;
    thread_local std::vector<std::byte> gathered;
    terms.resize(static_cast<std::size_t>(shape_.slots() + 1));
    dequantised.resize(shape_.quantised ? static_cast<std::size_t>(shape_.slots() * out_bytes) : 0);
    gathered.resize(static_cast<std::size_t>(out_bytes));
    for (std::int64_t t = begin; t < end; ++t) {
      std::size_t count = 0;
      for (std::int64_t slot = 0; slot < shape_.slots(); ++slot) {
        const bool routed = slot < shape_.k;
        if (routed ? active.pair(t, slot) : active.token(t)) {
          const void* row = row_of(t, slot, dequantised.data() + slot * out_bytes);
          terms[count++] = {row, routed ? weights(t, slot) : 1.0F};
        }
      }
      if (args_.shared_expert_x && active.token(t)) {
        const RowSource shared(*args_.shared_expert_x);
        terms[count++] = {shared.get(t, gathered.data()), 1.0F};
      }
      session_.kernels().weighted_sum(terms.data(),
                                      static_cast<std::int64_t>(count),
                                      shape_.dtype,
                                      shape_.h,
                                      output_.buffer.data() + t * out_bytes);
    }
  }

  const void* row_of(std::int64_t token, std::int64_t slot, std::byte* dequantised) {
    const auto place = static_cast<std::size_t>(token * shape_.slots() + slot);
    const std::byte* row = scratch().rows[place];
    if (!shape_.quantised) {
      return row;
    }
    session_.kernels().comm_dequantise_row(reinterpret_cast<const std::int8_t*>(row),
                                           scratch().scales[place],
                                           shape_.dtype,
                                           shape_.h,
                                           dequantised);
    return dequantised;
  }

  std::int64_t returned_to(int r) {
    const auto& offsets = scratch().owner_offsets;
    return offsets[static_cast<std::size_t>(r) + 1] - offsets[static_cast<std::size_t>(r)];
  }

  Status wait_readers() {
    auto& readers = scratch().readers;
    readers.clear();
    for (int r = 0; r < num_ranks(); ++r) {
      if (returned_to(r) > 0) {
        readers.push_back(r);
      }
    }
    return call_.wait_readers(readers);
  }

  void count(std::int64_t copy_us) {
    const std::lock_guard lock(session_.stats_mutex);
    GroupStats& stats = session_.counted;
    stats.completed = session_.number;
    stats.copy_total_us += copy_us;
    const std::int64_t bytes = row_bytes() + scales_bytes();
    if (in_place_) {
      stats.rows_in_place += shape_.rows;
    } else {
      stats.bytes_published += shape_.rows * bytes;
    }
    for (int r = 0; r < num_ranks(); ++r) {
      const auto i = static_cast<std::size_t>(r);
      stats.combine.rows_sent[i] += returned_to(r);
      stats.combine.bytes_sent[i] += returned_to(r) * bytes;
      stats.combine.rows_received[i] += scratch().received_rows[i];
      stats.combine.bytes_received[i] += scratch().received_rows[i] * bytes;
      stats.bytes_reduced += scratch().received_rows[i] * bytes;
    }
  }

  Session& session_;
  const CombineArgs& args_;
  Call call_;
  CombineShape shape_;
  routing::Grid<std::int32_t> ids_;
  routing::TripleView triples_{};
  bool in_place_ = false;
  std::int64_t publish_us_ = 0;
  Tensor output_;
};

}  // namespace
}  // namespace waybill::engine

namespace waybill {

Result<Tensor> combine(Group& group, const CombineArgs& args) {
  return engine::Combine(group.session(), args).run();
}

}  // namespace waybill
