#pragma once

#include <memory>

#include "exchange/apart.h"

namespace waybill::bench {

/// Whether mpirun has started this process.
bool is_under_mpi();

/// The ranks that mpirun has started, on whatever hosts. Begins and ends MPI.
std::unique_ptr<Apart> make_mpi_ranks();

}  // namespace waybill::bench
