#include "exchange/board.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "base/futex.h"

namespace waybill::bench {
namespace {

constexpr std::chrono::milliseconds kSlice{100};
constexpr std::size_t kPage = 4096;

std::size_t board_bytes() { return (sizeof(Board) + kPage - 1) / kPage * kPage; }

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

}  // namespace

int num_cores() {
  cpu_set_t cores;
  return sched_getaffinity(0, sizeof(cores), &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

SharedBoard::SharedBoard(const Case& sizes,
                         const Effort& effort,
                         std::int64_t arena_bytes,
                         Apart* apart)
    : apart_(apart), shared_(apart == nullptr || apart->places().one_machine()) {
  file_ = memfd_create("waybill-bench", 0);
  const std::size_t bytes = board_bytes() + static_cast<std::size_t>(arena_bytes);
  if (file_ < 0 || fallocate(file_, 0, 0, static_cast<off_t>(bytes)) != 0) {
    die("waybill-bench: memory");
  }
  map(bytes);
  new (board_) Board();
  board_->sizes = sizes;
  board_->effort = effort;
  board_->cores = num_cores();
  crowded_ = sizes.ranks > board_->cores;
}

SharedBoard::SharedBoard(const std::string& path, Apart* apart) : apart_(apart) {
  file_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
  const off_t bytes = file_ < 0 ? -1 : lseek(file_, 0, SEEK_END);
  if (bytes <= 0) {
    die("waybill-bench: board");
  }
  map(static_cast<std::size_t>(bytes));
  crowded_ = board_->sizes.ranks > board_->cores;
}

SharedBoard::~SharedBoard() {
  munmap(board_, bytes_);
  close(file_);
}

void SharedBoard::map(std::size_t bytes) {
  bytes_ = bytes;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
  if (memory == MAP_FAILED) {
    die("waybill-bench: mmap");
  }
  board_ = static_cast<Board*>(memory);
}

std::byte* SharedBoard::arena() const noexcept {
  return reinterpret_cast<std::byte*>(board_) + board_bytes();
}

std::string SharedBoard::path() const {
  return "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file_);
}

void SharedBoard::barrier(Patience patience) const {
  if (!is_shared()) {
    apart_->barrier(patience);
    return;
  }
  Board& board = *board_;
  const std::uint64_t turn = board.turn.load(std::memory_order_acquire);
  if (board.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 ==
      static_cast<std::uint32_t>(board.sizes.ranks)) {
    board.arrived.store(0, std::memory_order_relaxed);
    board.turn.store(turn + 1, std::memory_order_release);
    futex_wake_all(board.turn);
    return;
  }
  while (board.turn.load(std::memory_order_acquire) == turn) {
    if (board.failed.load(std::memory_order_relaxed) != 0) {
      std::_Exit(1);
    }
    if (!crowded_) {
      continue;
    }
    if (patience == Patience::kAwake) {
      sched_yield();
    } else {
      futex_wait(board.turn, static_cast<std::uint32_t>(turn), kSlice);
    }
  }
}

void SharedBoard::share_stamps(int rank) const {
  if (is_shared()) {
    return;
  }
  auto& stamps = board_->stamps;
  const auto* own = reinterpret_cast<const char*>(&stamps[static_cast<std::size_t>(rank)]);
  const auto all = apart_->all_gather(std::string(own, sizeof(Board::Stamps)));
  for (std::size_t r = 0; r < all.size(); ++r) {
    std::memcpy(&stamps[r], all[r].data(), sizeof(Board::Stamps));
  }
}

void SharedBoard::share_go_on() const {
  if (is_shared()) {
    barrier(Patience::kAsleep);
    return;
  }
  const bool own = board_->go_on.load(std::memory_order_relaxed) != 0;
  const auto all = apart_->all_gather(own ? "1" : "0");
  board_->go_on.store(all.front() == "1" ? 1 : 0, std::memory_order_relaxed);
}

void SharedBoard::fail(const std::string& why) const {
  std::fprintf(stderr, "waybill-bench: %s\n", why.c_str());
  board_->failed = 1;
  if (apart_ != nullptr) {
    apart_->fail();
  }
  std::_Exit(1);
}

}  // namespace waybill::bench
