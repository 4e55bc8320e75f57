#pragma once

#include <array>
#include <chrono>
#include <cstdint>

#include "numerics/kernels.h"

namespace waybill::engine {

/// Whether rows are copied with ordinary or with streaming stores. Which is faster depends on what
/// the caches hold when a call comes, which no reported size tells and which differs from program
/// to program. So each size of copy is tried both ways on the first calls, and again now and then;
/// what has been faster is used. No result depends on it.
class StoreChoice {
 public:
  /// The copy of rows that a core pulls to their places, `bytes` of them: what it takes of this
  /// thread's time, from here to the end of the object, is noted.
  class Pull {
   public:
    Pull(StoreChoice& choice, std::int64_t bytes) noexcept;
    Pull(const Pull&) = delete;
    Pull& operator=(const Pull&) = delete;
    ~Pull();
    numerics::StoreKind kind() const noexcept { return kind_; }

   private:
    StoreChoice& choice_;
    const std::int64_t bytes_;
    const numerics::StoreKind kind_;
    const std::chrono::nanoseconds begin_;
  };

  /// What Pull does at its begin and at its end.
  numerics::StoreKind begin_pull(std::int64_t bytes) noexcept;
  void note(std::int64_t bytes, numerics::StoreKind kind, std::chrono::nanoseconds time) noexcept;

  /// For rows that a core publishes: what is best for as many that are pulled.
  numerics::StoreKind for_rows(std::int64_t bytes) const noexcept;
  /// For tokens that a core publishes, `bytes` of them, before it pulls: where it streams what it
  /// pulls, the caches keep nothing for long.
  numerics::StoreKind for_tokens(std::int64_t bytes) const noexcept;

 private:
  /// What is known of the copies of one power of two.
  struct Size {
    std::int64_t copies = 0;
    std::array<double, 2> ns_per_byte{};  ///< by StoreKind; 0 where not tried
  };

  static std::size_t index_of(std::int64_t bytes) noexcept;
  static numerics::StoreKind best_of(const Size& size) noexcept;

  std::array<Size, 48> sizes_;
  numerics::StoreKind last_ = numerics::StoreKind::kOrdinary;
};

}  // namespace waybill::engine
