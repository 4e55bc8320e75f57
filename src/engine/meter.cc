#include "engine/meter.h"

#include "window/control.h"

namespace waybill::engine {

Meter::Meter(int world_size) {
  const auto ranks = static_cast<std::size_t>(world_size);
  counted_.epoch = 1;
  counted_.wait_us.resize(ranks);
  for (Traffic* traffic : {&counted_.dispatch, &counted_.combine}) {
    for (auto* counts : {&traffic->rows_sent,
                         &traffic->rows_received,
                         &traffic->bytes_sent,
                         &traffic->bytes_received}) {
      counts->resize(ranks);
    }
  }
  // A call that is dropped must not allocate.
  counted_.needs_reset.reserve(window::kRefusalTextBytes);
}

void Meter::begin_call() {
  const std::lock_guard lock(mutex_);
  ++counted_.calls;
}

void Meter::wait(std::chrono::microseconds time) {
  const std::lock_guard lock(mutex_);
  counted_.wait_total_us += time.count();
}

void Meter::wait_for(int rank, std::chrono::microseconds time) {
  const std::lock_guard lock(mutex_);
  counted_.wait_us[static_cast<std::size_t>(rank)] += time.count();
}

void Meter::need_reset(const std::string& why) {
  const std::lock_guard lock(mutex_);
  counted_.needs_reset = why;
}

void Meter::begin_epoch(std::uint32_t epoch, const std::vector<int>& absent) {
  const std::lock_guard lock(mutex_);
  counted_.needs_reset.clear();
  counted_.epoch = epoch;
  counted_.absent = absent;
}

GroupStats Meter::snapshot() const {
  GroupStats stats;
  {
    const std::lock_guard lock(mutex_);
    stats = counted_;
  }
  stats.in_call_total_ns = in_call_ns_.load(std::memory_order_relaxed);
  stats.copy_total_us = copying_ns_.load(std::memory_order_relaxed) / 1000;
  return stats;
}

}  // namespace waybill::engine
