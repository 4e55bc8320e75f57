#pragma once

#include <string>
#include <vector>

#include "support/layer_case.h"
#include "waybill/group.h"

namespace waybill::testing {

/// Runs dispatch and combine of the layer on one rank and compares; "" when all is right.
std::string run_layer(Group& group, const LayerCase& layer);

/// A group of threads that is used again and again, its ranks delayed at random at every phase.
class ThreadGroup {
 public:
  explicit ThreadGroup(int num_ranks, int threads_per_rank = 1);
  /// Runs the layer on all ranks at once; the first difference, with the case.
  std::string run(const LayerCase& layer);
  std::vector<Group>& groups() { return groups_; }

 private:
  std::vector<Group> groups_;
};

/// Address space for windows in tests: sanitizers have little of it.
inline constexpr std::int64_t kTestWindowBytes = std::int64_t{64} << 20;

}  // namespace waybill::testing
