#include "transport/remote.h"

#include <sched.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "base/errors.h"
#include "base/futex.h"
#include "transport/hosts.h"

namespace waybill::transport {
namespace {

using window::CallHeader;
using window::ControlPage;

constexpr std::chrono::milliseconds kBeatPeriod{500};
/// The thread wakes at least so often: a wire may have missed to wake it.
constexpr std::chrono::milliseconds kLongestSleep{100};

std::string seconds(std::chrono::steady_clock::duration time) {
  const auto tenths = std::chrono::duration_cast<std::chrono::milliseconds>(time).count() / 100;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " s";
}

}  // namespace

std::string Greeting::to_bytes() const {
  std::string bytes(reinterpret_cast<const char*>(&identity), sizeof(identity));
  bytes += failure.empty() ? (beats ? '1' : '0') : 'E';
  return bytes + (failure.empty() ? wire_address : failure);
}

Result<Greeting> Greeting::from_bytes(const std::string& bytes, int rank, int world_size) {
  Greeting greeting;
  const window::Identity own;
  if (bytes.size() > sizeof(greeting.identity)) {
    std::memcpy(&greeting.identity, bytes.data(), sizeof(greeting.identity));
    const char kind = bytes[sizeof(greeting.identity)];
    const std::string rest = bytes.substr(sizeof(greeting.identity) + 1);
    greeting.beats = kind == '1';
    (kind == 'E' ? greeting.failure : greeting.wire_address) = rest;
  }
  const window::Identity& theirs = greeting.identity;
  if (bytes.size() <= sizeof(theirs) || theirs.magic != own.magic ||
      theirs.layout_version != own.layout_version || theirs.page_bytes != sizeof(ControlPage) ||
      theirs.world_size != world_size || theirs.rank != rank) {
    return error(StatusCode::kMismatch,
                 "connect",
                 "",
                 "connect: expected rank " + std::to_string(rank) + " of " +
                     std::to_string(world_size) + " with this version of the library, got rank " +
                     std::to_string(theirs.rank) + " of " + std::to_string(theirs.world_size) +
                     " with version '" + theirs.version_text() + "'",
                 {rank});
  }
  if (!greeting.failure.empty()) {
    return error(StatusCode::kMismatch,
                 "connect",
                 "",
                 "connect: expected every rank to reach other hosts, got an error of rank " +
                     std::to_string(rank) + ": " + greeting.failure,
                 {rank});
  }
  return greeting;
}

RemoteTransport::Remote::Remote(RemoteTransport& owner_, int rank_, const Greeting& greeting)
    : owner(owner_), rank(rank_), beats(greeting.beats), heard(Clock::now()) {
  board.begin(greeting.identity, false);
  board.listen(this);
}

RemoteTransport::RemoteTransport(std::unique_ptr<Transport> local,
                                 std::shared_ptr<window::Window> window,
                                 Mirrors mirrors,
                                 std::unique_ptr<Wire> wire,
                                 const std::vector<Greeting>& greetings,
                                 RemoteOptions options)
    : options_(std::move(options)),
      local_(std::move(local)),
      window_(std::move(window)),
      remotes_(options_.hosts.size()),
      mirrors_(std::move(mirrors)),
      wire_(std::move(wire)),
      last_beat_(Clock::now()),
      next_beat_(last_beat_) {
  hosts_ = number_hosts(options_.hosts);
  num_hosts_ = 1 + *std::max_element(hosts_.begin(), hosts_.end());
  own_host_ = hosts_[static_cast<std::size_t>(options_.rank)];
  const auto hosts = static_cast<std::size_t>(num_hosts_);
  headers_.resize(hosts);
  has_header_.resize(hosts);
  for (auto& sendings : sendings_) {
    for (std::size_t host = 0; host < hosts; ++host) {
      sendings.push_back(std::make_unique<Sending>());
    }
  }
  peers_.resize(hosts_.size());
  for (int rank = 0; rank < world_size(); ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    if (!is_remote(rank)) {
      here_.push_back(rank);
      peers_[r] = local_->peer(rank);
      continue;
    }
    there_.push_back(rank);
    remotes_[r] = std::make_unique<Remote>(*this, rank, greetings[r]);
    peers_[r].control = &remotes_[r]->page;
  }
  wire_->listen(this);
  if (options_.progress_thread) {
    thread_ = std::thread([this] {
      begin_thread("waybill-moves", options_.cores);
      serve();
    });
  }
}

RemoteTransport::~RemoteTransport() {
  stopping_.store(true, std::memory_order_relaxed);
  end_drive(true);
  if (thread_.joinable()) {
    thread_.join();
  }
}

bool RemoteTransport::has_ended(int rank) noexcept {
  return is_remote(rank) ? remote(rank).lost.load(std::memory_order_acquire)
                         : local_->has_ended(rank);
}

bool RemoteTransport::is_known(int rank) const noexcept {
  return is_remote(rank) || local_->is_known(rank);
}

Route RemoteTransport::route_to(int rank) const {
  Route route = is_remote(rank) ? Route{"", options_.wire_name} : local_->route_to(rank);
  route.host = options_.hosts[static_cast<std::size_t>(rank)];
  return route;
}

/// A mutex is not fair: who moves messages in a loop lets those before it who want to send.
std::unique_lock<std::mutex> RemoteTransport::lock() {
  wanted_.fetch_add(1, std::memory_order_relaxed);
  std::unique_lock held(mutex_);
  wanted_.fetch_sub(1, std::memory_order_relaxed);
  return held;
}

void RemoteTransport::say(int rank, const MessageHead& head, std::span<const std::byte> body) {
  wire_->send(rank, bytes_of(head), body, nullptr);
}

void RemoteTransport::tell(const window::Change& change) {
  const auto held = lock();
  ChangeBytes room;
  for (const int rank : there_) {
    const auto host = static_cast<std::size_t>(host_of(rank));
    window::Change theirs = change;
    if (change.header != nullptr && has_header_[host] != 0) {
      theirs.header = &headers_[host];
    }
    const ChangeMessage message = encode(theirs, room);
    say(rank, message.head, message.body);
  }
  if (change.header != nullptr) {
    std::fill(has_header_.begin(), has_header_.end(), 0);
    // The last rank to arrive never waits, so it would never send: it sends now.
    (void)pump();
  }
  if (needs_driver()) {
    step();  // the program may make no other call for long
  }
}

void RemoteTransport::set_header(int host, const CallHeader& header) {
  const auto held = lock();
  headers_[static_cast<std::size_t>(host)] = header;
  has_header_[static_cast<std::size_t>(host)] = 1;
}

std::int64_t RemoteTransport::send(std::size_t half, const Parcel& parcel) {
  const auto held = lock();
  const auto host = static_cast<std::size_t>(host_of(parcel.agent));
  const Claim claim = sendings_[half][host]->begin(half, parcel, last_calls_[half]);
  open_[half].fetch_add(1, std::memory_order_relaxed);
  return claim.granules;
}

/// Where nothing was sent, everything is held still.
void RemoteTransport::confirm(std::size_t half, window::Stamp stamp, bool sent) {
  LastCalls& last = last_calls_[half];
  if (sent) {
    last = {stamp, stamp};
  } else if (last.ended_well + 2 == stamp) {
    last.ended_well = stamp;
  }
}

MirrorRoom RemoteTransport::mirror_room(std::size_t half, window::Stamp stamp) {
  const auto held = lock();
  return mirrors_.room(half, stamp);
}

bool RemoteTransport::is_sent(std::size_t half) {
  return open_[half].load(std::memory_order_acquire) == 0;
}

bool RemoteTransport::is_sent_to(std::size_t half, int host) {
  const auto held = lock();
  return sendings_[half][static_cast<std::size_t>(host)]->has_ended();
}

void RemoteTransport::cancel(std::size_t half) {
  if (is_sent(half)) {
    return;
  }
  const auto held = lock();
  for (const auto& sending : sendings_[half]) {
    sending->cancel();
  }
}

const window::MirrorSlot& RemoteTransport::slot(int agent, int rank, std::size_t half) const {
  const PeerMemory& memory = peer(agent);
  const std::int64_t table = memory.control->mirrors.load(std::memory_order_acquire) - 1;
  const auto bytes = static_cast<std::int64_t>(sizeof(window::MirrorSlot)) * 2 * world_size();
  if (table < 0 || table > memory.window_bytes - bytes) {
    static const window::MirrorSlot empty;
    return empty;
  }
  return reinterpret_cast<const window::MirrorSlot*>(memory.pool +
                                                     table)[window::slot_index(rank, half)];
}

Status RemoteTransport::attach(int agent, int rank, std::size_t half) {
  const window::MirrorSlot& from = slot(agent, rank, half);
  const std::int64_t offset = from.offset.load(std::memory_order_relaxed);
  const std::int64_t bytes = from.bytes.load(std::memory_order_relaxed);
  const PeerMemory& memory = peer(agent);
  if (bytes < 0 || offset < 0 || offset > memory.window_bytes - bytes) {
    return error(StatusCode::kOutOfMemory,
                 "",
                 "",
                 "expected memory on rank " + std::to_string(agent) + " for what rank " +
                     std::to_string(rank) + " of another host sent, got none");
  }
  PeerMemory& mirrored = peers_[static_cast<std::size_t>(rank)];
  mirrored.halves[half] = memory.pool + offset;
  mirrored.mirrored_bytes[half] = bytes;
  return {};
}

bool RemoteTransport::drive() {
  const std::unique_lock held(mutex_, std::try_to_lock);
  return held && step();
}

bool RemoteTransport::is_idle() {
  const auto held = lock();
  return wire_->is_idle() && is_sent(0) && is_sent(1);
}

void RemoteTransport::end_drive(bool going_to_sleep) {
  driving_.store(false, std::memory_order_release);
  driving_.notify_all();
  if (needs_driver()) {
    const auto held = lock();
    step();  // what the last round gave the wire leaves, too
    return;
  }
  bool pending = going_to_sleep;
  if (const std::unique_lock held(mutex_, std::try_to_lock); held && !pending) {
    pending = !wire_->is_idle() || !is_sent(0) || !is_sent(1);
  }
  if (pending) {
    wire_->wake();
  }
}

void RemoteTransport::hand_over() {
  if (options_.progress_thread && (!is_sent(0) || !is_sent(1))) {
    wire_->wake();
  }
}

/// One round of messages. Holds the lock.
bool RemoteTransport::step() {
  const bool moved = wire_->progress();
  if (options_.progress_thread && Clock::now() >= next_beat_) {
    beat();  // also while the program's thread drives
  }
  return pump() || moved;
}

/// Where the receiver is lost, the wire drops what is sent to it.
bool RemoteTransport::may_leave(const Sending& sending) noexcept {
  const int receiver = sending.receiver();
  return receiver < 0 || remote(receiver).lost.load(std::memory_order_relaxed) ||
         remote(receiver).page.signalled.load() >= sending.stamp();
}

/// Gives the wire what it takes. Holds the lock.
bool RemoteTransport::pump() {
  bool moved = false;
  for (std::size_t half = 0; half < sendings_.size(); ++half) {
    if (is_sent(half)) {
      continue;
    }
    for (const auto& sending : sendings_[half]) {
      if (!sending->has_ended() && may_leave(*sending)) {
        moved = sending->pump(*wire_) || moved;
        open_[half].fetch_sub(sending->has_ended() ? 1 : 0, std::memory_order_release);
      }
    }
  }
  return moved;
}

void RemoteTransport::serve() {
  while (!stopping_.load(std::memory_order_relaxed)) {
    driving_.wait(true);  // the program's thread does it
    while (wanted_.load(std::memory_order_relaxed) > 0) {
      sched_yield();
    }
    bool moved = false;
    {
      const std::unique_lock held(mutex_);
      moved = step();
    }
    if (!moved) {
      wire_->wait(kLongestSleep);
    }
  }
}

/// Tells the others that this rank lives, and looks who has been silent.
void RemoteTransport::beat() {
  const auto now = Clock::now();
  // After a pause of this process: what was said meanwhile may not have been read yet, and others
  // may have been stopped with it.
  if (now - last_beat_ >= std::max<Clock::duration>(options_.keepalive / 2, 2 * kBeatPeriod)) {
    for (const int rank : there_) {
      remote(rank).heard = now;
    }
  }
  last_beat_ = now;
  next_beat_ = now + kBeatPeriod;
  const ControlPage& page = *window_->control;
  const std::chrono::nanoseconds since(page.phase_since.value.load(std::memory_order_relaxed));
  const Beat body{page.phase.value.load(std::memory_order_relaxed),
                  page.call.value.load(std::memory_order_relaxed),
                  (now.time_since_epoch() - since).count()};
  for (const int rank : there_) {
    say(rank, {.kind = MessageKind::kBeat}, bytes_of(body));
  }
  if (options_.keepalive.count() <= 0) {
    return;
  }
  // A process that is stopped is silent, too: as long as its host speaks it is not lost.
  for (int host = 0; host < num_hosts_; ++host) {
    const auto is_on = [&](int rank) { return host_of(rank) == host; };
    const bool silent = std::none_of(there_.begin(), there_.end(), [&](int rank) {
      return is_on(rank) && (!remote(rank).beats || now - remote(rank).heard < options_.keepalive);
    });
    for (const int rank : there_) {
      if (silent && is_on(rank) && !remote(rank).lost) {
        wire_->sever(rank);
        on_lost(rank, "nothing was heard of it for " + seconds(now - remote(rank).heard));
      }
    }
  }
}

void RemoteTransport::on_lost(int rank, const std::string& why) noexcept {
  if (!is_remote(rank)) {
    return;  // a wire may reach ranks of this host, too: of these `local_` knows better
  }
  Remote& known = remote(rank);
  known.why = why;
  known.lost.store(true, std::memory_order_release);
  wake_waiters_for(rank);
}

std::string RemoteTransport::news_of(const std::vector<int>& ranks) const {
  const std::lock_guard held(mutex_);
  std::string news;
  for (const int rank : ranks) {
    if (!is_remote(rank)) {
      continue;
    }
    const Remote& known = *remotes_[static_cast<std::size_t>(rank)];
    const bool lost = known.lost.load(std::memory_order_relaxed);
    news +=
        (news.empty() ? "" : "; ") + std::string("rank ") + std::to_string(rank) + " is on host " +
        options_.hosts[static_cast<std::size_t>(rank)] +
        (lost ? ", lost: " + known.why : ", heard " + seconds(Clock::now() - known.heard) + " ago");
  }
  return news;
}

}  // namespace waybill::transport
