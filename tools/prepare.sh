# What quickstart.sh and test.sh share: the packages they need, and steps that are quiet until they fail.
# To be sourced from the root of the repository.

build_packages=(
  ca-certificates git python3
  cmake ninja-build ccache
  clang-22 lld-22 libstdc++-12-dev libc6-dev
  libmlir-22-dev mlir-22-tools llvm-22-dev liblld-22-dev libzstd-dev zlib1g-dev
  flatbuffers-compiler libflatbuffers-dev libcli11-dev libxxhash-dev libeigen3-dev
  libgtest-dev libgmock-dev
)
server_packages=(
  libboost-dev nlohmann-json3-dev   # sockets and JSON
  libssl-dev libzmq3-dev            # TLS, and events for routers; the server builds without either
  python3-pip                       # gets xgrammar's source
)
media_packages=(
  libjpeg-dev libpng-dev libwebp-dev libgif-dev # moe-media's decoders
)
test_packages=(
  python3-venv                    # for the public clients of the server
  g++                             # the runtime alone, with the machine's own compiler
  llvm-22-tools                   # lit, FileCheck
  g++-aarch64-linux-gnu qemu-user # the runtime and a plan for aarch64
  clang-format-22 clang-tidy-22   # layout and likely mistakes
  libclang-rt-22-dev              # sanitizers and fuzzing of ./test.sh --all
  python3-jinja2                  # chat templates as transformers renders them
)

logs=build/logs
mkdir -p "$logs"

# quietly NAME COMMAND...: runs the command with its output in a log, which is shown if it fails.
quietly() {
  local log=$logs/$1.log
  shift
  if ! "$@" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "error: '$*' failed; all that it said is in $log" >&2
    return 1
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"
}

explain_requirements() {
  cat >&2 <<END
Packages are installed by this script on Debian 12 only. Elsewhere, please install
  CMake 3.25, Ninja, Python 3, ccache (optional)
  Clang, LLD, LLVM and MLIR 22.1, with headers and CMake files (Debian: clang-22 lld-22
    liblld-22-dev llvm-22-dev libmlir-22-dev mlir-22-tools)
  FlatBuffers 2.0 with flatc, CLI11 2, xxHash, Eigen 3.4, GoogleTest
  and for pictures libjpeg-turbo, libpng, libwebp, giflib (optional)
  and for the server Boost 1.74, nlohmann JSON 3.11, OpenSSL 3 (optional), ZeroMQ 4 (optional)
and run again with MOE_SKIP_INSTALL=1.
END
}

# install_packages PACKAGE...: installs those that are missing.
install_packages() {
  if [ -n "${MOE_SKIP_INSTALL:-}" ]; then
    echo "packages: not looked at (MOE_SKIP_INSTALL)"
    return
  fi
  if ! command -v apt-get >/dev/null || ! grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release; then
    explain_requirements
    return 1
  fi
  local package missing=()
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  if [ ${#missing[@]} = 0 ]; then
    echo "packages: all there"
    return
  fi
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    echo "error: neither root nor sudo; as root: apt-get install ${missing[*]}" >&2
    return 1
  fi
  echo "packages: installing ${missing[*]}"
  quietly apt-update apt_get update
  if ! apt-cache show "${missing[@]}" >/dev/null 2>&1; then
    echo "error: apt does not know all of them. LLVM 22 is in Debian 12's security updates; is this line among" >&2
    echo "  the apt sources?  deb http://security.debian.org/debian-security bookworm-security main" >&2
    return 1
  fi
  quietly apt-install apt_get install -y --no-install-recommends "${missing[@]}"
}

# As many compilers at once as there are processors, but one for each 1.5 GB of memory at most.
compile_jobs() {
  awk -v cpus="$(nproc)" '/^MemAvailable/ { n = int($2 / 1500000); if (n > cpus) n = cpus; if (n < 1) n = 1; print n }' /proc/meminfo
}

# build_release TARGET...: with the server where `with_server` is set, with moe-media where `with_media` is.
build_release() {
  local options=(${with_server:+-DMOE_BUILD_SERVER=ON} ${with_media:+-DMOE_BUILD_MEDIA=ON}) option missing=
  for option in "${options[@]#-D}"; do
    grep -qs "^${option%=*}:BOOL=ON" build/release/CMakeCache.txt || missing=1
  done
  if [ ! -f build/release/build.ninja ] || [ -n "$missing" ]; then
    quietly configure cmake --preset release "${options[@]}"
  fi
  quietly build cmake --build build/release -j "$(compile_jobs)" --target "$@"
}
