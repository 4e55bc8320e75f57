#include "engine/dispatch_publish.h"

#include <cstring>
#include <span>
#include <vector>

#include "engine/row_source.h"

namespace waybill::engine {

using contract::DispatchShape;
using window::CallHeader;
using window::DispatchLayout;

std::int64_t rows_published(const DispatchShape& shape, const CallHeader& header) {
  return shape.smooth ? header.num_entries + shape.topology.num_shared * header.num_active
                      : header.bs;
}

DispatchLayout dispatch_layout(const DispatchShape& shape, const CallHeader& header) {
  return DispatchLayout::of({.num_ranks = shape.topology.num_ranks,
                             .num_experts = shape.topology.num_experts,
                             .num_entries = header.num_entries,
                             .num_active = shape.topology.num_shared > 0 ? header.num_active : 0,
                             .num_weights = header.weighted != 0 ? header.bs * shape.k : 0,
                             .num_rows = header.num_rows,
                             .row_bytes = shape.row_bytes(),
                             .quantised = shape.quantised});
}

namespace {

class DispatchPublisher {
 public:
  DispatchPublisher(Session& session, DispatchPlan& plan, const DispatchPublish& what)
      : session_(session),
        plan_(plan),
        args_(what.args),
        shape_(what.shape),
        header_(what.header),
        half_(what.half),
        layout_(dispatch_layout(shape_, header_)),
        pairs_(what.pairs) {}

  void run() {
    publish_routing();
    session_.enter(Phase::kPublishRows);
    if (shape_.smooth) {
      publish_smooth_rows();
    } else {
      publish_token_rows();
    }
  }

 private:
  void publish_routing() {
    const routing::SendCounts& counts = plan_.counts;
    std::memcpy(half_ + layout_.rows_to.offset,
                counts.rows_to.data(),
                static_cast<std::size_t>(layout_.rows_to.bytes));
    std::memcpy(half_ + layout_.expert_offsets.offset,
                counts.expert_offsets.data(),
                static_cast<std::size_t>(layout_.expert_offsets.bytes));
    entries_ = {at<std::int32_t>(half_, layout_.entries),
                static_cast<std::size_t>(counts.num_entries)};
    routing::sort_by_expert(counts, pairs_, plan_.cursor, entries_);
    if (shape_.topology.num_shared > 0) {
      active_ = {at<std::int32_t>(half_, layout_.active),
                 static_cast<std::size_t>(counts.num_active)};
      routing::list_active(pairs_, active_);
    }
    if (shape_.weighted) {
      const routing::Grid<float> given(*args_.expert_scales);
      float* weights = at<float>(half_, layout_.weights);
      for (std::int64_t t = 0; t < shape_.bs; ++t) {
        for (std::int64_t j = 0; j < shape_.k; ++j) {
          *weights++ = given(t, j);
        }
      }
    }
  }

  /// Each active token once, as it is or quantised without smooth scales.
  void publish_token_rows() {
    const RowSource source(args_.x);
    std::byte* rows = half_ + layout_.rows.offset;
    float* scales = at<float>(half_, layout_.row_scales);
    const std::int64_t row_bytes = shape_.row_bytes();
    const numerics::StoreKind kind =
        session_.stores().for_tokens(session_.bytes_of_core(shape_.bs * row_bytes));
    const auto copy = [&](std::int64_t t, const std::byte* from, std::int64_t count) {
      session_.kernels().copy(
          rows + t * row_bytes, from, static_cast<std::size_t>(count * row_bytes), kind);
    };
    const bool whole = !shape_.quantised && args_.x.is_contiguous() && !pairs_.has_mask();
    session_.workers().run(
        shape_.bs, least_items(row_bytes), [&](std::int64_t begin, std::int64_t end) {
          if (whole) {
            copy(begin,
                 static_cast<const std::byte*>(args_.x.data) + begin * row_bytes,
                 end - begin);
            numerics::stream_fence();
            return;
          }
          std::vector<std::byte> gathered(source.scratch_bytes());
          for (std::int64_t t = begin; t < end; ++t) {
            if (!pairs_.token(t)) {
              continue;
            }
            const std::byte* row = source.get(t, gathered.data());
            if (shape_.quantised) {
              session_.kernels().quantise_row(row,
                                              shape_.dtype,
                                              nullptr,
                                              shape_.h,
                                              reinterpret_cast<std::int8_t*>(rows + t * row_bytes),
                                              scales + t);
            } else {
              copy(t, row, 1);
            }
          }
          numerics::stream_fence();
        });
  }

  /// With smooth scales each (token, expert) has a row of its own: entries first, then for each
  /// shared expert the active tokens.
  void publish_smooth_rows() {
    const RowSource source(args_.x);
    const RowSource smooth(*args_.scales);
    const std::int64_t num_entries = plan_.counts.num_entries;
    const std::int64_t num_active = plan_.counts.num_active;
    session_.workers().run(
        header_.num_rows,
        least_items(shape_.row_bytes()),
        [&](std::int64_t begin, std::int64_t end) {
          std::vector<std::byte> gathered(source.scratch_bytes());
          std::vector<std::byte> gathered_scales(smooth.scratch_bytes());
          for (std::int64_t i = begin; i < end; ++i) {
            std::int64_t token = 0;
            std::int64_t scale_row = 0;
            if (i < num_entries) {
              const std::int32_t entry = entries_[static_cast<std::size_t>(i)];
              token = entry / shape_.k;
              scale_row = shape_.first_scale_row + pairs_.id(token, entry % shape_.k);
            } else {
              scale_row = (i - num_entries) / num_active;
              token = active_[static_cast<std::size_t>((i - num_entries) % num_active)];
            }
            session_.kernels().quantise_row(
                source.get(token, gathered.data()),
                shape_.dtype,
                reinterpret_cast<const float*>(smooth.get(scale_row, gathered_scales.data())),
                shape_.h,
                reinterpret_cast<std::int8_t*>(half_ + layout_.rows.offset +
                                               i * shape_.row_bytes()),
                at<float>(half_, layout_.row_scales) + i);
          }
        });
  }

  Session& session_;
  DispatchPlan& plan_;
  const DispatchArgs& args_;
  const DispatchShape& shape_;
  const CallHeader& header_;
  std::byte* half_;
  const DispatchLayout layout_;
  const routing::ActivePairs& pairs_;
  std::span<std::int32_t> entries_;
  std::span<std::int32_t> active_;
};

}  // namespace

void publish_dispatch(Session& session, DispatchPlan& plan, const DispatchPublish& what) {
  DispatchPublisher(session, plan, what).run();
}

}  // namespace waybill::engine
