#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "contract/dispatch_contract.h"
#include "engine/call.h"
#include "engine/session.h"
#include "engine/tp_exchange.h"
#include "numerics/kernels.h"
#include "routing/pairs.h"
#include "waybill/dispatch.h"
#include "window/control.h"

namespace waybill::engine {

/// One call of dispatch, in the two steps that dispatch_setup and dispatch_teardown take apart.
class Dispatch {
 public:
  /// `op`: contract::operator_of(args), or kDispatchSetup.
  Dispatch(Session& session, const DispatchArgs& args, contract::Operator op)
      : session_(session),
        plan_(session.dispatch_plan()),
        args_(args),
        call_(session, op),
        tp_(call_, session, args.tp_group, args.tp_world_size) {}

  /// prepare() and signal() as one.
  Status start();
  /// Checks, and takes the address space and, as far as their sizes are known, the memory of all
  /// outputs. A failure is a refusal of the call.
  Status prepare();
  /// Publishes and signals. Waits for nobody after successful calls. Afterwards nothing that `args`
  /// borrows is read.
  Status signal();
  /// Refuses the prepared call and gives `why` back.
  Status refuse(Status why) { return tp_.refuse(std::move(why)); }
  /// Waits for the others and pulls.
  Result<DispatchResult> complete();

  const contract::DispatchShape& shape() const noexcept { return shape_; }
  Call& call() noexcept { return call_; }
  /// expand_idx, which prepare() has made.
  Tensor take_occurrences() noexcept { return std::move(occurrences_); }
  void set_expert_token_nums_type(int type) noexcept { args_.expert_token_nums_type = type; }

 private:
  int num_ranks() const noexcept { return shape_.topology.num_ranks; }

  /// The call of a setup and its teardown.
  bool is_split() const noexcept { return shape_.op == contract::Operator::kDispatchSetup; }

  Status check();
  Status allocate();
  Status make_rows(const contract::DispatchOutputs& shapes);
  Status write_occurrences();
  void fill_header();
  void limit_rows();
  Status publish();

  // complete()
  Status exchange();
  Status find_sources();
  Status check_totals();
  std::int64_t rows_limit_of(int r) const;
  std::int64_t total_of(int target) const;
  Status check_total(int target, std::int64_t total) const;
  Status plan();
  Status reserve();
  const window::DispatchLayout& layout_of(int r) const noexcept {
    return plan_.layouts[static_cast<std::size_t>(r)];
  }
  bool has_sane_numbers(const window::CallHeader& header) const;
  Status corrupt(int r) const;
  void fill_counts();
  Status pull();
  void write_mark();

  // TP = 2 (dispatch_tp.cc)
  Status exchange_tp();
  Status publish_tp();
  Status append_peer();

  void count();

  Session& session_;
  DispatchPlan& plan_;
  DispatchArgs args_;
  Call call_;
  TpExchange tp_;
  contract::DispatchShape shape_;
  routing::ActivePairs pairs_;
  Tensor occurrences_;      ///< expand_idx
  std::string limit_text_;  ///< why this rank has memory for fewer than A rows
  DispatchResult result_;
};

}  // namespace waybill::engine
