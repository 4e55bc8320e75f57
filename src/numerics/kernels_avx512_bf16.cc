#if defined(__x86_64__)

#include "numerics/simd_avx512.h"
#include "numerics/simd_copy.h"
#include "numerics/simd_kernels.h"

namespace waybill::numerics {
namespace {

struct Avx512Rows {
  template <DType dtype>
  using Row = SimdRow<Avx512, dtype>;
};

}  // namespace

constinit const Kernels kAvx512Bf16Kernels =
    KernelTable<Avx512Rows>::make(SimdLevel::kAvx512, simd_copy<Avx512>);

}  // namespace waybill::numerics

#endif
