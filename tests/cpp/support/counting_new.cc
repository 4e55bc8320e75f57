#include "support/counting_new.h"

#include <cstdlib>
#include <new>

#include "window/words.h"

namespace {

thread_local std::int64_t count = 0;

}  // namespace

#if defined(__SANITIZE_ADDRESS__) || defined(WAYBILL_TSAN)
#define WAYBILL_COUNT_NEW 0
#else
#define WAYBILL_COUNT_NEW 1
void* operator new(std::size_t size) {
  ++count;
  if (void* memory = std::malloc(size)) {
    return memory;
  }
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace waybill::testing {

std::int64_t allocations() { return count; }
bool allocations_are_counted() { return WAYBILL_COUNT_NEW != 0; }

}  // namespace waybill::testing
