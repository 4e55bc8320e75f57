#include "transport/ucx/library.h"

#include <dlfcn.h>

#include <array>
#include <csignal>
#include <cstddef>
#include <string>

#include "base/environment.h"
#include "base/errors.h"
#include "base/fork.h"

namespace waybill::transport {
namespace {

constexpr const char* kName = "libucp.so.0";
/// The oldest that was tried.
constexpr unsigned kMajor = 1;
constexpr unsigned kOldestMinor = 13;

Status unusable(const std::string& why) {
  return error(StatusCode::kInvalidState,
               "connect",
               "",
               "connect: expected UCX, for ranks on several hosts, got " + why);
}

/// Takes back what a library does to the process's signals.
class SignalsKept {
 public:
  SignalsKept() noexcept {
    for (std::size_t s = 1; s < actions_.size(); ++s) {
      known_[s] = sigaction(static_cast<int>(s), nullptr, &actions_[s]) == 0;
    }
    has_stack_ = sigaltstack(nullptr, &stack_) == 0;
  }
  ~SignalsKept() {
    for (std::size_t s = 1; s < actions_.size(); ++s) {
      if (known_[s]) {
        sigaction(static_cast<int>(s), &actions_[s], nullptr);
      }
    }
    if (has_stack_) {
      sigaltstack(&stack_, nullptr);
    }
  }
  SignalsKept(const SignalsKept&) = delete;
  SignalsKept& operator=(const SignalsKept&) = delete;

 private:
  std::array<struct sigaction, 32> actions_{};
  std::array<bool, 32> known_{};
  stack_t stack_{};
  bool has_stack_ = false;
};

class Symbols {
 public:
  explicit Symbols(void* handle) noexcept : handle_(handle) {}

  /// Symbols of the libraries that the handle depends on are found, too.
  template <typename Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(handle_, name));
    if (function == nullptr && missing_ == nullptr) {
      missing_ = name;
    }
  }
  const char* missing() const noexcept { return missing_; }

 private:
  void* handle_;
  const char* missing_ = nullptr;
};

/// Not in the headers that UCX promises to keep, so it may be missing.
void silence(void* handle) {
  using SetValue = ucs_status_t (*)(const char* name, const char* value);
  const auto set = reinterpret_cast<SetValue>(dlsym(handle, "ucs_global_opts_set_value"));
  if (set == nullptr) {
    return;
  }
  if (!is_in_environment("UCX_LOG_LEVEL")) {
    (void)set("LOG_LEVEL", "fatal");
  }
  (void)set("HANDLE_ERRORS", "none");
}

Result<UcxLibrary> load() {
  const SignalsKept signals;
  void* handle = dlopen(kName, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();
    return unusable(why != nullptr ? why : "no " + std::string(kName));
  }
  silence(handle);
  UcxLibrary ucx{};
  Symbols symbols(handle);
  symbols.find(ucx.get_version, "ucp_get_version");
  symbols.find(ucx.config_read, "ucp_config_read");
  symbols.find(ucx.config_modify, "ucp_config_modify");
  symbols.find(ucx.config_release, "ucp_config_release");
  symbols.find(ucx.init_version, "ucp_init_version");
  symbols.find(ucx.cleanup, "ucp_cleanup");
  symbols.find(ucx.worker_create, "ucp_worker_create");
  symbols.find(ucx.worker_destroy, "ucp_worker_destroy");
  symbols.find(ucx.worker_query, "ucp_worker_query");
  symbols.find(ucx.worker_release_address, "ucp_worker_release_address");
  symbols.find(ucx.worker_progress, "ucp_worker_progress");
  symbols.find(ucx.worker_get_efd, "ucp_worker_get_efd");
  symbols.find(ucx.worker_arm, "ucp_worker_arm");
  symbols.find(ucx.worker_set_am_recv_handler, "ucp_worker_set_am_recv_handler");
  symbols.find(ucx.ep_create, "ucp_ep_create");
  symbols.find(ucx.ep_close_nbx, "ucp_ep_close_nbx");
  symbols.find(ucx.ep_flush_nbx, "ucp_ep_flush_nbx");
  symbols.find(ucx.am_send_nbx, "ucp_am_send_nbx");
  symbols.find(ucx.request_check_status, "ucp_request_check_status");
  symbols.find(ucx.request_free, "ucp_request_free");
  symbols.find(ucx.status_string, "ucs_status_string");
  if (symbols.missing() != nullptr) {
    return unusable(std::string(kName) + " without " + symbols.missing());
  }
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ucx.get_version(&major, &minor, &release);
  if (major != kMajor || minor < kOldestMinor) {
    return unusable("version " + std::to_string(major) + "." + std::to_string(minor) +
                    " instead of 1.13 or a later 1.x");
  }
  return ucx;
}

}  // namespace

Result<const UcxLibrary*> UcxLibrary::get() {
  static const int generation = fork_generation();
  static const Result<UcxLibrary> library = load();
  if (!library.ok()) {
    return library.status();
  }
  if (generation != fork_generation()) {
    return unusable("a process forked from one that uses UCX");
  }
  return &*library;
}

}  // namespace waybill::transport
