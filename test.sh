#!/bin/bash
# test.sh [--all]: builds everything and runs the tests, with --all also those that take long (the label `all` of CTest).
# On a fresh Debian 12 it installs what is missing first.
set -euo pipefail
cd "$(dirname "$0")"
leave_out=(-LE '^all$')
for argument in "$@"; do
  case $argument in
    --all) leave_out=() ;;
    *)
      echo "usage: ./test.sh [--all]" >&2
      exit 2
      ;;
  esac
done
. tools/prepare.sh

with_server=1
with_media=1
install_packages "${build_packages[@]}" "${server_packages[@]}" "${media_packages[@]}" "${test_packages[@]}"
echo "build: build/release (log: $logs/build.log)"
build_release all
echo "tests: $logs/test.log"
reports=$PWD/build/release/reports
rm -rf "$reports"
mkdir -p "$reports"
export GTEST_OUTPUT="xml:$reports/" LIT_OPTS="--output=$reports/lit.json ${LIT_OPTS:-}"
ctest --test-dir build/release "${leave_out[@]}" --output-on-failure --output-junit "$reports/ctest.xml" -j2 >"$logs/test.log" 2>&1 || true
python3 tools/summarize-tests.py "$reports"
