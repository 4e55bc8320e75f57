#include "engine/workers.h"

#include <algorithm>

#include "numerics/float_mode.h"

namespace waybill::engine {

Workers::~Workers() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& helper : helpers_) {
    helper.join();
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
  start(threads_ - 1);
  {
    const std::lock_guard lock(mutex_);
    body_ = &body;
    items_ = items;
    parts_ = parts;
    pending_ = parts - 1;
    ++generation_;
  }
  work_ready_.notify_all();
  body(0, items / parts);  // part 0; helper i does part i
  std::unique_lock lock(mutex_);
  work_done_.wait(lock, [this] { return pending_ == 0; });
}

void Workers::start(int helpers) {
  while (static_cast<int>(helpers_.size()) < helpers) {
    const int index = static_cast<int>(helpers_.size()) + 1;
    helpers_.emplace_back([this, index] { serve(index); });
  }
}

void Workers::serve(int index) {
  const numerics::DefaultFloatMode float_mode;
  std::uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    work_ready_.wait(lock, [&] { return stopping_ || generation_ != seen; });
    if (stopping_) {
      return;
    }
    seen = generation_;
    if (index >= parts_ || pending_ == 0) {
      continue;
    }
    const LoopBody* body = body_;
    const std::int64_t begin = items_ * index / parts_;
    const std::int64_t end = items_ * (index + 1) / parts_;
    lock.unlock();
    (*body)(begin, end);
    lock.lock();
    if (--pending_ == 0) {
      work_done_.notify_one();
    }
  }
}

}  // namespace waybill::engine
