#include "forged_group.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <new>
#include <utility>

#include "contract/agreement.h"
#include "engine/group_access.h"
#include "numerics/kernels.h"
#include "window/memory_budget.h"

namespace waybill::fuzz {
namespace {

using window::CallHeader;
using window::ControlPage;
using window::Window;

constexpr std::int64_t kOwnWindowBytes = std::int64_t{4} << 20;
constexpr std::align_val_t kLine{64};
constexpr std::int64_t kReturnBytes = 1024;  ///< lists that a peer returns are shorter

class ForgedTransport final : public transport::Transport {
 public:
  ForgedTransport(const Window& own, std::vector<std::shared_ptr<ForgedPeer>> peers)
      : forged_(std::move(peers)) {
    for (const auto& peer : forged_) {
      peers_.push_back(peer == nullptr
                           ? transport::own_memory(own, kOwnWindowBytes)
                           : transport::PeerMemory{peer->control.get(),
                                                   {peer->halves[0].get(), peer->halves[1].get()},
                                                   peer->pool.get(),
                                                   peer->window_bytes});
    }
  }
  bool has_ended(int) noexcept override { return false; }

 private:
  std::vector<std::shared_ptr<ForgedPeer>> forged_;
};

bool is_combine(const CallHeader& header) {
  const auto op = static_cast<contract::Operator>(header.agreement[contract::Agreed::kOperator]);
  return op == contract::Operator::kCombineV2 || op == contract::Operator::kCombine ||
         op == contract::Operator::kCombineAddRmsNorm || op == contract::Operator::kCombineSetup;
}

/// Kept from input to input: memory files are slow to make.
struct Real {
  std::shared_ptr<Window> window;
  std::unique_ptr<Group> group;
};

Real& real(ForgedGroup::Kind kind) {
  static std::array<Real, 2>* const all = new std::array<Real, 2>;
  Real& one = (*all)[static_cast<std::size_t>(kind)];
  if (one.group == nullptr) {
    auto groups = Group::local(1, {.threads = 1, .window_bytes = kOwnWindowBytes});
    auto window = Window::create(kOwnWindowBytes, window::MemoryBudget::process());
    expect(groups.ok() && window.ok(), "memory for a window");
    one.group = std::make_unique<Group>(std::move(groups->front()));
    one.window = std::move(*window);
  }
  return one;
}

}  // namespace

void ForgedPeer::Free::operator()(std::byte* block) const noexcept {
  ::operator delete[](block, kLine);
}

ForgedPeer::ForgedPeer(std::int64_t bytes)
    : control(std::make_unique<ControlPage>()), window_bytes(bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  for (Block* block : {&halves[0], &halves[1], &pool}) {
    block->reset(static_cast<std::byte*>(::operator new[](size, kLine)));
    std::memset(block->get(), 0, size);
  }
  std::memset(pool.get(), 0x3c, size);
}

ForgedGroup::ForgedGroup(Kind kind, int rank, int world_size, Draw& draw)
    : draw_(draw), group_(*real(kind).group), rank_(rank) {
  for (int r = 0; r < world_size; ++r) {
    const std::int64_t lines = draw.flag() ? std::int64_t{1} << draw.in(0, 10) : draw.in(0, 80);
    peers_.push_back(r == rank ? nullptr : std::make_shared<ForgedPeer>(64 * lines));
  }
  const auto& window = real(kind).window;
  new (window->control_region.data()) ControlPage();
  window->board.begin({}, false);
  engine::SessionOptions options;
  options.timeout = std::chrono::milliseconds(1);
  const auto level = static_cast<SimdLevel>(draw.in(0, 2));
  options.kernels =
      numerics::is_supported(level) ? numerics::kernels(level) : numerics::best_kernels();
  options.on_phase = [this](Phase phase) { on_phase(phase); };
  options.strict = draw.strict();
  // A group takes no transport from outside: its session is replaced where it lies.
  engine::Session& session = engine::session_of(group_);
  session.~Session();
  new (&session)
      engine::Session(std::make_unique<ForgedTransport>(*window, peers_), window, rank, options);
  post_words();
}

ForgedGroup::~ForgedGroup() { group_.close(std::chrono::milliseconds(1)); }

void ForgedGroup::on_phase(Phase phase) {
  if (phase == Phase::kWaitHalf) {
    post_words();
  } else if (phase == Phase::kWaitSignals) {
    post_words();
    publish();
  }
}

void ForgedGroup::post_words() {
  const window::Stamp now = window::stamp(1, engine::session_of(group_).standing().number());
  for (const auto& peer : peers_) {
    if (peer != nullptr) {
      peer->control->signalled.store(now);
      peer->control->done.store(now);
    }
  }
}

void ForgedGroup::publish() {
  const std::size_t half = engine::session_of(group_).standing().number() % 2;
  const CallHeader& own = engine::session_of(group_).page().headers[half];
  const std::byte* own_half = engine::session_of(group_).window().halves[half].data();
  const bool returning = !places_.empty() && is_combine(own) && draw_.flag();
  const int returner = static_cast<int>(draw_.index(peers_.size()));
  for (int member = 0; member < static_cast<int>(peers_.size()); ++member) {
    const auto& peer = peers_[static_cast<std::size_t>(member)];
    if (peer == nullptr) {
      continue;
    }
    CallHeader& header = peer->control->headers[half];
    std::memcpy(&header, &own, sizeof(header));
    std::byte* bytes = peer->halves[half].get();
    const auto size = static_cast<std::size_t>(peer->window_bytes);
    if (returning && peer->window_bytes >= kReturnBytes) {
      write_returns(member, member == returner, header, bytes);
    } else if (draw_.flag()) {
      std::memcpy(bytes, own_half, std::min(size, static_cast<std::size_t>(window::kGranule)));
    } else {
      std::memset(bytes, 0, size);
      header.num_entries = header.num_rows = header.num_active = 0;
    }
    change_header(header, peer->control->refusals[half], peer->window_bytes);
    change_half(*peer, half);
    if (draw_.seldom()) {
      window::Word* words[] = {&peer->control->left,
                               &peer->control->signalled,
                               &peer->control->done,
                               &peer->control->asleep,
                               &peer->control->reset.joined};
      words[draw_.index(std::size(words))]->store(static_cast<window::Stamp>(
          draw_.flag() ? draw_.any() : static_cast<std::int64_t>(header.stamp)));
    }
  }
}

/// What a combine publishes: `all` places in a list, or as many rows from each expert for each rank
/// that any occurrence is among them.
void ForgedGroup::write_returns(int member, bool all, CallHeader& header, std::byte* half) {
  constexpr std::int32_t kRowsEach = 3;
  const std::int64_t form = header.agreement[contract::Agreed::kForm];
  const auto num_ranks = static_cast<std::int64_t>(peers_.size());
  const std::int64_t cells = num_ranks * local_experts_[static_cast<std::size_t>(member)];
  const bool listed = form != contract::kFormOccurrences;
  const std::int64_t rows = !listed ? kRowsEach * cells
                            : all   ? static_cast<std::int64_t>(places_.size())
                                    : 0;
  header.num_entries = header.num_rows = rows;
  const auto layout =
      window::CombineLayout::of({.num_ranks = num_ranks,
                                 .num_entries = listed ? rows : 0,
                                 .num_counts = form == contract::kFormTriples ? 0 : cells,
                                 .copied_rows = 0,
                                 .row_bytes = 0,
                                 .scales_bytes = 0});
  if (layout.end > kReturnBytes) {
    return;
  }
  auto* offsets = reinterpret_cast<std::int32_t*>(half + layout.owner_offsets.offset);
  for (std::int64_t r = 0; r <= num_ranks; ++r) {
    offsets[r] = r > rank_ ? static_cast<std::int32_t>(rows) : 0;
  }
  if (listed && all) {
    auto* entries = reinterpret_cast<window::ReturnEntry*>(half + layout.entries.offset);
    std::copy(places_.begin(), places_.end(), entries);
    window::ReturnEntry& changed = entries[draw_.index(places_.size())];
    std::int32_t* const fields[] = {&changed.row, &changed.token, &changed.slot};
    if (draw_.flag()) {
      *fields[draw_.index(std::size(fields))] = static_cast<std::int32_t>(draw_.any());
    }
  }
  header.in_pool = draw_.flag() ? 1 : 0;
  header.pool_offset = draw_.flag() ? draw_.in(0, kReturnBytes) : draw_.any();
  auto* counts = reinterpret_cast<std::int32_t*>(half + layout.counts.offset);
  for (std::int64_t i = 0; i < layout.counts.bytes / 4; ++i) {
    counts[i] = kRowsEach * static_cast<std::int32_t>(i + 1);
  }
}

std::int64_t ForgedGroup::value_near(std::int64_t old) {
  switch (draw_.in(0, 2)) {
    case 0:
      return static_cast<std::int64_t>(static_cast<std::uint64_t>(old) +
                                       static_cast<std::uint64_t>(draw_.in(-2, 2)));
    case 1:
      return draw_.in(0, 20);
    default:
      return draw_.any();
  }
}

void ForgedGroup::change_header(CallHeader& header,
                                window::Refusal& refusal,
                                std::int64_t window_bytes) {
  std::int64_t* const numbers[] = {
      &header.bs, &header.num_entries, &header.num_active, &header.num_rows, &header.pool_offset};
  std::uint32_t* const flags[] = {
      &header.weighted, &header.exceeds_share, &header.in_pool, &header.refused};
  for (std::int64_t left = draw_.in(0, 4); left > 0; --left) {
    switch (draw_.in(0, 7)) {
      case 0:
      case 1: {
        std::int64_t& number = *numbers[draw_.index(std::size(numbers))];
        number = value_near(number);
        break;
      }
      case 2:
        header.num_entries = header.num_rows = draw_.in(0, 12);
        break;
      case 3:
        std::swap(header.num_entries, header.num_rows);
        break;
      case 4:
        *flags[draw_.index(std::size(flags))] = static_cast<std::uint32_t>(draw_.in(0, 3));
        break;
      case 5:
        header.in_pool = 1;
        header.pool_offset = draw_.flag() ? draw_.in(0, window_bytes) : draw_.any();
        break;
      case 6: {
        std::int64_t& value = header.agreement.values[draw_.index(header.agreement.values.size())];
        value = value_near(value);
        break;
      }
      default:
        std::memset(refusal.text.data(), static_cast<int>(draw_.in(0, 255)), refusal.text.size());
        std::memset(refusal.argument.data(), 'x', refusal.argument.size());
        header.stamp += draw_.seldom() ? 1 : 0;
    }
  }
}

void ForgedGroup::change_half(ForgedPeer& peer, std::size_t half) {
  const std::int64_t words = peer.window_bytes / 4;
  if (words == 0) {
    return;
  }
  std::byte* bytes = peer.halves[half].get();
  for (std::int64_t left = draw_.in(0, 6); left > 0; --left) {
    // Lists are short and begin at the start of a line.
    const std::int64_t line = draw_.in(0, std::min<std::int64_t>(words / 16 - 1, 15)) * 16;
    const std::int64_t word = draw_.flag() ? line + draw_.in(0, 15) : draw_.in(0, words - 1);
    const auto value = static_cast<std::int32_t>(draw_.flag() ? draw_.in(-1, 20) : draw_.any());
    std::memcpy(bytes + word * 4, &value, sizeof(value));
  }
  if (draw_.seldom()) {
    // A run of a list moves as a whole.
    const std::int64_t begin = draw_.in(0, std::min<std::int64_t>(words - 1, 63));
    const std::int64_t end = std::min(words, begin + draw_.in(1, 8));
    const auto step = static_cast<std::uint32_t>(draw_.any());
    for (std::int64_t word = begin; word < end; ++word) {
      std::uint32_t value = 0;
      std::memcpy(&value, bytes + word * 4, sizeof(value));
      value += step;
      std::memcpy(bytes + word * 4, &value, sizeof(value));
    }
  }
  const std::vector<std::uint8_t> raw = draw_.bytes(static_cast<std::size_t>(draw_.in(0, 64)));
  const auto length = std::min(static_cast<std::int64_t>(raw.size()), peer.window_bytes);
  std::copy_n(reinterpret_cast<const std::byte*>(raw.data()), length, bytes);
}

}  // namespace waybill::fuzz
