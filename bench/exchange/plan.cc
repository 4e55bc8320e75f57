#include "exchange/plan.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <map>
#include <sstream>

namespace waybill::bench {

void Text::set(std::string_view text) {
  const std::size_t length = std::min(text.size(), bytes.size() - 1);
  std::copy_n(text.begin(), length, bytes.begin());
  bytes[length] = '\0';
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    if (!part.empty()) {
      parts.push_back(part);
    }
  }
  return parts;
}

namespace {

/// The values of every sweep option.
struct Sweeps {
  std::vector<int> ranks{2, 8};
  std::vector<std::int64_t> bs{8, 64, 128, 512};
  std::vector<std::int64_t> hidden{7168};
  std::vector<std::int64_t> topk{8};
  std::vector<std::int64_t> experts_per_rank{8};
  std::vector<int> quant{0};
  std::vector<int> threads{1};
  std::vector<std::string> routing{"uniform"};
  DType dtype = DType::kBFloat16;
};

template <typename T, typename Field>
std::vector<Case> times(const std::vector<Case>& cases, const std::vector<T>& values, Field field) {
  std::vector<Case> product;
  for (const Case& base : cases) {
    for (const T& value : values) {
      product.push_back(base);
      field(product.back(), value);
    }
  }
  return product;
}

std::vector<Case> cases_of(const Sweeps& s) {
  Case base;
  base.dtype = s.dtype;
  std::vector<Case> cases = {base};
  cases = times(cases, s.routing, [](Case& c, const std::string& v) { c.routing.set(v); });
  cases = times(cases, s.threads, [](Case& c, int v) { c.threads = v; });
  cases = times(cases, s.quant, [](Case& c, int v) { c.quant = v; });
  cases = times(cases, s.experts_per_rank, [](Case& c, auto v) { c.experts_per_rank = v; });
  cases = times(cases, s.topk, [](Case& c, auto v) { c.topk = v; });
  cases = times(cases, s.hidden, [](Case& c, auto v) { c.hidden = v; });
  cases = times(cases, s.ranks, [](Case& c, int v) { c.ranks = v; });
  return times(cases, s.bs, [](Case& c, auto v) { c.bs = v; });
}

}  // namespace

Plan read_plan(int argc, char** argv) {
  CLI::App app{
      "Dispatch and combine beside a plain copy of the same bytes and, where it is found, OpenMPI: "
      "in turns, in the same processes, on the same routing. Options that take several values, "
      "separated by commas, make a sweep. Started by mpirun, on one host or several, the processes "
      "are the ranks, and there is no plain copy."};
  Sweeps sweeps;
  Plan plan;
  std::string methods = "waybill,private,int8,pair,mpi";
  std::string device;
  const std::map<std::string, DType> dtypes = {
      {"bfloat16", DType::kBFloat16}, {"float16", DType::kFloat16}, {"float32", DType::kFloat32}};
  app.add_option("--ranks", sweeps.ranks, "where mpirun has not started them")
      ->delimiter(',')
      ->check(CLI::Range(1, kMaxRanks));
  app.add_option("--bs", sweeps.bs, "tokens of a rank")->delimiter(',')->check(CLI::PositiveNumber);
  app.add_option("--hidden", sweeps.hidden)->delimiter(',')->check(CLI::PositiveNumber);
  app.add_option("--topk", sweeps.topk)->delimiter(',')->check(CLI::PositiveNumber);
  app.add_option("--experts-per-rank", sweeps.experts_per_rank)
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--quant", sweeps.quant, "quant_mode of dispatch: 0 or 2")
      ->delimiter(',')
      ->check(CLI::IsMember({0, 2}));
  app.add_option("--threads", sweeps.threads, "cores of a rank")
      ->delimiter(',')
      ->check(CLI::Range(1, 256));
  app.add_option("--dtype", sweeps.dtype)->transform(CLI::CheckedTransformer(dtypes));
  app.add_option("--routing", sweeps.routing, "uniform, zipf:S or recorded:FILE")->delimiter(',');
  app.add_option("--methods",
                 methods,
                 "beside the plain copy: waybill, private, int8, smooth, comm8, norm, pair, mask, "
                 "elastic, const1, const2, checked, threads2, threads4, mpi, yield (a barrier)");
  app.add_option("--seconds", plan.effort.seconds, "for each case");
  app.add_option("--rounds", plan.effort.most_rounds, "at most, for each case");
  app.add_option("--warm-up", plan.effort.warm_up, "rounds that do not count");
  app.add_option("--weights",
                 plan.effort.weights_mib,
                 "MiB that each core reads before every timed phase, as layers and experts read "
                 "their weights: what lay in the caches is gone, whatever was measured before");
  app.add_flag("--as-threads", plan.effort.as_threads, "ranks are threads of one process");
  app.add_option("--device",
                 device,
                 "started by mpirun: also count what this network device of each host sends");
  app.add_option("--json", plan.json, "also write the numbers to this file");
  app.add_option("--board", plan.board)->group("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  plan.effort.methods.set(methods);
  plan.effort.device.set(device);
  plan.effort.least_rounds = std::min(plan.effort.least_rounds, plan.effort.most_rounds);
  plan.cases = cases_of(sweeps);
  return plan;
}

}  // namespace waybill::bench
