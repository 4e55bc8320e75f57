#pragma once

#include <string>
#include <vector>

#include "support/layer_case.h"
#include "waybill/group.h"

namespace waybill::testing {

/// The other half of a call with TP = 2.
struct TpSide {
  Group* group = nullptr;
  const LayerCase* peer = nullptr;
};

/// Runs dispatch and combine of the layer, in the form that it has, on one rank and compares; ""
/// when all is right. A rank that the layer leaves out does nothing.
std::string run_layer(Group& group, const LayerCase& layer, const TpSide& tp = {});

/// A group of threads that is used again and again, its ranks delayed at random at every phase.
class ThreadGroup {
 public:
  /// `hosts`: the host of each rank, empty for one.
  explicit ThreadGroup(int num_ranks,
                       int threads_per_rank = 1,
                       std::vector<std::string> hosts = {},
                       bool checked = false);
  /// Runs the layer on all ranks at once; the first difference, with the case. Ranks left out of a
  /// layer make a reset of all ranks follow.
  std::string run(const LayerCase& layer);
  std::vector<Group>& groups() { return groups_; }

 private:
  std::vector<Group> groups_;
};

/// Two EP groups and, for each EP rank, a TP group of two.
class TpThreadGroup {
 public:
  /// With `tp_hosts` the two TP ranks are on different hosts, else all are on one.
  explicit TpThreadGroup(int num_ranks, bool tp_hosts = false);
  std::string run(const std::vector<LayerCase>& pair);
  Group& ep(int tp_rank, int rank);
  Group& tp(int tp_rank, int rank);

 private:
  std::vector<ThreadGroup> ep_;  ///< by TP rank
  std::vector<ThreadGroup> tp_;  ///< by EP rank
};

/// Address space for windows in tests: sanitizers have little of it.
inline constexpr std::int64_t kTestWindowBytes = std::int64_t{64} << 20;

}  // namespace waybill::testing
