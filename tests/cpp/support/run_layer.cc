#include "support/run_layer.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>
#include <thread>
#include <utility>

namespace waybill::testing {
namespace {

void delay_at_random(Phase) {
  thread_local std::mt19937 random(std::random_device{}());
  switch (random() % 16) {
    case 0:
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
      break;
    case 1:
    case 2:
      std::this_thread::yield();
      break;
    default:
      break;
  }
}

/// One rank's run of a layer.
class LayerRun {
 public:
  LayerRun(Group& group, const LayerCase& layer, const TpSide& tp)
      : group_(group), layer_(layer), tp_(tp), rank_(layer.rank_in_layer(group.rank())) {}

  std::string run() {
    if (rank_ < 0) {
      return "";
    }
    if (Status status = layer_.set_up ? send_in_two_halves() : send(); !status.ok()) {
      return status.message();
    }
    const std::string text = check_dispatch(layer_, rank_, sent_, tp_.peer);
    if (Status status = run_experts(); !status.ok()) {
      return text + status.message();
    }
    const std::string back = layer_.set_up ? bring_back_in_two_halves()
                             : layer_.norm ? bring_back_with_norm()
                                           : bring_back();
    return text + back;
  }

 private:
  Status send() {
    DispatchArgs args = layer_.dispatch_args(rank_);
    args.tp_group = tp_.group;
    auto sent = dispatch(group_, args);
    if (sent.ok()) {
      sent_ = std::move(*sent);
    }
    return sent.status();
  }

  Status send_in_two_halves() {
    const DispatchArgs args = layer_.dispatch_args(rank_);
    DispatchSetupArgs setup{.common = layer_.setup_args(rank_), .x = args.x};
    // What setup reads may change as soon as it is back.
    std::vector<std::byte> x = layer_.ranks[static_cast<std::size_t>(rank_)].x;
    setup.x.data = x.data();
    setup.scales = args.scales;
    setup.x_active_mask = args.x_active_mask;
    setup.quant_mode = args.quant_mode;
    auto begun = dispatch_setup(group_, setup);
    std::fill(x.begin(), x.end(), std::byte{0x5a});
    if (!begun.ok()) {
      return begun.status();
    }
    auto done = dispatch_teardown(group_,
                                  {.common = setup.common,
                                   .x = args.x,
                                   .comm_cmd_info = begun->comm_cmd_info.view(),
                                   .quant_mode = args.quant_mode,
                                   .expert_token_nums_type = layer_.nums_type});
    if (!done.ok()) {
      return done.status();
    }
    sent_.expand_x = std::move(done->expand_x);
    sent_.dynamic_scales = std::move(done->dynamic_scales);
    sent_.expert_token_nums = std::move(done->expert_token_nums);
    sent_.assist_info_for_combine = std::move(begun->expand_idx);
    sent_.ep_recv_counts = std::move(done->assist_info_for_combine);
    const std::int64_t cells = layer_.num_ranks * layer_.local_experts(rank_);
    assist_ = sent_.ep_recv_counts;
    sent_.ep_recv_counts.shape = {cells};
    sent_.rows = cells == 0 ? 0 : sent_.ep_recv_counts.data<std::int32_t>()[cells - 1];
    return {};
  }

  /// Rows of expand_x in combine: the peer's, too.
  std::int64_t rows() const {
    return sent_.rows +
           (layer_.has_tp() ? sent_.tp_recv_counts.data<std::int32_t>()[1 - layer_.tp_rank] : 0);
  }

  Status run_experts() {
    const std::int64_t bytes = layer_.h * size_of(layer_.dtype);
    std::byte* out = nullptr;
    if (layer_.expert_rows == ExpertRows::kInPlace && !layer_.quantised) {
      buffer_ = sent_.expand_x;
      out = buffer_.buffer.data();
    } else if (layer_.expert_rows == ExpertRows::kExpertBuffer) {
      Group& owner = tp_.group != nullptr ? *tp_.group : group_;
      auto made = owner.expert_buffer(rows(), layer_.h, layer_.dtype);
      if (!made.ok()) {
        return made.status();
      }
      buffer_ = std::move(*made);
      out = buffer_.buffer.data();
    } else {
      private_rows_.resize(static_cast<std::size_t>(rows() * bytes + 1));
      out = private_rows_.data();
    }
    for (std::int64_t i = 0; i < rows(); ++i) {
      layer_.fill_expert_row(rank_, i, out + i * bytes);
    }
    expert_rows_ = TensorView::contiguous(out, layer_.dtype, {rows(), layer_.h});
    return {};
  }

  CombineArgs combine_args() const {
    CombineArgs args = layer_.combine_args(rank_, expert_rows_, sent_);
    args.tp_group = tp_.group;
    return args;
  }

