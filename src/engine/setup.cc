#include "waybill/setup.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>

#include "base/errors.h"
#include "contract/repeated.h"
#include "contract/signatures.h"
#include "engine/combine.h"
#include "engine/dispatch.h"
#include "engine/group_access.h"
#include "engine/session.h"

namespace waybill::engine {
namespace {

using contract::Operator;

constexpr std::int64_t kRecordInts = 16;  // of comm_cmd_info per message or row

constexpr std::int64_t align(std::int64_t value, std::int64_t multiple) noexcept {
  return (value + multiple - 1) / multiple * multiple;
}

/// What a setup was called with, for its teardown to be compared with. Of tensors only shape and
/// dtype are valid.
template <typename Args>
struct Repeated {
  explicit Repeated(const Args& given) : args(given), comm_alg(given.common.layer.comm_alg) {
    args.common.layer.comm_alg = comm_alg;
  }
  Repeated(const Repeated&) = delete;
  Repeated& operator=(const Repeated&) = delete;

  Args args;
  std::string comm_alg;           ///< the arguments only borrow it
  std::int64_t command_ints = 0;  ///< of comm_cmd_info
};

/// The arguments of the family as dispatch or combine names them.
template <typename Args>
Args to_args(const SetupCommonArgs& common) {
  Args args;
  args.expert_ids = common.expert_ids;
  args.layer = common.layer;
  return args;
}

/// What only this family's arguments can be wrong in.
Status check_family(const contract::Checker& check,
                    const SetupCommonArgs& args,
                    const std::optional<TensorView>& mask) {
  if (args.comm_type != 0 && args.comm_type != 2) {
    return check.fail("comm_type", "0 or 2", args.comm_type);
  }
  if (check.group().strict != Strict::kNone && args.comm_type != 0) {
    return check.fail("comm_type", "0 in strict mode", args.comm_type);
  }
  if (mask && mask->total_dims != 1) {
    return check.fail("x_active_mask", "(BS,) bool", contract::describe(*mask));
  }
  return {};
}

/// Group, epoch and call, so that a teardown knows its own.
std::array<std::int32_t, 4> ticket_of(const Session& session, const Call& call) {
  const std::uint64_t identity = session.identity();
  return {static_cast<std::int32_t>(identity),
          static_cast<std::int32_t>(identity >> 32),
          static_cast<std::int32_t>(window::epoch_of(call.stamp())),
          static_cast<std::int32_t>(window::call_of(call.stamp()))};
}

Status make_command(Session& session, Call& call, std::int64_t records, Tensor& command) {
  const std::int64_t ints = records * kRecordInts;
  WAYBILL_RETURN_IF_ERROR(call.make_output(
      command, DType::kInt32, {ints}, std::min<std::int64_t>(ints, kRecordInts) * 4));
  if (ints > 0) {
    std::fill_n(command.data<std::int32_t>(), kRecordInts, 0);
    std::ranges::copy(ticket_of(session, call), command.data<std::int32_t>());
  }
  return {};
}

/// comm_cmd_info is this setup's.
Status check_command(const contract::Checker& check,
                     const Session& session,
                     const Call& call,
                     std::int64_t ints,
                     const TensorView& command) {
  const auto ticket = ticket_of(session, call);
  bool same = command.total_dims == 1 && command.dtype == DType::kInt32 && command.shape[0] == ints;
  const auto* data = static_cast<const std::int32_t*>(command.data);
  for (std::size_t i = 0; same && command.shape[0] > 0 && i < ticket.size(); ++i) {
    same = data[static_cast<std::int64_t>(i) * command.strides[0]] == ticket[i];
  }
  if (same) {
    return {};
  }
  return contract::fail_order(
      check,
      "comm_cmd_info",
      "what the open setup of this group returned (call " + std::to_string(ticket[3]) + ")",
      "another " + contract::describe(command));
}

class OpenDispatch final : public OpenSetup {
 public:
  OpenDispatch(Session& session, const DispatchSetupArgs& args, const DispatchArgs& dispatch)
      : repeated(args), call(session, dispatch, Operator::kDispatchSetup) {}
  Operator teardown() const noexcept override { return Operator::kDispatchTeardown; }
  Call& open_call() noexcept override { return call.call(); }

