#!/usr/bin/env bash
# Sets up what is missing and serves: cache server, worker and gateway, until Ctrl-C.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tessera"
pids=() names=() logs=()

usage() {
  cat <<'END'
usage: [VARIABLE=VALUE ...] deploy/start_serving.sh

MODEL        a Hugging Face folder, a .gguf file, or a known name (default smollm2-135m-instruct;
             also qwen2.5-coder-1.5b-instruct)
PORT         of the gateway (8000); CACHE_PORT of the cache server (7600); WORKER_PORT of the worker (7601)
MAX_LEN      longest prompt plus answer, tokens (default: the model's own, at most 8192)
GPU_MEM      kept for the GPU worker, unused on the CPU
TESSERA_LOGS folder for the three logs (default: in the cache folder)

LMCACHE_ENABLE_BLENDING          reuse chunks anywhere in the prompt (true)
LMCACHE_BLEND_SPECIAL_STR        separator that marks segments in a prompt (" # # "); \n and \t are understood
LMCACHE_BLEND_RECOMPUTE_RATIOS   share of reused rows that is recomputed, 0..1 (0.15)
LMCACHE_BLEND_CHECK_LAYERS       layer at which the hkvd policies choose (1)
LMCACHE_USE_LAYERWISE            fetch a layer while the one before it is computed (true)
LMCACHE_CHUNK_SIZE               tokens of a piece, the unit of storage (256)
LMCACHE_LOCAL_CPU                keep chunks in the cache server's RAM (true)
LMCACHE_MAX_LOCAL_CPU_SIZE       GB of that RAM (5, or a quarter of what is free if that is less)
LMCACHE_LOCAL_DISK, LMCACHE_MAX_LOCAL_DISK_SIZE   accepted; there is no disk tier yet
END
}

say() { echo "start: $*" >&2; }
die() { say "error: $*"; exit 1; }
bad_value() { say "error: $1='$2' is not valid: $3"; exit 2; }

check_number() {  # name value pattern low high what
  [[ $2 =~ $3 ]] || bad_value "$1" "$2" "$6"
  awk -v v="$2" -v low="$4" -v high="$5" 'BEGIN {exit !(v >= low && v <= high)}' || bad_value "$1" "$2" "$6"
}

# Reads every variable into settings, so that a bad one stops the script before the long steps.
read_settings() {
  local whole='^[0-9]{1,9}$' real='^[0-9]*\.?[0-9]+$' port
  model=${MODEL:-smollm2-135m-instruct}
  gateway_port=${PORT:-8000} cache_port=${CACHE_PORT:-7600} worker_port=${WORKER_PORT:-7601}
  for port in "PORT $gateway_port" "CACHE_PORT $cache_port" "WORKER_PORT $worker_port"; do
    check_number "${port% *}" "${port#* }" "$whole" 1 65535 "give a port between 1 and 65535"
  done
  max_len=${MAX_LEN:-} chunk_size=${LMCACHE_CHUNK_SIZE:-256}
  [[ -z $max_len ]] || check_number MAX_LEN "$max_len" "$whole" 128 10000000 "give a number of tokens, 128 or more"
  check_number LMCACHE_CHUNK_SIZE "$chunk_size" "$whole" 16 65536 "give tokens between 16 and 65536"
  ratio=${LMCACHE_BLEND_RECOMPUTE_RATIOS:-0.15} check_layer=${LMCACHE_BLEND_CHECK_LAYERS:-1}
  check_number LMCACHE_BLEND_RECOMPUTE_RATIOS "$ratio" "$real" 0 1 "give one number between 0 and 1"
  check_number LMCACHE_BLEND_CHECK_LAYERS "$check_layer" "$whole" 1 1000 "give one layer, 1 or more"
  separator=${LMCACHE_BLEND_SPECIAL_STR- # # }
  [[ -n $separator ]] || bad_value LMCACHE_BLEND_SPECIAL_STR "" "give a text that no document contains"
  ram_gb=${LMCACHE_MAX_LOCAL_CPU_SIZE:-}
  [[ -z $ram_gb ]] || check_number LMCACHE_MAX_LOCAL_CPU_SIZE "$ram_gb" "$real" 0.01 100000 "give GB, such as 5"
  # One a line: an assignment has the status of its last command only.
  blend=$(as_bool LMCACHE_ENABLE_BLENDING true)
  layerwise=$(as_bool LMCACHE_USE_LAYERWISE true)
  local_cpu=$(as_bool LMCACHE_LOCAL_CPU true)
  [[ -z ${GPU_MEM:-} ]] || say "GPU_MEM is for the GPU worker; unused on the CPU"
  [[ -z ${LMCACHE_LOCAL_DISK:-}${LMCACHE_MAX_LOCAL_DISK_SIZE:-} ]] ||
    say "LMCACHE_LOCAL_DISK and its size are accepted but unused: there is no disk tier yet"
}

as_bool() {
  local value=${!1:-$2}
  case "${value,,}" in
    true | 1 | yes | on) echo true ;;
    false | 0 | no | off) echo false ;;
    *) bad_value "$1" "$value" "give true or false" ;;
  esac
}

