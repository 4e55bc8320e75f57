#pragma once

#include <string>

namespace waybill {

/// A group that this process is connected to, for people: exists as long as the group holds memory
/// and descriptors. Any thread.
class CountedGroup {
 public:
  CountedGroup() noexcept;
  ~CountedGroup();
  CountedGroup(const CountedGroup&) = delete;
  CountedGroup& operator=(const CountedGroup&) = delete;
};

/// What `error`, a value of errno, means. Where descriptors or address space are short it also says
/// how many groups hold some, and how to give them back.
std::string describe_errno(int error);

/// The same addition for errors of libraries that do not tell: empty while this process can have
/// another descriptor.
std::string describe_lack_of_descriptors();

}  // namespace waybill
