#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "waybill/status.h"

namespace waybill {

/// Instruction sets the kernels exist for. All give the same bits.
enum class SimdLevel { kScalar = 0, kAvx2 = 1, kAvx512 = 2, kNeon = 3 };

/// "scalar", "avx2", "avx512", "neon".
const char* name_of(SimdLevel level) noexcept;

/// Whose limits apply on top of the contract's: none, or those of one of the vendor's products, for
/// code that has to run there too.
enum class Strict : std::uint8_t { kNone = 0, kA2 = 1, kA3 = 2 };

/// Every environment variable that the library reads, in one place. Nothing else calls getenv.
struct Env {
  /// WAYBILL_TIMEOUT: seconds (a decimal number >= 0.001) an operator waits for a living rank. 300.
  std::chrono::milliseconds timeout{300'000};
  /// WAYBILL_THREADS: cores a rank may use inside one operator, >= 1. Absent: the cores that
  /// the ranks of this host may run on divided by their number; 1 to those of this process.
  std::optional<int> threads;
  /// WAYBILL_CORES: a list like "0-15,32": the cores on which the threads run that help a rank of
  /// this process, each pinned to one. Absent: those that this process may run on as a whole.
  std::vector<int> cores;
  /// WAYBILL_MAX_MEMORY: bytes (suffix K, M, G or T allowed) that windows and pools of this process
  /// may reserve together. Absent: only the machine's and the control group's limits count.
  std::optional<std::int64_t> max_memory_bytes;
  /// WAYBILL_WINDOW_BYTES: address space of each half and of the pool, a multiple of 2 MiB.
  /// 64 GiB: address space only, memory is reserved as it is needed.
  std::int64_t window_bytes = std::int64_t{64} << 30;
  /// WAYBILL_SIMD: scalar, avx2, avx512 or neon forces one set of kernels. Absent: the best there
  /// is.
  std::optional<SimdLevel> simd;
  /// WAYBILL_STRICT: a2 or a3. Absent: none.
  Strict strict = Strict::kNone;
  /// WAYBILL_LOG: debug. A line for each wait that sleeps (GroupOptions::log). Absent: no lines.
  bool log_waits = false;
  /// WAYBILL_CHECK: 1 makes this process look for damage in windows and outputs (docs/debugging.md,
  /// "Checked mode"). 0 or absent: it does not.
  bool checked = false;
  /// WAYBILL_HOST: which host this process counts as on, in place of what is found. Ranks that give
  /// the same one share memory; 1 to 127 printable bytes.
  std::string host;
  /// WAYBILL_PROGRESS: call. Messages from other hosts move during calls only. Absent: a thread of
  /// each rank that has ranks on other hosts moves them while the program computes.
  bool progress_in_calls = false;
  /// WAYBILL_KEEPALIVE: seconds after which a host that says nothing counts as lost; 0: never. 30.
  std::chrono::milliseconds keepalive{30'000};
  /// HCCL_BUFFSIZE: MiB that the windows of the vendor's products may have; read by strict modes.
  std::int64_t hccl_buffsize_mb = 200;

  /// Reads the process environment now. kInvalidArgument names a variable that cannot be read.
  static Result<Env> from_process();
};

}  // namespace waybill
