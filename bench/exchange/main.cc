#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "exchange/measure.h"
#include "exchange/mpi_ranks.h"
#include "exchange/records.h"

namespace waybill::bench {
namespace {

using nlohmann::json;

/// Ranks that are processes: they meet by the ids in the board.
class ProcessGroups : public Groups {
 public:
  ProcessGroups(const SharedBoard& board, int rank) : board_(board), rank_(rank) {}

  Group& get(int index, const GroupOptions& given) override {
    const auto found = groups_.find(index);
    if (found != groups_.end()) {
      return found->second;
    }
    GroupOptions options = given;
    if (Apart* apart = board_.apart(); apart != nullptr) {
      options.hosts = apart->places().hosts;
      options.all_gather = [apart](const std::string& own) {
        return Result<std::vector<std::string>>(apart->all_gather(own));
      };
    }
    const auto id = UniqueId::from_string(board_->ids[static_cast<std::size_t>(index)].str());
    auto group = id.ok() ? Group::connect(id.value(), rank_, board_->sizes.ranks, options)
                         : Result<Group>(id.status());
    if (!group.ok()) {
      board_.fail(group.status().message());
    }
    return groups_.emplace(index, std::move(*group)).first->second;
  }

 private:
  const SharedBoard& board_;
  const int rank_;
  std::map<int, Group> groups_;
};

/// Ranks that are threads of this process.
class ThreadGroups {
 public:
  explicit ThreadGroups(const SharedBoard& board) : board_(board) {}

  Group& get(int index, int rank, const GroupOptions& options) {
    const std::lock_guard lock(mutex_);
    auto& groups = groups_[index];
    if (groups.empty()) {
      auto made = Group::local(board_->sizes.ranks, options);
      if (!made.ok()) {
        board_.fail(made.status().message());
      }
      groups = std::move(*made);
    }
    return groups[static_cast<std::size_t>(rank)];
  }

 private:
  const SharedBoard& board_;
  std::mutex mutex_;
  std::map<int, std::vector<Group>> groups_;
};

class ThreadRank : public Groups {
 public:
  ThreadRank(ThreadGroups& groups, int rank) : groups_(groups), rank_(rank) {}
  Group& get(int index, const GroupOptions& options) override {
    return groups_.get(index, rank_, options);
  }

