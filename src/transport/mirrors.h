#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "transport/messages.h"
#include "transport/mirror_room.h"
#include "waybill/status.h"
#include "waybill/tensor.h"
#include "window/mirror_slot.h"
#include "window/window.h"

namespace waybill::transport {

/// What ranks of other hosts published and this rank receives for its host: a mirror of each of
/// their halves in its pool, and a table that says where (window/mirror_slot.h). Owner: the
/// transport of this rank.
///
/// The mirrors of one half lie in one buffer, its arena, one behind the other in the order in which
/// they begin to come. A call finds the memory that an earlier one took there, whichever ranks it
/// came from. All in it is over when something of a later call comes: a source writes a half again
/// only when every reader has read what all published of that call. A reader that was taken for
/// dead meanwhile notices by the slot: it changes before its bytes do.
///
/// More memory is taken only between this rank's signal of a call, which says how much there is,
/// and its end (rule R35). What comes before has to find its place in what there is: see Claim for
/// who waits with what. Where it finds none, room() says that there is nothing, which is an error
/// on all ranks of the call.
/// Thread rule: one thread at a time.
class Mirrors {
 public:
  /// Puts the table into the window's pool and notes it on its control page.
  static Result<Mirrors> create(window::Window& window, int world_size);

  /// What there is for the call that this rank is about to signal. Ranks of this host read nothing
  /// more of an earlier call's mirrors of this half.
  MirrorRoom room(std::size_t half, window::Stamp stamp);
  /// Where bytes of `head`'s mirror go, or null: they are dropped, since there is no memory for
  /// them or they cannot be.
  std::byte* place(int from, const MessageHead& head, std::int64_t at, std::int64_t bytes);
  /// All has been sent. True when what has come is whole (or known not to fit) and readers were
  /// told.
  bool commit(int from, const MessageHead& head);

 private:
  struct Mirror {
    window::Stamp stamp = 0;  ///< of what is written
    std::int64_t received = 0;
    bool failed = false;
    bool committed = false;  ///< readers were told: nothing more is taken
    std::byte* data = nullptr;
    std::int64_t capacity = 0;
    int apart = -1;  ///< where it does not lie in the arena: its number among those
  };

  /// Of one half. Sizes in granules.
  struct Arena {
    window::Stamp stamp = 0;  ///< of the call whose mirrors lie here
    Buffer buffer;
    std::byte* data = nullptr;  ///< its first granule that begins in the buffer
    std::int64_t capacity = 0;
    std::int64_t end = 0;        ///< of the mirrors in it
    std::int64_t span = 0;       ///< of all mirrors of the call
    std::int64_t claimed = 0;    ///< by those that are whole
    std::vector<char> touched;   ///< a granule each: a mirror of the call has bytes there
    std::vector<Arena> apart;    ///< one each for mirrors that did not fit behind the others
    bool had_no_memory = false;  ///< for something of the call
  };

  Mirrors(window::Window& window, Buffer table, int world_size);
  window::MirrorSlot& slot_of(int from, std::size_t half) noexcept;
  Mirror& mirror_of(int from, std::size_t half) noexcept {
    return mirrors_[static_cast<std::size_t>(window::slot_index(from, half))];
  }
  void begin_call(std::size_t half, window::Stamp stamp);
  void grow(Arena& arena);
  bool allocate(Arena& arena, std::int64_t granules);
  void begin(Mirror& mirror, Arena& arena, const MessageHead& head);
  bool take(Arena& arena, const Mirror& mirror, std::int64_t at, std::int64_t bytes);
  bool give_up_untouched(Arena& arena, std::int64_t granules);
  void hold(Arena& arena, std::int64_t granules);
  std::int64_t held_by(const Arena& arena) const;
  bool may_take_memory(window::Stamp stamp) const noexcept;

  window::Window* window_;
  Buffer table_;
  std::vector<Mirror> mirrors_;
  std::array<Arena, 2> arenas_;
};

}  // namespace waybill::transport
