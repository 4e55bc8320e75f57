#include <mpi.h>

#include <cstring>
#include <numeric>

#include "exchange/method.h"

namespace waybill::bench {
namespace {

/// The exchange as one writes it over MPI: pack the rows by destination, exchange the counts of
/// each expert and the rows, unpack by expert; the same way back, and a weighted sum straight from
/// what came.
class Mpi : public Method {
 public:
  explicit Mpi(const Workload& workload)
      : Method("mpi"),
        workload_(workload),
        sizes_(workload.sizes()),
        ranks_(static_cast<std::size_t>(sizes_.ranks)),
        packed_(sizes_.bs * sizes_.topk * sizes_.row_bytes()),
        received_(workload.num_received() * sizes_.row_bytes()),
        rows_(workload.num_received() * sizes_.row_bytes()),
        sums_(sizes_.bs * sizes_.row_bytes()) {
    MPI_Type_contiguous(static_cast<int>(sizes_.row_bytes()), MPI_BYTE, &row_type_);
    MPI_Type_commit(&row_type_);
    for (auto* counts : {&sent_rows_, &sent_at_, &received_rows_, &received_at_}) {
      counts->resize(ranks_);
    }
    terms_.resize(static_cast<std::size_t>(sizes_.topk));
  }

  ~Mpi() override { MPI_Type_free(&row_type_); }

  void dispatch() override {
    sort_pairs();
    for (std::size_t i = 0; i < order_.size(); ++i) {
      copy(packed_,
           static_cast<std::int64_t>(i),
           workload_.x(workload_.rank(), order_[i] / sizes_.topk));
    }
    const auto local = static_cast<int>(sizes_.experts_per_rank);
    arriving_.resize(counts_.size());
    MPI_Alltoall(
        counts_.data(), local, MPI_INT32_T, arriving_.data(), local, MPI_INT32_T, MPI_COMM_WORLD);
    sum_counts(counts_, sent_rows_, sent_at_);
    sum_counts(arriving_, received_rows_, received_at_);
    MPI_Alltoallv(packed_.data(),
                  sent_rows_.data(),
                  sent_at_.data(),
                  row_type_,
                  received_.data(),
                  received_rows_.data(),
                  received_at_.data(),
                  row_type_,
                  MPI_COMM_WORLD);
    place_rows();
    for (std::size_t i = 0; i < place_.size(); ++i) {
      copy(rows_, place_[i], received_.data() + static_cast<std::int64_t>(i) * sizes_.row_bytes());
    }
  }

  /// MPI sends what is left of a rank's rows only while that rank is inside of it.
  void settle() override { MPI_Barrier(MPI_COMM_WORLD); }

  void experts() override {
    write_again(rows_.data(), workload_.num_received() * sizes_.row_bytes());
  }

  void combine() override {
    for (std::size_t i = 0; i < place_.size(); ++i) {
      copy(received_, static_cast<std::int64_t>(i), rows_.data() + place_[i] * sizes_.row_bytes());
    }
    MPI_Alltoallv(received_.data(),
                  received_rows_.data(),
                  received_at_.data(),
                  row_type_,
                  packed_.data(),
                  sent_rows_.data(),
                  sent_at_.data(),
                  row_type_,
                  MPI_COMM_WORLD);
    for (std::int64_t t = 0; t < sizes_.bs; ++t) {
      for (std::int64_t k = 0; k < sizes_.topk; ++k) {
        const auto flat = static_cast<std::size_t>(t * sizes_.topk + k);
        terms_[static_cast<std::size_t>(k)] = {
            packed_.data() + returned_[flat] * sizes_.row_bytes(), workload_.weights()[flat]};
      }
      workload_.kernels().weighted_sum(terms_.data(),
                                       sizes_.topk,
                                       sizes_.dtype,
                                       sizes_.hidden,
                                       sums_.data() + t * sizes_.row_bytes());
    }
  }

  std::string check_dispatch(bool all) const override {
    const auto first = workload_.first_pair()[static_cast<std::size_t>(workload_.rank())];
    for (const std::int64_t i : sampled(workload_.num_received(), all)) {
      const Pair& pair = workload_.pairs()[static_cast<std::size_t>(first + i)];
      auto wrong = compare_rows(rows_.data() + i * sizes_.row_bytes(),
                                workload_.x(pair.source, pair.token),
                                sizes_.row_bytes(),
                                "mpi: row " + std::to_string(i));
      if (!wrong.empty()) {
        return wrong;
      }
    }
    return "";
  }

