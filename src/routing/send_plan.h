#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "contract/check.h"
#include "contract/topology.h"
#include "routing/pairs.h"
#include "waybill/status.h"

namespace waybill::routing {

/// How many rows a rank sends where. Reused from call to call so that a warm call does not
/// allocate.
struct SendCounts {
  std::vector<std::int32_t>
      expert_offsets;                 ///< (M+1,) entries of expert e: [offsets[e], offsets[e+1])
  std::vector<std::int32_t> rows_to;  ///< (E,) rows for the experts of each rank
  std::int64_t num_entries = 0;       ///< (t,k) pairs sent: to MoE experts
  std::int64_t num_active = 0;        ///< tokens with at least one pair that takes part
};

/// First pass over the pairs: checks the range of each id that takes part and counts those that are
/// sent; special experts are not.
Status count(const contract::Checker& check,
             const contract::Topology& topology,
             const ActivePairs& pairs,
             SendCounts& counts);

/// Second pass: entries[i] = t*K+k, ordered by expert and, within one, by t*K+k (a counting sort).
/// `cursor` is scratch. `entries` has counts.num_entries elements.
void sort_by_expert(const SendCounts& counts,
                    const ActivePairs& pairs,
                    std::vector<std::int32_t>& cursor,
                    std::span<std::int32_t> entries);

/// expand_idx of docs/contract/operators.md section 5, (BS*K,): how many earlier pairs that are
/// sent chose the same expert; 0 for a pair that is not sent. `cursor` is scratch.
void count_occurrences(const SendCounts& counts,
                       const ActivePairs& pairs,
                       std::vector<std::int32_t>& cursor,
                       std::int32_t* occurrences);

/// Active tokens in order.
void list_active(const ActivePairs& pairs, std::span<std::int32_t> tokens);

}  // namespace waybill::routing
