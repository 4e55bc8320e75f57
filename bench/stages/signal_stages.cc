#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "stages.h"
#include "window/words.h"

namespace waybill::bench {
namespace {

using window::Word;

void wait_until(const Word& word, window::Stamp value) {
  while (word.load() < value) {
  }
}

/// Stores the answer to each of `count` calls.
void answer(const Word& calls, Word& answers, window::Stamp count) {
  for (window::Stamp call = 1; call <= count; ++call) {
    wait_until(calls, call);
    answers.store(call);
  }
}

/// There and back: what a barrier of two ranks costs at least, and twice what a signal costs. The
/// median of batches: where cores are shared, a mean is that of the scheduler.
void round_trip_stage(benchmark::State& state, bool fenced) {
  if (std::thread::hardware_concurrency() < 2) {
    state.SkipWithError("needs two cores");
    return;
  }
  constexpr int kBatch = 100;
  Word calls;
  Word answers;
  const auto last = static_cast<window::Stamp>(state.max_iterations) * kBatch;
  std::thread peer([&] { answer(calls, answers, last); });
  std::vector<double> batches;
  window::Stamp call = 0;
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kBatch; ++i) {
      calls.store(++call);
      if (fenced) {
        window::fence_all();
      }
      wait_until(answers, call);
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    batches.push_back(took.count() / kBatch);
    state.SetIterationTime(batches.back());
  }
  peer.join();
  std::nth_element(batches.begin(),
                   batches.begin() + static_cast<std::ptrdiff_t>(batches.size() / 2),
                   batches.end());
  state.counters["median_ns"] = batches[batches.size() / 2] * 1e9;
}

}  // namespace

void register_signal_stages() {
  const auto add = [](const char* name, bool fenced) {
    benchmark::RegisterBenchmark(name, round_trip_stage, fenced)->UseManualTime()->Iterations(5000);
  };
  add("ceiling/round_trip_of_flags", false);
  // As Session::on_post: the fence is between the store and the look at who sleeps.
  add("signal_round_trip", true);
}

}  // namespace waybill::bench
