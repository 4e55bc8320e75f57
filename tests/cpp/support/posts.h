#pragma once

#include <cstdint>

#include "window/board.h"
#include "window/control.h"
#include "window/words.h"

namespace waybill::testing {

// Words that a test stores on behalf of a rank which does not run, one at a time and in any order.
// They go through Board::replay(), as those of a rank of another host do.

inline void post(window::Board& board, window::WordName word, window::Stamp value) {
  board.replay({.word = word, .value = value});
}

inline void post_joined(window::Board& board, std::uint32_t attempt, window::ResetStage stage) {
  post(board, window::WordName::kJoined, window::stamp(attempt, static_cast<std::uint32_t>(stage)));
}

inline void post_accepted(window::Board& board, std::uint32_t attempt, int closer) {
  post(board,
       window::WordName::kAccepted,
       window::stamp(attempt, static_cast<std::uint32_t>(closer + 1)));
}

inline void post_list(window::Board& board, std::uint32_t attempt, const window::ResetList& list) {
  board.replay(
      {.word = window::WordName::kList, .value = window::stamp(attempt, list.call), .list = &list});
}

/// A call whose rank has published all of it and reads nothing more.
inline void post_call(window::Board& board, const window::CallHeader& header) {
  board.replay({.word = window::WordName::kSignalled, .value = header.stamp, .header = &header});
  post(board, window::WordName::kDone, header.stamp);
}

}  // namespace waybill::testing
