#include "exchange/records.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "exchange/method.h"
#include "waybill/version.h"

namespace waybill::bench {

using nlohmann::json;

namespace {

constexpr const char* kLimit = "lb2";

double quantile(std::vector<double> values, double q) {
  if (values.empty()) {
    return 0;
  }
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(place);
  const std::size_t high = std::min(low + 1, values.size() - 1);
  const double part = place - static_cast<double>(low);
  return values[low] * (1 - part) + values[high] * part;
}

double rounded(double value) { return std::round(value * 1000) / 1000; }

int most_frequent(const std::vector<int>& values) {
  std::map<int, int> counts;
  for (const int value : values) {
    ++counts[value];
  }
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
        return a.second < b.second;
      });
  return most == counts.end() ? 0 : most->first;
}

Samples sum(const Samples& a, const Samples& b) {
  Samples both = a;
  for (std::size_t i = 0; i < both.us.size() && i < b.us.size(); ++i) {
    both.us[i] += b.us[i];
  }
  for (std::size_t i = 0; i < both.link_bytes.size() && i < b.link_bytes.size(); ++i) {
    both.link_bytes[i] += b.link_bytes[i];
  }
  return both;
}

using Phases = std::map<std::string, Samples>;

Phases phases_of(const MethodSamples& method) {
  Phases phases = {{"dispatch", method.dispatch}};
  if (!method.combine.us.empty()) {
    phases["combine"] = method.combine;
    phases["both"] = sum(method.dispatch, method.combine);
  }
  return phases;
}

/// For each phase the plain copy that is faster.
Phases limit_of(const std::map<std::string, Phases>& all) {
  Phases limit;
  for (const auto& [phase, samples] : all.at(kCopy)) {
    const Samples& streaming = all.at(kCopyStreaming).at(phase);
    limit[phase] = quantile(streaming.us, 0.5) < quantile(samples.us, 0.5) ? streaming : samples;
  }
  return limit;
}

json describe(const Case& sizes) {
  return {{"ranks", sizes.ranks},
          {"hosts", sizes.hosts},
          {"bs", sizes.bs},
          {"hidden", sizes.hidden},
          {"topk", sizes.topk},
          {"experts_per_rank", sizes.experts_per_rank},
          {"quant", sizes.quant},
          {"threads", sizes.threads},
          {"routing", sizes.routing.str()},
          {"dtype", name_of(sizes.dtype)}};
}

std::string first_word_after(const char* file, const std::string& key) {
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    if (line.compare(0, key.size(), key) == 0) {
      const auto colon = line.find(':');
      return colon == std::string::npos ? ""
                                        : line.substr(line.find_first_not_of(" \t", colon + 1));
    }
  }
  return "";
}

std::string format(double value, int digits) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << value;
  return text.str();
}

std::string with_spread(const json& ratio) {
  return format(ratio["median"], 2) + " (" + format(ratio["p10"], 2) + "-" +
         format(ratio["p90"], 2) + ")";
}

}  // namespace

std::string make_records(const Case& sizes,
                         const Workload& workload,
                         std::vector<MethodSamples> methods) {
  std::map<std::string, Phases> all;
  for (const MethodSamples& method : methods) {
    all[method.method] = phases_of(method);
  }
  if (all.count(kCopy) != 0) {
    all[kLimit] = limit_of(all);
  }
  json records = json::array();
  for (const auto& [name, phases] : all) {
    for (const auto& [phase, samples] : phases) {
      json record = describe(sizes);
      const bool small =
          (sizes.quant != 0 || name == "int8" || name == "smooth") && phase == "dispatch";
      const std::int64_t row_bytes = small ? sizes.hidden : sizes.row_bytes();
      const auto bytes = static_cast<std::int64_t>(workload.pairs().size()) * row_bytes *
                         (phase == "both" ? 2 : 1);
      const double median = quantile(samples.us, 0.5);
      record["method"] = name;
      record["phase"] = phase;
      record["rounds"] = samples.us.size();
      record["us"] = {{"median", rounded(median)},
                      {"p90", rounded(quantile(samples.us, 0.9))},
                      {"p99", rounded(quantile(samples.us, 0.99))},
                      {"min", rounded(quantile(samples.us, 0))}};
      record["slowest_rank"] = most_frequent(samples.slowest);
      record["bytes"] = bytes;
      if (!samples.link_bytes.empty()) {
        record["link_bytes"] = quantile(samples.link_bytes, 0.5);
      }
      record["gb_per_s"] = rounded(static_cast<double>(bytes) / 1000 / std::max(median, 1e-3));
      record["ratio"] = json::object();
      for (const auto& [other, other_phases] : all) {
        const auto found = other_phases.find(phase);
        if (other == name || found == other_phases.end()) {
          continue;
        }
        std::vector<double> ratios;
        for (std::size_t i = 0; i < samples.us.size(); ++i) {
          ratios.push_back(found->second.us[i] / samples.us[i]);
        }
        record["ratio"][other] = {{"median", rounded(quantile(ratios, 0.5))},
                                  {"p10", rounded(quantile(ratios, 0.1))},
                                  {"p90", rounded(quantile(ratios, 0.9))}};
      }
      records.push_back(std::move(record));
    }
  }
  return records.dump();
}

json describe_machine() {
  utsname system{};
  uname(&system);
  const auto memory = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  return {{"model", first_word_after("/proc/cpuinfo", "model name")},
          {"cores", num_cores()},
          {"l2_bytes", sysconf(_SC_LEVEL2_CACHE_SIZE)},
          {"l3_bytes", sysconf(_SC_LEVEL3_CACHE_SIZE)},
          {"memory_bytes", memory},
          {"kernel", system.release},
          {"compiler", __VERSION__},
          {"simd", name_of(numerics::best_kernels().level)},
          {"waybill", version_string()}};
}

std::string make_table(const json& records) {
  std::ostringstream table;
  table << std::left << std::setw(16) << "method" << std::setw(10) << "phase" << std::right
        << std::setw(11) << "median us" << std::setw(11) << "p90" << std::setw(11) << "p99"
        << std::setw(9) << "GB/s" << std::setw(22) << "times lb2" << std::setw(22)
        << "mpi is slower";
  const bool counted = !records.empty() && records[0].contains("link_bytes");
  table << (counted ? "  MB on links" : "") << "\n";
  for (const json& record : records) {
    const std::string name = record["method"];
    table << std::left << std::setw(16) << name << std::setw(10)
          << record["phase"].get<std::string>() << std::right << std::setw(11)
          << format(record["us"]["median"], 1) << std::setw(11) << format(record["us"]["p90"], 1)
          << std::setw(11) << format(record["us"]["p99"], 1) << std::setw(9)
          << format(record["gb_per_s"], 1);
    const json& ratio = record["ratio"];
    if (ratio.contains(kLimit)) {
      // The file has how much slower the other is; a reader asks how near the limit is.
      const json& limit = ratio[kLimit];
      const json inverse = {{"median", 1 / limit["median"].get<double>()},
                            {"p10", 1 / limit["p90"].get<double>()},
                            {"p90", 1 / limit["p10"].get<double>()}};
      table << std::setw(22) << with_spread(inverse);
    } else {
      table << std::setw(22) << "";
    }
    table << std::setw(22) << (ratio.contains("mpi") ? with_spread(ratio["mpi"]) : "");
    if (record.contains("link_bytes")) {
      table << std::setw(13) << format(record["link_bytes"].get<double>() / 1e6, 3);
    }
    table << "\n";
  }
  return table.str();
}

}  // namespace waybill::bench
