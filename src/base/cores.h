#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace waybill {

/// A bit a core. Cores past the last bit are left out.
using CoreSet = std::array<std::uint64_t, 16>;

int count(const CoreSet& cores) noexcept;
bool contains(const CoreSet& cores, int core) noexcept;
bool intersect(const CoreSet& one, const CoreSet& other) noexcept;
CoreSet unite(const CoreSet& one, const CoreSet& other) noexcept;
CoreSet without(const CoreSet& cores, const CoreSet& left_out) noexcept;
CoreSet core_set_of(const std::vector<int>& cores) noexcept;
/// In order.
std::vector<int> list_of(const CoreSet& cores);
/// "0-15,32"; "none" of none.
std::string to_text(const CoreSet& cores);

/// Cores in the order of a list like "0-15,32"; nothing where it is not one: empty, with blanks, a
/// range backwards, a core twice.
std::optional<std::vector<int>> parse_cores(std::string_view list);
inline constexpr const char* kCoreList = "a list of cores like 0-15,32, each once";

/// Cores that the calling thread may run on.
CoreSet cores_of_thread() noexcept;

struct ProcessCores {
  CoreSet cores;    ///< that this process may run on as a whole, at least one
  CoreSet allowed;  ///< that it may be asked to use: the same, or all the system would permit where
                    ///< `cores` may be too few
};

/// What a launcher left to this process. A thread that OpenMP has bound does not know: then it is
/// found by what OpenMP counted before (docs/contract/python.md section 2.1).
ProcessCores process_cores();

/// What process_cores() decides by.
struct CoreFacts {
  CoreSet main;            ///< of the main thread
  CoreSet caller;          ///< of the calling one
  CoreSet threads;         ///< of all threads of the process, together
  int before_binding = 0;  ///< cores that OpenMP counted before it bound threads; 0: it bound none
  CoreSet places{};        ///< to which OpenMP binds, together
  CoreSet permitted{};     ///< that the system would permit; only where before_binding is not 0
  CoreSet parent{};        ///< of the process that started this one; likewise
};
ProcessCores decide_cores(const CoreFacts& facts) noexcept;

/// Of a thread that this library started: names it, at most 15 letters, for people, and makes it
/// run on these cores only, where the system allows it; on none: where it runs already.
void begin_thread(const char* name, const CoreSet& cores) noexcept;

}  // namespace waybill
