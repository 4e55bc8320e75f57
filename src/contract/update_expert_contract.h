#pragma once

#include <cstdint>

#include "waybill/env.h"
#include "waybill/status.h"
#include "waybill/update_expert.h"

namespace waybill::contract {

/// Checks every argument and every value of the table and of expert_ids. Errors name local_rank_id
/// as the rank.
Status check_update_expert(const UpdateExpertArgs& args, Strict strict);
Status check_eplb_update_expert(const EplbUpdateExpertArgs& args, Strict strict);

/// A call of eplb_update_expert as one of update_expert.
UpdateExpertArgs as_update_expert(const EplbUpdateExpertArgs& args) noexcept;

}  // namespace waybill::contract
