// In place of the other files here where UCX's headers were not found at build time.
#include "base/errors.h"
#include "transport/ucx/ucx_wire.h"

namespace waybill::transport {

namespace {

Status not_built() {
  return error(StatusCode::kInvalidState,
               "connect",
               "",
               "connect: expected UCX, for ranks on several hosts, got a build without it (its "
               "headers were not found, or WAYBILL_UCX=OFF)");
}

}  // namespace

Result<std::unique_ptr<UcxWire>> UcxWire::open(int, int) { return not_built(); }
Result<std::string> ucx_version() { return not_built(); }

}  // namespace waybill::transport
