#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "exchange/workload.h"

namespace waybill::bench {

/// One phase of one method, a number a round.
struct Samples {
  std::vector<double> us;
  std::vector<int> slowest;        ///< rank
  std::vector<double> link_bytes;  ///< that all hosts sent; empty: not counted
};

struct MethodSamples {
  std::string method;
  Samples dispatch;
  Samples combine;
};

/// The records of a case as JSON: for each method and phase (dispatch, combine, both) the times,
/// the bytes of the rows that travel, and for every other method the ratio of its time to this
/// one's in the same round. "lb2" is the plain copy whose stores are the faster ones here; ranks
/// that mpirun has started have none.
std::string make_records(const Case& sizes,
                         const Workload& workload,
                         std::vector<MethodSamples> methods);

/// What is known of this machine, without names.
nlohmann::json describe_machine();

/// The table for people.
std::string make_table(const nlohmann::json& records);

}  // namespace waybill::bench
