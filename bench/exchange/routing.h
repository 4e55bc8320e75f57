#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "exchange/plan.h"

namespace waybill::bench {

/// (BS, K) expert ids of a rank, distinct within a token; the same for the same case.
/// uniform: every expert as likely; zipf:S: expert number i as likely as 1/i^S, with the numbers
/// spread over the ranks; recorded:FILE: a line of text a token, its ids separated by spaces, taken
/// in turns, rank after rank. Throws std::runtime_error where a file cannot be used.
std::vector<std::int32_t> make_ids(const Case& sizes, int rank);

/// (BS, K) positive weights, a sum of 1 a token.
std::vector<float> make_weights(const Case& sizes, int rank);

/// (BS, H) normal values.
void fill_rows(const Case& sizes, int rank, std::byte* rows);

}  // namespace waybill::bench
