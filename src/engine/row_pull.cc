#include "engine/row_pull.h"

#include <algorithm>

#include "base/published.h"
#include "engine/dispatch_publish.h"
#include "engine/workers.h"

namespace waybill::engine {
namespace {

/// Source rows of a block: a part of every second-level cache.
constexpr std::int64_t kBlockBytes = 1 << 18;
constexpr std::int64_t kTripleInts = 3;

}  // namespace

using window::CallHeader;

RowPull::RowPull(const Call& call,
                 const numerics::Kernels& kernels,
                 const DispatchPlan& plan,
                 const contract::DispatchShape& shape,
                 DispatchResult& result,
                 numerics::StoreKind kind)
    : call_(call),
      kernels_(kernels),
      plan_(plan),
      shape_(shape),
      result_(result),
      kind_(kind),
      num_members_(call.num_members()),
      shared_(shape.topology.is_shared(shape.topology.rank)),
      expert_(shared_ ? shape.topology.shared_of(shape.topology.rank) : 0),
      k_(static_cast<std::int32_t>(shape.k)),
      row_bytes_(shape.row_bytes()),
      triples_(call.op() == contract::Operator::kDispatchV2
                   ? result.assist_info_for_combine.data<std::int32_t>()
                   : nullptr) {
  for (int member = 0; member < num_members_; ++member) {
    most_tokens_ = std::max(most_tokens_, call.header_of(member).bs);
  }
  for (const routing::Cell& run : plan.cells) {
    if (run.num_rows > 0) {
      fetch_ahead(source_of(run.source).entries + run.first_entry, 1);
    }
  }
}

std::int64_t RowPull::num_items() const noexcept { return num_members_ * most_tokens_; }

std::int64_t RowPull::least_items() const noexcept {
  const std::int64_t bytes = result_.rows * row_bytes_;
  return engine::least_items(bytes / std::max<std::int64_t>(num_items(), 1));
}

std::int64_t RowPull::run(std::int64_t begin, std::int64_t end) const {
  const std::int64_t block = std::max<std::int64_t>(kBlockBytes / row_bytes_, 1);
  std::int64_t rows = 0;
  while (begin < end) {
    const auto member = static_cast<int>(begin / most_tokens_);
    const Source source = source_of(member);
    const std::int64_t first_item = member * most_tokens_;
    const std::int64_t last = std::min(end - first_item, source.bs);
    for (std::int64_t token = begin - first_item; token < last; token += block) {
      const std::int64_t pulled = pull_tokens(source, token, std::min(token + block, last));
      if (pulled < 0) {
        return -1 - member;
      }
      rows += pulled;
    }
    begin = first_item + most_tokens_;
  }
  return rows;
}

RowPull::Source RowPull::source_of(int member) const {
  const CallHeader& header = call_.header_of(member);
  const std::byte* half = call_.half_of(member);
  const window::DispatchLayout& layout = plan_.layouts[static_cast<std::size_t>(member)];
  return {member,
          header.bs,
          header.num_entries,
          header.num_active,
          half,
          layout,
          at<std::int32_t>(half, shared_ ? layout.active : layout.entries)};
}

const routing::Cell& RowPull::cell(std::int64_t local, int member) const noexcept {
  return plan_.cells[static_cast<std::size_t>(local * num_members_ + member)];
}

/// Rows of tokens [first, last) for every expert of this rank; -1 where an entry cannot be.
std::int64_t RowPull::pull_tokens(const Source& source,
                                  std::int64_t first,
                                  std::int64_t last) const {
  std::int64_t rows = 0;
  const std::int64_t local_experts = shape_.topology.local_experts(shape_.topology.rank);
  for (std::int64_t local = 0; local < local_experts; ++local) {
    const routing::Cell& run = cell(local, source.member);
    const std::int64_t end = run.first_entry + run.num_rows;
    for (std::int64_t place = first_place(source, run, first); place < end; ++place) {
      Slot slot;
      // Entries before their block are not in order: some would be found twice, others never.
      if (!slot_of(source, place, slot) || slot.token < first) {
        return -1;
      }
      if (slot.token >= last) {
        break;
      }
      copy_row(source, slot, run.first_row + place - run.first_entry);
      ++rows;
    }
  }
  return rows;
}

/// Of an entry or, on a shared rank, an active token.
bool RowPull::slot_of(const Source& source, std::int64_t place, Slot& slot) const noexcept {
  const std::int32_t entry = read_once(source.entries[place]);
  slot.entry = entry;
  slot.token = shared_ ? entry : entry / k_;
  slot.slot = shared_ ? k_ + expert_ : entry % k_;
  slot.published = slot.token;
  if (shape_.smooth) {
    slot.published = shared_ ? source.num_entries + expert_ * source.num_active + place : place;
  }
  return entry >= 0 && slot.token < source.bs;
}

/// First place of the cell whose token is not before `token`: entries are in the order of tokens.
std::int64_t RowPull::first_place(const Source& source,
                                  const routing::Cell& cell,
                                  std::int64_t token) const noexcept {
  if (token == 0) {
    return cell.first_entry;
  }
  const std::int64_t entry = shared_ ? token : token * k_;
  const std::int32_t* begin = source.entries + cell.first_entry;
  return cell.first_entry +
         (std::partition_point(begin,
                               begin + cell.num_rows,
                               [entry](const std::int32_t& e) { return read_once(e) < entry; }) -
          begin);
}

void RowPull::copy_row(const Source& source, const Slot& slot, std::int64_t row) const {
  std::byte* to = result_.expand_x.buffer.data() + row * row_bytes_;
  kernels_.copy(to,
                source.half + source.layout.rows.offset + slot.published * row_bytes_,
                static_cast<std::size_t>(row_bytes_),
                kind_);
  call_.verify_row(source.member, slot.published, to, row_bytes_);
  if (triples_ != nullptr) {
    triples_[kTripleInts * row] = source.member;
    triples_[kTripleInts * row + 1] = static_cast<std::int32_t>(slot.token);
    triples_[kTripleInts * row + 2] = static_cast<std::int32_t>(slot.slot);
  }
  if (shape_.quantised) {
    result_.dynamic_scales.data<float>()[row] =
        at<float>(source.half, source.layout.row_scales)[slot.published];
  }
  if (shape_.weighted) {
    const bool given = call_.header_of(source.member).weighted != 0;
    const float* weights = at<float>(source.half, source.layout.weights);
    result_.expand_scales.data<float>()[row] = shared_ ? 1.0F : given ? weights[slot.entry] : 0.0F;
  }
}

}  // namespace waybill::engine
