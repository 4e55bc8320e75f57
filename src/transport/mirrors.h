#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "transport/messages.h"
#include "waybill/status.h"
#include "waybill/tensor.h"
#include "window/mirror_slot.h"
#include "window/window.h"

namespace waybill::transport {

/// What ranks of other hosts published and this rank receives for its host: a buffer of its pool
/// for each of their halves, and a table that says where (window/mirror_slot.h).
///
/// A source writes a half again only when every reader has read it, and so is its mirror. A reader
/// that was taken for dead meanwhile notices by the slot: it changes before its bytes do.
/// Thread rule: one thread at a time.
class Mirrors {
 public:
  /// Puts the table into the window's pool and notes it on its control page.
  static Result<Mirrors> create(window::Window& window, int world_size);

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
    Buffer buffer;
    std::int64_t capacity = 0;
  };

  Mirrors(window::Window& window, Buffer table, int world_size);
  void begin(Mirror& mirror, window::MirrorSlot& slot, const MessageHead& head);
  window::MirrorSlot& slot_of(int from, std::size_t half) noexcept;

  window::Window* window_;
  Buffer table_;
  std::vector<Mirror> mirrors_;
};

}  // namespace waybill::transport
