#include "errors.h"

#include <stdexcept>

#include "json.h"

namespace waybill::binding {
namespace {

Status& last_error() {
  thread_local Status status;
  return status;
}

}  // namespace

void remember(const Status& status) { last_error() = status; }

std::string last_error_json() {
  const Status& status = last_error();
  if (status.ok()) {
    return "null";
  }
  const ErrorInfo& info = status.info();
  Json json;
  json.add("code", name_of(info.code));
  json.add("operator", info.op);
  json.add("argument", info.argument);
  json.add("ranks", info.ranks);
  json.add("message", info.message);
  return json.text();
}

void raise(const Status& status) {
  remember(status);
  if (status.code() == StatusCode::kInvalidArgument) {
    throw std::invalid_argument(status.message());
  }
  throw std::runtime_error(status.message());
}

}  // namespace waybill::binding
