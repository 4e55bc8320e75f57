#pragma once

namespace waybill {

/// True when the user set this variable of another library, whose default is then left alone.
bool is_in_environment(const char* name) noexcept;

}  // namespace waybill
