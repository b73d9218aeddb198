#!/usr/bin/env bash
# Builds the images of gateway, cache server and worker from Debian's packages and the programs that Bazel built,
# without any registry. The base image is made once and kept in the cache folder.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tessera/docker"
suite=bookworm
# Another number where make_root_filesystem changes, so that older bases are not used any more.
base_version=1
# Nothing of ours runs as root; the number is in the Dockerfile, docker-compose.yml and deploy/k8s too.
user_id=10001
docker=${DOCKER:-docker}
tag=latest cuda="" base_only="" fresh=""

usage() {
  cat <<'END'
usage: deploy/docker/build_images.sh [--tag=TAG] [--cuda] [--fresh-base] [--base-only]

--tag=TAG     of the three images tessera/gateway, tessera/cache_server and tessera/worker (latest)
--cuda        the worker for NVIDIA cards, as tessera/worker_cuda: bazel build --config=cuda //gpu_worker:tessera_worker
              comes first, the two other programs are as they were built
--fresh-base  make the base image again, with today's packages
--base-only   only make the base's file system; needs no container engine

DOCKER is the command of the engine (docker).
END
}

say() { echo "images: $*" >&2; }
die() { say "error: $*"; exit 1; }

read_arguments() {
  local argument
  for argument in "$@"; do
    case $argument in
      --tag=?*) tag=${argument#--tag=} ;;
      --cuda) cuda=1 ;;
      --fresh-base) fresh=1 ;;
      --base-only) base_only=1 ;;
      --help) usage; exit 0 ;;
      *) usage >&2; exit 2 ;;
    esac
  done
}

# CODENAME -> the mirror that this machine's apt uses for it.
mirror_of() {
  # shellcheck disable=SC2016  # apt's own variables
  apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' 'Origin: Debian' |
    awk -v name="$1" '$2 == name && !found {print $1; found = 1}'
}

debian_sources() {
  local name mirror
  for name in "$suite" "$suite-updates" "$suite-security"; do
    mirror=$(mirror_of "$name")
    [[ -z $mirror ]] || echo "deb $mirror $name main"
  done
}

# Debian's smallest system with its security updates, less what no program reads, and our user.
make_root_filesystem() {  # FOLDER
  local mirror
  [[ -n $(mirror_of "$suite") ]] || apt-get update >&2 || die "apt-get update failed; check the network"
  mirror=$(mirror_of "$suite")
  [[ -n $mirror ]] || die "apt knows no mirror of Debian $suite: see /etc/apt/sources.list and sources.list.d"
  debootstrap --variant=minbase "$suite" "$1" "$mirror" >&2 || die "debootstrap failed; its words are above"
  debian_sources >"$1/etc/apt/sources.list"
  chroot "$1" sh -ec 'export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update && apt-get -qq -y upgrade && apt-get -qq clean' >&2 || die "the base's updates failed"
  chroot "$1" useradd --uid "$user_id" --user-group --home-dir /var/lib/tessera --shell /usr/sbin/nologin tessera
  # The mount points of the compose file and the manifests; a new volume takes over who owns its place.
  install -d -m 700 -o "$user_id" -g "$user_id" "$1"/var/lib/tessera{,/disk} "$1/run/tessera"
  install -d "$1/model"
  rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/* "$1"/var/log/* "$1"/usr/share/{man,info,locale,i18n}
  find "$1/usr/share/doc" ! -type d ! -name copyright -delete
  rm -f "$1"/etc/{hostname,resolv.conf}
}

# -> $base_file, the base's file system; made when it is not there.
ensure_base_file() {
  local folder
  base_file="$cache/base-$suite-$base_version.tar"
  mkdir -p "$cache"
  # Two builds may want it at the same time.
  exec 9>"$cache/base.lock"
  flock 9
  if [[ ! -s $base_file || -n $fresh ]]; then
    [[ $(id -u) == 0 ]] || die "the base image is made by debootstrap, which needs root; later builds do not"
    command -v debootstrap >/dev/null || die "debootstrap is missing: deploy/install.sh tests"
    folder=$(mktemp -d "$cache/root.XXXXXX")
    # shellcheck disable=SC2064  # the folder of now
    trap "rm -rf --one-file-system '$folder' '$base_file.new'" EXIT
    chmod 755 "$folder"
    say "making the base system, a minute or two"
    make_root_filesystem "$folder"
    tar --numeric-owner --sort=name -C "$folder" -cf "$base_file.new" .
    mv "$base_file.new" "$base_file"
    rm -rf --one-file-system "$folder"
    trap - EXIT
  fi
  flock -u 9
  say "base system: $base_file, $(($(stat -c %s "$base_file") / 1000000)) MB, of $(date -r "$base_file" +%F)"
}

# A base is named by its content, so an engine that has it need not read it again.
import_base() {  # -> $base
  base="tessera/base:$suite-$(sha256sum "$base_file" | cut -c1-12)"
  "$docker" image inspect "$base" >/dev/null 2>&1 || "$docker" import "$base_file" "$base" >/dev/null ||
    die "$docker cannot import the base system; does its daemon run?"
}

build_image() {  # NAME TARGET PROGRAM...
  local name=$1 target=$2
  shift 2
  "$repo/deploy/bundle.sh" "$context/$target" "$@" >&2
  "$docker" build --quiet --file "$here/Dockerfile" --target "$target" --tag "tessera/$name:$tag" \
    --build-arg BASE="$base" --build-arg REVISION="$revision" "$context" >/dev/null || die "$name was not built"
  say "tessera/$name:$tag, $(($("$docker" image inspect --format '{{.Size}}' "tessera/$name:$tag") / 1000000)) MB"
}

main() {
  local bin="$repo/bazel-bin"
  read_arguments "$@"
  ensure_base_file
  [[ -z $base_only ]] || return 0
  import_base
  revision=$(git -C "$repo" describe --always --dirty 2>/dev/null || echo unknown)
  context=$(mktemp -d)
  trap 'rm -rf "$context"' EXIT
  mkdir -p "$context"
  install -m 755 "$here/health.sh" "$context/"
  if [[ -n $cuda ]]; then
    build_image worker_cuda worker "$bin/gpu_worker/tessera_worker"
    return
  fi
  build_image gateway gateway "$bin/gateway/tessera_gateway"
  build_image cache_server cache_server "$bin/cache_server/tessera_cache_server" "$bin/cache_server/ctl/tessera_ctl"
  build_image worker worker "$bin/gpu_worker/tessera_worker"
}

main "$@"
