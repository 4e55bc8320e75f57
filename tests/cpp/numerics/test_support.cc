#include "numerics/test_support.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "numerics/model.h"

namespace waybill::numerics::testing {
namespace {

constexpr std::byte kPattern{0xa5};

/// Bits of the dtype's elements: where the exponent begins and how many bits there are.
struct Layout {
  unsigned fraction_bits;
  unsigned bits;
};

Layout layout_of(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return {7, 16};
    case DType::kFloat16:
      return {10, 16};
    default:
      return {23, 32};
  }
}

std::uint32_t random_bits(DType dtype, Content content, Random& random) {
  const auto [fraction_bits, bits] = layout_of(dtype);
  const std::uint32_t sign = std::uint32_t{1} << (bits - 1);
  const std::uint32_t infinity = (sign - 1) >> fraction_bits << fraction_bits;
  const auto raw = static_cast<std::uint32_t>(random());
  switch (content) {
    case Content::kWide:
      return (raw & sign) | ((raw & ~sign) % infinity);
    case Content::kSubnormal:
      return (raw & sign) | ((raw >> 3) & ((std::uint32_t{1} << fraction_bits) - 1));
    case Content::kTiny:
      // The scale of a group of float32 is zero below 64 units; above 127 elements can saturate.
      return (raw & sign) | ((raw >> 8) % (random() % 30 == 0 ? 250 : 80));
    case Content::kHuge:
      return (raw & sign) | (infinity - 1 - ((raw & ~sign) % (std::uint32_t{4} << fraction_bits)));
    case Content::kZeros:
      return raw & sign;
    default:
      // A NaN of all ones is the one that rounding turns into a zero if it takes it for a number.
      if (random() % 100 == 0) return sign | (sign - 1);
      return bits == 16 ? raw & 0xffffu : raw;
  }
}

float random_float(Content content, Random& random) {
  std::normal_distribution<float> normal(0.0f, 1.5f);
  if (content == Content::kSmallInts) return static_cast<float>(random() % 512) * 0.5f - 128.0f;
  if (content == Content::kFewSpecials && random() % 200 == 0) {
    constexpr float kSpecials[] = {__builtin_inff(), -__builtin_inff(), __builtin_nanf("")};
    return kSpecials[random() % 3];
  }
  return normal(random);
}

bool is_made_of_bits(Content content) {
  return content == Content::kWide || content == Content::kAnyBits ||
         content == Content::kSubnormal || content == Content::kTiny || content == Content::kHuge ||
         content == Content::kZeros;
}

}  // namespace

std::vector<const Kernels*> runnable_sets() {
  std::vector<const Kernels*> sets;
  for (const KernelSet& set : kernel_sets()) {
    if (set.supported) sets.push_back(&set.kernels);
  }
  return sets;
}

std::vector<const Kernels*> simd_sets() {
  std::vector<const Kernels*> sets = runnable_sets();
  sets.erase(sets.begin());
  return sets;
}

std::vector<std::int64_t> row_lengths() {
  std::vector<std::int64_t> lengths;
  for (std::int64_t h = 0; h <= 70; ++h) lengths.push_back(h);
  for (const std::int64_t h : {100, 127, 128, 129, 255, 256, 257, 264, 511, 576, 1000, 7168}) {
    lengths.push_back(h);
  }
  return lengths;
}

GuardedBuffer::GuardedBuffer(std::size_t capacity) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  size_ = (capacity / page + 2) * page;
  void* p =
      mmap(nullptr, size_ + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::runtime_error("mmap");
  mapping_ = static_cast<std::byte*>(p);
  begin_ = mapping_ + page;
  if (mprotect(mapping_, page, PROT_NONE) != 0 || mprotect(begin_ + size_, page, PROT_NONE) != 0) {
    throw std::runtime_error("mprotect");
  }
}

GuardedBuffer::~GuardedBuffer() {
  const auto page = static_cast<std::size_t>(begin_ - mapping_);
  munmap(mapping_, size_ + 2 * page);
}

std::byte* GuardedBuffer::place(std::size_t bytes, Place where) {
  if (bytes + 64 > size_) throw std::runtime_error("GuardedBuffer too small");
  std::memset(begin_, static_cast<int>(kPattern), size_);
  data_bytes_ = bytes;
  switch (where) {
    case Place::kEnd:
      data_ = begin_ + size_ - bytes;
      break;
    case Place::kStart:
      data_ = begin_;
      break;
    case Place::kOddAddress:
      data_ = begin_ + 33;
      break;
  }
  return data_;
}

