#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "drawing.h"
#include "engine/session.h"
#include "transport/transport.h"
#include "waybill/group.h"
#include "window/control.h"
#include "window/layout.h"
#include "window/window.h"

namespace waybill::fuzz {

/// What a rank of the group publishes, written by the test. Each part is a block of its own, of
/// just window_bytes, so that the address sanitizer sees whoever reads past it.
struct ForgedPeer {
  struct Free {
    void operator()(std::byte* block) const noexcept;
  };
  using Block = std::unique_ptr<std::byte[], Free>;

  explicit ForgedPeer(std::int64_t window_bytes);

  std::unique_ptr<window::ControlPage> control;
  std::array<Block, 2> halves;
  Block pool;
  std::int64_t window_bytes;
};

/// One real rank in a group whose other ranks are forged: whenever it is about to wait for their
/// signals, they have signalled, and what they have published is drawn from the input. Most of it
/// is what the rank itself published, with changes, since most of what is drawn freely would be
/// refused by the first check.
class ForgedGroup {
 public:
  /// Of a call with TP = 2 each group has a window of its own.
  enum class Kind { kEp, kTp };

  ForgedGroup(Kind kind, int rank, int world_size, Draw& draw);
  ForgedGroup(const ForgedGroup&) = delete;
  ForgedGroup& operator=(const ForgedGroup&) = delete;
  ~ForgedGroup();

  Group& group() noexcept { return group_; }
  /// In calls of combine to come peers may return these rows, which are all that the rank expects;
  /// `local_experts` is localE of each rank.
  void offer_returns(std::vector<window::ReturnEntry> places,
                     std::vector<std::int64_t> local_experts) {
    places_ = std::move(places);
    local_experts_ = std::move(local_experts);
  }

 private:
  void on_phase(Phase phase);
  void post_words();
  void publish();
  void change_header(window::CallHeader& header,
                     window::Refusal& refusal,
                     std::int64_t window_bytes);
  void change_half(ForgedPeer& peer, std::size_t half);
  void write_returns(int member, bool all, window::CallHeader& header, std::byte* half);
  std::int64_t value_near(std::int64_t old);

  Draw& draw_;
  Group& group_;
  const int rank_;
  std::vector<window::ReturnEntry> places_;
  std::vector<std::int64_t> local_experts_;
  std::vector<std::shared_ptr<ForgedPeer>> peers_;  ///< none at this rank's place
};

}  // namespace waybill::fuzz
