#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "transport/messages.h"
#include "transport/mirrors.h"
#include "transport/other_hosts.h"
#include "transport/sending.h"
#include "transport/transport.h"
#include "transport/wire.h"
#include "waybill/status.h"
#include "window/board.h"
#include "window/window.h"

namespace waybill::transport {

/// What each rank of a group that spans hosts tells all others when they meet.
struct Greeting {
  window::Identity identity;
  bool beats = false;  ///< a thread of its own tells the others twice a second that it lives
  std::string wire_address;
  std::string failure;  ///< why the rank cannot go on; empty when it can

  std::string to_bytes() const;
  /// kMismatch for a rank of another version of the library.
  static Result<Greeting> from_bytes(const std::string& bytes, int rank, int world_size);
};

struct RemoteOptions {
  std::vector<std::string> hosts;  ///< the name of each rank's
  int rank = 0;
  /// A thread moves messages while the program computes. Without: only calls do.
  bool progress_thread = true;
  /// Ranks of a host from which nothing was heard for so long count as ended; 0: never. Only where
  /// its ranks beat.
  std::chrono::milliseconds keepalive{30'000};
  std::string wire_name;  ///< for people
  /// On which the thread runs; empty: where the thread does that connects.
  CoreSet cores{};
};

/// A group on several hosts: ranks of this host through `local`, the others through a wire. Of a
/// remote rank there is a copy of its control page, which its messages keep up with in the order in
/// which it stored its words, and, on one rank of this host, the mirror of its halves.
///
/// Words go to every remote rank, rows once to each host. A body is sent from where it lies; after
/// its last byte has left, a commit makes it count. So what is sent of a call that failed never
/// becomes a row.
class RemoteTransport final : public Transport, public OtherHosts, private WireListener {
 public:
  /// `local` knows the ranks of this host, of the others nothing. `window` is this rank's, with a
  /// table of mirrors.
  RemoteTransport(std::unique_ptr<Transport> local,
                  std::shared_ptr<window::Window> window,
                  Mirrors mirrors,
                  std::unique_ptr<Wire> wire,
                  const std::vector<Greeting>& greetings,
                  RemoteOptions options);
  ~RemoteTransport() override;

  bool has_ended(int rank) noexcept override;
  bool is_known(int rank) const noexcept override;
  int ranks_on_host() const noexcept override { return static_cast<int>(here_.size()); }
  Route route_to(int rank) const override;

  OtherHosts* other_hosts() noexcept override { return this; }

  void tell(const window::Change& change) override;
  void set_header(int host, const window::CallHeader& header) override;
  std::int64_t send(std::size_t half, const Parcel& parcel) override;
  void confirm(std::size_t half, window::Stamp stamp, bool sent) override;
  MirrorRoom mirror_room(std::size_t half, window::Stamp stamp) override;
  bool is_sent(std::size_t half) override;
  bool is_sent_to(std::size_t half, int host) override;
  void cancel(std::size_t half) override;
  const window::MirrorSlot& slot(int agent, int rank, std::size_t half) const override;
  Status attach(int agent, int rank, std::size_t half) override;
  void begin_drive() override { driving_.store(true, std::memory_order_relaxed); }
  bool drive() override;
  void end_drive(bool going_to_sleep) override;
  bool is_idle() override;
  void hand_over() override;
  bool needs_driver() const noexcept override { return !options_.progress_thread; }
  void sleep(std::chrono::milliseconds most) override { wire_->wait(most); }
  std::string news_of(const std::vector<int>& ranks) const override;

 private:
  using Clock = std::chrono::steady_clock;

  /// What is known of a rank of another host, with a copy of its page. A change of the copy wakes
  /// the ranks of this host that sleep on it. Owner: the transport; guarded by mutex_, but `lost`.
  struct Remote final : window::Board::Listener {
    Remote(RemoteTransport& owner, int rank, const Greeting& greeting);
    void on_post(const window::Change& change) noexcept override;

    RemoteTransport& owner;
    const int rank;
    window::ControlPage page;
    window::Board board{page};
    const bool beats;
    std::atomic<bool> lost{false};
    std::string why;  ///< of lost
    Clock::time_point heard;
  };

  void on_message(int from,
                  std::span<const std::byte> head,
                  std::span<const std::byte> body) noexcept override;
  void on_lost(int rank, const std::string& why) noexcept override;

  Remote& remote(int rank) noexcept { return *remotes_[static_cast<std::size_t>(rank)]; }
  std::unique_lock<std::mutex> lock();
  bool step();
  bool pump();
  bool may_leave(const Sending& sending) noexcept;
  void say(int rank, const MessageHead& head, std::span<const std::byte> body = {});
  void store_pieces(int from, const MessageHead& head, std::span<const std::byte> body);
  static void note_beat(Remote& from, std::span<const std::byte> body);
  void wake(const window::Word& word) noexcept;
  void wake_waiters_for(int rank) noexcept;
  void serve();
  void beat();

  const RemoteOptions options_;
  const std::unique_ptr<Transport> local_;
  const std::shared_ptr<window::Window> window_;
  std::vector<int> here_;                         ///< ranks of this host
  std::vector<int> there_;                        ///< ranks of the others
  std::vector<std::unique_ptr<Remote>> remotes_;  ///< by rank, null for those of this host
  mutable std::mutex mutex_;                      ///< of all that follows, and of the wire
  std::atomic<int> wanted_{0};
  Mirrors mirrors_;
  std::vector<window::CallHeader> headers_;  ///< by host, for the next signal
  std::vector<char> has_header_;
  std::array<std::vector<std::unique_ptr<Sending>>, 2> sendings_;  ///< of each half, by host
  std::array<std::atomic<int>, 2> open_{};                         ///< sendings that have not ended
  std::array<LastCalls, 2> last_calls_{};                          ///< of each half
  std::unique_ptr<Wire> wire_;
  Clock::time_point last_beat_;
  Clock::time_point next_beat_;
  std::atomic<bool> driving_{false};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace waybill::transport
