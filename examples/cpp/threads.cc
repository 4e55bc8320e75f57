// Four ranks as threads of one process: every token visits two experts and comes back.
// Expert e multiplies its rows by e + 1.
#include <waybill/combine.h>
#include <waybill/dispatch.h>

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

constexpr int kRanks = 4, kTokens = 3, kHidden = 8, kTopK = 2, kExperts = 8;

template <typename T>
T check(waybill::Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "%s\n", result.status().message().c_str());
    std::exit(1);
  }
  return std::move(*result);
}

bool run_rank(waybill::Group& group) {
  using waybill::DType;
  using waybill::TensorView;
  std::vector<float> x(kTokens * kHidden, 1.0F + static_cast<float>(group.rank()));
  std::vector<std::int32_t> ids = {0, 7, 3, 4, 5, 2};
  std::vector<float> weights(kTokens * kTopK, 0.5F);
  const auto ids_view = TensorView::contiguous(ids.data(), DType::kInt32, {kTokens, kTopK});

  auto sent = check(waybill::dispatch(
      group,
      {.x = TensorView::contiguous(x.data(), DType::kFloat32, {kTokens, kHidden}),
       .expert_ids = ids_view,
       .layer = {
           .ep_world_size = kRanks, .ep_rank_id = group.rank(), .moe_expert_num = kExperts}}));

  // The experts of this rank, in place: their rows lie one expert behind the other.
  float* row = sent.expand_x.data<float>();
  for (int local = 0; local < kExperts / kRanks; ++local) {
    const auto rows = sent.expert_token_nums.data<std::int64_t>()[local];
    const auto factor = static_cast<float>(group.rank() * (kExperts / kRanks) + local + 1);
    for (std::int64_t i = 0; i < rows * kHidden; ++i) {
      *row++ *= factor;
    }
  }

  auto y = check(waybill::combine(
      group,
      {.expand_x = sent.expand_x.view(),
       .expert_ids = ids_view,
       .assist_info_for_combine = sent.assist_info_for_combine.view(),
       .ep_send_counts = sent.ep_recv_counts.view(),
       .expert_scales = TensorView::contiguous(weights.data(), DType::kFloat32, {kTokens, kTopK}),
       .layer = {
           .ep_world_size = kRanks, .ep_rank_id = group.rank(), .moe_expert_num = kExperts}}));

  bool good = true;
  for (std::size_t t = 0; t < kTokens; ++t) {
    const auto factors = static_cast<float>(ids[2 * t] + 1 + ids[2 * t + 1] + 1);
    good = good && y.data<float>()[t * kHidden] == x[t * kHidden] * 0.5F * factors;
  }
  return good;
}

int main() {
  auto groups = check(waybill::Group::local(kRanks));
  std::vector<char> good(kRanks);
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < kRanks; ++r) {
    threads.emplace_back([&, r] { good[r] = run_rank(groups[r]); });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  const bool all = good == std::vector<char>(kRanks, 1);
  std::puts(all ? "every token came back" : "wrong result");
  return all ? 0 : 1;
}