check_ports() {
  local entry port variable
  for entry in "$gateway_port PORT" "$cache_port CACHE_PORT" "$worker_port WORKER_PORT"; do
    port=${entry% *} variable=${entry#* }
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      die "port $port is taken; stop what listens there or set $variable to a free port"
    fi
  done
  [[ $gateway_port != "$cache_port" && $gateway_port != "$worker_port" && $cache_port != "$worker_port" ]] ||
    die "PORT, CACHE_PORT and WORKER_PORT must differ ($gateway_port, $cache_port, $worker_port)"
}

# A build from nothing writes about a gigabyte; a full disk would end it with a compiler's riddle.
check_disk() {
  local free_kb
  mkdir -p "$cache" || die "cannot write $cache; set XDG_CACHE_HOME to a folder that you own"
  free_kb=$(df -Pk "$cache" | awk 'NR == 2 {print $4}')
  ((free_kb > 2 * 1024 * 1024)) || [[ -x $repo/bazel-bin/gateway/tessera_gateway && $free_kb -gt 102400 ]] ||
    die "disk full: $((free_kb / 1024)) MB are free in $cache, the build needs 2048; free some space"
}

fetch_model() {
  say "model $model"
  folder=$("$repo/deploy/models/fetch.sh" "$model" | tail -n 1) || exit 1  # it said why
  model_name=$(basename "$model" .gguf)
}

check_memory() {
  local weights kv_row longest facts
  facts=$(python3 "$repo/deploy/models/facts.py" "$folder" 2>&1) ||
    die "the model cannot be read: ${facts##*$'\n'} ($folder/config.json)"
  read -r weights kv_row longest <<<"$facts"
  [[ -n $max_len ]] || max_len=$((longest < 8192 ? longest : 8192))
  local free_bytes=$(($(awk '/^MemAvailable/ {print $2}' /proc/meminfo) * 1024))
  if [[ $local_cpu == false ]]; then
    ram_bytes=0
  elif [[ -n $ram_gb ]]; then
    ram_bytes=$(awk -v gb="$ram_gb" 'BEGIN {printf "%.0f", gb * 1e9}')
  else
    ram_bytes=$((free_bytes / 4 < 5000000000 ? free_bytes / 4 : 5000000000))
  fi
  local need=$((weights * 3 / 2 + kv_row * max_len + ram_bytes))
  say "memory: $((need / 1000000)) MB needed, $((free_bytes / 1000000)) MB available"
  ((need <= free_bytes)) ||
    die "memory is short: $((need / 1000000)) MB needed (weights x 1.5 + KV of $max_len tokens + cache of" \
      "$((ram_bytes / 1000000)) MB), $((free_bytes / 1000000)) MB available;" \
      "lower LMCACHE_MAX_LOCAL_CPU_SIZE or MAX_LEN, or take a smaller MODEL"
}

build() {
  say "build (the first one takes minutes)"
  (cd "$repo" && bazel build --curses=no --noshow_loading_progress --show_progress_rate_limit=10 \
    --show_result=0 //:tessera_cache_server //:tessera_worker //:tessera_gateway) >&2 ||
    die "the build failed; the first error above says where"
}

# start NAME BINARY FLAG...: in the background, with its log, and dead when this script dies.
start() {
  local name=$1 log
  log="$log_folder/${name// /_}.log"
  shift
  setpriv --pdeathsig TERM "$@" >"$log" 2>&1 &
  pids+=("$!") names+=("$name") logs+=("$log")
}

# /health says 200 when the gateway has a worker that serves.
# shellcheck disable=SC2317  # called by its name, through await
healthy() {
  (exec 3<>"/dev/tcp/127.0.0.1/$gateway_port" && printf 'GET /health HTTP/1.0\r\n\r\n' >&3 &&
    read -r -t 5 line <&3 && [[ $line == *" 200 "* ]]) 2>/dev/null
}

# shellcheck disable=SC2317  # called by its name, through await
says_ready() { grep -q 'event=ready' "${logs[-1]}"; }

# await SAYS_READY: waits for the process that was started last.
await() {
  local last=$((${#pids[@]} - 1)) waited=0
  until "$1"; do
    kill -0 "${pids[last]}" 2>/dev/null || fail_with_log "$last" "did not start"
    sleep 0.2
    waited=$((waited + 1))
    ((waited % 25)) || say "${names[last]}: not ready yet, $((waited / 5)) s"
  done
  say "${names[last]} ready"
}

fail_with_log() {
  say "error: the ${names[$1]} $2; the end of its log ${logs[$1]}:"
  tail -n 15 "${logs[$1]}" >&2
  exit 1
}

# shellcheck disable=SC2317  # called by a trap
stop_all() {
  local i
  trap '' INT TERM
  # The gateway first: nobody is sent to a worker that is going away.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill -TERM "${pids[i]}" 2>/dev/null || continue
    for _ in {1..100}; do
      kill -0 "${pids[i]}" 2>/dev/null || continue 2
      sleep 0.1
    done
    say "the ${names[i]} did not stop within 10 s: killed"
    kill -KILL "${pids[i]}" 2>/dev/null || true
  done
}

serve() {
  log_folder=${TESSERA_LOGS:-$cache/logs/$gateway_port}
  mkdir -p "$log_folder" || die "cannot write logs to $log_folder; set TESSERA_LOGS"
  say "logs in $log_folder"
  trap stop_all EXIT
  trap 'say "stopping"; exit 0' INT TERM
  start "cache server" "$repo/bazel-bin/cache_server/tessera_cache_server" \
    "--listen=127.0.0.1:$cache_port" "--ram_bytes=$ram_bytes"
  await says_ready
  say "worker: loading $model_name"
  start worker "$repo/bazel-bin/gpu_worker/tessera_worker" "--listen=127.0.0.1:$worker_port" \
    "--cache=127.0.0.1:$cache_port" "--model=$folder" "--model_name=$model_name" "--max_len=$max_len" \
    "--chunk_size=$chunk_size" "--blend=$blend" "--policy=query_v" "--recompute_ratio=$ratio" \
    "--check_layer=$check_layer" "--layerwise=$layerwise" "--sink=bos" "--threads=0"
  await says_ready
  start gateway "$repo/bazel-bin/gateway/tessera_gateway" "--listen=0.0.0.0:$gateway_port" \
    "--workers=127.0.0.1:$worker_port" "--model_dir=$folder" "--blend_separator=$separator"
  await healthy
  echo "ready: http://127.0.0.1:$gateway_port (Ctrl-C stops), try:" \
    "curl -s http://127.0.0.1:$gateway_port/v1/chat/completions -H 'Content-Type: application/json'" \
    "-d '{\"model\":\"$model_name\",\"messages\":[{\"role\":\"user\",\"content\":\"What is the capital of France?\"}]}'"
  watch_all
}

# Returns never: one of the three that ends takes the others with it.
watch_all() {
  local i
  wait -n "${pids[@]}" || true
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null || fail_with_log "$i" "ended"
  done
  die "one of the three ended; the logs are in $log_folder"
}

main() {
  case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    ?*) usage >&2; exit 2 ;;
  esac
  read_settings
  check_ports
  check_disk
  "$repo/deploy/install.sh" serving >&2
  fetch_model
  check_memory
  build
  serve
}

main "$@"
