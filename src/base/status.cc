#include "waybill/status.h"

namespace waybill {

const char* name_of(StatusCode code) noexcept {
  switch (code) {
    case StatusCode::kOk:
      return "Ok";
    case StatusCode::kInvalidArgument:
      return "InvalidArgument";
    case StatusCode::kMismatch:
      return "Mismatch";
    case StatusCode::kOutOfMemory:
      return "OutOfMemory";
    case StatusCode::kTimeout:
      return "Timeout";
    case StatusCode::kPeerLost:
      return "PeerLost";
    case StatusCode::kInterrupted:
      return "Interrupted";
    case StatusCode::kInvalidState:
      return "InvalidState";
    case StatusCode::kInternal:
      return "Internal";
  }
  return "?";
}

}  // namespace waybill
