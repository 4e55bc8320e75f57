#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/ranks.h"
#include "transport/local_wire.h"
#include "transport/sockets.h"
#include "transport/ucx/ucx_wire.h"
#include "transport/wire.h"

namespace waybill::transport {

inline constexpr std::chrono::seconds kLong{20};

/// Waits until it holds; false when it does not in time.
inline bool comes_true(const std::function<bool()>& what, std::chrono::milliseconds limit = kLong) {
  for (const Patience patience = patience_for(limit); !what(); std::this_thread::yield()) {
    if (patience.expired()) {
      return false;
    }
  }
  return true;
}

/// Why there can be no wires of UCX in this program, or nothing.
inline std::string why_no_ucx() {
#ifdef __SANITIZE_THREAD__
  return "libucp is not built for the thread sanitizer";
#else
  auto wire = UcxWire::open(0, 1);
  return wire.ok() ? "" : wire.status().message();
#endif
}

/// Connected wires of UCX, all in this process. Empty where that fails.
inline std::vector<std::unique_ptr<Wire>> make_ucx_wires(int world_size) {
  std::vector<std::unique_ptr<UcxWire>> opened;
  std::vector<std::string> addresses;
  for (int r = 0; r < world_size; ++r) {
    auto wire = UcxWire::open(r, world_size);
    if (!wire.ok()) {
      ADD_FAILURE() << wire.status().message();
      return {};
    }
    addresses.push_back((*wire)->address());
    opened.push_back(std::move(*wire));
  }
  testing::expect_all_ok(testing::on_threads(opened.size(), [&](std::size_t r) {
    return opened[r]->connect(addresses, much_patience());
  }));
  std::vector<std::unique_ptr<Wire>> wires;
  for (auto& wire : opened) {
    wires.push_back(std::move(wire));
  }
  return wires;
}

inline std::vector<std::byte> pattern(std::size_t bytes, int seed) {
  std::vector<std::byte> body(bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    body[i] = static_cast<std::byte>(i * 31 + i / 251 + static_cast<std::size_t>(seed));
  }
  return body;
}

/// A wire whose messages are moved by a thread of its own, as an engine would do it.
class Driven : public WireListener {
 public:
  struct Message {
    int from;
    std::vector<std::byte> head;
    std::vector<std::byte> body;
  };

  explicit Driven(std::unique_ptr<Wire> wire) : wire_(std::move(wire)) {
    wire_->listen(this);
    thread_ = std::thread([this] { run(); });
  }
  ~Driven() override { stop(); }
  Driven(const Driven&) = delete;
  Driven& operator=(const Driven&) = delete;

  void on_message(int from,
                  std::span<const std::byte> head,
                  std::span<const std::byte> body) noexcept override {
    ++num_messages;
    if (answer) {
      answer(*wire_, from, head);
    }
    if (keep) {
      messages_.push_back({from, {head.begin(), head.end()}, {body.begin(), body.end()}});
    }
  }
  void on_lost(int rank, const std::string& why) noexcept override {
    lost_.push_back(rank);
    why_ = why;
  }

  void send(int to,
            std::span<const std::byte> head,
            std::span<const std::byte> body = {},
            std::atomic<std::int64_t>* in_flight = nullptr) {
    if (in_flight != nullptr) {
      in_flight->fetch_add(1);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    wire_->send(to, head, body, in_flight);
    wire_->wake();
  }
  void sever(int rank) {
    const std::lock_guard<std::mutex> lock(mutex_);
    wire_->sever(rank);
  }
  bool is_idle() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return wire_->is_idle();
  }
  std::vector<int> lost() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return lost_;
  }
  std::string why() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return why_;
  }
  /// What has come, once that is so many messages or the time is over.
  std::vector<Message> messages(std::size_t count) {
    (void)comes_true([&] { return num_messages.load() >= count; });
    const std::lock_guard<std::mutex> lock(mutex_);
    return messages_;
  }
  /// From now on nothing is moved.
  void stop() {
    stopping_ = true;
    if (thread_.joinable()) {
      wire_->wake();
      thread_.join();
    }
  }
  /// After stop().
  void destroy() {
    stop();
    wire_.reset();
  }
  Wire& wire() { return *wire_; }
  std::mutex& mutex() { return mutex_; }

  std::atomic<std::size_t> num_messages{0};
  std::atomic<bool> keep{true};
  /// Set before the first message.
  std::function<void(Wire&, int from, std::span<const std::byte> head)> answer;

 private:
  void run() {
    while (!stopping_) {
      bool any = false;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        any = wire_->progress();
      }
      if (!any) {
        wire_->wait(std::chrono::seconds(5));
      }
    }
  }

  std::unique_ptr<Wire> wire_;
  std::mutex mutex_;
  std::vector<Message> messages_;
  std::vector<int> lost_;
  std::string why_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

inline std::vector<std::unique_ptr<Driven>> drive(std::vector<std::unique_ptr<Wire>> wires) {
  std::vector<std::unique_ptr<Driven>> driven;
  for (auto& wire : wires) {
    driven.push_back(std::make_unique<Driven>(std::move(wire)));
  }
  return driven;
}

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

template <typename T>
T value_of(std::span<const std::byte> bytes) {
  T value{};
  std::memcpy(&value, bytes.data(), std::min(sizeof(value), bytes.size()));
  return value;
}

}  // namespace waybill::transport
