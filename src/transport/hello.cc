#include "transport/hello.h"

#include <cstring>
#include <utility>

#include "base/errors.h"
#include "base/shortage.h"
#include "waybill/version.h"

namespace waybill::transport {
namespace {

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

std::array<char, 24> own_version() {
  std::array<char, 24> version{};
  std::strncpy(version.data(), version_string(), version.size() - 1);
  return version;
}

Status mismatch(const char* argument,
                const std::string& expected,
                const std::string& got,
                int rank) {
  return error(StatusCode::kMismatch,
               "connect",
               argument,
               "connect: expected " + expected + ", got " + got + " from " +
                   (rank < 0 ? "a process" : "rank " + std::to_string(rank)),
               rank < 0 ? std::vector<int>{} : std::vector<int>{rank});
}

}  // namespace

std::string address_of(const std::string& id, int rank) {
  return "waybill-" + id + "-" + std::to_string(rank);
}

Result<Greeter> Greeter::create(const window::Window& window,
                                int rank,
                                int world_size,
                                std::int64_t window_bytes,
                                bool rejoining) {
  Greeter greeter;
  greeter.hello_.version = own_version();
  greeter.hello_.rank = rank;
  greeter.hello_.world_size = world_size;
  greeter.hello_.window_bytes = window_bytes;
  greeter.hello_.incarnation = window.control->identity.incarnation;
  greeter.hello_.process_start = window.control->identity.process_start;
  greeter.hello_.rejoining = rejoining ? 1 : 0;
  const std::array<const window::Region*, kPassedFiles> regions = {
      &window.control_region, &window.halves[0], &window.halves[1], &window.pool.region()};
  for (std::size_t i = 0; i < regions.size(); ++i) {
    auto fd = regions[i]->open_read_only();
    if (!fd.ok()) {
      return fd.status();
    }
    greeter.files_[i] = Descriptor(*fd);
  }
  return greeter;
}

Status Greeter::greet(int socket) const {
  std::array<int, kPassedFiles> numbers{};
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = files_[i].get();
  }
  return send_message(socket, bytes_of(hello_), numbers);
}

Result<Hello> Greeter::read(int socket, PeerHandle& peer, const Patience& patience) const {
  Hello hello;
  auto received = receive_some(
      socket, std::as_writable_bytes(std::span<Hello, 1>(&hello, 1)), &peer.files, patience);
  if (!received.ok()) {
    return received.status();
  }
  if (hello.magic != hello_.magic) {
    return mismatch("", "a greeting of Waybill", "something else", -1);
  }
  const bool whole = *received == sizeof(Hello);
  if (!whole || hello.layout_version != hello_.layout_version ||
      hello.control_bytes != hello_.control_bytes || hello.version != hello_.version) {
    const std::size_t length = *received > offsetof(Hello, version)
                                   ? strnlen(hello.version.data(), hello.version.size())
                                   : 0;
    const std::string version(hello.version.data(), length);
    return mismatch("",
                    std::string("every rank to have Waybill ") + hello_.version.data(),
                    (version.empty() ? "another version" : "version " + version) + " (layout " +
                        std::to_string(hello.layout_version) + ")",
                    whole ? hello.rank : -1);
  }
  if (hello.world_size != hello_.world_size || hello.rank < 0 || hello.rank >= hello_.world_size) {
    return mismatch("world_size",
                    "ranks below world_size " + std::to_string(hello_.world_size),
                    "world_size " + std::to_string(hello.world_size),
                    hello.rank);
  }
  peer.process = ProcessHandle::of_peer(socket, hello.process_start);
  if (peer.process.problem() != 0) {
    return error(StatusCode::kInternal,
                 "connect",
                 "",
                 "connect: no descriptor by which to notice the end of rank " +
                     std::to_string(hello.rank) + ": " + describe_errno(peer.process.problem()));
  }
  peer.window_bytes = hello.window_bytes;
  peer.incarnation = hello.incarnation;
  return hello;
}

}  // namespace waybill::transport
