# runtime-only.sh ROOT BUILD: moe-run and gpu-check build without MLIR and link only the C and C++ libraries; moe-run stays
# under 3 MB.
set -euo pipefail
cd "$1"
build=$2/runtime-only
# -O1: what is tested is that it compiles and what it links, in two thirds of the time.
cmake --preset runtime -B "$build" -DMOE_BUILD_TESTS=OFF -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG" >/dev/null
cmake --build "$build" --target moe-run gpu-check

for program in moe-run gpu-check; do
  libraries=$(readelf -d "$build/bin/$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
  for library in $libraries; do
    case $library in
      libc.so.* | libm.so.* | libstdc++.so.* | libgcc_s.so.* | ld-linux-*) ;;
      *) echo "error: $program links $library" && exit 1 ;;
    esac
  done
  echo "$program links" $libraries
done
bash test/builds/size.sh "$build/bin/moe-run" 3
