#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "window/control.h"
#include "window/words.h"

namespace waybill::window {

/// The words of a control page, by name.
enum class WordName : std::uint32_t {
  kSignalled,
  kDone,
  kLeft,
  kReleased,
  kJoined,
  kResetCall,
  kList,
  kAccepted,
  kIncarnations,
  kMembers,
  kAsleep,
  kNewcomer,
  kMirrors,
  kCall,
  kWaitsFor,
  kPhase,
  kPhaseSince,
};

/// How far the news of a store goes.
enum class Reach {
  kGroup,   ///< ranks of every host act on the word: a store is told to the other hosts
  kBeside,  ///< the same, but it is told with the word that announces it
  kHost,    ///< only ranks of the same host act on it
  kPeople,  ///< no rank acts on it: it is for debuggers and for `waybill doctor`
};

struct WordRow {
  WordName name;
  const char* text;    ///< its name in ControlPage or ResetPosts
  std::size_t offset;  ///< in ControlPage
  Reach reach;
};

/// What every word is, in the order of WordName. A word that ranks of other hosts act on travels
/// because of its row here; tools/model_names.py holds the rows against the models.
inline constexpr std::array kWords{
    WordRow{WordName::kSignalled, "signalled", offsetof(ControlPage, signalled), Reach::kGroup},
    WordRow{WordName::kDone, "done", offsetof(ControlPage, done), Reach::kGroup},
    WordRow{WordName::kLeft, "left", offsetof(ControlPage, left), Reach::kGroup},
    WordRow{WordName::kReleased, "released", offsetof(ControlPage, released), Reach::kGroup},
    WordRow{WordName::kJoined, "joined", kResetPosts + offsetof(ResetPosts, joined), Reach::kGroup},
    WordRow{WordName::kResetCall, "call", kResetPosts + offsetof(ResetPosts, call), Reach::kGroup},
    WordRow{WordName::kList, "list", kResetPosts + offsetof(ResetPosts, list), Reach::kGroup},
    WordRow{WordName::kAccepted,
            "accepted",
            kResetPosts + offsetof(ResetPosts, accepted),
            Reach::kGroup},
    WordRow{WordName::kIncarnations,
            "incarnations",
            kResetPosts + offsetof(ResetPosts, incarnations),
            Reach::kBeside},
    WordRow{
        WordName::kMembers, "members", kResetPosts + offsetof(ResetPosts, members), Reach::kBeside},
    WordRow{WordName::kAsleep, "asleep", offsetof(ControlPage, asleep), Reach::kHost},
    WordRow{WordName::kNewcomer, "newcomer", offsetof(ControlPage, newcomer), Reach::kHost},
    WordRow{WordName::kMirrors, "mirrors", offsetof(ControlPage, mirrors), Reach::kHost},
    WordRow{WordName::kCall, "call", offsetof(ControlPage, call), Reach::kPeople},
    WordRow{WordName::kWaitsFor, "waits_for", offsetof(ControlPage, waits_for), Reach::kPeople},
    WordRow{WordName::kPhase, "phase", offsetof(ControlPage, phase), Reach::kPeople},
    WordRow{
        WordName::kPhaseSince, "phase_since", offsetof(ControlPage, phase_since), Reach::kPeople},
};

constexpr const WordRow& row_of(WordName name) noexcept {
  return kWords[static_cast<std::size_t>(name)];
}

/// The word `name`, one that is told to other hosts, of `page`.
inline const Word& word_of(const ControlPage& page, WordName name) noexcept {
  return *reinterpret_cast<const Word*>(reinterpret_cast<const std::byte*>(&page) +
                                        row_of(name).offset);
}

/// True for the words that ranks sleep on. A store into another one wakes them to look around.
constexpr bool is_slept_on(WordName name) noexcept {
  return name == WordName::kSignalled || name == WordName::kDone;
}

/// The steps of the protocol that store words, each a function of Board.
enum class Step : std::uint32_t {
  kSignal,
  kEndReading,
  kLeave,
  kForgoSetup,
  kRelease,
  kJoin,
  kClose,
  kAccept,
  kBeginEpoch,
  kGiveUpReset,
  kSleep,
};

constexpr std::uint32_t bit(WordName name) noexcept {
  return std::uint32_t{1} << static_cast<std::uint32_t>(name);
}

struct StepRow {
  Step step;
  const char* verb;     ///< the function of Board
  std::uint32_t words;  ///< a bit for each that it stores
};

/// What every step stores, in the order of Step. The models name the steps and the words;
/// tools/model_names.py compares.
inline constexpr std::array kSteps{
    StepRow{Step::kSignal, "signal", bit(WordName::kSignalled)},
    StepRow{Step::kEndReading, "end_reading", bit(WordName::kDone)},
    StepRow{Step::kLeave, "leave", bit(WordName::kLeft)},
    StepRow{Step::kForgoSetup, "forgo_setup", bit(WordName::kLeft)},
    StepRow{Step::kRelease, "release", bit(WordName::kReleased)},
    StepRow{Step::kJoin, "join", bit(WordName::kResetCall) | bit(WordName::kJoined)},
    StepRow{Step::kClose,
            "close",
            bit(WordName::kMembers) | bit(WordName::kIncarnations) | bit(WordName::kList)},
    StepRow{Step::kAccept, "accept", bit(WordName::kAccepted) | bit(WordName::kJoined)},
    StepRow{Step::kBeginEpoch,
            "begin_epoch",
            bit(WordName::kNewcomer) | bit(WordName::kSignalled) | bit(WordName::kDone) |
                bit(WordName::kJoined)},
    StepRow{Step::kGiveUpReset, "give_up_reset", bit(WordName::kJoined)},
    StepRow{Step::kSleep, "sleep", bit(WordName::kAsleep)},
};

constexpr bool stores(Step step, WordName name) noexcept {
  return (kSteps[static_cast<std::size_t>(step)].words & bit(name)) != 0;
}

/// A store into a word that ranks of other hosts act on, with what it announces. The pointers hold
/// as long as the listener is called.
struct Change {
  WordName word{};
  Stamp value = 0;
  const CallHeader* header = nullptr;  ///< of `signalled`, where a call was signalled
  const Refusal* text = nullptr;    ///< of `signalled`: what the header refers to; of `left`: why
  const ResetList* list = nullptr;  ///< of `list`
};

/// Writes one control page, and nothing else does. A rank has a board of its own page; of each rank
/// of another host its transport has one for the copy of that page, and replays there what the
/// owner did. Owner: the Window, or the transport. One thread at a time.
class Board {
 public:
  /// Hears of every store into a word of Reach::kGroup, after it.
  class Listener {
   public:
    virtual void on_post(const Change& change) noexcept = 0;

