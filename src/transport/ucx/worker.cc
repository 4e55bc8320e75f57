#include "transport/ucx/worker.h"

#include <array>
#include <csignal>
#include <string_view>

#include "base/environment.h"
#include "base/errors.h"
#include "base/fork.h"
#include "base/shortage.h"
#include "transport/wire.h"

namespace waybill::transport {
namespace {

struct Setting {
  const char* name;
  const char* value;
};

/// What the wire wants of UCX where the user does not say otherwise with UCX_<name>. Tuning: what a
/// version of UCX does not know is left out.
constexpr std::array kSettings = {
    // Between hosts nothing is shared, also where UCX takes two of them for one machine because
    // they are network namespaces of one kernel.
    Setting{"TLS", "^sm,self"},
    // connect() must not block: the caller's patience decides.
    Setting{"TCP_CONN_NB", "y"},
    // A message is one fragment.
    Setting{"TCP_RX_SEG_SIZE", "64k"},
    Setting{"TCP_TX_SEG_SIZE", "64k"},
    Setting{"SEG_SIZE", "64k"},
    // With zero copy UCX 1.13 ends a request twice, and the process, when a TCP connection breaks
    // in the middle of a message.
    Setting{"ZCOPY_THRESH", "inf"},
    Setting{"RNDV_THRESH", "inf"},
};

constexpr std::string_view kTcp = "TCP_";

/// All signals are for the threads of the program: UCX's own inherit that they get none.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace

Status ucx_error(const UcxLibrary& ucx, const char* what, ucs_status_t why) {
  return error(StatusCode::kInternal,
               "connect",
               "",
               std::string("connect: UCX refused to ") + what + ": " + ucx.status_string(why) +
                   describe_lack_of_descriptors());
}

UcxWorker::UcxWorker(const UcxLibrary* ucx) noexcept : ucx_(ucx), generation_(fork_generation()) {}

Result<std::unique_ptr<UcxWorker>> UcxWorker::open() {
  auto ucx = UcxLibrary::get();
  if (!ucx.ok()) {
    return ucx.status();
  }
  std::unique_ptr<UcxWorker> worker(new UcxWorker(*ucx));
  const SignalsBlocked blocked;
  if (Status status = worker->start(); !status.ok()) {
    return status;
  }
  return worker;
}

UcxWorker::~UcxWorker() {
  if (!is_of_this_process()) {
    return;
  }
  if (worker_ != nullptr) {
    ucx_->worker_destroy(worker_);
  }
  if (context_ != nullptr) {
    ucx_->cleanup(context_);
  }
}

bool UcxWorker::is_of_this_process() const noexcept { return generation_ == fork_generation(); }

Status UcxWorker::start() {
  Status status = open_context();
  return status.ok() ? open_worker() : status;
}

Status UcxWorker::open_context() {
  ucp_config_t* config = nullptr;
  ucs_status_t done = ucx_->config_read(nullptr, nullptr, &config);
  if (done != UCS_OK) {
    return ucx_error(*ucx_, "read its UCX_ variables", done);
  }
  for (const Setting& setting : kSettings) {
    const std::string_view name = setting.name;
    if (!is_in_environment(("UCX_" + std::string(name)).c_str())) {
      (void)ucx_->config_modify(config, setting.name, setting.value);
      if (name.starts_with(kTcp)) {
        // UCX 1.13 takes any name and finds those of a transport without its prefix.
        (void)ucx_->config_modify(config, setting.name + kTcp.size(), setting.value);
      }
    }
  }
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  done = ucx_->init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &context_);
  ucx_->config_release(config);
  return done == UCS_OK ? Status() : ucx_error(*ucx_, "start", done);
}

Status UcxWorker::open_worker() {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_EVENTS |
                      UCP_WORKER_PARAM_FIELD_FLAGS;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  params.events = UCP_WAKEUP_RX | UCP_WAKEUP_TX;
  params.flags = UCP_WORKER_FLAG_IGNORE_REQUEST_LEAK;
  ucs_status_t done = ucx_->worker_create(context_, &params, &worker_);
  if (done == UCS_OK) {
    done = ucx_->worker_get_efd(worker_, &event_);
  }
  if (done != UCS_OK) {
    return ucx_error(*ucx_, "open a worker", done);
  }
  ucp_worker_attr_t attributes{};
  attributes.field_mask = UCP_WORKER_ATTR_FIELD_ADDRESS | UCP_WORKER_ATTR_FIELD_ADDRESS_FLAGS |
                          UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER;
  attributes.address_flags =
      is_in_environment("UCX_TLS") ? 0U : unsigned{UCP_WORKER_ADDRESS_FLAG_NET_ONLY};
  done = ucx_->worker_query(worker_, &attributes);
  if (done != UCS_OK) {
    return ucx_error(*ucx_, "say its address", done);
  }
  address_.assign(reinterpret_cast<const char*>(attributes.address), attributes.address_length);
  ucx_->worker_release_address(worker_, attributes.address);
  if (attributes.max_am_header < 2 * kWireHeadBytes) {
    return error(StatusCode::kInternal,
                 "connect",
                 "",
                 "connect: expected of UCX headers of " + std::to_string(2 * kWireHeadBytes) +
                     " bytes, got " + std::to_string(attributes.max_am_header));
  }
  return {};
}

}  // namespace waybill::transport
