#!/usr/bin/env bash
# Makes or reuses a Python venv in Tessera's cache folder and prints its python.
#   deploy/venv.sh NAME REQUIREMENTS.txt
set -euo pipefail

[[ $# == 2 && -r $2 ]] || { echo "usage: venv.sh NAME REQUIREMENTS.txt (a readable file)" >&2; exit 2; }
name=$1 requirements=$2
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tessera"
venv="$cache/$name"
mkdir -p "$cache" || { echo "cannot write $cache: set XDG_CACHE_HOME to a folder that you own" >&2; exit 1; }

# Two scripts may want the same venv at the same time.
exec 9>"$cache/$name.lock"
flock 9

# The stamp is written last, so a venv that was interrupted is made again.
if [[ -x $venv/bin/python ]] && cmp -s "$requirements" "$venv/tessera_requirements"; then
  echo "$venv/bin/python"
  exit 0
fi

# The first python3 on PATH may lack venv or pip; Debian's own is the second choice.
for python in python3 /usr/bin/python3; do
  "$python" -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 9)' 2>/dev/null || continue
  echo "python venv $name: $(wc -l <"$requirements") pinned packages" >&2
  "$python" -m venv --clear "$venv" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2 ||
    { echo "pip could not install $requirements: see its words above; check the network and run again" >&2; exit 1; }
  cp "$requirements" "$venv/tessera_requirements"
  echo "$venv/bin/python"
  exit 0
done
echo "no python3 (3.9 or later) with venv and pip: run deploy/install.sh as root" >&2
exit 1
