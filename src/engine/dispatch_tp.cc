// The exchange of dispatch between the two TP ranks (docs/contract/operators.md section 6).

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "engine/dispatch.h"
#include "engine/dispatch_publish.h"
#include "window/layout.h"

namespace waybill::engine {

using window::TpDispatchLayout;

Status Dispatch::exchange_tp() {
  Call& call = tp_.call();
  WAYBILL_RETURN_IF_ERROR(publish_tp());
  WAYBILL_RETURN_IF_ERROR(call.gather());
  Status status = append_peer();
  Status ended = status.ok() ? call.finish() : call.fail(Ending::kFailedAlone, status);
  // The caller may write to expand_x as soon as it has it.
  if (!call.has_left()) {
    WAYBILL_RETURN_IF_ERROR(call.wait_readers({tp_.peer()}));
  }
  return ended;
}

Status Dispatch::publish_tp() {
  Call& call = tp_.call();
  tp_.fill_header(call_.header().agreement, shape_.given.rank);
  window::CallHeader& header = call.header();
  header.bs = shape_.bs;
  header.num_rows = result_.rows;
  header.in_pool = 1;
  header.pool_offset = tp_.session()->pool().offset_of(result_.expand_x.buffer.data(),
                                                       result_.rows * shape_.row_bytes());
  const auto layout = TpDispatchLayout::of(num_ranks(), result_.rows, shape_.quantised, 0);
  auto half = call.open_half(layout.end);
  if (!half.ok()) {
    return half.status();
  }
  std::memcpy(*half + layout.counts.offset,
              result_.ep_recv_counts.data<std::int32_t>(),
              static_cast<std::size_t>(layout.counts.bytes));
  if (shape_.quantised) {
    std::memcpy(*half + layout.row_scales.offset,
                result_.dynamic_scales.data<float>(),
                static_cast<std::size_t>(layout.row_scales.bytes));
  }
  call.published_rows(result_.expand_x.buffer.data(), shape_.row_bytes());
  call.signal(
      [&](const std::vector<char>&, window::CallHeader& travels, transport::Parcel& parcel) {
        travels.in_pool = 0;
        travels.pool_offset = 0;
        const auto mirrored = TpDispatchLayout::of(
            num_ranks(), result_.rows, shape_.quantised, result_.rows * shape_.row_bytes());
        parcel.extents.push_back({*half, 0, mirrored.rows.offset});
        parcel.extents.push_back(
            {result_.expand_x.buffer.data(), mirrored.rows.offset, mirrored.rows.bytes});
        return mirrored.end;
      });
  return {};
}

/// Puts the peer's rows, scales and counts behind this rank's.
Status Dispatch::append_peer() {
  Call& call = tp_.call();
  Session& session = *tp_.session();
  const window::CallHeader& header = call.header_of(tp_.peer());
  const std::int64_t rows = header.num_rows;
  const std::int64_t row_bytes = shape_.row_bytes();
  const bool in_pool = header.in_pool != 0;
  if (rows < 0 || rows > shape_.rows_capacity) {
    return call.cannot_be("the TP peer");
  }
  const auto layout =
      TpDispatchLayout::of(num_ranks(), rows, shape_.quantised, in_pool ? 0 : rows * row_bytes);
  if (!call.ends_at(tp_.peer(), layout.end) ||
      (in_pool && !call.lies_in_pool(tp_.peer(), header.pool_offset, rows * row_bytes))) {
    return call.cannot_be("the TP peer");
  }
  const std::byte* half = call.half_of(tp_.peer());
  auto* counts = result_.ep_recv_counts.data<std::int32_t>() + num_ranks();
  std::copy_n(at<std::int32_t>(half, layout.counts), num_ranks(), counts);
  if (counts[0] < 0 || counts[num_ranks() - 1] != rows ||
      !std::is_sorted(counts, counts + num_ranks())) {
    return call.cannot_be("the TP peer");
  }
  const char* name = contract::name_of(call.op());
  const std::int64_t all = result_.rows + rows;
  WAYBILL_RETURN_IF_ERROR(
      session.in_context(name, session.pool().commit(result_.expand_x.buffer, all * row_bytes)));
  WAYBILL_RETURN_IF_ERROR(session.in_context(
      name, session.pool().commit(result_.dynamic_scales.buffer, shape_.quantised ? 4 * all : 0)));

  const std::byte* source =
      in_pool ? call.peer_of(tp_.peer()).pool + header.pool_offset : half + layout.rows.offset;
  std::byte* destination = result_.expand_x.buffer.data() + result_.rows * row_bytes;
  session.workers().run(rows, least_items(row_bytes), [&](std::int64_t begin, std::int64_t end) {
    session_.kernels().copy(destination + begin * row_bytes,
                            source + begin * row_bytes,
                            static_cast<std::size_t>((end - begin) * row_bytes),
                            numerics::StoreKind::kOrdinary);
  });
  for (std::int64_t row = 0; row < rows; ++row) {
    call.verify_row(tp_.peer(), row, destination + row * row_bytes, row_bytes);
  }
  if (shape_.quantised) {
    std::copy_n(at<float>(half, layout.row_scales),
                rows,
                result_.dynamic_scales.data<float>() + result_.rows);
  }
  result_.expert_token_nums.data<std::int64_t>()[0] += rows;
  auto* tp_counts = result_.tp_recv_counts.data<std::int32_t>();
  tp_counts[shape_.tp_rank] = static_cast<std::int32_t>(result_.rows);
  tp_counts[1 - shape_.tp_rank] = static_cast<std::int32_t>(rows);
  return {};
}

}  // namespace waybill::engine
