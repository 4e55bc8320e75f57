#include "window/window.h"

#include <new>
#include <utility>

namespace waybill::window {

Result<std::unique_ptr<Window>> Window::create(std::int64_t bytes,
                                               MemoryBudget& budget,
                                               const WindowOptions& options) {
  auto control = Region::create("the control page", kControlBytes, budget, kControlFile);
  auto first = Region::create("the window", bytes, budget, kHalfFile);
  auto second = Region::create("the window", bytes, budget, kHalfFile);
  auto pool = Pool::create(bytes, budget, options.checked);
  for (const Status& status : {control.status(), first.status(), second.status(), pool.status()}) {
    if (!status.ok()) {
      return status;
    }
  }
  if (Status status = control->commit(0, kControlBytes); !status.ok()) {
    return status;
  }
  auto* page = new (control->data()) ControlPage();
  page->identity = options.identity;
  if (options.newcomer) {
    page->newcomer.store(1);
  } else {
    page->signalled.store(stamp(1, 0));
    page->done.store(stamp(1, 0));
  }
  return std::unique_ptr<Window>(new Window{
      std::move(*control), page, {std::move(*first), std::move(*second)}, std::move(*pool)});
}

}  // namespace waybill::window
