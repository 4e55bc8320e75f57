#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "numerics/kernel_sets.h"
#include "waybill/dtype.h"
#include "waybill/env.h"

namespace waybill::numerics::testing {

inline constexpr SimdLevel kLevels[] = {
    SimdLevel::kScalar, SimdLevel::kAvx2, SimdLevel::kAvx512, SimdLevel::kNeon};
inline const Kernels& scalar_kernels() { return kernels(SimdLevel::kScalar); }
inline constexpr DType kRowDTypes[] = {DType::kBFloat16, DType::kFloat16, DType::kFloat32};

/// The sets that this machine runs; simd_sets: without the scalar one.
std::vector<const Kernels*> runnable_sets();
std::vector<const Kernels*> simd_sets();

/// Row lengths around every block and chunk of every set, and some real ones.
std::vector<std::int64_t> row_lengths();

/// Where data lie in their pages. The page after the last and the one before the first byte that
/// may be touched cannot be read.
enum class Place { kEnd, kStart, kOddAddress };
inline constexpr Place kPlaces[] = {Place::kEnd, Place::kStart, Place::kOddAddress};

/// Pages between two that cannot be read. What is around the data is filled with a pattern.
class GuardedBuffer {
 public:
  explicit GuardedBuffer(std::size_t capacity);
  ~GuardedBuffer();
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  /// Room for `bytes`, filled with the pattern.
  std::byte* place(std::size_t bytes, Place where);

  /// Room that holds a copy of `data`.
  const std::byte* place(const std::vector<std::byte>& data, Place where) {
    std::byte* p = place(data.size(), where);
    if (!data.empty()) std::memcpy(p, data.data(), data.size());
    return p;
  }

  /// Whether the pattern around the data of the last place() is unchanged.
  bool surroundings_intact() const;

 private:
  std::byte* mapping_ = nullptr;
  std::byte* begin_ = nullptr;
  std::size_t size_ = 0;
  std::byte* data_ = nullptr;
  std::size_t data_bytes_ = 0;
};

/// What rows are made of.
enum class Content {
  kNormal,       ///< normally distributed
  kWide,         ///< any finite value: random bits without NaN and infinity
  kAnyBits,      ///< random bits: NaN, infinity, subnormals; all ones
  kSubnormal,    ///< subnormals of the dtype and zeros of both signs
  kTiny,         ///< a few units of the smallest subnormal
  kHuge,         ///< around the largest finite value
  kSmallInts,    ///< integers and halves of integers: ties everywhere
  kZeros,        ///< zeros of both signs
  kFewSpecials,  ///< normally distributed, with one NaN or infinity here and there
};
inline constexpr Content kContents[] = {Content::kNormal,
                                        Content::kWide,
                                        Content::kAnyBits,
                                        Content::kSubnormal,
                                        Content::kTiny,
                                        Content::kHuge,
                                        Content::kSmallInts,
                                        Content::kZeros,
                                        Content::kFewSpecials};

using Random = std::mt19937_64;

/// n elements as they lie in memory.
std::vector<std::byte> make_row(DType dtype, Content content, std::int64_t n, Random& random);

/// The same, as floats.
std::vector<float> make_floats(Content content, std::int64_t n, Random& random);

/// The floats that a row in memory holds, and the row that holds the nearest to some floats.
std::vector<float> decode_row(DType dtype, const std::vector<std::byte>& row);
std::vector<std::byte> encode_row(DType dtype, const std::vector<float>& values);

/// First element where two rows of n elements differ, NaN being equal to NaN; -1 if none.
std::int64_t first_difference(DType dtype, const void* a, const void* b, std::int64_t n);

/// Whether both are NaN or have the same bits.
bool is_same(float a, float b);

/// The kernels on plain vectors, for tests that care for values only.
struct Quantised {
  std::vector<std::int8_t> q;
  float scale = 0;
};
Quantised quantise_row(const Kernels& kernels,
                       DType dtype,
                       const std::vector<std::byte>& x,
                       const std::vector<float>& smooth = {});

std::vector<std::byte> weighted_sum(const Kernels& kernels,
                                    DType dtype,
                                    std::int64_t h,
                                    const std::vector<std::vector<std::byte>>& rows,
                                    const std::vector<float>& weights);

struct CommQuantised {
  std::vector<std::int8_t> q;
  std::vector<std::byte> scales;
};
CommQuantised comm_quantise_row(const Kernels& kernels,
                                DType dtype,
                                const std::vector<std::byte>& x);

std::vector<std::byte> comm_dequantise_row(const Kernels& kernels,
                                           DType dtype,
                                           const CommQuantised& from);

}  // namespace waybill::numerics::testing
