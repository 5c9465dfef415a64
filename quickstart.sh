#!/bin/bash
# quickstart.sh [--serve] [--media]: from a fresh Debian 12 to a model that writes: installs what is missing, builds, compiles
# models/cria, runs it; with --serve, serves it at http://127.0.0.1:8000; with --media, builds the decoder of pictures too.
set -euo pipefail
cd "$(dirname "$0")"
with_server=
with_media=
for argument in "$@"; do
  case $argument in
    --serve) with_server=1 ;;
    --media) with_media=1 ;;
    *)
      echo "usage: ./quickstart.sh [--serve] [--media]" >&2
      exit 2
      ;;
  esac
done
. tools/prepare.sh

packages=("${build_packages[@]}")
[ -z "$with_server" ] || packages+=("${server_packages[@]}")
[ -z "$with_media" ] || packages+=("${media_packages[@]}")
install_packages "${packages[@]}"
echo "build: build/release (the first time takes some minutes; log: $logs/build.log)"
build_release moec moe-opt moe-run ${with_server:+moe-serve} ${with_media:+moe-media}

say_and_do() {
  echo "\$ $*"
  "$@"
}
if [ ! -f build/cria.plan ] || [ -n "$(find models/cria build/release/bin/moec -newer build/cria.plan)" ]; then
  say_and_do build/release/bin/moec compile models/cria -o build/cria.plan --target cpu:native
fi
if [ -n "$with_server" ]; then
  say_and_do build/release/bin/moe-serve build/cria.plan
  exit
fi
say_and_do build/release/bin/moe-run build/cria.plan -p "In the beginning" -n 120
