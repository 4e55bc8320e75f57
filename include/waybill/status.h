#pragma once

#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace waybill {

/// What went wrong, grouped by what the caller has to do about it.
enum class StatusCode {
  kOk = 0,

  // The call has failed on every rank, and the group can be used again at once, unless the message
  // says that it needs a reset: then this rank alone has failed after others could read its rows,
  // or the ranks are out of step.
  kInvalidArgument,  ///< An argument of this rank is wrong, or combine misses a row.
  kMismatch,         ///< Ranks disagree, or another rank refused the call.
  kOutOfMemory,      ///< A window or the pool cannot grow within the limits.

  // The group needs a reset before its next call.
  kTimeout,      ///< A living rank did not come in time.
  kPeerLost,     ///< The process of a rank has ended.
  kInterrupted,  ///< The caller's interrupt check asked to stop waiting.

  /// Wrong order of calls, a group that needs reset, a rank that has left, a second thread, a fork.
  kInvalidState,
  /// What should have worked did not; the message says when the group needs a reset.
  kInternal,
};

/// "InvalidArgument", "Mismatch", ...
const char* name_of(StatusCode code) noexcept;

/// The fields of an error. `ranks` holds exactly the missing ranks for kTimeout and kPeerLost, the
/// ranks that differ or refused for kMismatch, those that have left the group or that a call may
/// not include for kInvalidState, and for kOutOfMemory the rank that got more rows than it has
/// memory for; it is empty where no other rank is concerned.
struct ErrorInfo {
  StatusCode code = StatusCode::kInternal;
  std::string op;        ///< Operator, for instance "npu_moe_distribute_dispatch_v2".
  std::string argument;  ///< Name of the offending argument, empty where there is none.
  std::vector<int> ranks;
  std::string message;  ///< The whole sentence: operator, argument, what was expected, what came.
};

/// Success, or an ErrorInfo. Cheap to return: one null pointer on success.
class [[nodiscard]] Status {
 public:
  Status() noexcept = default;
  explicit Status(ErrorInfo info) : info_(std::make_unique<ErrorInfo>(std::move(info))) {}
  Status(Status&&) noexcept = default;
  Status& operator=(Status&&) noexcept = default;
  Status(const Status& other)
      : info_(other.info_ ? std::make_unique<ErrorInfo>(*other.info_) : nullptr) {}
  Status& operator=(const Status& other) {
    if (this != &other) {
      info_ = other.info_ ? std::make_unique<ErrorInfo>(*other.info_) : nullptr;
    }
    return *this;
  }
  ~Status() = default;

  bool ok() const noexcept { return info_ == nullptr; }
  StatusCode code() const noexcept { return info_ ? info_->code : StatusCode::kOk; }
  /// Only when !ok().
  const ErrorInfo& info() const noexcept { return *info_; }
  /// The sentence, or "ok".
  std::string message() const { return info_ ? info_->message : "ok"; }

 private:
  std::unique_ptr<ErrorInfo> info_;
};

/// A value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
  Result(Status status) : content_(std::in_place_index<1>, std::move(status)) {}

  bool ok() const noexcept { return content_.index() == 0; }
  /// The error; success when ok().
  Status status() const { return ok() ? Status() : std::get<1>(content_); }
  /// Only when ok().
  T& value() & { return std::get<0>(content_); }
  const T& value() const& { return std::get<0>(content_); }
  T&& value() && { return std::get<0>(std::move(content_)); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }

 private:
  std::variant<T, Status> content_;
};

}  // namespace waybill
