#include "transport/local_wire.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

namespace waybill::transport {
namespace {

using Clock = std::chrono::steady_clock;

struct Message {
  std::vector<std::byte> head;
  std::vector<std::byte> copied;
  std::span<const std::byte> borrowed;
  std::atomic<std::int64_t>* in_flight = nullptr;
  Clock::time_point due;
};

void count_down(std::atomic<std::int64_t>* in_flight) {
  if (in_flight != nullptr) {
    in_flight->fetch_sub(1, std::memory_order_release);
  }
}

/// From one rank to another.
struct Direction {
  std::deque<Message> leaving;  ///< at the sender, bodies perhaps in the caller's memory
  std::deque<Message> coming;   ///< on the way, or there
  bool held = false;
  bool swallowed = false;
  std::chrono::milliseconds late{0};
};

/// How a rank sees its connection with another.
struct End {
  bool over = false;     ///< nothing is sent any more
  bool to_tell = false;  ///< on_lost() comes when what was on the way has come
  std::string why;
};

}  // namespace

struct LocalLinks::State {
  explicit State(int ranks)
      : world_size(static_cast<std::size_t>(ranks)),
        directions(world_size * world_size),
        ends(world_size * world_size),
        woken(world_size),
        changed(world_size) {}

  Direction& direction(int from, int to) { return directions[index(from, to)]; }
  End& end(int of, int with) { return ends[index(of, with)]; }
  std::size_t index(int a, int b) const {
    return static_cast<std::size_t>(a) * world_size + static_cast<std::size_t>(b);
  }

  void drop_leaving(int from, int to) {
    for (Message& message : direction(from, to).leaving) {
      count_down(message.in_flight);
    }
    direction(from, to).leaving.clear();
  }

  /// This end learns that the connection is over.
  void lose(int of, int with, const std::string& why) {
    End& mine = end(of, with);
    if (!mine.over) {
      mine = {true, true, why};
      drop_leaving(of, with);
      notify(of);
    }
  }

  void notify(int rank) { changed[static_cast<std::size_t>(rank)].notify_all(); }

  std::mutex mutex;
  const std::size_t world_size;
  std::vector<Direction> directions;
  std::vector<End> ends;
  std::vector<char> woken;
  std::vector<std::condition_variable> changed;
};

LocalLinks::LocalLinks(int world_size) : state_(std::make_shared<State>(world_size)) {}
LocalLinks::~LocalLinks() = default;

void LocalLinks::hold(int from, int to, bool held) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->direction(from, to).held = held;
  state_->notify(from);
}

void LocalLinks::delay(int from, int to, std::chrono::milliseconds late) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->direction(from, to).late = late;
}

void LocalLinks::swallow(int from, int to, bool swallowed) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->direction(from, to).swallowed = swallowed;
}

void LocalLinks::drop_in_flight(int from, int to) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->drop_leaving(from, to);
  state_->direction(from, to).coming.clear();
  state_->notify(to);
}

void LocalLinks::cut(int one, int other) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->lose(one, other, "the connection was cut");
  state_->lose(other, one, "the connection was cut");
}

class LocalWire final : public Wire {
 public:
  LocalWire(int rank, std::shared_ptr<LocalLinks::State> state)
      : rank_(rank), state_(std::move(state)) {}

  ~LocalWire() override {
    for (int r = 0; r < world_size(); ++r) {
      sever(r);
    }
  }

  void send(int to,
            std::span<const std::byte> head,
            std::span<const std::byte> body,
            std::atomic<std::int64_t>* in_flight) override;
  bool progress() override;
  bool is_idle() const noexcept override;
  void sever(int rank) override;
  void wait(std::chrono::milliseconds most) override;
  void wake() noexcept override;

 private:
  int world_size() const noexcept { return static_cast<int>(state_->world_size); }
  bool push_leaving(int to);
  bool deliver_coming(int from);
  bool tell_lost(int rank);
  std::optional<Message> next_from(int from);
  /// When progress() will have something to do, if nothing else happens.
  Clock::time_point busy_at() const;

  int rank_;
  std::shared_ptr<LocalLinks::State> state_;
};

void LocalWire::send(int to,
                     std::span<const std::byte> head,
                     std::span<const std::byte> body,
                     std::atomic<std::int64_t>* in_flight) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (to < 0 || to >= world_size() || state_->end(rank_, to).over) {
    count_down(in_flight);
    return;
  }
  Message message;
  message.head.assign(head.begin(), head.end());
  message.in_flight = in_flight;
  if (in_flight != nullptr) {
    message.borrowed = body;
  } else {
    message.copied.assign(body.begin(), body.end());
  }
  state_->direction(rank_, to).leaving.push_back(std::move(message));
  state_->notify(rank_);
}

