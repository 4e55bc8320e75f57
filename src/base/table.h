#pragma once

#include <cstddef>
#include <iterator>

namespace waybill {

/// True where row i of `table` is that of the enumerator with value i, so that an enumerator finds
/// its row by index. `key` is the member of a row that names its enumerator.
template <typename Table, typename Row, typename Key>
constexpr bool rows_are_in_order(const Table& table, Key Row::* key) {
  for (std::size_t i = 0; i < std::size(table); ++i) {
    if (static_cast<std::size_t>(table[i].*key) != i) {
      return false;
    }
  }
  return true;
}

}  // namespace waybill
