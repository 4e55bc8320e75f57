#pragma once

#include <cstdint>

#include "contract/dispatch_contract.h"
#include "engine/call.h"
#include "engine/plans.h"
#include "numerics/kernels.h"
#include "waybill/dispatch.h"
#include "window/layout.h"

namespace waybill::engine {

/// Copies the rows of a dispatch from their publishers to their places, with what belongs to each.
/// `plan` says where they lie. One object serves all threads of a call.
///
/// A row that several experts of this rank chose is read from its publisher once: tokens are taken
/// in blocks that stay in this core's cache, and of each block every expert gets its rows, which
/// follow one another.
class RowPull {
 public:
  RowPull(const Call& call,
          const numerics::Kernels& kernels,
          const DispatchPlan& plan,
          const contract::DispatchShape& shape,
          DispatchResult& result,
          numerics::StoreKind kind);

  /// What can be done in parts: every token of every source.
  std::int64_t num_items() const noexcept;
  /// Items that make a part worth a core.
  std::int64_t least_items() const noexcept;
  /// Items [begin, end). The rows that were copied, or -1 - r where the entries of member r cannot
  /// be.
  std::int64_t run(std::int64_t begin, std::int64_t end) const;

 private:
  /// The entries of one source, as far as they are read here.
  struct Source {
    int member;
    std::int64_t bs;
    std::int64_t num_entries;
    std::int64_t num_active;
    const std::byte* half;
    const window::DispatchLayout& layout;
    const std::int32_t* entries;
  };
  /// What an entry means.
  struct Slot {
    std::int64_t entry = 0;
    std::int64_t token = 0;
    std::int64_t slot = 0;
    std::int64_t published = 0;  ///< its row at the publisher
  };

  Source source_of(int member) const;
  const routing::Cell& cell(std::int64_t local, int member) const noexcept;
  std::int64_t pull_tokens(const Source& source, std::int64_t first, std::int64_t last) const;
  bool slot_of(const Source& source, std::int64_t place, Slot& slot) const noexcept;
  std::int64_t first_place(const Source& source,
                           const routing::Cell& cell,
                           std::int64_t token) const noexcept;
  void copy_row(const Source& source, const Slot& slot, std::int64_t row) const;

  const Call& call_;
  const numerics::Kernels& kernels_;
  const DispatchPlan& plan_;
  const contract::DispatchShape& shape_;
  DispatchResult& result_;
  const numerics::StoreKind kind_;
  const int num_members_;
  const bool shared_;
  const std::int64_t expert_;  ///< of a shared rank
  const std::int32_t k_;
  const std::int64_t row_bytes_;
  std::int64_t most_tokens_ = 0;  ///< of a source
  std::int32_t* triples_;         ///< where rows are listed
};

}  // namespace waybill::engine