  Repeated<DispatchSetupArgs> repeated;
  Dispatch call;
};

class OpenCombine final : public OpenSetup {
 public:
  OpenCombine(Session& session, const CombineSetupArgs& args, const CombineArgs& combine)
      : repeated(args), call(session, combine, Operator::kCombineSetup) {}
  Operator teardown() const noexcept override { return Operator::kCombineTeardown; }
  Call& open_call() noexcept override { return call.call(); }

  Repeated<CombineSetupArgs> repeated;  // with it what keeps expand_x alive
  Combine call;
};

/// The open setup when it is one that `op` tears down.
template <typename Open>
Result<Open*> find_open(Session& session, Operator op) {
  const char* name = contract::name_of(op);
  WAYBILL_RETURN_IF_ERROR(session.check_open(name));
  if (session.standing().is_occupied()) {
    return session.state_error(name, "expected one call at a time on this group, got a second one");
  }
  if (auto* const open = dynamic_cast<Open*>(session.open_setup())) {
    return open;
  }
  // That the group needs a reset, or the other setup that is open, is the nearer cause.
  WAYBILL_RETURN_IF_ERROR(session.check_usable(name));
  const char* setup = contract::name_of(
      op == Operator::kDispatchTeardown ? Operator::kDispatchSetup : Operator::kCombineSetup);
  return session.state_error(
      name, std::string("expected an open setup on this group (") + setup + "), got none");
}

/// Also where comm_type or the mask is wrong: that is refused like every other bad argument.
template <typename Open>
Status prepare(Open& open, const SetupCommonArgs& common, const std::optional<TensorView>& mask) {
  Call& call = open.call.call();
  Status bad = check_family(call.checker(), common, mask);
  if (bad.ok()) {
    return open.call.prepare();
  }
  WAYBILL_RETURN_IF_ERROR(call.begin());
  return call.refuse(std::move(bad));
}

Result<DispatchSetupResult> dispatch_setup(Session& session, const DispatchSetupArgs& args) {
  DispatchArgs dispatch = to_args<DispatchArgs>(args.common);
  dispatch.x = args.x;
  dispatch.scales = args.scales;
  dispatch.x_active_mask = args.x_active_mask;
  dispatch.quant_mode = args.quant_mode;
  dispatch.y_dtype = args.y_dtype;
  dispatch.form = IndexForm::kOccurrences;
  auto open = std::make_unique<OpenDispatch>(session, args, dispatch);
  WAYBILL_RETURN_IF_ERROR(prepare(*open, args.common, args.x_active_mask));

  const contract::DispatchShape& shape = open->call.shape();
  Call& call = open->call.call();
  const std::int64_t messages = shape.bs * (shape.k + args.common.layer.shared_expert_num);
  const std::int64_t width =
      shape.quantised ? align(align(shape.h, 32) + 4, 512) : align(shape.h, 256);
  DispatchSetupResult result;
  Status made = call.make_output(result.y, shape.row_dtype(), {messages, width}, std::int64_t{0});
  if (made.ok()) {
    made = make_command(session,
                        call,
                        messages + shape.given.num_ranks * shape.local_experts(),
                        result.comm_cmd_info);
  }
  if (!made.ok()) {
    return open->call.refuse(std::move(made));
  }
  result.expand_idx = open->call.take_occurrences();
  open->repeated.command_ints = result.comm_cmd_info.shape[0];
  WAYBILL_RETURN_IF_ERROR(open->call.signal());
  call.suspend();
  session.keep_setup(std::move(open));
  return result;
}

Result<DispatchTeardownResult> dispatch_teardown(Session& session,
                                                 const DispatchTeardownArgs& args) {
  constexpr Operator kOp = Operator::kDispatchTeardown;
  auto open = find_open<OpenDispatch>(session, kOp);
  if (!open.ok()) {
    return open.status();
  }
  Dispatch& dispatch = (*open)->call;
  const contract::Checker check(kOp, session.facts());
  WAYBILL_RETURN_IF_ERROR(contract::check_repeated(check,
                                                   contract::signature::kDispatchSetup,
                                                   (*open)->repeated.args,
                                                   contract::signature::kDispatchTeardown,
                                                   args));
  WAYBILL_RETURN_IF_ERROR(check_command(
      check, session, dispatch.call(), (*open)->repeated.command_ints, args.comm_cmd_info));
  if (args.expert_token_nums_type != 0 && args.expert_token_nums_type != 1) {
    return check.fail("expert_token_nums_type", "0 or 1", args.expert_token_nums_type);
  }
  WAYBILL_RETURN_IF_ERROR(dispatch.call().resume(kOp));
  const std::unique_ptr<OpenSetup> closing = session.take_setup();
  dispatch.set_expert_token_nums_type(args.expert_token_nums_type);
  auto result = dispatch.complete();
  if (!result.ok()) {
    return result.status();
  }
  return DispatchTeardownResult{std::move(result->expand_x),
                                std::move(result->dynamic_scales),
                                std::move(result->assist_info_for_combine),
                                std::move(result->expert_token_nums)};
}

Result<CombineSetupResult> combine_setup(Session& session, const CombineSetupArgs& args) {
  CombineArgs combine = to_args<CombineArgs>(args.common);
  combine.expand_x = args.expand_x;
  combine.ep_send_counts = args.assist_info_for_combine;
  combine.comm_quant_mode = args.comm_quant_mode;
  combine.form = IndexForm::kOccurrences;
  auto open = std::make_unique<OpenCombine>(session, args, combine);
  WAYBILL_RETURN_IF_ERROR(prepare(*open, args.common, std::nullopt));

  Call& call = open->call.call();
  const std::int64_t rows = args.expand_x.shape[0];
  const std::int64_t h = open->call.shape().h;
  const std::int64_t width = align(align(h, 32) + align(h, 8) / 8 * 4, 512);
  CombineSetupResult result;
  Status made =
      call.make_output(result.quant_expand_x, DType::kInt8, {rows, width}, std::int64_t{0});
  if (made.ok()) {
    made =
        make_command(session, call, rows + args.common.layer.ep_world_size, result.comm_cmd_info);
  }
  if (!made.ok()) {
    return open->call.refuse(std::move(made));
  }
  open->repeated.command_ints = result.comm_cmd_info.shape[0];
  WAYBILL_RETURN_IF_ERROR(open->call.signal());
  call.suspend();
  session.keep_setup(std::move(open));
  return result;
}

Result<Tensor> combine_teardown(Session& session, const CombineTeardownArgs& args) {
  constexpr Operator kOp = Operator::kCombineTeardown;
  auto open = find_open<OpenCombine>(session, kOp);
  if (!open.ok()) {
    return open.status();
  }
  Combine& combine = (*open)->call;
  const contract::Checker check(kOp, session.facts());
  WAYBILL_RETURN_IF_ERROR(contract::check_repeated(check,
                                                   contract::signature::kCombineSetup,
                                                   (*open)->repeated.args,
                                                   contract::signature::kCombineTeardown,
                                                   args));
  WAYBILL_RETURN_IF_ERROR(check_command(
      check, session, combine.call(), (*open)->repeated.command_ints, args.comm_cmd_info));
  WAYBILL_RETURN_IF_ERROR(check_family(check, args.common, args.x_active_mask));
  CombineArgs tokens = to_args<CombineArgs>(args.common);
  tokens.assist_info_for_combine = args.expand_idx;
  tokens.expert_scales = args.expert_scales;
  tokens.x_active_mask = args.x_active_mask;
  tokens.shared_expert_x = args.shared_expert_x;
  WAYBILL_RETURN_IF_ERROR(combine.take_tokens(tokens));
  WAYBILL_RETURN_IF_ERROR(combine.call().resume(kOp));
  const std::unique_ptr<OpenSetup> closing = session.take_setup();
  auto result = combine.complete();
  if (!result.ok()) {
    return result.status();
  }
  return std::move(result->x);
}

}  // namespace
}  // namespace waybill::engine

namespace waybill {

Result<DispatchSetupResult> dispatch_setup(Group& group, const DispatchSetupArgs& args) {
  return engine::dispatch_setup(engine::session_of(group), args);
}

Result<DispatchTeardownResult> dispatch_teardown(Group& group, const DispatchTeardownArgs& args) {
  return engine::dispatch_teardown(engine::session_of(group), args);
}

Result<CombineSetupResult> combine_setup(Group& group, const CombineSetupArgs& args) {
  return engine::combine_setup(engine::session_of(group), args);
}

Result<Tensor> combine_teardown(Group& group, const CombineTeardownArgs& args) {
  return engine::combine_teardown(engine::session_of(group), args);
}

}  // namespace waybill
