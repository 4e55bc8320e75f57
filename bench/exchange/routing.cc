#include "exchange/routing.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>

#include "numerics/kernels.h"

namespace waybill::bench {
namespace {

std::mt19937_64 random_of(int rank, std::uint64_t purpose) {
  return std::mt19937_64(purpose * 1000 + static_cast<std::uint64_t>(rank));
}

/// K distinct experts a token, drawn by likelihood: the K largest of log(u)/likelihood.
std::vector<std::int32_t> draw(const Case& sizes, int rank, const std::vector<double>& likely) {
  auto random = random_of(rank, 1);
  std::uniform_real_distribution<double> uniform(1e-300, 1.0);
  std::vector<std::int32_t> ids;
  std::vector<std::pair<double, std::int32_t>> keys(likely.size());
  for (std::int64_t t = 0; t < sizes.bs; ++t) {
    for (std::size_t e = 0; e < likely.size(); ++e) {
      keys[e] = {std::log(uniform(random)) / likely[e], static_cast<std::int32_t>(e)};
    }
    std::partial_sort(keys.begin(), keys.begin() + sizes.topk, keys.end(), std::greater<>());
    for (std::int64_t k = 0; k < sizes.topk; ++k) {
      ids.push_back(keys[static_cast<std::size_t>(k)].second);
    }
  }
  return ids;
}

std::vector<double> zipf(const Case& sizes, double exponent) {
  std::vector<double> likely(static_cast<std::size_t>(sizes.experts()));
  std::vector<std::size_t> order(likely.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  auto random = random_of(0, 2);
  std::shuffle(order.begin(), order.end(), random);
  for (std::size_t i = 0; i < likely.size(); ++i) {
    likely[order[i]] = std::pow(static_cast<double>(i + 1), -exponent);
  }
  return likely;
}

std::vector<std::int32_t> recorded(const Case& sizes, int rank, const std::string& path) {
  std::ifstream file(path);
  std::vector<std::vector<std::int32_t>> tokens;
  for (std::string line; std::getline(file, line);) {
    std::istringstream stream(line);
    std::vector<std::int32_t> token;
    for (std::int32_t id = 0; stream >> id;) {
      token.push_back(id);
    }
    const bool in_range = std::all_of(token.begin(), token.end(), [&](std::int32_t id) {
      return id >= 0 && id < sizes.experts();
    });
    if (static_cast<std::int64_t>(token.size()) != sizes.topk || !in_range) {
      throw std::runtime_error(path + ": expected " + std::to_string(sizes.topk) + " ids below " +
                               std::to_string(sizes.experts()) + " a line, got: " + line);
    }
    tokens.push_back(std::move(token));
  }
  if (tokens.empty()) {
    throw std::runtime_error(path + ": expected a line of ids for each token, got none");
  }
  std::vector<std::int32_t> ids;
  for (std::int64_t t = 0; t < sizes.bs; ++t) {
    const auto line = static_cast<std::size_t>(rank * sizes.bs + t) % tokens.size();
    ids.insert(ids.end(), tokens[line].begin(), tokens[line].end());
  }
  return ids;
}

}  // namespace

std::vector<std::int32_t> make_ids(const Case& sizes, int rank) {
  const std::string routing = sizes.routing.str();
  const auto colon = routing.find(':');
  const std::string kind = routing.substr(0, colon);
  const std::string rest = colon == std::string::npos ? "" : routing.substr(colon + 1);
  if (kind == "recorded") {
    return recorded(sizes, rank, rest);
  }
  if (sizes.topk > sizes.experts()) {
    throw std::runtime_error("expected at least " + std::to_string(sizes.topk) +
                             " experts for as many choices, got " +
                             std::to_string(sizes.experts()));
  }
  if (kind == "zipf") {
    return draw(sizes, rank, zipf(sizes, std::stod(rest)));
  }
  if (kind == "uniform") {
    return draw(sizes, rank, std::vector<double>(static_cast<std::size_t>(sizes.experts()), 1.0));
  }
  throw std::runtime_error("expected uniform, zipf:S or recorded:FILE, got " + routing);
}

std::vector<float> make_weights(const Case& sizes, int rank) {
  auto random = random_of(rank, 3);
  std::uniform_real_distribution<float> uniform(0.1F, 1.0F);
  std::vector<float> weights(static_cast<std::size_t>(sizes.bs * sizes.topk));
  for (auto token = weights.begin(); token != weights.end(); token += sizes.topk) {
    std::generate_n(token, sizes.topk, [&] { return uniform(random); });
    const float sum = std::accumulate(token, token + sizes.topk, 0.0F);
    std::for_each(token, token + sizes.topk, [sum](float& w) { w /= sum; });
  }
  return weights;
}

void fill_rows(const Case& sizes, int rank, std::byte* rows) {
  auto random = random_of(rank, 4);
  std::normal_distribution<float> normal;
  // A long normal sequence takes seconds to draw: rows begin at different places of a short one.
  std::vector<float> values(static_cast<std::size_t>(sizes.hidden) + 997);
  std::generate(values.begin(), values.end(), [&] { return normal(random); });
  const auto& kernels = numerics::kernels(SimdLevel::kScalar);
  for (std::int64_t t = 0; t < sizes.bs; ++t) {
    const float* begin = values.data() + t * 13 % 997;
    kernels.round_row(begin, sizes.dtype, sizes.hidden, rows + t * sizes.row_bytes());
  }
}

}  // namespace waybill::bench
