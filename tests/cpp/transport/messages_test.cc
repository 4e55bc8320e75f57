// Changes of a control page as messages: nothing is lost, and what no rank sends is dropped.
#include "transport/messages.h"

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "window/texts.h"

namespace waybill::transport {
namespace {

using window::CallHeader;
using window::Change;
using window::Refusal;
using window::ResetList;
using window::WordName;

/// One of everything that a change can announce.
struct Told {
  Told() {
    header.stamp = window::stamp(2, 5);
    header.refused = window::kRefusedArguments;
    window::copy_text(text.argument, "x");
    window::copy_text(text.text, "expected better");
    list.add(3);
    list.call = 11;
    list.incarnations = 12345;
  }
  CallHeader header;
  Refusal text;
  ResetList list;
};

std::vector<Change> changes(const Told& told) {
  const window::Stamp call = told.header.stamp;
  return {
      {.word = WordName::kSignalled, .value = call, .header = &told.header},
      {.word = WordName::kSignalled, .value = call, .header = &told.header, .text = &told.text},
      {.word = WordName::kSignalled, .value = call},
      {.word = WordName::kDone, .value = call},
      {.word = WordName::kLeft, .value = call, .text = &told.text},
      {.word = WordName::kLeft, .value = call},
      {.word = WordName::kReleased, .value = 1},
      {.word = WordName::kJoined, .value = window::stamp(3, 1)},
      {.word = WordName::kResetCall, .value = 11},
      {.word = WordName::kList, .value = window::stamp(3, 11), .list = &told.list},
      {.word = WordName::kAccepted, .value = window::stamp(3, 2)},
  };
}

template <typename T>
void expect_same(const T* got, const T* wanted) {
  ASSERT_EQ(got != nullptr, wanted != nullptr);
  if (wanted != nullptr) {
    EXPECT_EQ(std::memcmp(got, wanted, sizeof(T)), 0);
  }
}

TEST(ChangeMessages, SayWhatWasTold) {
  const Told told;
  std::uint32_t words = 0;
  for (const Change& change : changes(told)) {
    SCOPED_TRACE(window::row_of(change.word).text);
    words |= window::bit(change.word);
    ChangeBytes room;
    const ChangeMessage message = encode(change, room);
    ChangeBody body;
    const std::optional<Change> heard = decode(message.head, message.body, body);
    ASSERT_TRUE(heard);
    EXPECT_EQ(heard->word, change.word);
    EXPECT_EQ(heard->value, change.value);
    expect_same(heard->header, change.header);
    expect_same(heard->text, change.text);
    expect_same(heard->list, change.list);
  }
  for (const window::WordRow& row : window::kWords) {
    EXPECT_EQ((words & window::bit(row.name)) != 0, row.reach == window::Reach::kGroup)
        << row.text << " has no case here";
  }
}

TEST(ChangeMessages, OfAnotherSizeAreNone) {
  const Told told;
  for (const Change& change : changes(told)) {
    SCOPED_TRACE(window::row_of(change.word).text);
    ChangeBytes room{};
    const ChangeMessage message = encode(change, room);
    ChangeBody body;
    std::vector<std::byte> longer(message.body.begin(), message.body.end());
    longer.push_back(std::byte{1});
    EXPECT_FALSE(decode(message.head, longer, body));
    if (!message.body.empty()) {
      EXPECT_FALSE(decode(message.head, message.body.first(message.body.size() - 1), body));
    }
  }
  ChangeBody body;
  MessageHead list{.kind = MessageKind::kChange};
  list.at = static_cast<std::int64_t>(WordName::kList);
  EXPECT_FALSE(decode(list, {}, body)) << "a list without its members";
}

TEST(ChangeMessages, OfWordsThatDoNotTravelAreNone) {
  MessageHead head{.kind = MessageKind::kChange};
  ChangeBody body;
  for (std::int64_t word = -1; word <= static_cast<std::int64_t>(window::kWords.size()); ++word) {
    const bool is_word = word >= 0 && word < static_cast<std::int64_t>(window::kWords.size());
    if (is_word && window::row_of(static_cast<WordName>(word)).reach == window::Reach::kGroup) {
      continue;
    }
    head.at = word;
    EXPECT_FALSE(decode(head, {}, body)) << word;
  }
}

}  // namespace
}  // namespace waybill::transport
