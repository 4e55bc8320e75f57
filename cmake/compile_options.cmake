# Everything that is compiled here gets these options through waybill_options (not exported).
add_library(waybill_options INTERFACE)

# Sums must round the same on every back end: no fused multiply-add that the source does not spell.
target_compile_options(waybill_options INTERFACE -ffp-contract=off)

if(WAYBILL_DEVELOPER)
  target_compile_options(waybill_options INTERFACE -Wall -Wextra -Wconversion -Wshadow -Werror)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # GCC 12 sees an overlap in every inlined `"text" + std::string`.
    target_compile_options(waybill_options INTERFACE -Wno-restrict)
  endif()
endif()

if(WAYBILL_SANITIZE)
  # Instrumented templates take more than twice as long to compile with -O2 -g.
  target_compile_options(waybill_options
    INTERFACE -O1 -g1 -fsanitize=${WAYBILL_SANITIZE} -fno-omit-frame-pointer
      -fno-sanitize-recover=all)
  target_link_options(waybill_options INTERFACE -fsanitize=${WAYBILL_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND WAYBILL_SANITIZE MATCHES "thread")
    # Fences are replaced by read-modify-writes under TSan (window/words.h); gcc warns about any.
    target_compile_options(waybill_options INTERFACE -Wno-tsan)
  endif()
endif()

if(WAYBILL_COVERAGE)
  # -O1 keeps the big sweeps short. Without inlining each line counts where it is written; ranks are
  # threads, so the counts have to be atomic. Absolute paths let gcov run in any folder.
  target_compile_options(waybill_options
    INTERFACE -O1 -fno-inline --coverage -fprofile-update=atomic -fprofile-abs-path)
  target_compile_definitions(waybill_options INTERFACE WAYBILL_COVERAGE)
  target_link_options(waybill_options INTERFACE --coverage)
endif()
