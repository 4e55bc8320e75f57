#include "window/region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/errors.h"
#include "base/shortage.h"

namespace waybill::window {
namespace {

Status system_error(const std::string& what) {
  return error(StatusCode::kInternal, "", "", what + ": " + describe_errno(errno));
}

#ifndef MADV_POPULATE_WRITE
constexpr int kPopulateWrite = 23;  // Linux 5.14
#else
constexpr int kPopulateWrite = MADV_POPULATE_WRITE;
#endif

/// Also the unit of huge pages, by which regions are aligned.
constexpr std::int64_t kGuard = std::int64_t{2} << 20;

/// The file between two stretches of address space that fault on every access; null with errno.
std::byte* map_guarded(int fd, std::int64_t bytes, int protection) {
  const auto reserved = static_cast<std::size_t>(bytes + 3 * kGuard);
  void* whole =
      mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (whole == MAP_FAILED) {
    return nullptr;
  }
  auto* const begin = static_cast<std::byte*>(whole);
  const auto past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(whole) %
                                              static_cast<std::uintptr_t>(kGuard));
  std::byte* const data = begin + (past == 0 ? kGuard : 2 * kGuard - past);
  std::byte* const end = data + bytes + kGuard;
  if (data - kGuard > begin) {
    munmap(begin, static_cast<std::size_t>(data - kGuard - begin));
  }
  munmap(end, static_cast<std::size_t>(begin + reserved - end));
  if (mmap(data,
           static_cast<std::size_t>(bytes),
           protection,
           MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
           fd,
           0) == MAP_FAILED) {
    const int map_errno = errno;
    munmap(data - kGuard, static_cast<std::size_t>(bytes + 2 * kGuard));
    errno = map_errno;
    return nullptr;
  }
  return data;
}

void unmap_guarded(const std::byte* data, std::int64_t bytes) noexcept {
  munmap(const_cast<std::byte*>(data) - kGuard, static_cast<std::size_t>(bytes + 2 * kGuard));
}

}  // namespace

