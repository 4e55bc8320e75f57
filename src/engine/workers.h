#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <mutex>
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

/// Items of so many bytes that make a part worth a core of its own.
constexpr std::int64_t least_items(std::int64_t bytes_per_item) noexcept {
  constexpr std::int64_t kLeastBytesPerCore = 64 << 10;
  return std::max<std::int64_t>(kLeastBytesPerCore / std::max<std::int64_t>(bytes_per_item, 1), 1);
}

/// The cores of one rank: runs a loop over items in equal parts on the calling thread and on
/// threads that sleep between calls. Which thread does which part never changes a result.
/// Owner: a Session; run() from one thread at a time.
class Workers {
 public:
  /// `threads` in all, the calling one included. Threads start with the first run() that needs
  /// them.
  explicit Workers(int threads) : threads_(threads) {}
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
  void run_parts(std::int64_t items, std::int64_t least_items, LoopBody body);
  void start(int helpers);
  void serve(int index);

  const int threads_;
  std::vector<std::thread> helpers_;
  std::mutex mutex_;
  std::condition_variable work_ready_;
  std::condition_variable work_done_;
  const LoopBody* body_ = nullptr;
  std::int64_t items_ = 0;
  int parts_ = 0;
  int pending_ = 0;
  std::uint64_t generation_ = 0;
  bool stopping_ = false;
};

}  // namespace waybill::engine
