#pragma once

#include <cstddef>

#include "memory.h"

namespace waybill::bench {

/// What a stage is held against: the same bytes moved by code that computes nothing.
enum class Ceiling : std::uint8_t {
  kReadAndWrite,  ///< reads all rows side by side and writes the results, by the widest vectors
  kMemcpy,        ///< of one row
  kStream,        ///< of one row, past the caches
};

const char* name_of(Ceiling ceiling) noexcept;

/// One run.
void run(Ceiling ceiling, const Traffic& traffic, const std::byte* const* rows, std::byte* out);

/// Seconds that a run takes in this process: measured once, in less than 0.2 s.
double seconds_of(Ceiling ceiling, Place place, const Traffic& traffic);

}  // namespace waybill::bench
