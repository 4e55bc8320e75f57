#include "waybill/barrier.h"

#include <algorithm>
#include <string>

#include "contract/elastic.h"
#include "engine/call.h"
#include "engine/group_access.h"
#include "engine/session.h"

namespace waybill::engine {
namespace {

Status check(Call& call, const BarrierArgs& args) {
  const contract::Checker check = call.checker();
  const int world_size = check.group().world_size;
  if (args.world_size != world_size) {
    return check.fail(
        "world_size", "the size of the group, " + std::to_string(world_size), args.world_size);
  }
  if (args.time_out) {
    WAYBILL_RETURN_IF_ERROR(check.expect("time_out", *args.time_out, {1}, "(1,)", DType::kInt32));
    const std::int32_t microseconds = *static_cast<const std::int32_t*>(args.time_out->data);
    if (microseconds <= 0) {
      return check.fail("time_out", "microseconds > 0", microseconds);
    }
    const auto timeout =
        std::chrono::ceil<std::chrono::milliseconds>(std::chrono::microseconds(microseconds));
    call.set_timeout(timeout);
  }
  return call.choose_members(args.elastic_info);
}

Status run(Session& session, const BarrierArgs& args) {
  Call call(session, contract::Operator::kBarrier);
  WAYBILL_RETURN_IF_ERROR(call.begin());
  if (Status status = check(call, args); !status.ok()) {
    return call.refuse(std::move(status));
  }
  auto elastic = contract::read_elastic(call.checker(), args.elastic_info);
  contract::Agreement& agreement = call.header().agreement;
  agreement[contract::Agreed::kOperator] = static_cast<std::int64_t>(call.op());
  agreement[contract::Agreed::kEpWorldSize] = args.world_size;
  contract::set_elastic(agreement, *elastic);
  if (auto half = call.open_half(0); !half.ok()) {
    return half.status();
  }
  call.signal();
  WAYBILL_RETURN_IF_ERROR(call.gather());
  WAYBILL_RETURN_IF_ERROR(call.finish());
  session.complete_call([](GroupStats&) {});
  return {};
}

}  // namespace
}  // namespace waybill::engine

namespace waybill {

Status barrier(Group& group, const BarrierArgs& args) {
  return engine::run(engine::session_of(group), args);
}

}  // namespace waybill
