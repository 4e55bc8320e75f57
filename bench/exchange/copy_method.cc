#include <algorithm>

#include "exchange/method.h"

namespace waybill::bench {
namespace {

/// The limit: the bytes of the exchange, copied once, by as many ranks as there are cores, each an
/// equal share. Nothing is waited for, no row is looked for, nothing is summed.
class Copy : public Method {
 public:
  Copy(const Workload& workload, numerics::StoreKind kind)
      : Method(kind == numerics::StoreKind::kStreaming ? kCopyStreaming : kCopy),
        workload_(workload),
        kind_(kind),
        rows_(workload.expert_rows(kind == numerics::StoreKind::kStreaming ? 1 : 0)),
        row_bytes_(workload.sizes().quant == 0 ? workload.sizes().row_bytes()
                                               : workload.sizes().hidden) {
    const auto total = static_cast<std::int64_t>(workload.pairs().size());
    const int parts = std::min(workload.sizes().ranks, workload.board()->cores);
    if (workload.rank() < parts) {
      begin_ = total * workload.rank() / parts;
      end_ = total * (workload.rank() + 1) / parts;
    }
    returned_ = Rows((end_ - begin_) * workload.sizes().row_bytes());
    order_by_token();
  }

  bool takes_part() const override { return end_ > begin_; }

  void dispatch() override {
    for (std::int64_t i = begin_; i < end_; ++i) {
      const Pair& pair = workload_.pairs()[static_cast<std::size_t>(i)];
      copy(rows_ + i * row_bytes_, workload_.x(pair.source, pair.token), row_bytes_);
    }
    numerics::stream_fence();
  }

  void experts() override {
    write_again(rows_ + begin_ * row_bytes_, (end_ - begin_) * row_bytes_);
  }

  void combine() override {
    const std::int64_t row_bytes = workload_.sizes().row_bytes();
    for (std::int64_t i = begin_; i < end_; ++i) {
      copy(returned_.data() + (i - begin_) * row_bytes,
           rows_ + place_[static_cast<std::size_t>(i - begin_)] * row_bytes,
           row_bytes);
    }
    numerics::stream_fence();
  }

  std::string check_dispatch(bool all) const override {
    for (const std::int64_t i : sampled(end_ - begin_, all)) {
      const Pair& pair = workload_.pairs()[static_cast<std::size_t>(begin_ + i)];
      auto wrong = compare_rows(rows_ + (begin_ + i) * row_bytes_,
                                workload_.x(pair.source, pair.token),
                                row_bytes_,
                                name() + ": row " + std::to_string(i));
      if (!wrong.empty()) {
        return wrong;
      }
    }
    return "";
  }

  std::string check_combine(bool) const override { return ""; }

 private:
  void copy(std::byte* to, const std::byte* from, std::int64_t bytes) const {
    workload_.kernels().copy(to, from, static_cast<std::size_t>(bytes), kind_);
  }

  /// Where the rows of this share lie, in the order of combine: by (source, token, slot).
  void order_by_token() {
    const Case& sizes = workload_.sizes();
    std::vector<std::int64_t> place(workload_.pairs().size());
    for (std::size_t i = 0; i < place.size(); ++i) {
      const Pair& pair = workload_.pairs()[i];
      const std::int64_t flat = (pair.source * sizes.bs + pair.token) * sizes.topk + pair.slot;
      place[static_cast<std::size_t>(flat)] = static_cast<std::int64_t>(i);
    }
    place_.assign(place.begin() + begin_, place.begin() + end_);
  }

  const Workload& workload_;
  const numerics::StoreKind kind_;
  std::byte* const rows_;
  const std::int64_t row_bytes_;
  std::int64_t begin_ = 0;
  std::int64_t end_ = 0;
  std::vector<std::int64_t> place_;
  Rows returned_;
};

}  // namespace

std::unique_ptr<Method> make_copy(const Workload& workload, numerics::StoreKind kind) {
  return std::make_unique<Copy>(workload, kind);
}

}  // namespace waybill::bench
