// A program against the installed package: two ranks as threads send each other a token.
#include <waybill/combine.h>
#include <waybill/dispatch.h>
#include <waybill/env.h>
#include <waybill/version.h>

#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

namespace {

constexpr int kRanks = 2;

bool run_rank(waybill::Group& group) {
  using waybill::DType;
  using waybill::TensorView;
  const std::vector<float> x = {1.0F + static_cast<float>(group.rank()), 2.0F};
  const std::vector<std::int32_t> ids = {1 - group.rank()};
  const std::vector<float> weights = {0.5F};
  auto sent = waybill::dispatch(
      group,
      {.x = TensorView::contiguous(x.data(), DType::kFloat32, {1, 2}),
       .expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {1, 1}),
       .layer = {.ep_world_size = kRanks, .ep_rank_id = group.rank(), .moe_expert_num = kRanks}});
  if (!sent.ok()) {
    std::fprintf(stderr, "%s\n", sent.status().message().c_str());
    return false;
  }
  auto back = waybill::combine(
      group,
      {.expand_x = sent->expand_x.view(),
       .expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {1, 1}),
       .assist_info_for_combine = sent->assist_info_for_combine.view(),
       .ep_send_counts = sent->ep_recv_counts.view(),
       .expert_scales = TensorView::contiguous(weights.data(), DType::kFloat32, {1, 1}),
       .layer = {.ep_world_size = kRanks, .ep_rank_id = group.rank(), .moe_expert_num = kRanks}});
  if (!back.ok()) {
    std::fprintf(stderr, "%s\n", back.status().message().c_str());
    return false;
  }
  return back->data<float>()[0] == 0.5F * x[0] && back->data<float>()[1] == 0.5F * x[1];
}

}  // namespace

int main() {
  auto groups = waybill::Group::local(kRanks);
  if (!groups.ok()) {
    std::fprintf(stderr, "%s\n", groups.status().message().c_str());
    return 1;
  }
  std::vector<char> good(kRanks);
  std::vector<std::thread> threads;
  for (int r = 0; r < kRanks; ++r) {
    threads.emplace_back([&, r] {
      const auto i = static_cast<std::size_t>(r);
      good[i] = run_rank((*groups)[i]);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  const bool all = good == std::vector<char>(kRanks, 1);
  std::printf("waybill %s: %s\n", waybill::version_string(), all ? "good" : "wrong result");
  return all ? 0 : 1;
}
