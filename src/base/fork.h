#pragma once

namespace waybill {

/// Changes in a child at fork, without a system call to ask. A value remembered from before a fork
/// differs from the value in the child.
int fork_generation() noexcept;

/// Keeps a descriptor from the children that this process forks: there it is a descriptor of
/// /dev/null. Else what it stands for would live as long as they do. Has to end before the
/// descriptor is closed.
class KeptFromChildren {
 public:
  explicit KeptFromChildren(int fd) noexcept;
  ~KeptFromChildren();
  KeptFromChildren(const KeptFromChildren&) = delete;
  KeptFromChildren& operator=(const KeptFromChildren&) = delete;

 private:
  int place_ = -1;
};

}  // namespace waybill
