#pragma once

#include <cstdint>

#include "contract/check.h"
#include "engine/roll_call.h"
#include "transport/mirror_room.h"
#include "transport/transport.h"
#include "waybill/status.h"
#include "window/control.h"

namespace waybill::engine {

/// What the rows of a call take of the ranks that receive them for a host, and whether these have
/// it: every member looks at the numbers in the headers of all, so that all find the same. Numbers
/// are granules. Owner: the Call.
class MirrorDemand {
 public:
  MirrorDemand(const RollCall& roll, const transport::Transport& transport) noexcept
      : roll_(roll), transport_(transport) {}

  /// Writes into a header what its rank has; mirror_beside is there. True where that is so much
  /// that nobody will ask why it is not more.
  static bool say(const transport::MirrorRoom& room, window::CallHeader& header) noexcept;
  /// Raises what a header says that its rank's rows take of one host to `granules` of memory, and
  /// to `bytes` of address space.
  static void claim(std::int64_t granules, std::int64_t bytes, window::CallHeader& header) noexcept;

  /// Adds up what all claim. kOutOfMemory names the first member that has too little.
  Status check(const contract::Checker& checker, std::size_t half);
  /// True where any member sent rows to another host. After check().
  bool any() const noexcept { return all_.span > 0; }
  /// What `member` has too little beside memory for rows_limit rows. After check().
  std::int64_t beside(int member) const;

 private:
  struct Want {
    std::int64_t claim = 0;
    std::int64_t span = 0;  ///< address space
  };

  Want of(int member) const;

  const RollCall& roll_;
  const transport::Transport& transport_;
  Want all_;  ///< of all members together
};

}  // namespace waybill::engine
