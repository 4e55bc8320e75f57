#pragma once

#include "contract/operators.h"
#include "waybill/dispatch.h"
#include "waybill/status.h"

namespace waybill::engine {

/// Checked mode: what dispatch is about to return has the shapes of docs/contract/operators.md
/// section 2, computed anew from the arguments alone, and its counts fit together. kInternal when
/// not.
Status recheck_dispatch(contract::Operator op,
                        const DispatchArgs& args,
                        const DispatchResult& result);

}  // namespace waybill::engine
