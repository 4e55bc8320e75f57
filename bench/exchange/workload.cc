#include "exchange/workload.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "exchange/method.h"
#include "exchange/routing.h"
#include "waybill/env.h"

namespace waybill::bench {
namespace {

const numerics::Kernels& chosen_kernels() {
  const auto env = Env::from_process();
  return env.ok() && env->simd ? numerics::kernels(*env->simd) : numerics::best_kernels();
}

std::int64_t align(std::int64_t bytes) { return (bytes + 4095) / 4096 * 4096; }

}  // namespace

Rows::Rows(std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(align(std::max<std::int64_t>(bytes, 1)));
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(4096, size)));
  if (memory_ == nullptr) {
    throw std::bad_alloc();
  }
  std::memset(memory_.get(), 0, size);
}

void Rows::Free::operator()(std::byte* memory) const noexcept { std::free(memory); }

std::int64_t Workload::arena_bytes(const Case& sizes, bool with_copies) {
  const std::int64_t x = align(sizes.bs * sizes.row_bytes());
  return sizes.ranks *
         (x + (with_copies ? 2 : 0) * align(sizes.bs * sizes.topk * sizes.row_bytes()));
}

Workload::Workload(const SharedBoard& board, int rank)
    : board_(board), sizes_(board->sizes), rank_(rank), kernels_(chosen_kernels()) {
  std::vector<std::vector<std::int32_t>> ids;
  for (int r = 0; r < sizes_.ranks; ++r) {
    ids.push_back(make_ids(sizes_, r));
  }
  ids_ = ids[static_cast<std::size_t>(rank)];
  weights_ = make_weights(sizes_, rank);

  std::vector<std::int64_t> next(static_cast<std::size_t>(sizes_.experts()) + 1);
  for (const auto& of_rank : ids) {
    for (const std::int32_t id : of_rank) {
      ++next[static_cast<std::size_t>(id) + 1];
    }
  }
  for (std::size_t e = 1; e < next.size(); ++e) {
    next[e] += next[e - 1];
  }
  for (int r = 0; r <= sizes_.ranks; ++r) {
    first_pair_.push_back(next[static_cast<std::size_t>(r * sizes_.experts_per_rank)]);
  }
  pairs_.resize(static_cast<std::size_t>(next.back()));
  for (int r = 0; r < sizes_.ranks; ++r) {
    std::int32_t flat = 0;
    for (const std::int32_t id : ids[static_cast<std::size_t>(r)]) {
      const auto k = static_cast<std::int32_t>(sizes_.topk);
      pairs_[static_cast<std::size_t>(next[static_cast<std::size_t>(id)]++)] = {
          r, flat / k, flat % k, id};
      ++flat;
    }
  }
  const Apart* apart = board.apart();
  const int together = apart == nullptr ? sizes_.ranks : apart->places().neighbours(rank);
  const std::int64_t ranks_per_core = std::max(together / board->cores, 1);
  weight_bytes_ = (board->effort.weights_mib << 20) / ranks_per_core;
  layer_weights_ = Rows(weight_bytes_);
  for (int r = 0; r < sizes_.ranks; ++r) {
    if (r == rank || !board.is_shared()) {
      fill_rows(sizes_, r, const_cast<std::byte*>(x(r, 0)));
    }
  }
}

const std::byte* Workload::x(int rank, std::int64_t token) const noexcept {
  return board_.arena() + rank * align(sizes_.bs * sizes_.row_bytes()) + token * sizes_.row_bytes();
}

void Workload::read_weights() const {
  std::uint64_t all = 0;
  const auto* words = reinterpret_cast<const std::uint64_t*>(layer_weights_.data());
  for (std::int64_t i = 0; i < weight_bytes_ / 8; ++i) {
    all ^= words[i];
  }
  [[maybe_unused]] const volatile std::uint64_t used = all;
}

void Workload::layer_before() const {
  write_again(const_cast<std::byte*>(x(rank_, 0)), sizes_.bs * sizes_.row_bytes());
}

std::byte* Workload::expert_rows(int set) const noexcept {
  const std::int64_t x = align(sizes_.bs * sizes_.row_bytes());
  return board_.arena() +
         sizes_.ranks * (x + set * align(sizes_.bs * sizes_.topk * sizes_.row_bytes()));
}

std::int64_t Workload::num_received() const noexcept {
  const auto r = static_cast<std::size_t>(rank_);
  return first_pair_[r + 1] - first_pair_[r];
}

}  // namespace waybill::bench
