#include "exchange/mpi_ranks.h"

#include <mpi.h>

#include <chrono>
#include <cstdlib>
#include <numeric>
#include <thread>

namespace waybill::bench {
namespace {

constexpr std::chrono::microseconds kNap{50};

class MpiRanks : public Apart {
 public:
  MpiRanks() {
    MPI_Init(nullptr, nullptr);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks_);
    // Its barriers and gathers are nobody's messages.
    MPI_Comm_dup(MPI_COMM_WORLD, &own_);
    find_places();
  }

  ~MpiRanks() override {
    MPI_Comm_free(&own_);
    MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int ranks() const override { return ranks_; }

  void barrier(Patience patience) override {
    if (patience == Patience::kAwake) {
      MPI_Barrier(own_);
      return;
    }
    MPI_Request all = MPI_REQUEST_NULL;
    MPI_Ibarrier(own_, &all);
    for (int done = 0;;) {
      MPI_Test(&all, &done, MPI_STATUS_IGNORE);
      if (done != 0) {
        return;
      }
      std::this_thread::sleep_for(kNap);
    }
  }

  std::vector<std::string> all_gather(const std::string& own) override {
    const auto count = static_cast<std::size_t>(ranks_);
    const int length = static_cast<int>(own.size());
    std::vector<int> lengths(count);
    MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, own_);
    std::vector<int> begins(count);
    std::exclusive_scan(lengths.begin(), lengths.end(), begins.begin(), 0);
    std::string all(static_cast<std::size_t>(begins.back() + lengths.back()), '\0');
    MPI_Allgatherv(
        own.data(), length, MPI_BYTE, all.data(), lengths.data(), begins.data(), MPI_BYTE, own_);
    std::vector<std::string> texts;
    for (std::size_t r = 0; r < count; ++r) {
      texts.push_back(
          all.substr(static_cast<std::size_t>(begins[r]), static_cast<std::size_t>(lengths[r])));
    }
    return texts;
  }

  [[noreturn]] void fail() override {
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::_Exit(1);
  }

 private:
  MPI_Comm own_ = MPI_COMM_NULL;
  int rank_ = 0;
  int ranks_ = 1;
};

}  // namespace

bool is_under_mpi() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMI_SIZE") != nullptr;
}

std::unique_ptr<Apart> make_mpi_ranks() { return std::make_unique<MpiRanks>(); }

}  // namespace waybill::bench
