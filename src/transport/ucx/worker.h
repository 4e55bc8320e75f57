#pragma once

#include <memory>
#include <string>

#include "transport/ucx/library.h"
#include "waybill/status.h"

namespace waybill::transport {

/// UCX set up for the wire: a context and a worker. In a child of the process that made it nothing
/// of UCX may be called, and the destructor does not.
class UcxWorker {
 public:
  static Result<std::unique_ptr<UcxWorker>> open();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;
  /// After all endpoints were closed.
  ~UcxWorker();

  const UcxLibrary& ucx() const noexcept { return *ucx_; }
  ucp_worker_h get() const noexcept { return worker_; }
  const std::string& address() const noexcept { return address_; }
  /// Becomes readable when an armed worker has something to do.
  int event() const noexcept { return event_; }
  bool is_of_this_process() const noexcept;

 private:
  explicit UcxWorker(const UcxLibrary* ucx) noexcept;
  Status start();
  Status open_context();
  Status open_worker();

  const UcxLibrary* ucx_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  std::string address_;
  int event_ = -1;
  int generation_;
};

/// "connect: UCX refused to <what>: <why>"
Status ucx_error(const UcxLibrary& ucx, const char* what, ucs_status_t why);

}  // namespace waybill::transport
