#include "transport/shm.h"

#include <cstddef>
#include <utility>

namespace waybill::transport {
namespace {

/// What is read of a rank that has not been met yet: no call, no reset.
const window::ControlPage kNobody{};

}  // namespace

Result<std::unique_ptr<ShmTransport>> ShmTransport::create(std::vector<PeerHandle> handles,
                                                           int rank,
                                                           const window::Window& window,
                                                           std::int64_t window_bytes,
                                                           std::unique_ptr<Lobby> lobby) {
  auto transport =
      come_back(rank, static_cast<int>(handles.size()), window, window_bytes, std::move(lobby));
  for (std::size_t r = 0; r < handles.size(); ++r) {
    if (static_cast<int>(r) == rank || !handles[r].files[0]) {
      continue;  // this rank itself, or one of another host
    }
    if (Status status = transport->map(static_cast<int>(r), std::move(handles[r])); !status.ok()) {
      return status;
    }
  }
  return transport;
}

std::unique_ptr<ShmTransport> ShmTransport::come_back(int rank,
                                                      int world_size,
                                                      const window::Window& window,
                                                      std::int64_t window_bytes,
                                                      std::unique_ptr<Lobby> lobby) {
  std::unique_ptr<ShmTransport> transport(new ShmTransport());
  const auto ranks = static_cast<std::size_t>(world_size);
  transport->rank_ = rank;
  transport->lobby_ = std::move(lobby);
  transport->handles_.resize(ranks);
  transport->mappings_.resize(ranks);
  transport->ended_.resize(ranks, 1);
  transport->known_.resize(ranks);
  transport->peers_.resize(ranks, PeerMemory{&kNobody, {}, nullptr, 0});
  const auto own = static_cast<std::size_t>(rank);
  transport->peers_[own] = own_memory(window, window_bytes);
  transport->ended_[own] = 0;
  transport->known_[own] = 1;
  return transport;
}

Status ShmTransport::map(int rank, PeerHandle handle) {
  std::array<window::PeerMapping, kPassedFiles> mappings;
  for (std::size_t i = 0; i < kPassedFiles; ++i) {
    auto mapping = window::PeerMapping::map(handle.files[i].release(),
                                            i == 0 ? window::kControlBytes : handle.window_bytes);
    if (!mapping.ok()) {
      return mapping.status();
    }
    mappings[i] = std::move(*mapping);
  }
  const auto r = static_cast<std::size_t>(rank);
  peers_[r] = {reinterpret_cast<const window::ControlPage*>(mappings[0].data()),
               {mappings[1].data(), mappings[2].data()},
               mappings[3].data(),
               handle.window_bytes};
  mappings_[r] = std::move(mappings);
  handles_[r] = std::move(handle);
  ended_[r] = 0;
  known_[r] = 1;
  return {};
}

bool ShmTransport::has_ended(int rank) noexcept {
  const auto r = static_cast<std::size_t>(rank);
  if (ended_[r] == 0 && handles_[r].process.has_ended()) {
    ended_[r] = 1;
  }
  return ended_[r] != 0;
}

bool ShmTransport::is_known(int rank) const noexcept {
  return known_[static_cast<std::size_t>(rank)] != 0;
}

std::vector<int> ShmTransport::newcomers() {
  return lobby_ == nullptr ? std::vector<int>{} : lobby_->waiting();
}

bool ShmTransport::take_in() {
  bool taken = false;
  if (lobby_ != nullptr) {
    for (Arrival& arrival : lobby_->take()) {
      taken = accept(arrival) || taken;
    }
  }
  return taken;
}

bool ShmTransport::accept(Arrival& arrival) {
  const auto r = static_cast<std::size_t>(arrival.rank);
  if (known_[r] != 0 && handles_[r].incarnation == arrival.peer.incarnation) {
    return false;  // both called each other
  }
  if (arrival.peer.process.has_ended()) {
    return false;
  }
  if (!has_ended(arrival.rank)) {
    lobby_->put_back(std::move(arrival));  // its predecessor may be ending
    return false;
  }
  return lobby_->answer(arrival) && map(arrival.rank, std::move(arrival.peer)).ok();
}

int ShmTransport::call_others() {
  std::vector<int> ranks;
  for (int r = 0; r < world_size(); ++r) {
    if (r != rank_ && has_ended(r)) {
      ranks.push_back(r);
    }
  }
  return lobby_ == nullptr ? 0 : lobby_->call(ranks);
}

}  // namespace waybill::transport
