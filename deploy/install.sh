#!/usr/bin/env bash
# Installs the Debian 12 packages that Tessera needs and that are missing.
#   deploy/install.sh [serving|tests|bench]     (default: serving)
set -euo pipefail

# One package a line, then what it is for. This is the only list of them.
SERVING="
g++                     compiler, C++20
bazel-bootstrap         the build, Bazel 4.2.3
bazel-platforms         rules that this Bazel asks for by itself
bazel-rules-java        the same
bazel-rules-proto       the same
bazel-skylib            the same
protobuf-compiler       protoc, for proto/
protobuf-compiler-grpc  its gRPC plugin
libprotobuf-dev         messages
libgrpc++-dev           RPC between gateway, worker and cache server
libabsl-dev             Status, flags, synchronization
libgoogle-glog-dev      logs and CHECK
libssl-dev              SHA-256 of chunk keys
libxxhash-dev           checksums of layer slices
prometheus-cpp-dev      metrics
librocksdb-dev          the cache server's tier on a disk
libyaml-cpp-dev         configuration files
libboost1.81-dev        HTTP server (Beast, Asio)
libboost-json1.81-dev   JSON of the API
libpcre2-dev            the tokenizer's patterns
libutf8proc-dev         the tokenizer's Unicode normalization
libsentencepiece-dev    tokenizers of the sentencepiece kind
libdnnl-dev             matrix products on the CPU (oneDNN)
python3                 the model import
python3-venv            its packages, apart from the system's
python3-pip             the download of models
"
TESTS="
libgtest-dev            C++ tests
libgmock-dev            the same
libbenchmark-dev        C++ benchmarks
clang-14                the fuzz targets
libclang-rt-14-dev      the same
shellcheck              the check of these scripts
curl                    the examples of the documentation
git                     version stamps in test reports
openssl                 certificates of the tests
chromium                the live page in a browser
chromium-driver         the same
patchelf                deploy/bundle.sh
prometheus              the rules and dashboards, on a port of the tests' own
docker.io               the containers of deploy/docker, run by an engine of the test's own
docker-compose          the same
debootstrap             their base image
iptables                the network of that engine
iproute2                the same
apparmor                containers where the kernel has AppArmor
"
BENCH="
redis-server            what tests/bench/cache_bench measures beside
libhiredis-dev          its client
"

die() { echo "install: $*" >&2; exit 1; }

missing_of() {
  local packages installed
  packages=$(awk 'NF {print $1}' <<<"$1" | sort)
  # dpkg-query fails when it has never heard of a package; that package is missing, no more.
  # shellcheck disable=SC2086  # one argument a package
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' $packages 2>/dev/null |
    awk '$2 == "installed" {print $1}' | sort || true)
  comm -23 <(echo "$packages") <(echo "$installed")
}

# Debian's engine would push out Docker's own where that is in use; the test of containers skips there.
without_second_engine() {
  if dpkg-query -W -f='${db:Status-Status}' containerd.io 2>/dev/null | grep -q '^installed'; then
    grep -v '^docker.io ' <<<"$1"
  else
    echo "$1"
  fi
}

# apt-get's output -> one line for every twentieth package that is set up.
progress() {
  awk '/newly installed/ {for (i = 1; i < NF; i++) if ($(i + 1) == "newly") total = $i}
       /^Get:/ {if (++got % 50 == 0) print "packages: " got " downloaded"; fflush()}
       /^Setting up/ {if (++n % 20 == 0 || n == total) print "packages: " n " of " total " set up"; fflush()}'
}

main() {
  local list missing log
  case "${1:-serving}" in
    serving) list=$SERVING ;;
    tests) list=$SERVING$TESTS ;;
    bench) list=$SERVING$TESTS$BENCH ;;
    *) die "usage: deploy/install.sh [serving|tests|bench]" ;;
  esac
  command -v apt-get dpkg-query >/dev/null ||
    die "this is not a Debian system; install by hand what this script lists: ${BASH_SOURCE[0]}"
  list=$(without_second_engine "$list")
  missing=$(missing_of "$list")
  if [[ -z $missing ]]; then
    echo "packages: all there"
    return
  fi
  missing=${missing//$'\n'/ }
  [[ $(id -u) == 0 ]] || die "run as root once: apt-get install $missing"
  echo "packages: installing $missing"
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  apt-get update >"$log" 2>&1 || die "apt-get update failed ($(tail -n 1 "$log")); check the network"
  # shellcheck disable=SC2086  # one argument a package
  apt-get install -y --no-install-recommends $missing 2>&1 | tee "$log" | progress ||
    die "apt-get install failed ($(grep -m 1 '^E:' "$log" || tail -n 1 "$log")); the whole output is in $log"
  missing=$(missing_of "$list")
  [[ -z $missing ]] || die "still missing after the install: ${missing//$'\n'/ }; apt's output is in $log"
  rm -f "$log"
}

main "$@"
