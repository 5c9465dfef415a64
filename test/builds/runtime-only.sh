# runtime-only.sh ROOT BUILD: moe-run builds without MLIR, stays under 3 MB and links only the C and C++ libraries.
set -euo pipefail
cd "$1"
build=$2/runtime-only
cmake --preset runtime -B "$build" -DMOE_BUILD_TESTS=OFF >/dev/null
cmake --build "$build" --target moe-run

libraries=$(readelf -d "$build/bin/moe-run" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
for library in $libraries; do
  case $library in
    libc.so.* | libm.so.* | libstdc++.so.* | libgcc_s.so.* | ld-linux-*) ;;
    *) echo "error: moe-run links $library" && exit 1 ;;
  esac
done

strip -o "$build/moe-run.stripped" "$build/bin/moe-run"
bytes=$(stat -c %s "$build/moe-run.stripped")
echo "moe-run: $bytes bytes stripped, links" $libraries
if [ "$bytes" -ge 3000000 ]; then
  echo "error: that is not under 3 MB"
  exit 1
fi
