#include "base/errors.h"

#include <cstddef>
#include <utility>

namespace waybill {

Status error(StatusCode code,
             std::string_view op,
             std::string_view argument,
             std::string message,
             std::vector<int> ranks) {
  return Status(ErrorInfo{
      code, std::string(op), std::string(argument), std::move(ranks), std::move(message)});
}

std::string join_ranks(const std::vector<int>& ranks) {
  std::string text;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (i > 0) {
      text += i + 1 == ranks.size() ? " and " : ", ";
    }
    text += std::to_string(ranks[i]);
  }
  return text;
}

std::string name_ranks(const std::vector<int>& ranks) {
  return (ranks.size() == 1 ? "rank " : "ranks ") + join_ranks(ranks);
}

}  // namespace waybill
