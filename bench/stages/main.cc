#include <benchmark/benchmark.h>
#include <time.h>

#include <set>
#include <tuple>

#include "stages.h"

namespace waybill::bench {
namespace {

std::string size_name(const Traffic& traffic) {
  return std::to_string(traffic.num_rows) + "x" + std::to_string(traffic.row_bytes) + "to" +
         std::to_string(traffic.out_bytes);
}

benchmark::Counter per_second(double value) {
  return {value, benchmark::Counter::kIsIterationInvariantRate};
}

/// Of this thread alone, as the time that the library reports by default.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void register_ceiling(Place place, Ceiling ceiling, const Traffic& traffic) {
  static std::set<std::tuple<Place, Ceiling, Traffic>> known;
  if (!known.emplace(place, ceiling, traffic).second) {
    return;
  }
  const std::string name =
      std::string("ceiling/") + name_of(ceiling) + "/" + size_name(traffic) + "/" + name_of(place);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    RowFeed feed(place, traffic);
    for (auto _ : state) {
      run(ceiling, traffic, feed.rows(), feed.out());
    }
    state.counters["GB"] = per_second(traffic.total() * 1e-9);
  });
}

}  // namespace

void register_stage(const std::string& stage,
                    const std::string& set,
                    Place place,
                    Ceiling ceiling,
                    const Traffic& traffic,
                    const RowStage& run) {
  register_ceiling(place, ceiling, traffic);
  const std::string name = stage + "/" + name_of(place) + "/" + set;
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    const double seconds = seconds_of(ceiling, place, traffic);
    RowFeed feed(place, traffic);
    const double begin = thread_seconds();
    for (auto _ : state) {
      run(feed.rows(), feed.out());
    }
    const double each = (thread_seconds() - begin) / static_cast<double>(state.iterations());
    state.counters["GB"] = per_second(traffic.total() * 1e-9);
    state.counters["of_ceiling"] = seconds / each;
  });
}

}  // namespace waybill::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 1;
  }
  waybill::bench::register_row_stages();
  waybill::bench::register_sum_stages();
  waybill::bench::register_copy_stages();
  waybill::bench::register_routing_stages();
  waybill::bench::register_check_stages();
  waybill::bench::register_signal_stages();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
