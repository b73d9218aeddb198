#!/usr/bin/env bash
# Runs one program for start_serving.sh, and ends with its exit code: 128 + N when signal N ended it, so that
# bash, which forgets a background job that a signal ended before somebody waited for it, remembers this one.
#   deploy/run_program.sh PROGRAM FLAG...
# TERM stops the program, USR1 kills it. It gets no Ctrl-C, which is start_serving.sh's, and dies with this script.
set -euo pipefail

trap '' INT HUP
setsid setpriv --pdeathsig TERM "$@" &
program=$!
trap 'kill -TERM "$program" 2>/dev/null || true' TERM
trap 'kill -KILL "$program" 2>/dev/null || true' USR1
while true; do
  status=0
  wait "$program" || status=$?
  # A signal to this script ends the wait before the program ends.
  kill -0 "$program" 2>/dev/null || exit "$status"
done