  std::string check_combine(bool all) const override {
    std::vector<std::byte> expected(static_cast<std::size_t>(sizes_.row_bytes()));
    for (const std::int64_t t : sampled(sizes_.bs, all)) {
      std::vector<numerics::Term> terms;
      for (std::int64_t k = 0; k < sizes_.topk; ++k) {
        terms.push_back({workload_.x(workload_.rank(), t),
                         workload_.weights()[static_cast<std::size_t>(t * sizes_.topk + k)]});
      }
      workload_.kernels().weighted_sum(
          terms.data(), sizes_.topk, sizes_.dtype, sizes_.hidden, expected.data());
      auto wrong = compare_rows(sums_.data() + t * sizes_.row_bytes(),
                                expected.data(),
                                sizes_.row_bytes(),
                                "mpi: sum of token " + std::to_string(t));
      if (!wrong.empty()) {
        return wrong;
      }
    }
    return "";
  }

 private:
  void copy(const Rows& to, std::int64_t row, const std::byte* from) const {
    std::memcpy(
        to.data() + row * sizes_.row_bytes(), from, static_cast<std::size_t>(sizes_.row_bytes()));
  }

  /// order_: (t,k) by expert, which is also by destination; returned_: its inverse.
  void sort_pairs() {
    const auto& ids = workload_.ids();
    counts_.assign(static_cast<std::size_t>(sizes_.experts()), 0);
    for (const std::int32_t id : ids) {
      ++counts_[static_cast<std::size_t>(id)];
    }
    cursor_.assign(counts_.size(), 0);
    std::exclusive_scan(counts_.begin(), counts_.end(), cursor_.begin(), 0);
    order_.resize(ids.size());
    returned_.resize(ids.size());
    for (std::size_t flat = 0; flat < ids.size(); ++flat) {
      const std::int32_t place = cursor_[static_cast<std::size_t>(ids[flat])]++;
      order_[static_cast<std::size_t>(place)] = static_cast<std::int32_t>(flat);
      returned_[flat] = place;
    }
  }

  /// From (rank, local expert) to rows of each rank and where they begin.
  void sum_counts(const std::vector<std::int32_t>& counts,
                  std::vector<int>& rows,
                  std::vector<int>& at) const {
    for (std::size_t r = 0; r < ranks_; ++r) {
      const auto begin = counts.begin() + static_cast<std::int64_t>(r) * sizes_.experts_per_rank;
      rows[r] = std::accumulate(begin, begin + sizes_.experts_per_rank, 0);
    }
    std::exclusive_scan(rows.begin(), rows.end(), at.begin(), 0);
  }

  /// place_: where row i of what came, by (source, expert), goes: by (expert, source).
  void place_rows() {
    place_.resize(static_cast<std::size_t>(workload_.num_received()));
    std::int64_t next = 0;
    for (std::int64_t l = 0; l < sizes_.experts_per_rank; ++l) {
      for (std::size_t r = 0; r < ranks_; ++r) {
        const auto cell = r * static_cast<std::size_t>(sizes_.experts_per_rank);
        std::int64_t from = received_at_[r];
        for (std::int64_t before = 0; before < l; ++before) {
          from += arriving_[cell + static_cast<std::size_t>(before)];
        }
        for (std::int32_t i = 0; i < arriving_[cell + static_cast<std::size_t>(l)]; ++i) {
          place_[static_cast<std::size_t>(from + i)] = next++;
        }
      }
    }
  }

  const Workload& workload_;
  const Case& sizes_;
  const std::size_t ranks_;
  MPI_Datatype row_type_ = MPI_DATATYPE_NULL;
  Rows packed_;
  Rows received_;
  Rows rows_;
  Rows sums_;
  std::vector<std::int32_t> order_, returned_, counts_, arriving_, cursor_;
  std::vector<std::int64_t> place_;
  std::vector<int> sent_rows_, sent_at_, received_rows_, received_at_;
  std::vector<numerics::Term> terms_;
};

}  // namespace

std::unique_ptr<Method> make_mpi(const Workload& workload) {
  return std::make_unique<Mpi>(workload);
}

void start_mpi() { MPI_Init(nullptr, nullptr); }

void end_mpi() { MPI_Finalize(); }

int mpi_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

}  // namespace waybill::bench