  std::string bring_back() {
    auto back = combine(group_, combine_args());
    return back.ok() ? check_combine(layer_, rank_, *back, tp_.peer) : back.status().message();
  }

  std::string bring_back_with_norm() {
    auto back = combine_add_rms_norm(group_, layer_.norm_args(rank_, combine_args()));
    return back.ok() ? check_norm(layer_, rank_, *back, tp_.peer) : back.status().message();
  }

  std::string bring_back_in_two_halves() {
    const CombineArgs args = combine_args();
    const SetupCommonArgs common = layer_.setup_args(rank_);
    auto begun = combine_setup(group_,
                               {.common = common,
                                .expand_x = args.expand_x,
                                .expand_x_owner = nullptr,
                                .assist_info_for_combine = assist_.view(),
                                .comm_quant_mode = layer_.comm_quant_mode});
    if (!begun.ok()) {
      return begun.status().message();
    }
    auto back = combine_teardown(group_,
                                 {.common = common,
                                  .expand_x = args.expand_x,
                                  .expand_idx = args.assist_info_for_combine,
                                  .expert_scales = args.expert_scales,
                                  .comm_cmd_info = begun->comm_cmd_info.view(),
                                  .x_active_mask = args.x_active_mask,
                                  .shared_expert_x = args.shared_expert_x,
                                  .comm_quant_mode = layer_.comm_quant_mode});
    return back.ok() ? check_combine(layer_, rank_, *back) : back.status().message();
  }

  Group& group_;
  const LayerCase& layer_;
  const TpSide tp_;
  const int rank_;
  DispatchResult sent_;
  Tensor assist_;  ///< of dispatch_teardown
  Tensor buffer_;
  std::vector<std::byte> private_rows_;
  TensorView expert_rows_;
};

std::string first_of(const std::vector<std::string>& texts, const LayerCase& layer) {
  for (std::size_t r = 0; r < texts.size(); ++r) {
    if (!texts[r].empty()) {
      return "rank " + std::to_string(r) + ": " + texts[r] + " in " + layer.describe();
    }
  }
  return "";
}

}  // namespace

std::string run_layer(Group& group, const LayerCase& layer, const TpSide& tp) {
  return LayerRun(group, layer, tp).run();
}

ThreadGroup::ThreadGroup(int num_ranks,
                         int threads_per_rank,
                         std::vector<std::string> hosts,
                         bool checked) {
  GroupOptions options;
  options.hosts = std::move(hosts);
  options.checked = checked;
  options.timeout = std::chrono::seconds(60);
  options.threads = threads_per_rank;
  options.window_bytes = kTestWindowBytes;
  options.on_phase = delay_at_random;
  auto groups = Group::local(num_ranks, options);
  if (!groups.ok()) {
    std::abort();
  }
  groups_ = std::move(*groups);
}

std::string ThreadGroup::run(const LayerCase& layer) {
  const bool leaves_out = layer.num_ranks < layer.given_ranks();
  std::vector<std::string> texts(groups_.size());
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < groups_.size(); ++r) {
    threads.emplace_back([&, r] {
      texts[r] = run_layer(groups_[r], layer);
      if (leaves_out) {
        auto members = groups_[r].reset();
        texts[r] += members.ok() ? "" : members.status().message();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return first_of(texts, layer);
}

TpThreadGroup::TpThreadGroup(int num_ranks, bool tp_hosts) {
  for (int i = 0; i < 2; ++i) {
    ep_.emplace_back(num_ranks);
  }
  for (int r = 0; r < num_ranks; ++r) {
    tp_.emplace_back(
        2, 1, tp_hosts ? std::vector<std::string>{"a", "b"} : std::vector<std::string>());
  }
}

Group& TpThreadGroup::ep(int tp_rank, int rank) {
  return ep_[static_cast<std::size_t>(tp_rank)].groups()[static_cast<std::size_t>(rank)];
}

Group& TpThreadGroup::tp(int tp_rank, int rank) {
  return tp_[static_cast<std::size_t>(rank)].groups()[static_cast<std::size_t>(tp_rank)];
}

std::string TpThreadGroup::run(const std::vector<LayerCase>& pair) {
  std::vector<std::string> texts(2 * tp_.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    threads.emplace_back([&, i] {
      const int tp_rank = static_cast<int>(i % 2);
      const int rank = static_cast<int>(i / 2);
      texts[i] = run_layer(
          ep(tp_rank, rank), pair[i % 2], {.group = &tp(tp_rank, rank), .peer = &pair[1 - i % 2]});
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return first_of(texts, pair[0]) +
         (first_of(texts, pair[0]).empty() ? "" : " with " + pair[1].describe());
}

}  // namespace waybill::testing
