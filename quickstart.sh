#!/bin/bash
# From a fresh Debian 12 to a model that writes: installs what is missing, builds, compiles models/cria, runs it.
set -euo pipefail
cd "$(dirname "$0")"
. tools/prepare.sh

install_packages "${build_packages[@]}"
echo "build: build/release (the first time takes some minutes; log: $logs/build.log)"
build_release moec moe-opt moe-run

say_and_do() {
  echo "\$ $*"
  "$@"
}
if [ ! -f build/cria.plan ] || [ -n "$(find models/cria build/release/bin/moec -newer build/cria.plan)" ]; then
  say_and_do build/release/bin/moec compile models/cria -o build/cria.plan --target cpu:native
fi
say_and_do build/release/bin/moe-run build/cria.plan -p "In the beginning" -n 120
