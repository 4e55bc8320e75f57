#!/usr/bin/env bash
# Uses the installed package from outside: run.sh [BUILD_FOLDER], by default build/release.
# Leaves nothing behind; not 0 when anything fails.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=${1:-$here/../../build/release}
cxx=${CXX:-c++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

[ -f "$build/CMakeCache.txt" ] || { echo "install: no build in $build: configure it first" >&2; exit 1; }
cmake --build "$build" --target waybill
cmake --install "$build" --prefix "$work/prefix" >/dev/null

headers=0
for path in "$work"/prefix/include/waybill/*.h; do
  header=waybill/$(basename "$path")
  echo "#include <$header>" |
    "$cxx" -std=c++20 -fsyntax-only -Wall -Wextra -Wconversion -Werror -I"$work/prefix/include" \
      -x c++ - || { echo "install: $header does not compile alone" >&2; exit 1; }
  headers=$((headers + 1))
done
source_headers=$(find "$here/../../include/waybill" -name '*.h' | wc -l)
[ "$headers" -eq "$source_headers" ] ||
  { echo "install: $headers headers installed, $source_headers in include/waybill" >&2; exit 1; }

cmake -S "$here" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$cxx" \
  -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_CXX_FLAGS="-Wall -Wextra -Wconversion" \
  -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF --log-level=WARNING >/dev/null
cmake --build "$work/build"
"$work/build/consumer"
echo "install: $headers headers compile alone, find_package works"
