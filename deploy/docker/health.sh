#!/usr/bin/env bash
# Whether a program of this container answers PATH on PORT with 200. By bash alone: the images have no curl.
#   health.sh PORT PATH
set -euo pipefail

exec 3<>"/dev/tcp/127.0.0.1/$1"
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3
read -r -t 2 answer <&3
[[ $answer == "HTTP/1."[01]" 200 "* ]] || { echo "${answer%$'\r'}" >&2; exit 1; }
