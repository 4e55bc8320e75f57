#include "waybill/version.h"

namespace waybill {

static_assert(kVersionMajor == 0 && kVersionMinor == 1 && kVersionPatch == 0);

const char* version_string() noexcept { return "0.1.0"; }

}  // namespace waybill
