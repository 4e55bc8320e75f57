#include "operators.h"

#include <string>
#include <vector>

#include "arguments.h"
#include "errors.h"
#include "groups.h"

namespace waybill::binding {
namespace {

std::string name_of(const Operator& op, Form form) {
  const char* prefix = form == Form::kOrdered ? "_ordered_" : form == Form::kPlain ? "_plain_" : "";
  return std::string(prefix) + op.name();
}

Kernel kernel_of(const Operator& op, Form form) {
  return form == Form::kOrdered ? op.ordered_kernel : op.kernel;
}

std::string schema_of(const Operator& op, Form form) {
  const bool differs = form == Form::kOrdered && op.ordered_results != nullptr;
  return name_of(op, form) + "(" + op.signature.parameters(form) + ") -> " +
         (differs ? op.ordered_results : op.results);
}

std::vector<Form> forms_of(const Operator& op) {
  std::vector<Form> forms = {Form::kPublic};
  if (op.ordered_kernel != nullptr) {
    forms.push_back(Form::kOrdered);
  }
  if (op.signature.writes) {
    forms.push_back(Form::kPlain);
  }
  return forms;
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
    for (const Form form : forms_of(*op)) {
      library.def(schema_of(*op, form).c_str());
    }
  }
  library.def(kExpertBufferSchema);
}

// For every device, so that a tensor that is elsewhere is an error of the contract.
void implement(torch::stable::detail::StableLibrary& library) {
  for (const Operator* op : kOperators) {
    for (const Form form : forms_of(*op)) {
      library.impl(name_of(*op, form).c_str(), kernel_of(*op, form));
    }
  }
  library.impl(kExpertBuffer, expert_buffer);
}

STABLE_TORCH_LIBRARY(waybill, library) { define(library); }
STABLE_TORCH_LIBRARY_IMPL(waybill, CompositeExplicitAutograd, library) { implement(library); }

}  // namespace
}  // namespace waybill::binding