   protected:
    ~Listener() = default;
  };

  explicit Board(ControlPage& page) noexcept : page_(&page) {}
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  /// From now on `listener` hears of stores; null: nobody does.
  void listen(Listener* listener) noexcept { listener_ = listener; }
  const ControlPage& page() const noexcept { return *page_; }

  /// Before anybody reads the page: a group begins at (epoch 1, call 0), a process that comes back
  /// before every epoch.
  void begin(const Identity& identity, bool newcomer) noexcept;
  /// Says that the table of MirrorSlot lies at `offset` of this rank's pool.
  void publish_mirrors(std::int64_t offset) noexcept;

  /// The text beside the header of a half: why it is refused, or what limits its rows. Before
  /// signal().
  void say(std::size_t half, std::string_view argument, std::string_view text) noexcept;
  /// Publishes the header of its call, then `signalled`. All that it describes is there already.
  void signal(const CallHeader& header) noexcept;
  void end_reading(Stamp call) noexcept;
  /// The owner makes no call of the epoch from `from` on: `why` is there before the word.
  void leave(Stamp from, std::string_view why) noexcept;
  /// The rows of a setup that is open in `epoch` go without its teardown.
  void forgo_setup(std::uint32_t epoch) noexcept;
  void release() noexcept;

  /// `last_call`: number of the owner's last call.
  void join(std::uint32_t attempt, std::uint32_t last_call) noexcept;
  void close(std::uint32_t attempt, const ResetList& list) noexcept;
  void accept(std::uint32_t attempt, int closer) noexcept;
  /// The list of `attempt` held: its epoch begins at `start`.
  void begin_epoch(std::uint32_t attempt, Stamp start) noexcept;
  void give_up_reset(std::uint32_t attempt) noexcept;

  /// The owner goes to sleep on a word of rank `first`, one of `missing`. After it the owner looks
  /// at the word once more.
  void sleep(std::size_t missing, int first) noexcept;
  void wake() noexcept;

  /// For people.
  void begin_call(Stamp call) noexcept;
  void enter(std::uint64_t phase, std::chrono::nanoseconds since) noexcept;

  /// Makes the change that the owner of the page made on its own host.
  void replay(const Change& change) noexcept;

 private:
  template <Step kStep, WordName kName>
  void store(Stamp value) noexcept;
  template <Step kStep, WordName kName>
  void post(Change change) noexcept;
  void write_header(const CallHeader& header) noexcept;
  void write_list(const ResetList& list) noexcept;
  Word& word(WordName name) noexcept { return const_cast<Word&>(word_of(*page_, name)); }
  void tell(const Change& change) noexcept {
    if (listener_ != nullptr) {
      listener_->on_post(change);
    }
  }

  ControlPage* page_;
  Listener* listener_ = nullptr;
};

}  // namespace waybill::window
