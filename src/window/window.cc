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
  std::unique_ptr<Window> window(new Window{std::move(*control),
                                            page,
                                            Board(*page),
                                            {std::move(*first), std::move(*second)},
                                            std::move(*pool)});
  window->board.begin(options.identity, options.newcomer);
  return window;
}

}  // namespace waybill::window
