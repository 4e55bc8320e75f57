// comm_quant_mode 2 for every pair of a group's largest magnitude and an element: the fast sets do
// not divide where a multiplication gives the same, and this is the proof that it does.
#include <gtest/gtest.h>

#include "numerics/test_support.h"

namespace waybill::numerics::testing {
namespace {

/// Rows whose groups hold `amax` and each value from `amax` down to `least`, signs alternating.
std::vector<std::byte> groups_below(std::uint16_t amax, std::uint16_t least) {
  std::vector<std::uint16_t> row;
  for (std::uint16_t value = amax; value > least; --value) {
    if (row.size() % kCommGroup == 0) row.push_back(amax);
    row.push_back(static_cast<std::uint16_t>(value | (value % 2 << 15)));
  }
  std::vector<std::byte> bytes(row.size() * sizeof(std::uint16_t));
  std::memcpy(bytes.data(), row.data(), bytes.size());
  return bytes;
}

void expect_same_groups(DType dtype, std::uint16_t amax, std::uint16_t least) {
  const std::vector<std::byte> row = groups_below(amax, least);
  const CommQuantised want = comm_quantise_row(scalar_kernels(), dtype, row);
  for (const Kernels* set : simd_sets()) {
    const CommQuantised got = comm_quantise_row(*set, dtype, row);
    ASSERT_EQ(got.q, want.q) << name_of(set->level) << " amax " << amax;
    ASSERT_EQ(got.scales, want.scales) << name_of(set->level) << " amax " << amax;
  }
}

TEST(CommPairs, EveryPairOfFloat16) {
  // All significands in one binade; a quotient depends on no more of the exponents than their
  // difference, and from 2^10 on it rounds to zero.
  constexpr std::uint16_t kOne = 15 << 10;
  for (std::uint16_t fraction = 0; fraction < 1 << 10; ++fraction) {
    const auto amax = static_cast<std::uint16_t>(kOne + fraction);
    expect_same_groups(DType::kFloat16, amax, static_cast<std::uint16_t>(amax - (10 << 10)));
  }
}

TEST(CommPairs, EveryPairOfSubnormalFloat16) {
  for (std::uint16_t amax = 1; amax < 2 << 10; ++amax) expect_same_groups(DType::kFloat16, amax, 0);
}

TEST(CommPairs, EveryPairOfBFloat16) {
  // Every exponent: at the lower end scales are subnormal, and the sets change over to dividing.
  for (std::uint16_t amax = 1; amax < 0x7f80; ++amax) {
    const auto least = static_cast<std::uint16_t>(amax > 10 << 7 ? amax - (10 << 7) : 0);
    expect_same_groups(DType::kBFloat16, amax, least);
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace waybill::numerics::testing
