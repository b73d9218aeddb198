#!/usr/bin/env bash
# Puts programs and every shared library that they need, but for the C library's own, into one folder that runs
# wherever it is moved: FOLDER/bin and FOLDER/lib. For images and for hosts without our packages; their C library
# must not be older than this machine's (`ldd --version`).
#   deploy/bundle.sh FOLDER PROGRAM...
set -euo pipefail

# Come with the kernel or the C library: they must be the host's own.
HOST_OWN='^(linux-vdso|ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libutil|libnss_.*|libanl)\.so'

die() { echo "bundle: $*" >&2; exit 1; }

# PROGRAM -> "name path" of each library, a line each.
libraries_of() {
  local name path
  ldd "$1" | while read -r name _ path _; do
    [[ $(basename "$name") =~ $HOST_OWN || $path != /* ]] || echo "$name $path"
  done
}

bundle_program() {  # PROGRAM
  local name path
  install -m 755 "$1" "$folder/bin/"
  patchelf --set-rpath "\$ORIGIN/../lib" "$folder/bin/$(basename "$1")"
  while read -r name path; do
    [[ ! -e $folder/lib/$name ]] || continue
    install -m 644 "$path" "$folder/lib/$name"
    patchelf --set-rpath "\$ORIGIN" "$folder/lib/$name"
  done < <(libraries_of "$1")
}

main() {
  [[ $# -ge 2 ]] || die "usage: deploy/bundle.sh FOLDER PROGRAM..."
  command -v patchelf >/dev/null || die "patchelf is missing: deploy/install.sh tests, or apt-get install patchelf"
  folder=$1
  shift
  [[ ! -e $folder ]] || die "$folder exists: give a new folder"
  for program in "$@"; do
    [[ -f $program && -x $program ]] || die "$program is no program: build it first (bazel build //...)"
    missing=$(ldd "$program" | awk '/not found/ {print $1}' | tr '\n' ' ')
    [[ -z $missing ]] || die "$program needs libraries that are not here: $missing"
  done
  mkdir -p "$folder/bin" "$folder/lib"
  for program in "$@"; do bundle_program "$program"; done
  echo "bundle: $# programs and $(find "$folder/lib" -type f | wc -l) libraries, $(du -sm "$folder" | cut -f1) MB, in $folder"
}

main "$@"
