// Two ranks as processes that meet at a path. Started without arguments it starts both itself;
// otherwise: example_processes PATH RANK WORLD_SIZE. Expert e is on rank e and adds nothing.
#include <sys/wait.h>
#include <unistd.h>
#include <waybill/combine.h>
#include <waybill/dispatch.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

template <typename T>
T check(waybill::Result<T> result) {
  if (!result.ok()) {
    std::fprintf(stderr, "%s\n", result.status().message().c_str());
    std::exit(1);
  }
  return std::move(*result);
}

int run_rank(const std::filesystem::path& path, int rank, int world_size) {
  using waybill::DType;
  using waybill::TensorView;
  auto group = check(waybill::Group::connect(path, rank, world_size));

  const std::vector<float> x = {1.0F + static_cast<float>(rank), 2.0F};
  const std::vector<std::int32_t> ids = {(rank + 1) %
                                         world_size};  // my token goes to the next rank
  const std::vector<float> weights = {0.25F};
  auto sent = check(waybill::dispatch(
      group,
      {.x = TensorView::contiguous(x.data(), DType::kFloat32, {1, 2}),
       .expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {1, 1}),
       .layer = {.ep_world_size = world_size, .ep_rank_id = rank, .moe_expert_num = world_size}}));
  std::printf("rank %d received %ld row, first element %g\n",
              rank,
              static_cast<long>(sent.rows),
              static_cast<double>(sent.expand_x.data<float>()[0]));
  auto y = check(waybill::combine(
      group,
      {.expand_x = sent.expand_x.view(),
       .expert_ids = TensorView::contiguous(ids.data(), DType::kInt32, {1, 1}),
       .assist_info_for_combine = sent.assist_info_for_combine.view(),
       .ep_send_counts = sent.ep_recv_counts.view(),
       .expert_scales = TensorView::contiguous(weights.data(), DType::kFloat32, {1, 1}),
       .layer = {.ep_world_size = world_size, .ep_rank_id = rank, .moe_expert_num = world_size}}));
  return y.data<float>()[0] == 0.25F * x[0] ? 0 : 1;
}

int main(int argc, char** argv) {
  if (argc == 4) {
    return run_rank(argv[1], std::atoi(argv[2]), std::atoi(argv[3]));
  }
  const auto path =
      std::filesystem::temp_directory_path() / ("waybill-example-" + std::to_string(getpid()));
  int failures = 0;
  for (int rank = 0; rank < 2; ++rank) {
    if (fork() == 0) {
      std::exit(run_rank(path, rank, 2));
    }
  }
  for (int status = 0; wait(&status) > 0;) {
    failures += status != 0 ? 1 : 0;
  }
  return failures;
}
