#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/cores.h"

namespace waybill::window {

/// Changes whenever ControlPage, CallHeader or a layout changes its meaning: ranks that differ do
/// not connect.
inline constexpr std::uint32_t kLayoutVersion = 7;

/// Whose page this is: written once, before anybody else can see it. Also for tools that look at a
/// group from outside: the fields up to `page_bytes` keep their place in every version.
struct Identity {
  std::array<char, 8> magic{'W', 'A', 'Y', 'B', 'I', 'L', 'L', '\0'};
  std::uint32_t layout_version = kLayoutVersion;
  std::uint32_t page_bytes = 0;     ///< sizeof(ControlPage)
  std::uint64_t incarnation = 0;    ///< tells this page from every other one, never 0
  std::uint64_t process_start = 0;  ///< see base/process_start.h
  std::int32_t pid = 0;             ///< as its own process sees it
  std::int32_t rank = 0;
  std::int32_t world_size = 0;
  std::array<char, 24> version{};  ///< of the library
  std::array<char, 40> id{};       ///< of the group
  std::array<char, 128> name{};    ///< of the group, for people
  CoreSet cores{};                 ///< that the thread which connected may run on

  std::string name_text() const;
  std::string id_text() const;
  std::string version_text() const;
};

/// The identity of this process's next page.
Identity make_identity(std::string_view id, std::string_view name, int rank, int world_size);

}  // namespace waybill::window
