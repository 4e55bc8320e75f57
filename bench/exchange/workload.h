#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "exchange/board.h"
#include "numerics/kernels.h"

namespace waybill::bench {

/// A chosen expert: which row goes where.
struct Pair {
  std::int32_t source;  ///< rank
  std::int32_t token;
  std::int32_t slot;  ///< k
  std::int32_t expert;
};

/// Memory of one rank that lasts and whose pages have all been touched.
class Rows {
 public:
  Rows() = default;
  explicit Rows(std::int64_t bytes);
  std::byte* data() const noexcept { return memory_.get(); }

 private:
  struct Free {
    void operator()(std::byte* memory) const noexcept;
  };
  std::unique_ptr<std::byte, Free> memory_;
};

/// The inputs of all ranks, which each computes for itself, and this rank's part.
class Workload {
 public:
  Workload(const SharedBoard& board, int rank);

  /// What the arena of a board must hold: x of all ranks, then two sets of all their expert rows,
  /// for the plain copies.
  static std::int64_t arena_bytes(const Case& sizes, bool with_copies);

  const Case& sizes() const noexcept { return sizes_; }
  int rank() const noexcept { return rank_; }
  const SharedBoard& board() const noexcept { return board_; }
  const numerics::Kernels& kernels() const noexcept { return kernels_; }
  const std::vector<std::int32_t>& ids() const noexcept { return ids_; }   ///< (BS, K)
  const std::vector<float>& weights() const noexcept { return weights_; }  ///< (BS, K)
  const std::byte* x(int rank, std::int64_t token) const noexcept;
  /// What a layer does between two timed phases: it reads weights.
  void read_weights() const;
  /// Writes this rank's x anew, as the layer before dispatch would just have done.
  void layer_before() const;
  /// Memory that all ranks share, a row for each of pairs(). Streaming stores throw rows out of the
  /// caches, where ordinary stores want to find them: each has a set (0 or 1) of its own.
  std::byte* expert_rows(int set) const noexcept;

  /// All pairs in the order of the rows of dispatch: destination rank, local expert, source, (t,k).
  const std::vector<Pair>& pairs() const noexcept { return pairs_; }
  /// Where the rows of a destination rank begin in pairs(); ranks + 1 entries.
  const std::vector<std::int64_t>& first_pair() const noexcept { return first_pair_; }
  std::int64_t num_received() const noexcept;

 private:
  const SharedBoard& board_;
  const Case& sizes_;
  const int rank_;
  const numerics::Kernels& kernels_;
  std::vector<std::int32_t> ids_;
  std::vector<float> weights_;
  std::vector<Pair> pairs_;
  std::vector<std::int64_t> first_pair_;
  std::int64_t weight_bytes_ = 0;
  Rows layer_weights_;
};

}  // namespace waybill::bench
