#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace waybill::bench {

/// How a rank waits at a barrier.
enum class Patience : std::uint8_t {
  kAwake,   ///< spins or yields: the next thing is timed
  kAsleep,  ///< leaves its core to ranks that are still at work
};

/// Ranks that something else than this program has started, on one host or several.
class Apart {
 public:
  Apart() = default;
  Apart(const Apart&) = delete;
  Apart& operator=(const Apart&) = delete;
  virtual ~Apart() = default;

  virtual int rank() const = 0;
  virtual int ranks() const = 0;
  /// Of all ranks.
  virtual void barrier(Patience patience) = 0;
  /// Each rank's text to every rank, by rank.
  virtual std::vector<std::string> all_gather(const std::string& own) = 0;
  /// Ends all ranks.
  [[noreturn]] virtual void fail() = 0;

  /// What every rank needs to know of the others, gathered once.
  struct Places {
    std::vector<std::string> hosts;     ///< as Group::connect wants them
    std::vector<std::string> machines;  ///< one clock, cores and memory; it may act for many hosts

    int num_hosts() const;
    bool one_machine() const;
    /// Whether a rank is the first one of its host.
    bool is_first(int rank) const;
    /// A rank's place among those of its machine, and their number.
    int place(int rank) const;
    int neighbours(int rank) const;
  };
  const Places& places() const noexcept { return places_; }

 protected:
  /// Collective, by the constructor of what implements this.
  void find_places();

 private:
  Places places_;
};

}  // namespace waybill::bench
