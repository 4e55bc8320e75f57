#include "contract/repeated.h"

#include <utility>

namespace waybill::contract {

Status fail_order(const Checker& check,
                  std::string_view argument,
                  const std::string& expected,
                  const std::string& got) {
  ErrorInfo info = check.fail(argument, expected, got).info();
  info.code = StatusCode::kInvalidState;
  return Status(std::move(info));
}

}  // namespace waybill::contract