bool LocalWire::push_leaving(int to) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  Direction& direction = state_->direction(rank_, to);
  if (direction.held || direction.leaving.empty()) {
    return false;
  }
  const auto due = Clock::now() + direction.late;
  for (Message& message : direction.leaving) {
    if (message.in_flight != nullptr) {
      message.copied.assign(message.borrowed.begin(), message.borrowed.end());
      message.borrowed = {};
      count_down(std::exchange(message.in_flight, nullptr));
    }
    message.due = due;
    if (!direction.swallowed) {
      direction.coming.push_back(std::move(message));
    }
  }
  direction.leaving.clear();
  state_->notify(to);
  return true;
}

std::optional<Message> LocalWire::next_from(int from) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  auto& coming = state_->direction(from, rank_).coming;
  if (coming.empty() || coming.front().due > Clock::now()) {
    return std::nullopt;
  }
  std::optional<Message> message = std::move(coming.front());
  coming.pop_front();
  return message;
}

bool LocalWire::deliver_coming(int from) {
  bool any = false;
  while (const auto message = next_from(from)) {
    any = true;
    if (listener_ != nullptr) {
      listener_->on_message(from, message->head, message->copied);
    }
  }
  return any;
}

bool LocalWire::tell_lost(int rank) {
  std::string why;
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    End& end = state_->end(rank_, rank);
    if (!end.to_tell || !state_->direction(rank, rank_).coming.empty()) {
      return false;
    }
    end.to_tell = false;
    why = end.why;
  }
  if (listener_ != nullptr) {
    listener_->on_lost(rank, why);
  }
  return true;
}

bool LocalWire::progress() {
  bool any = false;
  for (int r = 0; r < world_size(); ++r) {
    any = push_leaving(r) || any;
    any = deliver_coming(r) || any;
    any = tell_lost(r) || any;
  }
  return any;
}

bool LocalWire::is_idle() const noexcept {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  for (int r = 0; r < world_size(); ++r) {
    if (!state_->direction(rank_, r).leaving.empty()) {
      return false;
    }
  }
  return true;
}

void LocalWire::sever(int rank) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (rank < 0 || rank >= world_size()) {
    return;
  }
  state_->drop_leaving(rank_, rank);
  state_->direction(rank, rank_).coming.clear();
  state_->end(rank_, rank) = {true, false, {}};
  if (rank != rank_ && !state_->direction(rank_, rank).swallowed) {
    state_->lose(rank, rank_, "the other end closed the connection");
  }
}

Clock::time_point LocalWire::busy_at() const {
  auto at = Clock::time_point::max();
  for (int r = 0; r < world_size(); ++r) {
    const Direction& out = state_->direction(rank_, r);
    const Direction& in = state_->direction(r, rank_);
    if ((!out.leaving.empty() && !out.held) ||
        (state_->end(rank_, r).to_tell && in.coming.empty())) {
      return Clock::time_point::min();
    }
    if (!in.coming.empty()) {
      at = std::min(at, in.coming.front().due);
    }
  }
  return at;
}

void LocalWire::wait(std::chrono::milliseconds most) {
  const auto end = Clock::now() + most;
  char& woken = state_->woken[static_cast<std::size_t>(rank_)];
  std::unique_lock<std::mutex> lock(state_->mutex);
  for (auto until = std::min(end, busy_at()); woken == 0 && Clock::now() < until;
       until = std::min(end, busy_at())) {
    state_->changed[static_cast<std::size_t>(rank_)].wait_until(lock, until);
  }
  woken = 0;
}

void LocalWire::wake() noexcept {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->woken[static_cast<std::size_t>(rank_)] = 1;
  state_->notify(rank_);
}

std::vector<std::unique_ptr<Wire>> make_local_wires(const LocalLinks& links) {
  std::vector<std::unique_ptr<Wire>> wires;
  wires.reserve(links.state_->world_size);
  for (std::size_t r = 0; r < links.state_->world_size; ++r) {
    wires.push_back(std::make_unique<LocalWire>(static_cast<int>(r), links.state_));
  }
  return wires;
}

std::vector<std::unique_ptr<Wire>> make_local_wires(int world_size) {
  return make_local_wires(LocalLinks(world_size));
}

}  // namespace waybill::transport
