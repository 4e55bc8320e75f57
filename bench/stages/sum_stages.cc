#include <array>
#include <vector>

#include "numerics/special.h"
#include "stages.h"

namespace waybill::bench {
namespace {

using numerics::Kernels;
using numerics::Term;

constexpr float weight_of(std::int64_t k) { return 0.1F + 0.013F * static_cast<float>(k); }

void register_weighted_sum(DType dtype) {
  const std::size_t bytes = row_bytes_of(dtype);
  const Traffic traffic{.num_rows = kTopK, .row_bytes = bytes, .out_bytes = bytes};
  register_everywhere(std::string("weighted_sum_8/") + name_of(dtype),
                      Ceiling::kReadAndWrite,
                      traffic,
                      [=](const Kernels& kernels) {
                        return [=, &kernels](const std::byte* const* rows, std::byte* out) {
                          std::array<Term, kTopK> terms;
                          for (std::int64_t k = 0; k < kTopK; ++k) {
                            terms[static_cast<std::size_t>(k)] = {rows[k], weight_of(k)};
                          }
                          kernels.weighted_sum(terms.data(), kTopK, dtype, kHidden, out);
                        };
                      });
}

/// What the engine does for a token (TokenSums::normalise): the K rows and the residual, x and y.
void add_rms_norm(const Kernels& kernels,
                  DType dtype,
                  const std::byte* const* rows,
                  const std::byte* gamma,
                  std::byte* out) {
  thread_local std::vector<float> sum(kHidden);
  std::array<Term, kTopK + 1> terms;
  for (std::int64_t k = 0; k < kTopK; ++k) {
    terms[static_cast<std::size_t>(k)] = {rows[k], weight_of(k)};
  }
  terms[kTopK] = {rows[kTopK], 1.0F};
  kernels.accumulate(terms.data(), kTopK + 1, dtype, true, kHidden, sum.data());
  const float mean = kernels.round_row_mean_square(sum.data(), dtype, kHidden, 1.0F / kHidden, out);
  const float rstd = numerics::rstd_of(mean, 1e-6F);
  kernels.normalise_row(sum.data(), rstd, gamma, dtype, kHidden, out + row_bytes_of(dtype));
}

void register_add_rms_norm(DType dtype) {
  const std::size_t bytes = row_bytes_of(dtype);
  const Traffic traffic{.num_rows = kTopK + 1, .row_bytes = bytes, .out_bytes = 2 * bytes};
  RowFeed gammas(Place::kL2, {.row_bytes = bytes});
  const std::byte* gamma = gammas.rows()[0];
  register_everywhere(std::string("add_rms_norm/") + name_of(dtype),
                      Ceiling::kReadAndWrite,
                      traffic,
                      [=](const Kernels& kernels) {
                        return [=, &kernels](const std::byte* const* rows, std::byte* out) {
                          add_rms_norm(kernels, dtype, rows, gamma, out);
                        };
                      });
}

/// A score of a constant expert. Its order of additions, one after the other in 16 lanes, is part
/// of the contract and no memory's ceiling can be reached.
void register_dot(DType dtype) {
  const Traffic traffic{.num_rows = 2, .row_bytes = row_bytes_of(dtype)};
  register_everywhere(std::string("dot/") + name_of(dtype),
                      Ceiling::kReadAndWrite,
                      traffic,
                      [=](const Kernels& kernels) {
                        return [=, &kernels](const std::byte* const* rows, std::byte*) {
                          const float sum = kernels.dot(rows[0], rows[1], dtype, kHidden);
                          asm volatile("" : : "x"(sum));
                        };
                      });
}

}  // namespace

void register_sum_stages() {
  for (const DType dtype : kRowDTypes) {
    register_weighted_sum(dtype);
    register_add_rms_norm(dtype);
    register_dot(dtype);
  }
}

}  // namespace waybill::bench
