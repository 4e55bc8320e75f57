// The exchange of combine between the two TP ranks (docs/contract/operators.md section 6): each row
// of this rank is added to the part of it that the peer's experts computed.

#include <cstring>
#include <string>
#include <vector>

#include "engine/combine.h"
#include "engine/row_source.h"
#include "numerics/kernels.h"

namespace waybill::engine {

using window::CallHeader;

/// `half`: of the EP group's call, which has room for the sums.
Status Combine::exchange_tp(std::byte* half) {
  Call& call = tp_.call();
  WAYBILL_RETURN_IF_ERROR(publish_tp());
  WAYBILL_RETURN_IF_ERROR(call.gather());
  if (!agrees_with_peer()) {
    return call.fail(Ending::kFailedTogether, counts_differ());
  }
  if (!can_read_peer()) {
    return call.fail(Ending::kFailedAlone, call.cannot_be("the TP peer"));
  }
  publish(half);
  return call.finish();
}

/// Publishes the peer's rows: those behind this rank's own.
Status Combine::publish_tp() {
  Call& call = tp_.call();
  CallHeader& header = call.header();
  tp_.fill_header(contract::agreement_of(shape_, args_.comm_quant_mode), shape_.given.rank);
  header.num_rows = shape_.peer_rows;
  header.num_entries = shape_.rows;
  const TensorView& x = args_.expand_x;
  const std::int64_t bytes = shape_.peer_rows * row_bytes();
  const auto* rows = static_cast<const std::byte*>(x.data) + shape_.rows * row_bytes();
  if (x.is_contiguous()) {
    header.pool_offset = tp_.session()->pool().offset_of(rows, bytes);
    tp_in_place_ = header.pool_offset >= 0;
    header.in_pool = tp_in_place_ ? 1 : 0;
  }
  auto half = call.open_half(tp_in_place_ ? 0 : bytes);
  if (!half.ok()) {
    return half.status();
  }
  if (!tp_in_place_) {
    const RowSource source(x);
    std::vector<std::byte> gathered(source.scratch_bytes());
    for (std::int64_t i = 0; i < shape_.peer_rows; ++i) {
      std::memcpy(*half + i * row_bytes(),
                  source.get(shape_.rows + i, gathered.data()),
                  static_cast<std::size_t>(row_bytes()));
    }
  }
  const std::byte* published = tp_in_place_ ? rows : *half;
  call.published_rows(published, row_bytes());
  call.signal([&](const std::vector<char>&, CallHeader& travels, transport::Parcel& parcel) {
    travels.in_pool = 0;
    travels.pool_offset = 0;
    parcel.extents.push_back({published, 0, bytes});
    return bytes;
  });
  return {};
}

/// Both peers see the same numbers.
bool Combine::agrees_with_peer() const {
  const CallHeader& header = tp_.call().header_of(tp_.peer());
  return header.num_entries == shape_.peer_rows && header.num_rows == shape_.rows;
}

Status Combine::counts_differ() const {
  const CallHeader& header = tp_.call().header_of(tp_.peer());
  return tp_.call().checker().fail(
      "tp_send_counts",
      "rows of both TP ranks as both count them, " + std::to_string(header.num_rows) + " and " +
          std::to_string(header.num_entries),
      std::to_string(shape_.rows) + " and " + std::to_string(shape_.peer_rows));
}

bool Combine::can_read_peer() const {
  const Call& call = tp_.call();
  const CallHeader& header = call.header_of(tp_.peer());
  const std::int64_t bytes = shape_.rows * row_bytes();
  return header.in_pool != 0 ? call.lies_in_pool(tp_.peer(), header.pool_offset, bytes)
                             : bytes <= call.half_bytes_of(tp_.peer());
}

/// Row i becomes RNE(own[i] + peer's part of it). The sum of two float16 in float32, rounded once
/// more, is their sum in float16.
void Combine::add_peer_rows(std::byte* rows) {
  Call& call = tp_.call();
  const CallHeader& header = call.header_of(tp_.peer());
  const std::byte* part = header.in_pool != 0 ? call.peer_of(tp_.peer()).pool + header.pool_offset
                                              : call.half_of(tp_.peer());
  const RowSource source(args_.expand_x);
  session_.workers().run(
      shape_.rows, least_items(row_bytes()), [&](std::int64_t begin, std::int64_t end) {
        std::vector<std::byte> gathered(source.scratch_bytes());
        for (std::int64_t i = begin; i < end; ++i) {
          const numerics::Term terms[] = {{source.get(i, gathered.data()), 1.0F},
                                          {part + i * row_bytes(), 1.0F}};
          session_.kernels().weighted_sum(terms, 2, shape_.dtype, shape_.h, rows + i * row_bytes());
          call.verify_row(tp_.peer(), i, part + i * row_bytes(), row_bytes());
        }
      });
}

}  // namespace waybill::engine
