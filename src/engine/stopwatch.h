#pragma once

#include <chrono>
#include <cstdint>

namespace waybill::engine {

class Stopwatch {
 public:
  std::int64_t microseconds() const {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() -
                                                                 begin_)
        .count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace waybill::engine
