#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
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

/// A message that has not left: it waits for its turn, or UCX reads `head` and `copy`.
struct Outgoing {
  struct Connection* connection = nullptr;
  std::array<std::byte, sizeof(WirePrefix) + kWireHeadBytes> head;
  std::size_t head_bytes = 0;
  std::span<const std::byte> body;                 ///< in `copy`, or borrowed until it is there
  std::atomic<std::int64_t>* in_flight = nullptr;  ///< of a borrowed body
  std::unique_ptr<std::byte[]> copy;               ///< kWireBodyBytes, where there is a body
};

/// Keeps the messages' memory, so that a wire that is warm allocates nothing. UCX cannot be told to
/// stop reading a body without closing an endpoint, so at most one of a connection is read where it
/// lies, see Connection.
class OutgoingPool {
 public:
  Outgoing* take() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<Outgoing>());
      free_.reserve(all_.capacity());  // so that give_back() does not allocate
      return all_.back().get();
    }
    Outgoing* message = free_.back();
    free_.pop_back();
    return message;
  }

  /// From now on the body lies in the message's own memory.
  void copy_body(Outgoing* message) {
    if (message->copy == nullptr && !message->body.empty()) {
      if (copies_.empty()) {
        message->copy = std::make_unique_for_overwrite<std::byte[]>(kWireBodyBytes);
      } else {
        message->copy = std::move(copies_.back());
        copies_.pop_back();
      }
      std::memcpy(message->copy.get(), message->body.data(), message->body.size());
      message->body = {message->copy.get(), message->body.size()};
    }
    count_down(message);
  }

  void give_back(Outgoing* message) {
    count_down(message);
    message->body = {};
    message->connection = nullptr;
    if (message->copy != nullptr && copies_.size() < kCopiesKept) {
      copies_.push_back(std::move(message->copy));
    }
    message->copy.reset();
    free_.push_back(message);
  }

  /// The caller is told that its body has been taken.
  static void count_down(Outgoing* message) noexcept {
    if (message->in_flight != nullptr) {
      message->in_flight->fetch_sub(1, std::memory_order_release);
      message->in_flight = nullptr;
    }
  }

 private:
  static constexpr std::size_t kCopiesKept = 64;

  std::vector<std::unique_ptr<Outgoing>> all_;
  std::vector<Outgoing*> free_;
  std::vector<std::unique_ptr<std::byte[]>> copies_;
};

}  // namespace waybill::transport