bool GuardedBuffer::surroundings_intact() const {
  const auto is_pattern = [](std::byte b) { return b == kPattern; };
  return std::all_of(begin_, data_, is_pattern) &&
         std::all_of(data_ + data_bytes_, begin_ + size_, is_pattern);
}

std::vector<std::byte> make_row(DType dtype, Content content, std::int64_t n, Random& random) {
  const auto size = static_cast<std::size_t>(size_of(dtype));
  std::vector<std::byte> row(static_cast<std::size_t>(n) * size);
  for (std::size_t i = 0; i < row.size(); i += size) {
    const std::uint32_t bits = is_made_of_bits(content)
                                   ? random_bits(dtype, content, random)
                                   : model::encode(dtype, random_float(content, random));
    std::memcpy(&row[i], &bits, size);  // little-endian, like all that this library runs on
  }
  return row;
}

std::vector<float> make_floats(Content content, std::int64_t n, Random& random) {
  const std::vector<std::byte> bytes = make_row(DType::kFloat32, content, n, random);
  std::vector<float> floats(static_cast<std::size_t>(n));
  if (n > 0) std::memcpy(floats.data(), bytes.data(), bytes.size());
  return floats;
}

std::vector<float> decode_row(DType dtype, const std::vector<std::byte>& row) {
  const std::int64_t n = static_cast<std::int64_t>(row.size()) / size_of(dtype);
  std::vector<float> floats;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = model::bits_at(dtype, row.data(), i);
    floats.push_back(static_cast<float>(model::decode(dtype, bits)));
  }
  return floats;
}

std::vector<std::byte> encode_row(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> row;
  for (const float value : values) {
    const std::uint32_t bits = model::encode(dtype, double{value});
    const auto* bytes = reinterpret_cast<const std::byte*>(&bits);
    row.insert(row.end(), bytes, bytes + size_of(dtype));
  }
  return row;
}

std::int64_t first_difference(DType dtype, const void* a, const void* b, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t x = model::bits_at(dtype, a, i);
    const std::uint32_t y = model::bits_at(dtype, b, i);
    if (x == y) continue;
    const bool both_nan = model::is_nan(dtype, x) && model::is_nan(dtype, y);
    if (!both_nan) return i;
  }
  return -1;
}

bool is_same(float a, float b) { return first_difference(DType::kFloat32, &a, &b, 1) < 0; }

Quantised quantise_row(const Kernels& kernels,
                       DType dtype,
                       const std::vector<std::byte>& x,
                       const std::vector<float>& smooth) {
  const auto h = static_cast<std::int64_t>(x.size()) / size_of(dtype);
  Quantised result;
  result.q.resize(static_cast<std::size_t>(h));
  const float* smooth_or_null = smooth.empty() ? nullptr : smooth.data();
  kernels.quantise_row(x.data(), dtype, smooth_or_null, h, result.q.data(), &result.scale);
  return result;
}

std::vector<std::byte> weighted_sum(const Kernels& kernels,
                                    DType dtype,
                                    std::int64_t h,
                                    const std::vector<std::vector<std::byte>>& rows,
                                    const std::vector<float>& weights) {
  std::vector<Term> terms;
  for (std::size_t t = 0; t < rows.size(); ++t) terms.push_back({rows[t].data(), weights[t]});
  std::vector<std::byte> out(static_cast<std::size_t>(h * size_of(dtype)));
  kernels.weighted_sum(terms.data(), static_cast<std::int64_t>(terms.size()), dtype, h, out.data());
  return out;
}

CommQuantised comm_quantise_row(const Kernels& kernels,
                                DType dtype,
                                const std::vector<std::byte>& x) {
  const auto h = static_cast<std::int64_t>(x.size()) / size_of(dtype);
  CommQuantised result;
  result.q.resize(static_cast<std::size_t>(h));
  result.scales.resize(static_cast<std::size_t>(num_comm_groups(h) * size_of(dtype)));
  kernels.comm_quantise_row(x.data(), dtype, h, result.q.data(), result.scales.data());
  return result;
}

std::vector<std::byte> comm_dequantise_row(const Kernels& kernels,
                                           DType dtype,
                                           const CommQuantised& from) {
  const auto h = static_cast<std::int64_t>(from.q.size());
  std::vector<std::byte> out(static_cast<std::size_t>(h * size_of(dtype)));
  kernels.comm_dequantise_row(from.q.data(), from.scales.data(), dtype, h, out.data());
  return out;
}

}  // namespace waybill::numerics::testing
