#pragma once

#include <string>
#include <vector>

#include "engine/session.h"

namespace waybill::engine {

// Texts about other ranks, for errors of waits. `ranks` are those that the error is about.

/// Why ranks of other hosts count as ended and when they were heard last, with "; " in front; empty
/// where all are on this host.
std::string news_of(Session& session, const std::vector<int>& ranks);
/// Where these ranks, which live, are.
std::string whereabouts_of(Session& session, const std::vector<int>& ranks);
/// How these ranks, which are gone, went.
std::string ends_of(Session& session, const std::vector<int>& ranks);
/// Why these ranks make no further call.
std::string departures(Session& session, const std::vector<int>& ranks);

}  // namespace waybill::engine
