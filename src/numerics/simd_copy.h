#pragma once

#include <cstring>

#include "numerics/kernels.h"

namespace waybill::numerics {

/// A line of 64 bytes at a time, aligned at the destination; the ends go the ordinary way.
template <class Isa>
void simd_copy(void* destination, const void* source, std::size_t bytes, StoreKind kind) {
  if (bytes == 0) return;
  auto* to = static_cast<char*>(destination);
  const auto* from = static_cast<const char*>(source);
  constexpr std::size_t kLine = 64;
  const std::size_t head = (kLine - reinterpret_cast<std::uintptr_t>(to) % kLine) % kLine;
  if (kind == StoreKind::kOrdinary || bytes < head + kLine) {
    std::memcpy(to, from, bytes);
    return;
  }
  std::memcpy(to, from, head);
  std::size_t done = head;
  for (; done + kLine <= bytes; done += kLine) Isa::stream_line(to + done, from + done);
  std::memcpy(to + done, from + done, bytes - done);
}

}  // namespace waybill::numerics
