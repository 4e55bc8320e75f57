// What each function of Board stores, who hears of it, and what a replay makes of it.
#include "window/board.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "window/page_reads.h"
#include "window/texts.h"

namespace waybill::window {
namespace {

constexpr std::byte kFill{0x5a};
constexpr std::uint32_t kAttempt = 3;

/// A page in which no word has a value that a board stores.
std::unique_ptr<ControlPage> filled_page() {
  auto page = std::make_unique<ControlPage>();
  std::fill_n(reinterpret_cast<std::byte*>(page.get()), sizeof(ControlPage), kFill);
  return page;
}

std::size_t bytes_of(WordName word) {
  return word == WordName::kMembers ? sizeof(ResetPosts::members) : sizeof(Stamp);
}

std::vector<std::byte> read_bytes(const ControlPage& page, std::size_t offset, std::size_t bytes) {
  std::vector<std::byte> copy(bytes);
  std::memcpy(copy.data(), reinterpret_cast<const std::byte*>(&page) + offset, bytes);
  return copy;
}

std::vector<std::byte> read_word(const ControlPage& page, WordName word) {
  return read_bytes(page, row_of(word).offset, bytes_of(word));
}

bool was_stored(const ControlPage& page, WordName word) {
  return read_word(page, word) != std::vector<std::byte>(bytes_of(word), kFill);
}

CallHeader header_of_call(std::uint32_t call) {
  CallHeader header;
  header.stamp = stamp(2, call);
  header.bs = 7;
  return header;
}

ResetList list_of_three() {
  ResetList list;
  for (const int rank : {0, 65, kMaxRanks - 1}) {
    list.add(rank);
  }
  list.call = 11;
  list.incarnations = 12345;
  return list;
}

struct Verb {
  Step step;
  std::function<void(Board&)> run;
  std::vector<WordName> told;  ///< in this order
};

std::vector<Verb> verbs() {
  return {
      {Step::kSignal,
       [](Board& board) { board.signal(header_of_call(5)); },
       {WordName::kSignalled}},
      {Step::kSignal,
       [](Board& board) {
         CallHeader header = header_of_call(6);
         header.refused = kRefusedArguments;
         board.say(half_of_call(header.stamp), "x", "expected better");
         board.signal(header);
       },
       {WordName::kSignalled}},
      {Step::kEndReading, [](Board& board) { board.end_reading(stamp(2, 5)); }, {WordName::kDone}},
      {Step::kLeave,
       [](Board& board) { board.leave(stamp(2, 5), "its memory is gone"); },
       {WordName::kLeft}},
      {Step::kForgoSetup, [](Board& board) { board.forgo_setup(2); }, {WordName::kLeft}},
      {Step::kRelease, [](Board& board) { board.release(); }, {WordName::kReleased}},
      {Step::kJoin,
       [](Board& board) { board.join(kAttempt, 9); },
       {WordName::kResetCall, WordName::kJoined}},
      {Step::kClose,
       [](Board& board) { board.close(kAttempt, list_of_three()); },
       {WordName::kList}},
      {Step::kAccept,
       [](Board& board) { board.accept(kAttempt, 1); },
       {WordName::kAccepted, WordName::kJoined}},
      {Step::kBeginEpoch,
       [](Board& board) { board.begin_epoch(kAttempt, stamp(kAttempt + 1, 11)); },
       {WordName::kSignalled, WordName::kDone, WordName::kJoined}},
      {Step::kGiveUpReset,
       [](Board& board) { board.give_up_reset(kAttempt); },
       {WordName::kJoined}},
      {Step::kSleep, [](Board& board) { board.sleep(2, 1); }, {}},
  };
}

/// Notes what is told of a page, and replays it on another one.
class Follower final : public Board::Listener {
 public:
  Follower(const ControlPage& page, Board& copy) : page_(page), copy_(copy) {}
  void on_post(const Change& change) noexcept override {
    EXPECT_EQ(word_of(page_, change.word).load(), change.value) << "told before it was stored";
    told.push_back(change.word);
    copy_.replay(change);
  }
  std::vector<WordName> told;