Result<Region> Region::create(std::string purpose,
                              std::int64_t bytes,
                              MemoryBudget& budget,
                              const char* file) {
  Region region;
  region.purpose_ = std::move(purpose);
  region.budget_ = &budget;
  region.fd_ = memfd_create(file, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (region.fd_ < 0) {
    return system_error("memfd_create for " + region.purpose_);
  }
  // Sealed so that a peer's mapping can never reach past the end.
  if (fchmod(region.fd_, 0600) != 0 || ftruncate(region.fd_, bytes) != 0 ||
      fcntl(region.fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    return system_error("a memory file of " + std::to_string(bytes) + " bytes for " +
                        region.purpose_);
  }
  region.data_ = map_guarded(region.fd_, bytes, PROT_READ | PROT_WRITE);
  if (region.data_ == nullptr) {
    return system_error("address space of " + std::to_string(bytes) + " bytes for " +
                        region.purpose_ + " (WAYBILL_WINDOW_BYTES makes it smaller)");
  }
  region.size_bytes_ = bytes;
  region.pages_.resize(static_cast<std::size_t>((bytes / kGranule + 63) / 64));
  return region;
}

Region::~Region() {
  if (data_ != nullptr) {
    unmap_guarded(data_, size_bytes_);
  }
  if (fd_ >= 0) {
    close(fd_);
  }
  if (budget_ != nullptr) {
    budget_->release(committed_bytes_);
  }
}

void Region::swap(Region& other) noexcept {
  std::swap(purpose_, other.purpose_);
  std::swap(budget_, other.budget_);
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(committed_bytes_, other.committed_bytes_);
  std::swap(pages_, other.pages_);
}

/// Of the granules from `first` to `last`, those that have pages.
std::int64_t Region::count_granules(std::int64_t first, std::int64_t last) const noexcept {
  std::int64_t count = 0;
  while (first < last) {
    const std::int64_t shift = first % 64;
    const std::int64_t bits = std::min(last - first, 64 - shift);
    std::uint64_t word = pages_[static_cast<std::size_t>(first / 64)] >> shift;
    word &= ~std::uint64_t{0} >> (64 - bits);
    count += std::popcount(word);
    first += bits;
  }
  return count;
}

std::int64_t Region::committed_in(std::int64_t offset, std::int64_t bytes) const noexcept {
  return kGranule * count_granules((offset + kGranule - 1) / kGranule, (offset + bytes) / kGranule);
}

std::int64_t Region::missing_in(std::int64_t offset, std::int64_t bytes) const noexcept {
  const std::int64_t first = offset / kGranule;
  const std::int64_t last = bytes > 0 ? (offset + bytes + kGranule - 1) / kGranule : first;
  return kGranule * (last - first - count_granules(first, last));
}

Placement Region::placement() const {
  constexpr std::int64_t kPage = 4096;
  const std::int64_t pages = committed_bytes_ / kPage;
  const std::int64_t step =
      std::max<std::int64_t>((pages + kMostPages - 1) / kMostPages, 1) * kPage;
  std::vector<const std::byte*> sample;
  sample.reserve(static_cast<std::size_t>(std::min(pages, kMostPages)));
  std::int64_t next = 0;  // counted in committed bytes
  std::int64_t before = 0;
  for (std::size_t word = 0; word < pages_.size(); ++word) {
    for (std::uint64_t bits = pages_[word]; bits != 0; bits &= bits - 1) {
      const auto granule = static_cast<std::int64_t>(word) * 64 + std::countr_zero(bits);
      for (; next < before + kGranule; next += step) {
        sample.push_back(data_ + granule * kGranule + (next - before));
      }
      before += kGranule;
    }
  }
  return placement_of(sample);
}

Result<int> Region::open_read_only() const {
  const std::string path = "/proc/self/fd/" + std::to_string(fd_);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return system_error("opening " + path + " read-only for " + purpose_);
  }
  return fd;
}

Status Region::commit(std::int64_t offset, std::int64_t bytes) {
  if (bytes <= 0) {
    return {};
  }
  if (offset < 0 || bytes > size_bytes_ - offset) {
    return error(StatusCode::kOutOfMemory,
                 "",
                 "",
                 "out of address space: wanted " + std::to_string(bytes) + " bytes at " +
                     std::to_string(offset) + " of " + purpose_ + ", which has " +
                     std::to_string(size_bytes_) + " (WAYBILL_WINDOW_BYTES)");
  }
  const std::int64_t end = (offset + bytes + kGranule - 1) / kGranule;
  for (std::int64_t first = offset / kGranule; first < end; ++first) {
    if (has(first)) {
      continue;
    }
    std::int64_t last = first + 1;
    while (last < end && !has(last)) {
      ++last;
    }
    if (Status status = commit_run(first, last); !status.ok()) {
      return status;
    }
    first = last;
  }
  return {};
}

Status Region::commit_run(std::int64_t first, std::int64_t last) {
  const std::int64_t bytes = (last - first) * kGranule;
  if (Status status = budget_->reserve(bytes, purpose_); !status.ok()) {
    return status;
  }
  int failed = 0;
  do {
    failed = fallocate(fd_, 0, first * kGranule, bytes);
  } while (failed != 0 && errno == EINTR);
  if (failed != 0) {
    budget_->release(bytes);
    return error(StatusCode::kOutOfMemory,
                 "",
                 "",
                 "out of memory: wanted " + std::to_string(bytes) + " bytes for " + purpose_ +
                     ": " + std::strerror(errno));
  }
  // Maps the pages now instead of one fault at a time in the call; older kernels fault later.
  (void)madvise(data_ + first * kGranule, static_cast<std::size_t>(bytes), kPopulateWrite);
  count_committed(bytes);
  for (std::int64_t granule = first; granule < last; ++granule) {
    pages_[static_cast<std::size_t>(granule / 64)] |= std::uint64_t{1} << (granule % 64);
  }
  return {};
}

void Region::punch(std::int64_t offset, std::int64_t bytes) noexcept {
  const std::int64_t first = (offset + kGranule - 1) / kGranule;
  const std::int64_t last = (offset + bytes) / kGranule;
  // The whole range: its holder may have touched pages that were never committed.
  if (last <= first || fallocate(fd_,
                                 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 first * kGranule,
                                 (last - first) * kGranule) != 0) {
    return;
  }
  const std::int64_t freed = committed_in(first * kGranule, (last - first) * kGranule);
  for (std::int64_t granule = first; granule < last; ++granule) {
    pages_[static_cast<std::size_t>(granule / 64)] &= ~(std::uint64_t{1} << (granule % 64));
  }
  count_committed(-freed);
  budget_->release(freed);
}

void Region::fill(std::int64_t offset, std::int64_t bytes, std::byte value) noexcept {
  const std::int64_t end = offset + bytes;
  while (offset < end) {
    const std::int64_t next = std::min((offset / kGranule + 1) * kGranule, end);
    if (has(offset / kGranule)) {
      std::memset(
          data_ + offset, std::to_integer<int>(value), static_cast<std::size_t>(next - offset));
    }
    offset = next;
  }
}

Result<PeerMapping> PeerMapping::map(int fd, std::int64_t bytes) {
  struct stat file{};
  if (fstat(fd, &file) != 0 || file.st_size < bytes || bytes <= 0) {
    close(fd);
    return error(StatusCode::kInternal,
                 "",
                 "",
                 "a peer's window is " + std::to_string(file.st_size) + " bytes, said to be " +
                     std::to_string(bytes));
  }
  PeerMapping mapping;
  mapping.data_ = map_guarded(fd, bytes, PROT_READ);
  const int map_errno = errno;
  close(fd);
  if (mapping.data_ == nullptr) {
    errno = map_errno;
    return system_error("mapping " + std::to_string(bytes) +
                        " bytes of a peer's window (WAYBILL_WINDOW_BYTES makes it smaller)");
  }
  mapping.size_bytes_ = bytes;
  return mapping;
}

PeerMapping::PeerMapping(PeerMapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_bytes_(other.size_bytes_) {}

PeerMapping& PeerMapping::operator=(PeerMapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

PeerMapping::~PeerMapping() {
  if (data_ != nullptr) {
    unmap_guarded(data_, size_bytes_);
  }
}

}  // namespace waybill::window
