# install.sh ROOT BUILD: what is installed can be used: the tools, and the runtime from another project.
set -euo pipefail
root=$1
build=$2
prefix=$build/install-test
rm -rf "$prefix"
cmake --install "$build" --prefix "$prefix" >/dev/null
cd "$prefix"
bin/moec compile "$root/models/cria" -o cria.plan --target cpu:native
bin/moe-run cria.plan -p "In the beginning" -n 4
bin/moe-opt --version >/dev/null

cmake -S "$root/test/builds/consumer" -B consumer -G Ninja -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build consumer
consumer/consumer cria.plan
