#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>

#include "window/control.h"

namespace waybill::window {

/// Writes as much of `text` as there is room for.
template <std::size_t N>
void copy_text(std::array<char, N>& destination, std::string_view text) {
  const std::size_t length = std::min(text.size(), N - 1);
  std::memcpy(destination.data(), text.data(), length);
  destination[length] = '\0';
}

/// A peer's bytes, fit to become part of a message: a text that was cut may end within a letter.
template <std::size_t N>
std::string read_text(const std::array<char, N>& source) {
  std::string text(source.data(), strnlen(source.data(), N));
  std::replace_if(text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text;
}

}  // namespace waybill::window
