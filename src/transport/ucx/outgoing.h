#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "transport/wire.h"

namespace waybill::transport {

/// Comes before the head of every message between two wires.
struct WirePrefix {
  enum Kind : std::uint16_t { kMessage, kHello, kHeard, kBye };

  std::uint64_t to = 0;    ///< the wire it is for and the one that sends it, of all wires there
  std::uint64_t from = 0;  ///< ever were: what is left of a connection of old is no message
  std::uint32_t sequence = 0;
  std::uint16_t rank = 0;  ///< of the sender
  std::uint16_t kind = kMessage;
};
static_assert(sizeof(WirePrefix) == 24 && std::is_trivially_copyable_v<WirePrefix>);

/// A message on its way: what UCX reads until it says that it is done.
struct Outgoing {
  class OutgoingPool* home = nullptr;
  struct Connection* connection = nullptr;         ///< empty while it is free
  std::atomic<std::int64_t>* in_flight = nullptr;  ///< counted down by give_back()
  std::array<std::byte, sizeof(WirePrefix) + kWireHeadBytes> head;
  std::unique_ptr<std::byte[]> copy;  ///< kWireBodyBytes, in those that are for copied bodies
};

/// Keeps the messages' memory, so that a wire that is warm allocates nothing.
class OutgoingPool {
 public:
  Outgoing* take(bool with_copy) {
    auto& free = with_copy ? free_with_copy_ : free_;
    if (free.empty()) {
      all_.push_back(std::make_unique<Outgoing>());
      all_.back()->home = this;
      if (with_copy) {
        all_.back()->copy = std::make_unique_for_overwrite<std::byte[]>(kWireBodyBytes);
      }
      // So that give_back() does not allocate.
      free_.reserve(all_.capacity());
      free_with_copy_.reserve(kCopiesKept);
      return all_.back().get();
    }
    Outgoing* message = free.back();
    free.pop_back();
    return message;
  }

  void give_back(Outgoing* message) noexcept {
    count_down(message);
    message->connection = nullptr;
    if (message->copy != nullptr && free_with_copy_.size() < kCopiesKept) {
      free_with_copy_.push_back(message);
      return;
    }
    message->copy.reset();
    free_.push_back(message);
  }

  /// Counts all down that go over this connection, though UCX is not done with them. They go over
  /// the other from now on.
  void give_up(const Connection* connection, Connection* other) noexcept {
    for (const auto& message : all_) {
      if (message->connection == connection) {
        count_down(message.get());
        message->connection = other;
      }
    }
  }

 private:
  static constexpr std::size_t kCopiesKept = 64;

  static void count_down(Outgoing* message) noexcept {
    if (message->in_flight != nullptr) {
      message->in_flight->fetch_sub(1, std::memory_order_release);
      message->in_flight = nullptr;
    }
  }

  std::vector<std::unique_ptr<Outgoing>> all_;
  std::vector<Outgoing*> free_;
  std::vector<Outgoing*> free_with_copy_;
};

}  // namespace waybill::transport
