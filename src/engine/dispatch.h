#pragma once

#include <cstdint>
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
        args_(args),
        call_(session, op),
        tp_(call_, session, args.tp_group, args.tp_world_size) {}

  /// Checks, publishes, signals. Waits for nobody after successful calls. Afterwards nothing that
  /// `args` borrows is read.
  Status start();
  /// Waits for the others and pulls.
  Result<DispatchResult> complete();

  const contract::DispatchShape& shape() const noexcept { return shape_; }
  Call& call() noexcept { return call_; }
  /// expand_idx, which start() has made.
  Tensor take_occurrences() noexcept { return std::move(result_.assist_info_for_combine); }
  void set_expert_token_nums_type(int type) noexcept { args_.expert_token_nums_type = type; }

 private:
  Scratch& scratch() noexcept { return session_.scratch(); }
  int num_ranks() const noexcept { return shape_.topology.num_ranks; }
  routing::ActivePairs pairs() const { return {args_.x_active_mask, shape_.k}; }

  Status check();
  void fill_header();
  Status publish();
  Status write_occurrences();

  // complete()
  Status exchange();
  Status plan();
  void find_sources();
  const window::DispatchLayout& layout_of(int r) const noexcept {
    return session_.scratch().dispatch_layouts[static_cast<std::size_t>(r)];
  }
  bool has_sane_numbers(const window::CallHeader& header) const;
  Status corrupt(int r) const;
  Status check_capacity();
  Status allocate();
  Status make_rows(const contract::DispatchOutputs& shapes);
  void fill_counts();
  Status pull();

  // TP = 2 (dispatch_tp.cc)
  Status exchange_tp();
  Status publish_tp();
  Status append_peer();

  void count();

  Session& session_;
  DispatchArgs args_;
  Call call_;
  TpExchange tp_;
  contract::DispatchShape shape_;
  routing::Grid<std::int32_t> ids_;
  DispatchResult result_;
};

}  // namespace waybill::engine
