#include "window/identity.h"

#include <sys/random.h>
#include <unistd.h>

#include <cstring>

#include "base/cores.h"
#include "base/process_start.h"
#include "waybill/version.h"
#include "window/control.h"

namespace waybill::window {
namespace {

template <std::size_t N>
void copy(std::array<char, N>& destination, std::string_view text) {
  text.copy(destination.data(), N - 1);  // the last one stays zero
}

template <std::size_t N>
std::string read(const std::array<char, N>& source) {
  return {source.data(), strnlen(source.data(), N)};
}

}  // namespace

std::string Identity::name_text() const { return read(name); }
std::string Identity::id_text() const { return read(id); }
std::string Identity::version_text() const { return read(version); }

Identity make_identity(std::string_view id, std::string_view name, int rank, int world_size) {
  Identity identity;
  identity.page_bytes = sizeof(ControlPage);
  while (identity.incarnation == 0) {
    const ssize_t got = getrandom(&identity.incarnation, sizeof(identity.incarnation), 0);
    identity.incarnation = got == sizeof(identity.incarnation) ? identity.incarnation : 0;
  }
  identity.pid = static_cast<std::int32_t>(getpid());
  identity.process_start = process_start(getpid());
  identity.rank = rank;
  identity.world_size = world_size;
  copy(identity.version, version_string());
  copy(identity.id, id);
  copy(identity.name, name);
  identity.cores = cores_of_thread();
  return identity;
}

}  // namespace waybill::window
