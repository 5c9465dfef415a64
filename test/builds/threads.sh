# threads.sh ROOT BUILD: the server's tests under ThreadSanitizer, and moe-serve built with it under clients that break off
# while its plan is replaced.
set -euo pipefail
cd "$1"
build=$2/threads
if ! compgen -G "$(clang++-22 -print-resource-dir)/lib/*/libclang_rt.tsan*.a" >/dev/null; then
  echo "skipped: clang++-22 has no ThreadSanitizer (Debian: libclang-rt-22-dev)"
  exit 77
fi
cmake --preset asan -B "$build" -DMOE_SANITIZE=thread -DMOE_BUILD_COMPILER=OFF -DMOE_BUILD_SERVER=ON >/dev/null
cmake --build "$build" --target moe-serve MoeEngineTest MoeApiTest MoeHttpTest MoeHttpStreamsTest MoeMetricsTest MoeKvEventsTest \
  MoeGrammarTest MoeServeTest
export TSAN_OPTIONS=halt_on_error=1
env -u GTEST_OUTPUT ctest --test-dir "$build" -R '^Moe(Engine|Api|Http|HttpStreams|Metrics|KvEvents|Grammar|Serve)Test$' \
  --output-on-failure
for part in hostile reload drain; do
  MOE_SERVE=$build/bin/moe-serve MOE_SERVE_PLAN=$2/serve.plan python3 -B "$1/test/server/process/${part}_test.py"
done
