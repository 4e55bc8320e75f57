#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "waybill/dtype.h"

namespace waybill::bench {

inline constexpr int kMaxRanks = 64;
inline constexpr std::size_t kMaxText = 512;

/// Text of limited length that can lie in shared memory.
struct Text {
  std::array<char, kMaxText> bytes{};

  void set(std::string_view text);
  std::string str() const { return bytes.data(); }
};

/// One line of the table. Plain data: it travels in shared memory. Letters as in
/// docs/contract/operators.md.
struct Case {
  int ranks = 2;
  int hosts = 1;
  std::int64_t bs = 128;
  std::int64_t hidden = 7168;
  std::int64_t topk = 8;
  std::int64_t experts_per_rank = 8;
  int quant = 0;
  int threads = 1;
  DType dtype = DType::kBFloat16;
  Text routing;  ///< uniform, zipf:S or recorded:FILE

  std::int64_t experts() const noexcept { return ranks * experts_per_rank; }
  std::int64_t row_bytes() const noexcept { return hidden * size_of(dtype); }
};

/// How to measure.
struct Effort {
  int warm_up = 5;
  int least_rounds = 20;
  int most_rounds = 2000;
  double seconds = 4;
  std::int64_t weights_mib = 0;
  bool as_threads = false;
  Text methods;  ///< comma-separated
  Text device;   ///< whose bytes are counted, or empty
};

/// What the command line asks for.
struct Plan {
  std::vector<Case> cases;
  Effort effort;
  std::string json;   ///< file to write, or empty
  std::string board;  ///< set where this process is a rank that mpirun has started
};

/// Reads the command line; exits with a message where it is wrong or asks for help.
Plan read_plan(int argc, char** argv);

std::vector<std::string> split(const std::string& text, char separator);

}  // namespace waybill::bench
