#include "base/cores.h"

#include <sched.h>

#include <algorithm>
#include <thread>

namespace waybill {

int available_cores() noexcept {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) {
    return std::max(CPU_COUNT(&cores), 1);
  }
  return static_cast<int>(std::max(std::thread::hardware_concurrency(), 1U));
}

}  // namespace waybill
