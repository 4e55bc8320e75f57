#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "contract/combine_contract.h"
#include "engine/call.h"
#include "engine/session.h"
#include "engine/tp_exchange.h"
#include "routing/pairs.h"
#include "routing/return_plan.h"
#include "waybill/combine.h"
#include "window/layout.h"

namespace waybill::engine {

/// What a combine computes: y and rstd only with the norm.
struct CombineOutputs {
  Tensor x;  ///< (BS, H), with the norm (BS, 1, H)
  Tensor y;
  Tensor rstd;
};

/// One call of combine, in the two steps that combine_setup and combine_teardown take apart.
class Combine {
 public:
  /// `op`: contract::operator_of(args), kCombineAddRmsNorm (then with `norm`), or kCombineSetup.
  Combine(Session& session,
          const CombineArgs& args,
          contract::Operator op,
          const CombineAddRmsNormArgs* norm = nullptr)
      : session_(session),
        plan_(session.combine_plan()),
        args_(args),
        norm_(norm),
        call_(session, op),
        tp_(call_, session, args.tp_group, args.tp_world_size) {}

  /// prepare() and signal() as one.
  Status start();
  /// Checks, and takes the memory of all outputs. A failure is a refusal of the call.
  Status prepare();
  /// Publishes and signals.
  Status signal();
  /// Refuses the prepared call and gives `why` back.
  Status refuse(Status why) { return tp_.refuse(std::move(why)); }
  /// Waits for the others and sums. Returns when nobody reads this rank's rows any more.
  Result<CombineOutputs> complete();

  /// For teardown: the arguments that describe this rank's tokens, checked before anything changes.
  Status take_tokens(const CombineArgs& args);

  const contract::CombineShape& shape() const noexcept { return shape_; }
  Call& call() noexcept { return call_; }

 private:
  int num_ranks() const noexcept { return shape_.topology.num_ranks; }

  // Rows as they travel: with comm_quant_mode int8 and, beside them, scales.
  std::int64_t row_bytes() const noexcept;
  std::int64_t scales_bytes() const noexcept;
  window::CombineLayout layout_of(const window::CallHeader& header, int member) const noexcept;
  /// The same, once located.
  const window::CombineLayout& layout_of(int member) const noexcept {
    return plan_.layouts[static_cast<std::size_t>(member)];
  }
  const std::int32_t* owner_offsets_of(int r) const;
  const window::ReturnEntry* entries_of(int r) const;

  Status check();
  Status check_own_tokens(contract::Operator op);
  Status plan_returns();
  Status allocate();
  contract::DispatchCall dispatch_call() const;
  void fill_header();
  Result<std::byte*> open_half();
  void publish(std::byte* half);
  void publish_places(std::byte* half, const window::CombineLayout& layout);
  void copy_rows(std::byte* half, const window::CombineLayout& layout);
  // For members on other hosts (combine_travel.cc).
  std::int64_t describe(const std::byte* half,
                        const window::CombineLayout& layout,
                        const std::vector<char>& on_host,
                        window::CallHeader& header,
                        transport::Parcel& parcel);
  void mark_listed(const window::ReturnEntry* entries, const std::vector<char>& on_host);
  void mark_counted(const std::int32_t* counts, const std::vector<char>& on_host);

  // TP = 2 (combine_tp.cc)
  Status exchange_tp(std::byte* half);
  Status publish_tp();
  bool agrees_with_peer() const;
  Status counts_differ() const;
  bool can_read_peer() const;
  void add_peer_rows(std::byte* rows);

  // complete() (combine_locate.cc)
  Status locate();
  bool has_sane_numbers(const window::CallHeader& header, int r) const;
  Status corrupt(int r) const;
  Status locate_listed(int r);
  Status locate_by_occurrence();
  Status locate_occurrence(std::int64_t token, std::int64_t slot, std::int64_t position);
  void note_source(int r);
  void place(int r, std::int64_t row, std::int64_t token, std::int64_t slot);
  bool expects(std::int64_t token, std::int64_t slot) const;
  Status check_complete();

  Status sum();
  void verify_rows() const;
  Status wait_readers(const Status& ended);
  std::int64_t returned_to(int r);
  void count();

  Session& session_;
  CombinePlan& plan_;
  CombineArgs args_;
  const CombineAddRmsNormArgs* norm_;
  Call call_;
  TpExchange tp_;
  contract::CombineShape shape_;
  routing::ActivePairs pairs_;
  routing::TripleView triples_{};
  std::int64_t form_ = contract::kFormTriples;  ///< of the call, known when all have arrived
  bool in_place_ = false;
  bool tp_in_place_ = false;
  CombineOutputs outputs_;
};

}  // namespace waybill::engine
