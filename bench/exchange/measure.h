#pragma once

#include "exchange/method.h"

namespace waybill::bench {

/// Runs the rounds of a case on one rank: in each every method's dispatch, then its combine, timed
/// from the first rank in to the last one out. Rank 0 leaves the records in the board's report.
void measure(const SharedBoard& board, int rank, Groups& groups);

}  // namespace waybill::bench
