#include "exchange/method.h"

#include <cstring>

namespace waybill::bench {

namespace {

class Yield : public Method {
 public:
  explicit Yield(const Workload& workload) : Method(kYield), board_(workload.board()) {}
  bool has_combine() const override { return false; }
  void dispatch() override { board_.barrier(Patience::kAwake); }
  void experts() override {}
  std::string check_dispatch(bool) const override { return ""; }
  std::string check_combine(bool) const override { return ""; }

 private:
  const SharedBoard& board_;
};

}  // namespace

std::unique_ptr<Method> make_yield(const Workload& workload) {
  return std::make_unique<Yield>(workload);
}

std::vector<std::unique_ptr<Method>> make_methods(const Workload& workload,
                                                  Groups& groups,
                                                  const std::vector<std::string>& names) {
  std::vector<std::unique_ptr<Method>> methods;
  if (workload.board().apart() == nullptr) {
    methods.push_back(make_copy(workload, numerics::StoreKind::kOrdinary));
    methods.push_back(make_copy(workload, numerics::StoreKind::kStreaming));
  }
  for (const std::string& name : names) {
    if (name == kYield) {
      methods.push_back(make_yield(workload));
      continue;
    }
    if (name != "mpi") {
      methods.push_back(make_waybill(workload, groups, name));
      continue;
    }
#ifdef WAYBILL_BENCH_MPI
    if (!workload.board()->effort.as_threads && workload.sizes().quant == 0) {
      methods.push_back(make_mpi(workload));
    }
#endif
  }
  return methods;
}

void write_again(std::byte* rows, std::int64_t bytes) {
  constexpr std::int64_t kLine = 64;
  for (std::int64_t i = 0; i < bytes; i += kLine) {
    volatile std::byte& byte = rows[i];
    byte = byte;
  }
}

std::string compare_rows(const void* row,
                         const void* expected,
                         std::int64_t bytes,
                         const std::string& what) {
  return std::memcmp(row, expected, static_cast<std::size_t>(bytes)) == 0 ? "" : what + " is wrong";
}

std::vector<std::int64_t> sampled(std::int64_t count, bool all) {
  std::vector<std::int64_t> rows;
  const std::int64_t step = all || count < 4 ? 1 : count / 3;
  for (std::int64_t i = 0; i < count; i += step) {
    rows.push_back(i);
  }
  return rows;
}

}  // namespace waybill::bench
