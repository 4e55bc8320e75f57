#include "transport/lobby.h"

#include <poll.h>

#include <algorithm>
#include <utility>

#include "transport/socket.h"

namespace waybill::transport {
namespace {

using Clock = std::chrono::steady_clock;

/// Whoever calls greets at once; one that does not is a stranger.
constexpr std::chrono::seconds kGreeting{5};

bool is_readable(int fd) noexcept {
  pollfd polled{fd, POLLIN, 0};
  return poll(&polled, 1, 0) == 1;
}

bool is_open(int socket) noexcept {
  pollfd polled{socket, POLLRDHUP, 0};
  return poll(&polled, 1, 0) == 0;
}

}  // namespace

std::vector<int> Lobby::waiting() {
  const std::lock_guard lock(mutex_);
  look();
  std::vector<int> ranks;
  for (const Arrival& arrival : arrived_) {
    if (arrival.socket) {
      ranks.push_back(arrival.rank);
    }
  }
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

std::vector<Arrival> Lobby::take() {
  const std::lock_guard lock(mutex_);
  look();
  return std::exchange(arrived_, {});
}

bool Lobby::answer(const Arrival& arrival) const {
  return !arrival.socket || greeter_.greet(arrival.socket.get()).ok();
}

void Lobby::put_back(Arrival arrival) {
  const std::lock_guard lock(mutex_);
  if (!arrival.socket || is_open(arrival.socket.get())) {
    arrived_.push_back(std::move(arrival));
  }
}

int Lobby::call(const std::vector<int>& ranks) {
  const std::lock_guard lock(mutex_);
  int reached = 0;
  for (const int rank : ranks) {
    const bool called = std::any_of(
        pending_.begin(), pending_.end(), [rank](const Pending& p) { return p.called == rank; });
    if (called) {
      ++reached;
      continue;
    }
    bool full = false;
    auto connection = try_connect(address_of(id_, rank), &full);
    reached += full ? 1 : 0;  // it is there, and has not looked for long
    if (!connection.ok() || !*connection || !peer_is_trusted(connection->get()) ||
        !greeter_.greet(connection->get()).ok()) {
      continue;
    }
    ++reached;
    pending_.push_back({std::move(*connection), rank, Clock::now()});
  }
  return reached;
}

/// Accepts, and reads the greetings that are there. Forgets those that have gone again.
void Lobby::look() {
  while (listener_ && is_readable(listener_.get())) {
    auto connection = accept_one(listener_.get(), Patience{Clock::now(), {}});
    if (!connection.ok() || !*connection) {
      break;
    }
    if (peer_is_trusted(connection->get())) {
      pending_.push_back({std::move(*connection), -1, Clock::now()});
    }
  }
  std::erase_if(pending_, [this](Pending& pending) { return read(pending); });
  std::erase_if(arrived_, [](const Arrival& arrival) {
    return arrival.socket && !is_open(arrival.socket.get());
  });
}

/// True when nothing more is to be expected on the connection.
bool Lobby::read(Pending& pending) {
  if (!is_readable(pending.socket.get())) {
    // A rank that was called answers in its next reset, whenever that is.
    return pending.called < 0 && Clock::now() - pending.since > kGreeting;
  }
  Arrival arrival;
  auto hello = greeter_.read(pending.socket.get(), arrival.peer, Patience{Clock::now(), {}});
  if (!hello.ok() || hello->rank == greeter_.rank() ||
      (pending.called >= 0 && hello->rank != pending.called) ||
      (pending.called < 0 && hello->rejoining == 0)) {
    return true;
  }
  arrival.rank = hello->rank;
  arrival.rejoining = hello->rejoining != 0;
  if (pending.called < 0) {
    arrival.socket = std::move(pending.socket);
  }
  arrived_.push_back(std::move(arrival));
  return true;
}

}  // namespace waybill::transport
