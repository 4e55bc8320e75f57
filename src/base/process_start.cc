#include "base/process_start.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/descriptor.h"

namespace waybill {

std::uint64_t process_start(pid_t pid) noexcept {
  constexpr int kFieldsAfterName = 20;  // starttime is field 22, the name is field 2
  std::array<char, 32> path{};
  std::snprintf(path.data(), path.size(), "/proc/%d/stat", static_cast<int>(pid));
  const Descriptor file(open(path.data(), O_RDONLY | O_CLOEXEC));
  std::array<char, 1024> text{};
  if (!file || read(file.get(), text.data(), text.size() - 1) <= 0) {
    return 0;
  }
  // The name may contain anything, also parentheses and spaces.
  const char* at = std::strrchr(text.data(), ')');
  for (int field = 0; at != nullptr && field < kFieldsAfterName; ++field) {
    at = std::strchr(at + 1, ' ');
  }
  return at == nullptr ? 0 : std::strtoull(at + 1, nullptr, 10);
}

}  // namespace waybill
