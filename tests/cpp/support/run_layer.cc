#include "support/run_layer.h"

#include <chrono>
#include <cstdlib>
#include <random>
#include <thread>
#include <utility>

namespace waybill::testing {
namespace {

void delay_at_random(Phase) {
  thread_local std::mt19937 random(std::random_device{}());
  switch (random() % 16) {
    case 0:
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
      break;
    case 1:
    case 2:
      std::this_thread::yield();
      break;
    default:
      break;
  }
}

}  // namespace

std::string run_layer(Group& group, const LayerCase& layer) {
  const int rank = group.rank();
  auto dispatched = dispatch(group, layer.dispatch_args(rank));
  if (!dispatched.ok()) {
    return dispatched.status().message();
  }
  std::string text = check_dispatch(layer, rank, *dispatched);
  const std::int64_t rows = dispatched->rows;
  const std::int64_t bytes = layer.h * size_of(layer.dtype);
  std::vector<std::byte> private_rows;
  Tensor buffer;
  std::byte* expert_rows = nullptr;
  if (layer.expert_rows == ExpertRows::kInPlace && !layer.quantised) {
    buffer = dispatched->expand_x;
    expert_rows = buffer.buffer.data();
  } else if (layer.expert_rows == ExpertRows::kExpertBuffer) {
    auto made = group.expert_buffer(rows, layer.h, layer.dtype);
    if (!made.ok()) {
      return made.status().message();
    }
    buffer = std::move(*made);
    expert_rows = buffer.buffer.data();
  } else {
    private_rows.resize(static_cast<std::size_t>(rows * bytes + 1));
    expert_rows = private_rows.data();
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    layer.fill_expert_row(rank, i, expert_rows + i * bytes);
  }
  auto combined = combine(
      group,
      layer.combine_args(
          rank, TensorView::contiguous(expert_rows, layer.dtype, {rows, layer.h}), *dispatched));
  if (!combined.ok()) {
    return text + combined.status().message();
  }
  return text + check_combine(layer, rank, *combined);
}

ThreadGroup::ThreadGroup(int num_ranks, int threads_per_rank) {
  GroupOptions options;
  options.timeout = std::chrono::seconds(60);
  options.threads = threads_per_rank;
  options.window_bytes = kTestWindowBytes;
  options.on_phase = delay_at_random;
  auto groups = Group::local(num_ranks, options);
  if (!groups.ok()) {
    std::abort();
  }
  groups_ = std::move(*groups);
}

std::string ThreadGroup::run(const LayerCase& layer) {
  std::vector<std::string> texts(groups_.size());
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < groups_.size(); ++r) {
    threads.emplace_back([&, r] { texts[r] = run_layer(groups_[r], layer); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (std::size_t r = 0; r < texts.size(); ++r) {
    if (!texts[r].empty()) {
      return "rank " + std::to_string(r) + ": " + texts[r] + " in " + layer.describe();
    }
  }
  return "";
}

}  // namespace waybill::testing
