#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "base/descriptor.h"
#include "waybill/status.h"

namespace waybill::transport {

/// When to stop waiting: a time, or the caller's wish.
struct Patience {
  std::chrono::steady_clock::time_point deadline;
  std::function<bool()> interrupted;

  bool expired() const { return std::chrono::steady_clock::now() >= deadline; }
  /// The caller's wish as an error, or success.
  Status check() const;
};

inline constexpr std::size_t kPassedFiles = 4;

/// Listens at an abstract address. kInvalidState when somebody does already.
Result<Descriptor> listen_at(const std::string& address, int backlog);
/// A connection, or an empty descriptor when nobody listens there (yet). Never blocks: where
/// somebody listens whose queue is full the descriptor is empty, too, and `full` true.
Result<Descriptor> try_connect(const std::string& address, bool* full = nullptr);
/// The next connection; an empty descriptor when the patience ended.
Result<Descriptor> accept_one(int listener, const Patience& patience);

/// True when the process at the other end belongs to this user or to root.
bool peer_is_trusted(int socket) noexcept;

/// Sends the bytes as one message, with descriptors where given.
Status send_message(int socket, std::span<const std::byte> bytes, std::span<const int> files);
/// Receives a message, of which `bytes` takes a first part, and up to kPassedFiles descriptors; its
/// size, at most that of `bytes` + 1. Errors as receive_message().
Result<std::size_t> receive_some(int socket,
                                 std::span<std::byte> bytes,
                                 std::array<Descriptor, kPassedFiles>* files,
                                 const Patience& patience);
/// Receives a message of exactly this size and up to kPassedFiles descriptors. kTimeout when the
/// patience ended, kPeerLost when the other end is gone.
Status receive_message(int socket,
                       std::span<std::byte> bytes,
                       std::array<Descriptor, kPassedFiles>* files,
                       const Patience& patience);

}  // namespace waybill::transport
