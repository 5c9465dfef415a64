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
echo "moe-run links" $libraries
bash test/builds/size.sh "$build/bin/moe-run"
