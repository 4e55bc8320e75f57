// What must hold for any row, whatever the formulas.
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>

#include "numerics/convert.h"
#include "numerics/model.h"
#include "numerics/special.h"
#include "numerics/test_support.h"

namespace waybill::numerics::testing {
namespace {

float any_finite() {
  return *rc::gen::map(rc::gen::inRange<std::uint32_t>(0, kInfinityBits), float_of);
}

std::vector<float> any_row(std::size_t size) {
  // Magnitudes whose products and quotients stay away from the ends of float32.
  const auto element = rc::gen::map(rc::gen::inRange(-1'000'000, 1'000'001),
                                    [](int v) { return static_cast<float>(v) / 4096; });
  return *rc::gen::container<std::vector<float>>(size, element);
}

std::vector<std::byte> bytes_of(const std::vector<float>& row) {
  const auto* bytes = reinterpret_cast<const std::byte*>(row.data());
  return {bytes, bytes + row.size() * sizeof(float)};
}

DType any_dtype() { return *rc::gen::elementOf(std::vector<DType>(kRowDTypes, kRowDTypes + 3)); }

const Kernels& any_kernels() { return **rc::gen::elementOf(runnable_sets()); }

RC_GTEST_PROP(Rounding, IsMonotonic, ()) {
  float a = any_finite();
  float b = any_finite();
  if (a > b) std::swap(a, b);
  RC_ASSERT(float_to_float16(a) <= float_to_float16(b));
  RC_ASSERT(float_to_bfloat16(a) <= float_to_bfloat16(b));
}

RC_GTEST_PROP(Rounding, IsOdd, ()) {
  const float a = any_finite();
  RC_ASSERT((float_to_float16(a) ^ 0x8000) == float_to_float16(-a));
  RC_ASSERT((float_to_bfloat16(a) ^ 0x8000) == float_to_bfloat16(-a));
}

RC_GTEST_PROP(Quantise, ErrorIsHalfAStep, ()) {
  const std::vector<float> row = any_row(*rc::gen::inRange<std::size_t>(1, 200));
  const Quantised quantised = quantise_row(any_kernels(), DType::kFloat32, bytes_of(row));
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double back = double{quantised.scale} * quantised.q[i];
    RC_ASSERT(std::fabs(back - double{row[i]}) <= double{quantised.scale} * 0.50001);
  }
}

RC_GTEST_PROP(Quantise, LargestElementGets127, ()) {
  const std::vector<float> row = any_row(*rc::gen::inRange<std::size_t>(1, 200));
  const auto magnitude_less = [](float a, float b) { return std::fabs(a) < std::fabs(b); };
  const auto largest = std::max_element(row.begin(), row.end(), magnitude_less);
  RC_PRE(*largest != 0.0f);
  const Quantised quantised = quantise_row(any_kernels(), DType::kFloat32, bytes_of(row));
  RC_ASSERT(std::abs(quantised.q[static_cast<std::size_t>(largest - row.begin())]) == 127);
}

RC_GTEST_PROP(Quantise, PowersOfTwoGoIntoTheScale, ()) {
  const std::vector<float> row = any_row(*rc::gen::inRange<std::size_t>(1, 100));
  const float factor = std::ldexp(1.0f, *rc::gen::inRange(-40, 41));
  std::vector<float> scaled = row;
  for (float& value : scaled) value *= factor;
  const Kernels& set = any_kernels();
  const Quantised a = quantise_row(set, DType::kFloat32, bytes_of(row));
  const Quantised b = quantise_row(set, DType::kFloat32, bytes_of(scaled));
  RC_ASSERT(a.q == b.q);
  RC_ASSERT(a.scale * factor == b.scale);
}

RC_GTEST_PROP(Quantise, SmoothScalesAreAppliedFirst, ()) {
  const std::size_t size = *rc::gen::inRange<std::size_t>(1, 100);
  const std::vector<float> row = any_row(size);
  const std::vector<float> smooth = any_row(size);
  std::vector<float> product;
  for (std::size_t i = 0; i < size; ++i) product.push_back(row[i] * smooth[i]);
  const Kernels& set = any_kernels();
  const Quantised a = quantise_row(set, DType::kFloat32, bytes_of(row), smooth);
  const Quantised b = quantise_row(set, DType::kFloat32, bytes_of(product));
  RC_ASSERT(a.q == b.q);
  RC_ASSERT(a.scale == b.scale);
}

RC_GTEST_PROP(WeightedSum, OfOneRowWithWeightOneIsTheRow, ()) {
  const DType dtype = any_dtype();
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  const std::int64_t h = *rc::gen::inRange<std::int64_t>(0, 300);
  const std::vector<std::byte> row = make_row(dtype, Content::kAnyBits, h, random);
  const std::vector<std::byte> out = weighted_sum(any_kernels(), dtype, h, {row}, {1.0f});
  for (std::int64_t i = 0; i < h; ++i) {
    const std::uint32_t before = model::bits_at(dtype, row.data(), i);
    const std::uint32_t after = model::bits_at(dtype, out.data(), i);
    const bool zero = model::decode(dtype, before) == 0.0;  // -0.0 becomes +0.0
    const bool nan = model::is_nan(dtype, before) && model::is_nan(dtype, after);
    RC_ASSERT(nan || after == (zero ? 0u : before));
  }
}

RC_GTEST_PROP(Accumulate, ThenRoundIsTheWeightedSum, ()) {
  const DType dtype = any_dtype();
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  const std::int64_t h = *rc::gen::inRange<std::int64_t>(0, 300);
  const auto num_terms = *rc::gen::inRange<std::size_t>(0, 10);
  const auto cut = *rc::gen::inRange<std::int64_t>(0, static_cast<std::int64_t>(num_terms) + 1);
  const std::vector<float> weights =
      make_floats(Content::kNormal, static_cast<std::int64_t>(num_terms), random);
  std::vector<std::vector<std::byte>> rows;
  std::vector<Term> terms;
  for (std::size_t t = 0; t < num_terms; ++t) {
    rows.push_back(make_row(dtype, Content::kWide, h, random));
    terms.push_back({rows[t].data(), weights[t]});
  }
  const Kernels& set = any_kernels();
  std::vector<float> acc(static_cast<std::size_t>(h));
  const auto rest = static_cast<std::int64_t>(num_terms) - cut;
  set.accumulate(terms.data(), cut, dtype, true, h, acc.data());
  set.accumulate(terms.data() + cut, rest, dtype, false, h, acc.data());
  std::vector<std::byte> rounded(static_cast<std::size_t>(h * size_of(dtype)));
  set.round_row(acc.data(), dtype, h, rounded.data());
  const std::vector<std::byte> want = weighted_sum(set, dtype, h, rows, weights);
  RC_ASSERT(first_difference(dtype, rounded.data(), want.data(), h) == -1);
}

RC_GTEST_PROP(Dot, IsSymmetric, ()) {
  const DType dtype = any_dtype();
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  const std::int64_t h = *rc::gen::inRange<std::int64_t>(0, 300);
  const std::vector<std::byte> a = make_row(dtype, Content::kWide, h, random);
  const std::vector<std::byte> b = make_row(dtype, Content::kNormal, h, random);
  const Kernels& set = any_kernels();
  RC_ASSERT(is_same(set.dot(a.data(), b.data(), dtype, h), set.dot(b.data(), a.data(), dtype, h)));
}

RC_GTEST_PROP(MeanSquare, OfOneValueIsItsSquare, ()) {
  // Powers of two for the value and the length: nothing is rounded.
  const std::int64_t h = std::int64_t{1} << *rc::gen::inRange(0, 12);
  const float value = std::ldexp(1.0f, *rc::gen::inRange(-30, 31));
  const std::vector<float> row(static_cast<std::size_t>(h), value);
  std::vector<float> rounded(row.size());
  const float mean = any_kernels().round_row_mean_square(
      row.data(), DType::kFloat32, h, 1.0f / static_cast<float>(h), rounded.data());
  RC_ASSERT(mean == value * value);
}

RC_GTEST_PROP(Softmax, IsSymmetricAndSumsToOne, ()) {
  const float l1 = *rc::gen::map(rc::gen::inRange(-400'000, 400'001),
                                 [](int v) { return static_cast<float>(v) / 4096; });
  const float l2 = *rc::gen::map(rc::gen::inRange(-400'000, 400'001),
                                 [](int v) { return static_cast<float>(v) / 4096; });
  const SoftmaxPair ab = softmax_pair(l1, l2);
  const SoftmaxPair ba = softmax_pair(l2, l1);
  RC_ASSERT(ab.p1 == ba.p2);
  RC_ASSERT(ab.p2 == ba.p1);
  RC_ASSERT(ab.p1 >= 0.0f && ab.p2 >= 0.0f);
  RC_ASSERT(std::fabs(ab.p1 + ab.p2 - 1.0f) <= 0x1p-23f);
  RC_ASSERT((l1 <= l2) == (ab.p1 <= ab.p2) || ab.p1 == ab.p2);
}

RC_GTEST_PROP(CommQuantise, GroupsAreIndependent, ()) {
  // Any cut at a multiple of 8 gives the same as the whole row.
  const DType dtype = any_dtype();
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  const std::int64_t h = *rc::gen::inRange<std::int64_t>(1, 600);
  const std::int64_t cut = kCommGroup * *rc::gen::inRange<std::int64_t>(0, h / kCommGroup + 1);
  const std::vector<std::byte> row = make_row(dtype, Content::kWide, h, random);
  const auto middle = row.begin() + cut * size_of(dtype);
  const Kernels& set = any_kernels();
  CommQuantised joined = comm_quantise_row(set, dtype, {row.begin(), middle});
  const CommQuantised second = comm_quantise_row(set, dtype, {middle, row.end()});
  joined.q.insert(joined.q.end(), second.q.begin(), second.q.end());
  joined.scales.insert(joined.scales.end(), second.scales.begin(), second.scales.end());
  const CommQuantised whole = comm_quantise_row(set, dtype, row);
  RC_ASSERT(joined.q == whole.q);
  RC_ASSERT(joined.scales == whole.scales);
}

RC_GTEST_PROP(CommQuantise, RoundTripIsWithinAStep, ()) {
  const std::vector<float> row = any_row(*rc::gen::inRange<std::size_t>(1, 300));
  const Kernels& set = any_kernels();
  const CommQuantised quantised = comm_quantise_row(set, DType::kFloat32, bytes_of(row));
  const std::vector<std::byte> back = comm_dequantise_row(set, DType::kFloat32, quantised);
  for (std::size_t i = 0; i < row.size(); ++i) {
    float scale = 0;
    float value = 0;
    std::memcpy(&scale, &quantised.scales[i / kCommGroup * sizeof(float)], sizeof(float));
    std::memcpy(&value, &back[i * sizeof(float)], sizeof(float));
    RC_ASSERT(std::fabs(value - row[i]) <= scale * 0.54f);  // 1/32 more: the rounding to a half
  }
}

}  // namespace
}  // namespace waybill::numerics::testing
