#pragma once

#include <cstdint>
#include <optional>

#include "contract/check.h"
#include "contract/topology.h"
#include "waybill/status.h"
#include "waybill/tensor_view.h"

namespace waybill::contract {

/// Ranks of a call by their number in it: everyone, or those that elastic_info leaves. Borrows.
class Members {
 public:
  Members() noexcept = default;
  Members(const std::int32_t* table, std::int64_t stride) noexcept
      : table_(table), stride_(stride) {}

  bool are_all() const noexcept { return table_ == nullptr; }
  /// Position in the group of the rank that is number `rank` in the call.
  int operator[](int rank) const noexcept { return are_all() ? rank : table_[rank * stride_]; }

 private:
  const std::int32_t* table_ = nullptr;
  std::int64_t stride_ = 0;
};

/// What elastic_info says (docs/contract/operators.md section 8).
struct Elastic {
  bool given = false;   ///< also with flag 0: outputs then have the shapes of section 2
  bool scaled = false;  ///< the flag is set: the fields below count
  int num_ranks = 0;
  std::int64_t num_shared_ranks = 0;
  std::int64_t num_experts = 0;
  int rank = 0;  ///< own rank in the new numbering
  Members members;
  std::int64_t tables_hash = 0;  ///< of both tables, to compare ranks by
};

/// Checks sizes and tables; not what needs M, S and SR.
Result<Elastic> read_elastic(const Checker& check, const std::optional<TensorView>& info);

/// The placement that `elastic` puts in force, checked against `given`.
Result<Topology> apply_elastic(const Checker& check, const Elastic& elastic, const Topology& given);

}  // namespace waybill::contract