 private:
  ThreadGroups& groups_;
  const int rank_;
};

void run_process(const SharedBoard& board, int rank) {
  ProcessGroups groups(board, rank);
  measure(board, rank, groups);
}

bool run_threads(const SharedBoard& board) {
  ThreadGroups groups(board);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < board->sizes.ranks; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadRank own(groups, rank);
      measure(board, rank, own);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return true;
}

bool wait_for(const std::vector<pid_t>& children) {
  bool good = true;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    good = good && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  return good;
}

bool run_forked(const SharedBoard& board) {
  std::vector<pid_t> children;
  for (int rank = 0; rank < board->sizes.ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      run_process(board, rank);
      std::_Exit(0);
    }
    children.push_back(child);
  }
  return wait_for(children);
}

#ifdef WAYBILL_BENCH_MPI
/// mpirun starts this program once a rank, which then finds the board in this process.
bool run_under_mpi(const SharedBoard& board) {
  const std::string ranks = std::to_string(board->sizes.ranks);
  const std::string path = board.path();
  const std::string program = std::filesystem::read_symlink("/proc/self/exe");
  const pid_t child = fork();
  if (child == 0) {
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    execl(WAYBILL_MPIRUN,
          WAYBILL_MPIRUN,
          "--oversubscribe",
          "--bind-to",
          "none",
          "-n",
          ranks.c_str(),
          program.c_str(),
          "--board",
          path.c_str(),
          nullptr);
    std::perror(WAYBILL_MPIRUN);
    std::_Exit(1);
  }
  return wait_for({child});
}

int run_mpi_rank(const std::string& path) {
  const SharedBoard board(path);
  start_mpi();
  run_process(board, mpi_rank());
  end_mpi();
  return 0;
}
#endif

bool run_case(const SharedBoard& board) {
  if (board->effort.as_threads) {
    return run_threads(board);
  }
#ifdef WAYBILL_BENCH_MPI
  const auto methods = split(board->effort.methods.str(), ',');
  if (std::find(methods.begin(), methods.end(), "mpi") != methods.end()) {
    return run_under_mpi(board);
  }
#endif
  return run_forked(board);
}

/// With ids of the groups of a case, the same on all ranks.
std::unique_ptr<SharedBoard> make_board(const Case& sizes, const Effort& effort, Apart* apart) {
  const std::int64_t bytes = Workload::arena_bytes(sizes, apart == nullptr);
  const bool shared = apart == nullptr || apart->places().one_machine();
  std::unique_ptr<SharedBoard> board;
  if (apart == nullptr || apart->rank() == 0 || !shared) {
    board = std::make_unique<SharedBoard>(sizes, effort, bytes, apart);
    for (Text& id : (*board)->ids) {
      id.set(UniqueId::create().to_string());
    }
  }
  if (apart == nullptr) {
    return board;
  }
  if (shared) {
    const std::string path = apart->all_gather(board ? board->path() : "").front();
    if (!board) {
      board = std::make_unique<SharedBoard>(path, apart);
    }
    apart->barrier(Patience::kAsleep);  // rank 0 stays until all have it
    return board;
  }
  for (Text& id : (*board)->ids) {
    id.set(apart->all_gather(id.str()).front());
  }
  return board;
}

json settings_of(const Effort& effort) {
  return {{"warm_up", effort.warm_up},
          {"seconds", effort.seconds},
          {"weights_mib", effort.weights_mib},
          {"pinned", true},
          {"launch", effort.as_threads ? "threads" : "processes"}};
}

/// `apart`: the other ranks, where this process is one of those that mpirun has started.
int run(const Plan& plan, Apart* apart) {
  json document = {{"machine", describe_machine()},
                   {"settings", settings_of(plan.effort)},
                   {"records", json::array()}};
  for (const Case& sizes : plan.cases) {
    const auto made = make_board(sizes, plan.effort, apart);
    const SharedBoard& board = *made;
    if (apart != nullptr) {
      run_process(board, apart->rank());
    } else if (!run_case(board)) {
      return 1;
    }
    if (apart != nullptr && apart->rank() != 0) {
      continue;
    }
    const json records = json::parse(board->report.data());
    std::cout << "R=" << sizes.ranks << " hosts=" << sizes.hosts << " BS=" << sizes.bs
              << " H=" << sizes.hidden << " K=" << sizes.topk << " experts=" << sizes.experts()
              << " threads=" << sizes.threads << " quant=" << sizes.quant << " "
              << name_of(sizes.dtype) << " " << sizes.routing.str() << ", " << records[0]["rounds"]
              << " rounds\n"
              << make_table(records) << std::endl;
    for (const json& record : records) {
      document["records"].push_back(record);
    }
    if (!plan.json.empty()) {
      std::ofstream(plan.json) << document.dump(1) << "\n";
    }
  }
  return 0;
}

#ifdef WAYBILL_BENCH_MPI
int run_apart(Plan plan) {
  const auto apart = make_mpi_ranks();
  if (apart->ranks() > kMaxRanks) {
    std::cerr << "waybill-bench: expected at most " << kMaxRanks << " ranks\n";
    return 1;
  }
  // --ranks sweeps what mpirun has decided.
  std::vector<Case> cases;
  for (Case sizes : plan.cases) {
    if (sizes.ranks != plan.cases.front().ranks) {
      continue;
    }
    sizes.ranks = apart->ranks();
    sizes.hosts = apart->places().num_hosts();
    cases.push_back(sizes);
  }
  plan.cases = cases;
  return run(plan, apart.get());
}
#endif

}  // namespace
}  // namespace waybill::bench

int main(int argc, char** argv) {
  const waybill::bench::Plan plan = waybill::bench::read_plan(argc, argv);
#ifdef WAYBILL_BENCH_MPI
  if (!plan.board.empty()) {
    return waybill::bench::run_mpi_rank(plan.board);
  }
  if (waybill::bench::is_under_mpi()) {
    return waybill::bench::run_apart(plan);
  }
#endif
  return waybill::bench::run(plan, nullptr);
}
