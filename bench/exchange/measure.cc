#include "exchange/measure.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <fstream>
#include <functional>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>

#include "exchange/records.h"

namespace waybill::bench {
namespace {

std::int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);  // the same clock in all processes
  return std::int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
}

/// What a network device of this host has sent.
class Counter {
 public:
  explicit Counter(const std::string& device)
      : path_(device.empty() ? "" : "/sys/class/net/" + device + "/statistics/tx_bytes") {
    if (counts() && !std::ifstream(path_)) {
      throw std::runtime_error("--device: cannot read " + path_);
    }
  }

  bool counts() const { return !path_.empty(); }

  std::int64_t read() const {
    std::int64_t bytes = 0;
    if (counts()) {
      std::ifstream(path_) >> bytes;
    }
    return bytes;
  }

 private:
  const std::string path_;
};

/// A core for each rank, or an equal share of the cores; with more ranks than cores they take
/// turns.
void pin(int rank, int ranks, bool use_more) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return;
  }
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) {
      cores.push_back(core);
    }
  }
  const auto count = static_cast<int>(cores.size());
  const int share = use_more ? std::max(count / ranks, 1) : 1;
  cpu_set_t own;
  CPU_ZERO(&own);
  for (int i = 0; i < share; ++i) {
    CPU_SET(cores[static_cast<std::size_t>((rank * share + i) % count)], &own);
  }
  sched_setaffinity(0, sizeof(own), &own);
}

class Rounds {
 public:
  Rounds(const SharedBoard& board, int rank, Groups& groups)
      : board_(board),
        rank_(rank),
        workload_(board, rank),
        methods_(make_methods(workload_, groups, split(board->effort.methods.str(), ','))),
        records_(methods_.size()),
        counter_(counts_for_host() ? board->effort.device.str() : "") {}

  void run() {
    const Effort& effort = board_->effort;
    for (int i = 0; i < effort.warm_up; ++i) {
      round(i, false);
    }
    const std::int64_t end = now_ns() + static_cast<std::int64_t>(effort.seconds * 1e9);
    for (int i = 0; board_->go_on.load(std::memory_order_acquire) != 0; ++i) {
      round(i, true);
      if (rank_ == 0 && i + 1 >= effort.least_rounds &&
          (now_ns() > end || i + 1 >= effort.most_rounds)) {
        board_->go_on.store(0, std::memory_order_release);
      }
      board_.share_go_on();
    }
    if (rank_ == 0) {
      leave_report();
    }
    board_.barrier(Patience::kAsleep);
  }

 private:
  /// Every method once, in another order each time: what ran before decides what the caches hold.
  void round(int number, bool counts) {
    std::vector<std::size_t> order(methods_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::mt19937 random(static_cast<unsigned>(number));  // the same on all ranks
    std::shuffle(order.begin(), order.end(), random);
    for (const std::size_t m : order) {
      Method& method = *methods_[m];
      const bool all = !counts && number == 0;
      workload_.read_weights();
      workload_.layer_before();
      time(method, [&] { method.dispatch(); }, counts ? &records_[m].dispatch : nullptr);
      expect(method.check_dispatch(all));
      if (method.has_combine()) {
        workload_.read_weights();
        method.experts();
        time(method, [&] { method.combine(); }, counts ? &records_[m].combine : nullptr);
        expect(method.check_combine(all));
      }
      method.drop();
    }
  }

  void expect(const std::string& wrong) const {
    if (!wrong.empty()) {
      board_.fail(wrong + " (rank " + std::to_string(rank_) + ")");
    }
  }

  template <typename Step>
  void time(Method& method, Step step, Samples* samples) {
    Board::Stamps& own = board_->stamps[static_cast<std::size_t>(rank_)];
    board_.barrier(Patience::kAsleep);
    const std::int64_t sent = counter_.read();
    board_.barrier(Patience::kAwake);
    own.begin_ns = method.takes_part() ? now_ns() : 0;
    if (method.takes_part()) {
      step();
    }
    own.end_ns = method.takes_part() ? now_ns() : 0;
    if (method.takes_part()) {
      method.settle();
    }
    board_.barrier(Patience::kAsleep);
    own.link_bytes = counter_.read() - sent;
    board_.share_stamps(rank_);
    if (counts_link()) {
      board_.barrier(Patience::kAsleep);
    }
    if (rank_ == 0 && samples != nullptr) {
      collect(*samples);
    }
  }

  void collect(Samples& samples) const {
    if (!board_.is_shared()) {
      collect_durations(samples);
      return;
    }
    std::int64_t begin = INT64_MAX;
    std::int64_t end = 0;
    int slowest = 0;
    for (int r = 0; r < board_->sizes.ranks; ++r) {
      const Board::Stamps& stamps = board_->stamps[static_cast<std::size_t>(r)];
      if (stamps.begin_ns == 0) {
        continue;
      }
      begin = std::min(begin, stamps.begin_ns);
      if (stamps.end_ns > end) {
        end = stamps.end_ns;
        slowest = r;
      }
    }
    samples.us.push_back(static_cast<double>(end - begin) / 1000);
    samples.slowest.push_back(slowest);
    collect_bytes(samples);
  }

  /// Without a clock for all: the rank that took longest. They begin together, behind a barrier.
  void collect_durations(Samples& samples) const {
    const auto begin = board_->stamps.begin();
    const auto slowest =
        std::max_element(begin, begin + board_->sizes.ranks, [](const auto& a, const auto& b) {
          return a.end_ns - a.begin_ns < b.end_ns - b.begin_ns;
        });
    samples.us.push_back(static_cast<double>(slowest->end_ns - slowest->begin_ns) / 1000);
    samples.slowest.push_back(static_cast<int>(slowest - begin));
    collect_bytes(samples);
  }

  void collect_bytes(Samples& samples) const {
    if (!counts_link()) {
      return;
    }
    std::int64_t bytes = 0;
    for (int r = 0; r < board_->sizes.ranks; ++r) {
      bytes += board_->stamps[static_cast<std::size_t>(r)].link_bytes;
    }
    samples.link_bytes.push_back(static_cast<double>(bytes));
  }

  bool counts_link() const {
    return board_.apart() != nullptr && !board_->effort.device.str().empty();
  }

  /// One rank of each host does.
  bool counts_for_host() const {
    return board_.apart() != nullptr && board_.apart()->places().is_first(rank_);
  }

  void leave_report() {
    for (std::size_t m = 0; m < methods_.size(); ++m) {
      records_[m].method = methods_[m]->name();
    }
    const std::string report = make_records(board_->sizes, workload_, records_);
    if (report.size() >= board_->report.size()) {
      board_.fail("the report is too long");
    }
    std::memcpy(board_->report.data(), report.c_str(), report.size() + 1);
  }

  const SharedBoard& board_;
  const int rank_;
  const Workload workload_;
  const std::vector<std::unique_ptr<Method>> methods_;
  std::vector<MethodSamples> records_;
  const Counter counter_;
};

}  // namespace

void measure(const SharedBoard& board, int rank, Groups& groups) {
  const std::string methods = board->effort.methods.str();
  const Apart* apart = board.apart();
  pin(apart == nullptr ? rank : apart->places().place(rank),
      apart == nullptr ? board->sizes.ranks : apart->places().neighbours(rank),
      board->sizes.threads > 1 || methods.find("threads") != std::string::npos);
  try {
    Rounds(board, rank, groups).run();
  } catch (const std::exception& error) {
    board.fail(error.what());
  }
}

}  // namespace waybill::bench
