#include "engine/workers.h"

#include <chrono>
#include <utility>

#include "base/cores.h"
#include "base/fork.h"
#include "base/futex.h"
#include "base/pause.h"
#include "numerics/float_mode.h"

namespace waybill::engine {
namespace {

using Clock = std::chrono::steady_clock;

/// How long a thread stays awake for what comes next: about as long as waking one takes.
constexpr std::chrono::microseconds kAwake{50};
constexpr std::chrono::milliseconds kSlice{500};
constexpr int kPausesBetweenLooksAtTheClock = 64;

/// True once `arrived`, false when the time is over.
template <typename Arrived>
bool spin(Arrived arrived) {
  const auto end = Clock::now() + kAwake;
  do {
    for (int i = 0; i < kPausesBetweenLooksAtTheClock; ++i) {
      if (arrived()) {
        return true;
      }
      pause();
    }
  } while (Clock::now() < end);
  return arrived();
}

}  // namespace

Workers::Workers(int threads, bool has_cores, std::vector<int> cores)
    : threads_(threads),
      has_cores_(has_cores),
      cores_(std::move(cores)),
      fork_generation_(fork_generation()) {}

Workers::~Workers() {
  stopping_ = true;
  for (const auto& helper : helpers_) {
    if (fork_generation_ != fork_generation()) {
      helper->thread.detach();  // the parent's
      continue;
    }
    order(*helper, loop_ + 1);
    helper->thread.join();
  }
}

void Workers::run_parts(std::int64_t items, std::int64_t least_items, LoopBody body) {
  const auto parts = static_cast<int>(
      std::min<std::int64_t>(threads_, items / std::max<std::int64_t>(least_items, 1)));
  if (parts <= 1) {
    if (items > 0) {
      body(0, items);
    }
    return;
  }
  start();
  body_ = &body;
  items_ = items;
  parts_ = parts;
  ++loop_;
  pending_.store(static_cast<std::uint64_t>(parts - 1), std::memory_order_relaxed);
  for (int i = 1; i < parts; ++i) {
    order(*helpers_[static_cast<std::size_t>(i) - 1], loop_);
  }
  run_part(0);
  wait_for_helpers();
}

void Workers::start() {
  while (static_cast<int>(helpers_.size()) < threads_ - 1) {
    helpers_.push_back(std::make_unique<Helper>());
    Helper& helper = *helpers_.back();
    const auto index = static_cast<int>(helpers_.size());
    helper.loop.store(loop_, std::memory_order_relaxed);
    helper.thread =
        std::thread([this, &helper, index, seen = loop_] { serve(helper, index, seen); });
  }
}

void Workers::order(Helper& helper, std::uint64_t loop) {
  helper.loop.store(loop, std::memory_order_seq_cst);
  if (helper.sleeps.load(std::memory_order_seq_cst)) {
    futex_wake_all(helper.loop);
  }
}

void Workers::run_part(int index) const {
  const std::int64_t begin = items_ * index / parts_;
  const std::int64_t end = items_ * (index + 1) / parts_;
  (*body_)(begin, end);
}

void Workers::serve(Helper& helper, int index, std::uint64_t seen) {
  const numerics::DefaultFloatMode float_mode;
  const auto at = static_cast<std::size_t>(index) - 1;
  begin_thread("waybill-helper", at < cores_.size() ? core_set_of({cores_[at]}) : CoreSet{});
  while (true) {
    seen = next_loop(helper, seen);
    if (stopping_) {
      return;
    }
    run_part(index);
    if (pending_.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
        waits_.load(std::memory_order_seq_cst)) {
      futex_wake_all(pending_);
    }
  }
}

std::uint64_t Workers::next_loop(Helper& helper, std::uint64_t seen) const {
  const auto arrived = [&] { return helper.loop.load(std::memory_order_acquire) != seen; };
  if (!has_cores_ || !spin(arrived)) {
    while (!arrived()) {
      helper.sleeps.store(true, std::memory_order_seq_cst);
      if (helper.loop.load(std::memory_order_seq_cst) == seen) {
        futex_wait(helper.loop, static_cast<std::uint32_t>(seen), kSlice);
      }
      helper.sleeps.store(false, std::memory_order_relaxed);
    }
  }
  return helper.loop.load(std::memory_order_acquire);
}

void Workers::wait_for_helpers() {
  const auto done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
  if (has_cores_ && spin(done)) {
    return;
  }
  waits_.store(true, std::memory_order_seq_cst);
  for (std::uint64_t left = pending_.load(std::memory_order_seq_cst); left != 0;
       left = pending_.load(std::memory_order_seq_cst)) {
    futex_wait(pending_, static_cast<std::uint32_t>(left), kSlice);
  }
  waits_.store(false, std::memory_order_relaxed);
}

}  // namespace waybill::engine
