#include "stages.h"

namespace waybill::bench {

using numerics::Kernels;
using numerics::StoreKind;

void register_copy_stages() {
  for (const std::size_t bytes : {std::size_t{7168}, row_bytes_of(DType::kBFloat16)}) {
    const Traffic traffic{.row_bytes = bytes, .out_bytes = bytes};
    for (const StoreKind kind : {StoreKind::kOrdinary, StoreKind::kStreaming}) {
      const bool streams = kind == StoreKind::kStreaming;
      register_everywhere(
          std::string(streams ? "pull_streaming/" : "pull/") + std::to_string(bytes),
          streams ? Ceiling::kStream : Ceiling::kMemcpy,
          traffic,
          [=](const Kernels& kernels) {
            return [=, &kernels](const std::byte* const* rows, std::byte* out) {
              kernels.copy(out, rows[0], bytes, kind);
            };
          });
    }
  }
}

}  // namespace waybill::bench
