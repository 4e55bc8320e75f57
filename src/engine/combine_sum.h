#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "contract/combine_contract.h"
#include "engine/combine.h"
#include "engine/plans.h"
#include "engine/row_source.h"
#include "numerics/kernels.h"
#include "routing/pairs.h"
#include "waybill/combine.h"

namespace waybill::engine {

/// The sums of docs/contract/operators.md section 7.2 for the tokens of this rank, whose rows are
/// located, and the norm of 7.4. One object serves all threads of a call.
class TokenSums {
 public:
  TokenSums(const numerics::Kernels& kernels,
            const CombinePlan& plan,
            const contract::CombineShape& shape,
            const CombineArgs& args,
            const CombineAddRmsNormArgs* norm,
            CombineOutputs& outputs);

  /// Writes the outputs of tokens [begin, end).
  void run(std::int64_t begin, std::int64_t end) const;

 private:
  /// Memory of one thread, kept from call to call.
  struct Buffers {
    std::vector<numerics::Term> terms;
    std::vector<std::byte> dequantised;  ///< (slots, H)
    std::vector<std::byte> gathered;     ///< rows of inputs that are not contiguous
    std::vector<float> sum;              ///< (H,) where it is not rounded at once
    std::vector<float> constant;         ///< (H,) row of a constant expert
  };
  enum Gathered { kOriX, kSharedX, kResidual, kAlpha1, kAlpha2, kV, kGamma, kNumGathered };

  Buffers& buffers() const;
  std::byte* gathered(Buffers& buffers, Gathered which) const;
  const void* row_of(std::int64_t token, std::int64_t slot, Buffers& buffers) const;
  void run_token(std::int64_t token, Buffers& buffers) const;
  void add_routed(std::int64_t token, std::int64_t k, Buffers& buffers, bool& fresh) const;
  void flush(Buffers& buffers, bool& fresh) const;
  void add_constant(
      std::int64_t token, std::int64_t expert, float weight, Buffers& buffers, bool& fresh) const;
  void normalise(std::int64_t token, Buffers& buffers) const;
  float scalar(const TensorView& vector, std::int64_t i) const;
  std::byte* out(Tensor& tensor, std::int64_t token) const;

  const numerics::Kernels& kernels_;
  const CombinePlan& plan_;
  const contract::CombineShape& shape_;
  const CombineArgs& args_;
  const CombineAddRmsNormArgs* norm_;
  CombineOutputs& outputs_;
  const routing::ActivePairs pairs_;
  const routing::Grid<float> weights_;
  const std::int64_t row_bytes_;
};

}  // namespace waybill::engine
