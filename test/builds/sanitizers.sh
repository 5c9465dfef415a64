# sanitizers.sh ROOT BUILD: the runtime's tests under AddressSanitizer and UndefinedBehaviorSanitizer, moe-serve built with
# them among hostile clients, then five minutes of each fuzz target. The compiler's libraries are packaged and not instrumented, so they are left out.
set -euo pipefail
cd "$1"
build=$2/sanitizers
if ! compgen -G "$(clang++-22 -print-resource-dir)/lib/*/libclang_rt.asan*.a" >/dev/null; then
  echo "skipped: clang++-22 has no sanitizers (Debian: libclang-rt-22-dev)"
  exit 77
fi
cmake --preset asan -B "$build" -DMOE_BUILD_COMPILER=OFF -DMOE_BUILD_SERVER=ON -DMOE_BUILD_MEDIA=ON >/dev/null
cmake --build "$build"
env -u GTEST_OUTPUT UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  ctest --test-dir "$build" -E '^(layers|layers-self-test|format)$' --output-on-failure -j2
if [ -e "$2/serve.plan" ]; then # built with the server
  for part in hostile reload drain access tls; do
    MOE_SERVE=$build/bin/moe-serve MOE_SERVE_PLAN=$2/serve.plan UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
      ASAN_OPTIONS=allow_user_poisoning=0 python3 -B "$1/test/server/process/${part}_test.py"
  done
fi
for target in "$build"/unittests/*Fuzz; do
  name=$(basename "$target")
  seeds=()
  [ "$name" != MediaFuzz ] || seeds=(test/vision/files)
  mkdir -p "$build/corpus/$name" "$build/findings"
  "$target" -max_total_time="${MOE_FUZZ_SECONDS:-300}" -artifact_prefix="$build/findings/$name-" "$build/corpus/$name" "${seeds[@]}"
done
