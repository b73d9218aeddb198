#!/usr/bin/env bash
# Installs what is missing, builds everything, runs every test, and closes with 'N passed, N failed'.
#   tests/run.sh
# A Python test is a file tests/**/*_test.py; it finds the model folders in TESSERA_MODELS (joined by
# colons) and ends with 77, after a line 'SKIP: reason', when it cannot run here.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repo"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tessera"
logs="$cache/logs/tests"
passed=0 failed=0 skipped=0

step() { echo "== $* ($((SECONDS / 60)) min $((SECONDS % 60)) s)"; }

count() {  # passed|failed|skipped NAME SECONDS
  local -n counter=$1
  counter=$((counter + 1))
  printf '%-8s%-60s %6.1f s\n' "$1" "$2" "$3"
}

# What fails here is counted as one test, so that the rest still runs.
must() {  # NAME COMMAND...
  local name=$1 start=$SECONDS
  shift
  if "$@"; then return 0; fi
  count failed "$name" $((SECONDS - start))
}

finish() {
  echo
  if ((skipped)); then
    echo "$passed passed, $failed failed, $skipped skipped"
  else
    echo "$passed passed, $failed failed"
  fi
  ((failed == 0 && passed > 0))
}

# The default model is fetched; the others are tested with when somebody has fetched them.
find_models() {
  local folder models
  models=$(deploy/models/fetch.sh | tail -n 1) || return 1
  for folder in "$cache"/models/*/; do
    folder=${folder%/}
    [[ ! -f $folder/tessera_import.json || $folder == "$models" ]] || models+=":$folder"
  done
  export TESSERA_MODELS=$models
  echo "models: $models"
}

build() {
  bazel build --curses=no --noshow_loading_progress --show_progress_rate_limit=15 --show_result=0 \
    --keep_going //...
}

run_bazel_tests() {
  local log="$logs/bazel.log" verdict name seconds
  # Its status says less than its report, which is counted below.
  bazel test --curses=no --noshow_loading_progress --show_progress_rate_limit=15 --keep_going \
    --test_env=TESSERA_MODELS="${TESSERA_MODELS:-}" --test_timeout=900 //... 2>&1 | tee "$log" || true
  python3 tests/bazel_report.py "$log" bazel-testlogs >"$logs/bazel.counts" ||
    { count failed "bazel test //..." 0; return; }
  while read -r verdict name seconds; do
    count "$verdict" "$name" "$seconds"
  done <"$logs/bazel.counts"
}

run_python_test() {  # PYTHON FILE
  local log start status=0 seconds
  log="$logs/$(tr / _ <<<"$2").log"
  start=$(date +%s%N)
  timeout -k 10 900 "$1" "$2" >"$log" 2>&1 || status=$?
  seconds=$(awk -v ns=$(($(date +%s%N) - start)) 'BEGIN {print ns / 1e9}')
  case $status in
    0) count passed "$2" "$seconds" ;;
    77)
      count skipped "$2" "$seconds"
      grep -m 1 '^SKIP:' "$log" || true
      ;;
    *)
      count failed "$2" "$seconds"
      ((status != 124)) || echo "it ran longer than 900 s and was stopped"
      tail -n 40 "$log" | sed 's/^/    /'
      ;;
  esac
}

run_python_tests() {
  local python file
  python=$(deploy/venv.sh test_venv tests/requirements.txt) || { count failed "venv of the tests" 0; return; }
  while IFS= read -r file; do
    run_python_test "$python" "$file"
  done < <(find tests -name '*_test.py' | sort)
}

# The CUDA device and tests that link it, for all cards that we build for, where the toolkit is
# installed. Such a machine need not have a card: the tests there skip without one. In the same output
# tree as the rest, which need not be compiled again then (--config=cuda has its own).
build_cuda() {
  local start=$SECONDS name="bazel test --define=cuda=1 //tests/gpu_worker/device/cuda"
  if [[ ! -x /usr/local/cuda/bin/nvcc ]]; then
    count skipped "$name" 0
    echo "SKIP: there is no CUDA toolkit in /usr/local/cuda"
    return
  fi
  if bazel test --curses=no --noshow_loading_progress --show_progress_rate_limit=15 --show_result=0 \
    --define=cuda=1 --test_env=TESSERA_MODELS="${TESSERA_MODELS:-}" \
    //tests/gpu_worker/device/cuda:{choose_device_test,ops_cuda_test,ops_cuda_attention_test,ops_cuda_memory_test,gemm_start_test,same_text_test}; then
    count passed "$name" $((SECONDS - start))
  else
    count failed "$name" $((SECONDS - start))
  fi
}

# Each target for a minute; the build takes a while when much has changed.
run_fuzz_targets() {
  local log="$logs/fuzz.log" verdict name seconds facts any=0
  tests/fuzz/run.sh 60 2>&1 | tee "$log" | grep -v '^passed\|^failed' || true
  while read -r verdict name seconds facts; do
    any=1
    count "$verdict" "tests/fuzz/$name" "$seconds"
    echo "        $facts"
  done < <(grep '^passed \|^failed ' "$log")
  ((any)) || count failed tests/fuzz/run.sh 0
}

main() {
  mkdir -p "$logs"
  trap 'echo "tests: stopped"; exit 130' INT TERM
  step "packages"
  must "packages" deploy/install.sh tests
  step "model"
  must "default model" find_models
  step "build"
  must "bazel build //..." build
  step "bazel tests, logs in $logs"
  run_bazel_tests
  step "CUDA"
  build_cuda
  step "python tests, logs in $logs"
  run_python_tests
  step "fuzz targets, log in $logs/fuzz.log"
  run_fuzz_targets
  step "done"
  finish
}

main "$@"