 private:
  const ControlPage& page_;
  Board& copy_;
};

TEST(Board, EveryStepStoresTheWordsOfItsRow) {
  std::uint32_t seen = 0;
  for (const Verb& verb : verbs()) {
    const auto& row = kSteps[static_cast<std::size_t>(verb.step)];
    SCOPED_TRACE(row.verb);
    seen |= std::uint32_t{1} << static_cast<std::uint32_t>(verb.step);
    const auto page = filled_page();
    Board board(*page);
    verb.run(board);
    for (const WordRow& word : kWords) {
      if (word.reach != Reach::kPeople) {
        EXPECT_EQ(was_stored(*page, word.name), stores(verb.step, word.name)) << word.text;
      }
    }
  }
  EXPECT_EQ(seen, (std::uint32_t{1} << kSteps.size()) - 1) << "a step has no case here";
}

TEST(Board, TellsOfTheWordsThatTravelInOrder) {
  for (const Verb& verb : verbs()) {
    SCOPED_TRACE(kSteps[static_cast<std::size_t>(verb.step)].verb);
    const auto page = filled_page();
    const auto other = filled_page();
    Board board(*page);
    Board copy(*other);
    Follower follower(*page, copy);
    board.listen(&follower);
    verb.run(board);
    EXPECT_EQ(follower.told, verb.told);
  }
}

TEST(Board, AReplayMakesThePageEqual) {
  for (const Verb& verb : verbs()) {
    SCOPED_TRACE(kSteps[static_cast<std::size_t>(verb.step)].verb);
    const auto page = filled_page();
    const auto other = filled_page();
    Board board(*page);
    Board copy(*other);
    Follower follower(*page, copy);
    board.listen(&follower);
    verb.run(board);
    for (const WordRow& word : kWords) {
      if (word.reach == Reach::kGroup || word.reach == Reach::kBeside) {
        EXPECT_EQ(read_word(*other, word.name), read_word(*page, word.name)) << word.text;
      } else if (word.name != WordName::kCall) {
        EXPECT_FALSE(was_stored(*other, word.name)) << word.text << " is of the owner's host";
      }
    }
    for (const auto& [offset, bytes] :
         {std::pair{offsetof(ControlPage, headers), sizeof(ControlPage::headers)},
          std::pair{offsetof(ControlPage, refusals), sizeof(ControlPage::refusals)},
          std::pair{offsetof(ControlPage, departure), sizeof(ControlPage::departure)}}) {
      EXPECT_EQ(read_bytes(*other, offset, bytes), read_bytes(*page, offset, bytes)) << offset;
    }
  }
}

TEST(Board, AReplayShowsWhichCallItIs) {
  ControlPage page;
  Board board(page);
  const CallHeader header = header_of_call(5);
  board.replay({.word = WordName::kSignalled, .value = header.stamp, .header = &header});
  EXPECT_EQ(page.call.load(), header.stamp);
}

TEST(Board, AReplayDoesNotStoreWhatDoesNotTravel) {
  for (const WordRow& word : kWords) {
    const auto page = filled_page();
    Board board(*page);
    board.replay({.word = word.name, .value = 1});
    EXPECT_EQ(was_stored(*page, word.name), word.reach == Reach::kGroup) << word.text;
  }
}

TEST(Board, WhatIsPublishedCanBeRead) {
  ControlPage page;
  Board board(page);
  board.signal(header_of_call(5));
  CallHeader read;
  ASSERT_TRUE(read_header(page, stamp(2, 5), read));
  EXPECT_EQ(read.bs, 7);
  EXPECT_FALSE(read_header(page, stamp(2, 7), read)) << "of another call in the same half";
  EXPECT_FALSE(read_list(page, kAttempt));
  board.join(kAttempt, 9);
  EXPECT_EQ(accepted_in(page, kAttempt), -1);
  board.close(kAttempt, list_of_three());
  board.accept(kAttempt, 1);
  EXPECT_EQ(read_joined(page).attempt, kAttempt);
  EXPECT_EQ(read_joined(page).stage, ResetStage::kClosed);
  EXPECT_EQ(accepted_in(page, kAttempt), 1);
  EXPECT_EQ(accepted_in(page, kAttempt + 1), -1);
  const auto list = read_list(page, kAttempt);
  ASSERT_TRUE(list);
  EXPECT_EQ(list->members, list_of_three().members);
  EXPECT_EQ(list->call, 11U);
  EXPECT_EQ(list->incarnations, 12345U);
  board.begin_epoch(kAttempt, stamp(kAttempt + 1, 11));
  EXPECT_EQ(concluded_by(page), kAttempt);
  board.join(kAttempt + 1, 11);
  EXPECT_FALSE(read_list(page, kAttempt)) << "its owner may be writing the next one";
  board.leave(stamp(kAttempt + 1, 12), "why not");
  EXPECT_EQ(read_text(page.departure.text), "why not");
}

TEST(Board, ANewProcessIsBeforeEveryEpoch) {
  for (const bool newcomer : {false, true}) {
    ControlPage page;
    Board(page).begin(make_identity("group", "name", 1, 2), newcomer);
    EXPECT_EQ(page.signalled.load(), newcomer ? 0 : stamp(1, 0));
    EXPECT_EQ(page.done.load(), newcomer ? 0 : stamp(1, 0));
    EXPECT_EQ(page.newcomer.load(), newcomer ? 1U : 0U);
    EXPECT_EQ(page.identity.rank, 1);
  }
}

TEST(Board, SleepsAndWakes) {
  ControlPage page;
  Board board(page);
  board.sleep(3, 4);
  EXPECT_EQ(page.asleep.load(), 1U);
  EXPECT_EQ(page.waits_for.load(), std::uint64_t{3} << 32 | 5);
  board.wake();
  EXPECT_EQ(page.asleep.load(), 0U);
  EXPECT_EQ(page.waits_for.load(), 0U);
}

}  // namespace
}  // namespace waybill::window
