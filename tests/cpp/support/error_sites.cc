// In a coverage build, where errors are made: every call of waybill::error in a test leaves the
// addresses of its callers in a file, which tools/contract_messages.py reads. A line that has been
// executed says less: `return check.expect(...)` also runs where nothing is wrong.
#ifdef WAYBILL_COVERAGE

#include <execinfo.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/errors.h"

/// The start of the program in memory, from the linker: addresses in the file are relative to it.
extern "C" const char __executable_start;

namespace waybill::testing {
namespace {

void record_callers() {
  static const char* const folder = std::getenv("WAYBILL_ERROR_SITES");
  if (folder == nullptr) {
    return;
  }
  static std::mutex mutex;
  static std::set<const void*> known;
  std::array<void*, 64> frames{};
  const int count = backtrace(frames.data(), static_cast<int>(frames.size()));
  const std::lock_guard lock(mutex);
  std::string lines;
  for (int i = 0; i < count; ++i) {
    const char* address = static_cast<const char*>(frames[static_cast<std::size_t>(i)]);
    if (known.insert(address).second) {
      lines += std::to_string(address - &__executable_start) + "\n";
    }
  }
  if (lines.empty()) {
    return;
  }
  // Opened each time and written at once: ranks may be processes, and may be killed.
  const std::string path = std::string(folder) + "/" + program_invocation_short_name;
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) {
    return;  // a child that became another user
  }
  if (write(file, lines.data(), lines.size()) != static_cast<ssize_t>(lines.size())) {
    std::abort();
  }
  close(file);
}

}  // namespace

// The linker's --wrap leads calls of waybill::error to __wrap_..., which calls the real one.
Status real_error(StatusCode code,
                  std::string_view op,
                  std::string_view argument,
                  std::string message,
                  std::vector<int> ranks) __asm__("__real_" WAYBILL_ERROR_SYMBOL);
Status recorded_error(StatusCode code,
                      std::string_view op,
                      std::string_view argument,
                      std::string message,
                      std::vector<int> ranks) __asm__("__wrap_" WAYBILL_ERROR_SYMBOL);

Status recorded_error(StatusCode code,
                      std::string_view op,
                      std::string_view argument,
                      std::string message,
                      std::vector<int> ranks) {
  const int before = errno;
  record_callers();
  errno = before;
  return real_error(code, op, argument, std::move(message), std::move(ranks));
}

}  // namespace waybill::testing

#endif
