#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "exchange/workload.h"
#include "waybill/group.h"

namespace waybill::bench {

/// One way to do the exchange, on one rank. Collective: all ranks run the same steps.
class Method {
 public:
  explicit Method(std::string name) : name_(std::move(name)) {}
  Method(const Method&) = delete;
  Method& operator=(const Method&) = delete;
  virtual ~Method() = default;

  const std::string& name() const noexcept { return name_; }
  /// Whether this rank has work; one that has none leaves its core to the others.
  virtual bool takes_part() const { return true; }
  virtual bool has_combine() const { return true; }
  /// Timed: every row to its expert.
  virtual void dispatch() = 0;
  /// Not timed: the experts, which give back what they got. They write it anew, as experts would:
  /// it is in this core's caches as far as it fits.
  virtual void experts() = 0;
  /// Timed: every row back to its token, and their weighted sum.
  virtual void combine() {}
  /// After a timed step, before this rank sleeps: until others no longer need it to end theirs.
  virtual void settle() {}
  /// What is wrong with the results of this round, or nothing. `all`: looks at every row.
  virtual std::string check_dispatch(bool all) const = 0;
  virtual std::string check_combine(bool all) const = 0;
  /// Lets go of this round's results.
  virtual void drop() {}

 private:
  const std::string name_;
};

/// The groups of one rank: one for each set of options that some method needs.
class Groups {
 public:
  virtual ~Groups() = default;
  /// The group number `index`, connected with `options` when it is first asked for.
  virtual Group& get(int index, const GroupOptions& options) = 0;
};

/// The methods that `names` asks for, after the plain copies, which only
/// ranks have that this program has started.
std::vector<std::unique_ptr<Method>> make_methods(const Workload& workload,
                                                  Groups& groups,
                                                  const std::vector<std::string>& names);

/// The name of the plain copy with ordinary or with streaming stores.
inline constexpr const char* kCopy = "copy";
inline constexpr const char* kCopyStreaming = "copy-streaming";

/// A barrier of all ranks that yields: what waiting costs at least where ranks share cores.
inline constexpr const char* kYield = "yield";
std::unique_ptr<Method> make_yield(const Workload& workload);

std::unique_ptr<Method> make_copy(const Workload& workload, numerics::StoreKind kind);
std::unique_ptr<Method> make_waybill(const Workload& workload,
                                     Groups& groups,
                                     const std::string& name);
#ifdef WAYBILL_BENCH_MPI
std::unique_ptr<Method> make_mpi(const Workload& workload);
void start_mpi();
void end_mpi();
int mpi_rank();
#endif

/// Writes what is there already.
void write_again(std::byte* rows, std::int64_t bytes);

/// "" where `row` equals `expected`, else a sentence.
std::string compare_rows(const void* row,
                         const void* expected,
                         std::int64_t bytes,
                         const std::string& what);
/// Which of `count` rows a check looks at: all, or a few.
std::vector<std::int64_t> sampled(std::int64_t count, bool all);

}  // namespace waybill::bench
