#!/usr/bin/env bash
# Makes the virtual environment in $1 with everything that building and testing needs.
# With apt and the right to use it, installs what the system lacks; elsewhere it takes what is there.
set -euo pipefail
venv=$1
python=${PYTHON:-python3}
torch=${TORCH:-torch==2.13.0}

headers='import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'

may_install() {
  command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Debian packages that are missing, from pairs "package:file that shows it is there".
missing_packages() {
  local pair
  command -v g++ >/dev/null || echo g++
  command -v "$python" >/dev/null || echo python3
  "$python" -c 'import ensurepip' 2>/dev/null || echo python3-venv
  # torch's compiler builds C++ against Python's headers.
  "$python" -c "$headers" 2>/dev/null || echo python3-dev
  for pair in libgtest-dev:/usr/include/gtest/gtest.h librapidcheck-dev:/usr/include/rapidcheck.h \
    libbenchmark-dev:/usr/include/benchmark/benchmark.h \
    libcli11-dev:/usr/include/CLI/CLI.hpp nlohmann-json3-dev:/usr/include/nlohmann/json.hpp \
    libopenmpi-dev:/usr/bin/mpicxx openmpi-bin:/usr/bin/mpirun libucx-dev:/usr/include/ucp/api/ucp.h \
    clang-14:/usr/bin/clang++-14 libclang-rt-14-dev:/usr/lib/clang/14/include/fuzzer \
    clang-format-19:/usr/bin/clang-format-19 \
    clang-tidy-19:/usr/bin/clang-tidy-19 spin:/usr/bin/spin \
    iproute2:/usr/sbin/ip; do
    [ -e "${pair#*:}" ] || echo "${pair%%:*}"
  done
}

packages=$(missing_packages)
if [ -n "$packages" ]; then
  if may_install; then
    as_root apt-get update -qq
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages \
      >/dev/null
  else
    echo "setup: not installed, since apt cannot be used here:" $packages
  fi
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  { echo "setup: needs Python 3.10 or later; set PYTHON=..." >&2; exit 1; }

if [ ! -x "$venv/bin/python" ]; then
  flags=()
  [ "$torch" = system ] && flags=(--system-site-packages)
  "$python" -m venv "${flags[@]}" "$venv"
fi
pip=("$venv/bin/pip" install --quiet --disable-pip-version-check)
if [ "$torch" = system ]; then
  "$venv/bin/python" -c 'import torch' || { echo "setup: $python has no torch" >&2; exit 1; }
else
  # shellcheck disable=SC2086
  "$venv/bin/python" -c 'import torch' 2>/dev/null || "${pip[@]}" $torch
fi
"${pip[@]}" -r tools/requirements.txt
