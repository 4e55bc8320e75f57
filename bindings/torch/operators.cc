#include "operators.h"

#include <stdexcept>
#include <string>

#include "arguments.h"
#include "errors.h"
#include "groups.h"

namespace waybill::binding {
namespace {

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const std::size_t at = text.find(what);
  return at == std::string::npos ? text : text.replace(at, what.size(), by);
}

std::string public_schema(const Operator& op) {
  return std::string(op.name) + "(" + op.positional + ", *, " + op.keyword + ") -> " + op.results;
}

std::string ordered_name(const Operator& op) { return std::string("_ordered_") + op.name; }

std::string ordered_schema(const Operator& op) {
  // global_bs follows BS where a compiler keeps sizes symbolic.
  const std::string keyword =
      replaced(replaced(op.keyword, "(a!)", "(b!)"), "int global_bs", "SymInt global_bs");
  return ordered_name(op) + "(Tensor(a!) token, " + op.positional + ", " + keyword + ") -> " +
         (op.ordered_results != nullptr ? op.ordered_results : op.results);
}

std::string plain_name(const Operator& op) { return std::string("_plain_") + op.name; }

bool writes(const Operator& op) {
  return std::string(op.keyword).find("(a!)") != std::string::npos;
}

/// Without the optional argument that is written to.
std::string plain_schema(const Operator& op) {
  return plain_name(op) + "(" + op.positional + ", *, " + replaced(op.keyword, "(a!)", "") +
         ") -> " + op.results;
}

constexpr const char* kExpertBuffer = "_expert_buffer";
constexpr const char* kExpertBufferSchema =
    "_expert_buffer(str name, int rows, int hidden, ScalarType dtype) -> Tensor";

void expert_buffer(StableIValue* stack, std::uint64_t /*arguments*/, std::uint64_t /*results*/) {
  Arguments arguments(stack);
  const std::string name = arguments.text();
  const std::int64_t rows = arguments.integer();
  const std::int64_t hidden = arguments.integer();
  const DType dtype = dtype_of(arguments.dtype());
  auto group = find_group("expert_buffer", name);
  if (!group.ok()) {
    raise(group.status());
  }
  auto buffer = (*group)->group.expert_buffer(rows, hidden, dtype);
  if (!buffer.ok()) {
    raise(buffer.status());
  }
  Results(stack).add(std::move(*buffer));
}

void define(torch::stable::detail::StableLibrary& library) {
  for (const Operator* op : kOperators) {
    library.def(public_schema(*op).c_str());
    if (op->ordered_kernel != nullptr) {
      library.def(ordered_schema(*op).c_str());
    }
    if (writes(*op)) {
      library.def(plain_schema(*op).c_str());
    }
  }
  library.def(kExpertBufferSchema);
}

// For every device, so that a tensor that is elsewhere is an error of the contract.
void implement(torch::stable::detail::StableLibrary& library) {
  for (const Operator* op : kOperators) {
    library.impl(op->name, op->kernel);
    if (op->ordered_kernel != nullptr) {
      library.impl(ordered_name(*op).c_str(), op->ordered_kernel);
    }
    if (writes(*op)) {
      library.impl(plain_name(*op).c_str(), op->kernel);
    }
  }
  library.impl(kExpertBuffer, expert_buffer);
}

STABLE_TORCH_LIBRARY(waybill, library) { define(library); }
STABLE_TORCH_LIBRARY_IMPL(waybill, CompositeExplicitAutograd, library) { implement(library); }

}  // namespace
}  // namespace waybill::binding
