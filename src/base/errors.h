#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "waybill/status.h"

namespace waybill {

/// An error with its whole sentence.
Status error(StatusCode code,
             std::string_view op,
             std::string_view argument,
             std::string message,
             std::vector<int> ranks = {});

/// "1", "1 and 2", "1, 2 and 3".
std::string join_ranks(const std::vector<int>& ranks);

/// "rank 1" or "ranks 1 and 2".
std::string name_ranks(const std::vector<int>& ranks);

}  // namespace waybill
