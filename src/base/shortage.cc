#include "base/shortage.h"

#include <fcntl.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/descriptor.h"

namespace waybill {
namespace {

std::atomic<int> groups{0};

std::string advice() {
  const int count = groups.load(std::memory_order_relaxed);
  return "; " + std::to_string(count) +
         (count == 1 ? " group is connected in this process and holds"
                     : " groups are connected in this process and hold") +
         " descriptors and address space: waybill.release (C++: Group::close) gives those of one "
         "back";
}

}  // namespace

CountedGroup::CountedGroup() noexcept { groups.fetch_add(1, std::memory_order_relaxed); }
CountedGroup::~CountedGroup() { groups.fetch_sub(1, std::memory_order_relaxed); }

std::string describe_errno(int error) {
  const bool is_short = error == EMFILE || error == ENFILE || error == ENOMEM;
  return std::string(std::strerror(error)) + (is_short ? advice() : "");
}

std::string describe_lack_of_descriptors() {
  const Descriptor nothing(open("/dev/null", O_RDONLY | O_CLOEXEC));
  return !nothing && (errno == EMFILE || errno == ENFILE) ? ": " + describe_errno(errno) : "";
}

}  // namespace waybill
