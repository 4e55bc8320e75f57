#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace waybill::engine {

/// A borrowed callable of (begin, end): unlike std::function it never allocates.
class LoopBody {
 public:
  template <typename F>
  LoopBody(F& body) noexcept  // NOLINT(google-explicit-constructor): passed where a lambda stands
      : body_(&body), call_([](void* b, std::int64_t begin, std::int64_t end) {
          (*static_cast<F*>(b))(begin, end);
        }) {}
  void operator()(std::int64_t begin, std::int64_t end) const { call_(body_, begin, end); }

 private:
  void* body_;
  void (*call_)(void*, std::int64_t, std::int64_t);
};

/// Items of so many bytes that make a part worth a core of its own: waking one that sleeps takes as
/// long as copying this much.
constexpr std::int64_t least_items(std::int64_t bytes_per_item) noexcept {
  constexpr std::int64_t kLeastBytesPerCore = 256 << 10;
  return std::max<std::int64_t>(kLeastBytesPerCore / std::max<std::int64_t>(bytes_per_item, 1), 1);
}

/// The cores of one rank: runs a loop over items in equal parts on the calling thread and on
/// threads that sleep between calls. Which thread does which part never changes a result.
/// Owner: a Session; run() from one thread at a time.
class Workers {
 public:
  /// `threads` in all, the calling one included. Threads start with the first run() that needs
  /// them. `has_cores`: each has a core to itself, and stays awake for a moment after its part, so
  /// that the next loop of the same call finds it there. `cores`: the one that each thread but the
  /// calling one is pinned to; past its end they run where the thread that starts them does.
  explicit Workers(int threads, bool has_cores = true, std::vector<int> cores = {});
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  ~Workers();

  /// body(begin, end) for consecutive parts of [0, items); returns when all are done.
  /// A part holds at least `least_items`, so that small loops stay on one core.
  template <typename F>
  void run(std::int64_t items, std::int64_t least_items, F&& body) {
    run_parts(items, least_items, LoopBody(body));
  }
  int threads() const noexcept { return threads_; }

 private:
  /// A thread, and the number of the loop it is to take part in.
  struct Helper {
    alignas(64) std::atomic<std::uint64_t> loop{0};
    std::atomic<bool> sleeps{false};
    std::thread thread;
  };

  void run_parts(std::int64_t items, std::int64_t least_items, LoopBody body);
  void start();
  void serve(Helper& helper, int index, std::uint64_t seen);
  std::uint64_t next_loop(Helper& helper, std::uint64_t seen) const;
  void run_part(int index) const;
  static void order(Helper& helper, std::uint64_t loop);
  void wait_for_helpers();

  const int threads_;
  const bool has_cores_;
  const std::vector<int> cores_;
  const int fork_generation_;
  std::vector<std::unique_ptr<Helper>> helpers_;
  // Of the loop that runs: written before its number is given out, read by those that got it.
  const LoopBody* body_ = nullptr;
  std::int64_t items_ = 0;
  int parts_ = 0;
  std::uint64_t loop_ = 0;
  alignas(64) std::atomic<std::uint64_t> pending_{0};  ///< helpers that are not done
  std::atomic<bool> waits_{false};                     ///< the caller sleeps until they are
  std::atomic<bool> stopping_{false};
};

}  // namespace waybill::engine
