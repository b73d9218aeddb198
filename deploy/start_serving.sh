#!/usr/bin/env bash
# Sets up what is missing and serves: cache server, worker and gateway, until Ctrl-C. One that ends is started
# again.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tessera"
# Of the three, in the order of their start: pids are those of run_program.sh.
starts=(start_cache_server start_worker start_gateway)
pids=() names=() logs=()
most_ends=5 ends=()  # within the last minute: "SECOND NAME"

usage() {
  cat <<'END'
usage: [VARIABLE=VALUE ...] deploy/start_serving.sh

MODEL        a Hugging Face folder, a .gguf file, or a known name (default smollm2-135m-instruct;
             also qwen2.5-coder-1.5b-instruct)
PORT         of the gateway (8000); CACHE_PORT of the cache server (7600); WORKER_PORT of the worker (7601);
             CACHE_METRICS_PORT and WORKER_METRICS_PORT of their metrics (7602, 7603)
MAX_LEN      longest prompt plus answer, tokens (default: the model's own, at most 8192)
GPU_MEM      kept for the GPU worker, unused on the CPU
TESSERA_LOGS folder for the three logs (default: in the cache folder)

LMCACHE_ENABLE_BLENDING          reuse chunks anywhere in the prompt (true)
LMCACHE_BLEND_SPECIAL_STR        separator that marks segments in a prompt (" # # "); \n and \t are understood
LMCACHE_BLEND_RECOMPUTE_RATIOS   share of reused rows that is recomputed, 0..1 (what the model's calibration chose, or 0.15)
LMCACHE_BLEND_CHECK_LAYERS       layer at which the hkvd policies choose (1)
LMCACHE_USE_LAYERWISE            fetch a layer while the one before it is computed (true)
LMCACHE_CHUNK_SIZE               tokens of a piece, the unit of storage (256)
LMCACHE_LOCAL_CPU                keep chunks in the cache server's RAM (true)
LMCACHE_MAX_LOCAL_CPU_SIZE       GB of that RAM (5, or a quarter of what is free if that is less)
LMCACHE_LOCAL_DISK               keep chunks on disk too, over restarts: true, or a folder, or file:///folder (false)
LMCACHE_MAX_LOCAL_DISK_SIZE      GB of that disk (20, or a quarter of what is free if that is less)

One of the three that ends is started again, five times within a minute at most.
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
  metrics_port=${CACHE_METRICS_PORT:-7602} worker_metrics_port=${WORKER_METRICS_PORT:-7603}
  for port in "PORT $gateway_port" "CACHE_PORT $cache_port" "WORKER_PORT $worker_port" \
    "CACHE_METRICS_PORT $metrics_port" "WORKER_METRICS_PORT $worker_metrics_port"; do
    check_number "${port% *}" "${port#* }" "$whole" 1 65535 "give a port between 1 and 65535"
  done
  max_len=${MAX_LEN:-} chunk_size=${LMCACHE_CHUNK_SIZE:-256}
  [[ -z $max_len ]] || check_number MAX_LEN "$max_len" "$whole" 128 10000000 "give a number of tokens, 128 or more"
  check_number LMCACHE_CHUNK_SIZE "$chunk_size" "$whole" 16 65536 "give tokens between 16 and 65536"
  ratio=${LMCACHE_BLEND_RECOMPUTE_RATIOS:-} check_layer=${LMCACHE_BLEND_CHECK_LAYERS:-1}
  [[ -z $ratio ]] || check_number LMCACHE_BLEND_RECOMPUTE_RATIOS "$ratio" "$real" 0 1 "give one number between 0 and 1"
  check_number LMCACHE_BLEND_CHECK_LAYERS "$check_layer" "$whole" 1 1000 "give one layer, 1 or more"
  separator=${LMCACHE_BLEND_SPECIAL_STR- # # }
  [[ -n $separator ]] || bad_value LMCACHE_BLEND_SPECIAL_STR "" "give a text that no document contains"
  ram_gb=${LMCACHE_MAX_LOCAL_CPU_SIZE:-}
  [[ -z $ram_gb ]] || check_number LMCACHE_MAX_LOCAL_CPU_SIZE "$ram_gb" "$real" 0.01 100000 "give GB, such as 5"
  # One a line: an assignment has the status of its last command only.
  blend=$(as_bool LMCACHE_ENABLE_BLENDING true)
  layerwise=$(as_bool LMCACHE_USE_LAYERWISE true)
  local_cpu=$(as_bool LMCACHE_LOCAL_CPU true)
  read_disk_settings
  [[ -z ${GPU_MEM:-} ]] || say "GPU_MEM is for the GPU worker; unused on the CPU"
}

# LMCache takes a folder, also as a file address; true stands for a folder of ours.
read_disk_settings() {
  local value=${LMCACHE_LOCAL_DISK:-false}
  disk_gb=${LMCACHE_MAX_LOCAL_DISK_SIZE:-} disk_folder=
  [[ -z $disk_gb ]] ||
    check_number LMCACHE_MAX_LOCAL_DISK_SIZE "$disk_gb" '^[0-9]*\.?[0-9]+$' 1 1000000 "give GB, 1 or more, such as 20"
  case ${value,,} in
    true | 1 | yes | on) disk_folder=$cache/disk/$cache_port ;;
    false | 0 | no | off) [[ -z $disk_gb ]] || say "LMCACHE_MAX_LOCAL_DISK_SIZE is unused: LMCACHE_LOCAL_DISK is off" ;;
    file:///?*) disk_folder=${value:7} ;;
    file:* | "~"*) bad_value LMCACHE_LOCAL_DISK "$value" "give the folder in full: /var/cache/kv or file:///var/cache/kv" ;;
    */*) disk_folder=$(realpath -m -- "$value") ;;
    *) bad_value LMCACHE_LOCAL_DISK "$value" "give true, false, or a folder such as /var/cache/kv" ;;
  esac
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
  local entry port variable taken=()
  for entry in "$gateway_port PORT" "$cache_port CACHE_PORT" "$worker_port WORKER_PORT" \
    "$metrics_port CACHE_METRICS_PORT" "$worker_metrics_port WORKER_METRICS_PORT"; do
    port=${entry% *} variable=${entry#* }
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      die "port $port is taken; stop what listens there or set $variable to a free port"
    fi
    [[ " ${taken[*]} " != *" $port "* ]] ||
      die "PORT, CACHE_PORT, WORKER_PORT, CACHE_METRICS_PORT and WORKER_METRICS_PORT must differ" \
        "($port is there twice)"
    taken+=("$port")
  done
}

# A build from nothing writes about a gigabyte; a full disk would end it with a compiler's riddle.
check_disk() {
  local free_kb
  mkdir -p "$cache" || die "cannot write $cache; set XDG_CACHE_HOME to a folder that you own"
  free_kb=$(df -Pk "$cache" | awk 'NR == 2 {print $4}')
  ((free_kb > 2 * 1024 * 1024)) || [[ -x $repo/bazel-bin/gateway/tessera_gateway && $free_kb -gt 102400 ]] ||
    die "disk full: $((free_kb / 1024)) MB are free in $cache, the build needs 2048; free some space"
  [[ -z $disk_folder ]] || check_disk_tier
}

check_disk_tier() {
  local free_kb
  mkdir -p "$disk_folder" 2>/dev/null || true
  [[ -d $disk_folder && -w $disk_folder ]] ||
    die "cannot write $disk_folder; set LMCACHE_LOCAL_DISK to a folder that you own"
  free_kb=$(df -Pk "$disk_folder" | awk 'NR == 2 {print $4}')
  if [[ -n $disk_gb ]]; then
    disk_bytes=$(awk -v gb="$disk_gb" 'BEGIN {printf "%.0f", gb * 1e9}')
    ((disk_bytes <= free_kb * 1024)) || say "only $((free_kb / 1048576)) GiB are free in $disk_folder," \
      "less than LMCACHE_MAX_LOCAL_DISK_SIZE: nothing is written while less than 2 GiB are free"
  else
    disk_bytes=$((free_kb * 256 < 20000000000 ? free_kb * 256 : 20000000000))
  fi
  ((disk_bytes >= 1000000000)) ||
    die "$((free_kb / 1024)) MB are free in $disk_folder, too little to keep chunks there;" \
      "free some space, or set LMCACHE_LOCAL_DISK=false or to another folder"
  say "disk: up to $((disk_bytes / 1000000)) MB in $disk_folder"
}

fetch_model() {
  say "model $model"
  folder=$("$repo/deploy/models/fetch.sh" "$model" | tail -n 1) || exit 1  # it said why
  model_name=$(basename "$model" .gguf)
}

check_memory() {
  local weights kv_row longest facts buffers=0
  facts=$(python3 "$repo/deploy/models/facts.py" "$folder" 2>&1) ||
    die "the model cannot be read: ${facts##*$'\n'} ($folder/config.json)"
  read -r weights kv_row longest <<<"$facts"
  [[ -n $max_len ]] || max_len=$((longest < 8192 ? longest : 8192))
  local free_bytes=$(($(awk '/^MemAvailable/ {print $2}' /proc/meminfo) * 1024))
  if [[ $local_cpu == false && -n $disk_folder ]]; then
    ram_bytes=256000000  # what comes from the disk, and goes there, passes through it
  elif [[ $local_cpu == false ]]; then
    ram_bytes=0
  elif [[ -n $ram_gb ]]; then
    ram_bytes=$(awk -v gb="$ram_gb" 'BEGIN {printf "%.0f", gb * 1e9}')
  else
    ram_bytes=$((free_bytes / 4 < 5000000000 ? free_bytes / 4 : 5000000000))
  fi
  # Three write buffers of the disk tier.
  [[ -z $disk_folder ]] || buffers=$((disk_bytes / 16 < 268435456 ? disk_bytes * 3 / 16 : 3 * 268435456))
  local need=$((weights * 3 / 2 + kv_row * max_len + ram_bytes + buffers))
  say "memory: $((need / 1000000)) MB needed, $((free_bytes / 1000000)) MB available"
  ((need <= free_bytes)) ||
    die "memory is short: $((need / 1000000)) MB needed (weights x 1.5 + KV of $max_len tokens + cache of" \
      "$(((ram_bytes + buffers) / 1000000)) MB), $((free_bytes / 1000000)) MB available;" \
      "lower LMCACHE_MAX_LOCAL_CPU_SIZE or MAX_LEN, or take a smaller MODEL"
}

build() {
  say "build (the first one takes minutes)"
  (cd "$repo" && bazel build --curses=no --noshow_loading_progress --show_progress_rate_limit=10 \
    --show_result=0 //:tessera_cache_server //:tessera_worker //:tessera_gateway //:tessera_ctl) >&2 ||
    die "the build failed; the first error above says where"
}

# start SLOT NAME BINARY FLAG...: in the background, with its log, and dead when this script dies.
start() {
  local slot=$1 name=$2
  shift 2
  names[slot]=$name logs[slot]="$log_folder/${name// /_}.log"
  setpriv --pdeathsig TERM "$repo/deploy/run_program.sh" "$@" >>"${logs[slot]}" 2>&1 &
  pids[slot]=$!
}

start_cache_server() {
  local disk=()
  if [[ -n $disk_folder ]]; then
    disk=("--disk_folder=$disk_folder" "--disk_bytes=$disk_bytes")
    # With hardly any memory the disk is the cache: all goes there, and what waits leaves room for what comes.
    [[ $local_cpu == true ]] || disk+=(--admission=all --write_queue_bytes=128000000)
  fi
  start 0 "cache server" "$repo/bazel-bin/cache_server/tessera_cache_server" \
    "--listen=127.0.0.1:$cache_port" "--ram_bytes=$ram_bytes" "--shm_socket=$shm_socket" \
    "--metrics_listen=127.0.0.1:$metrics_port" "${disk[@]}"
}

start_worker() {
  # What is not given here may come from the model's calibration.
  local chosen=()
  [[ -z $ratio ]] || chosen=("--recompute_ratio=$ratio")
  start 1 worker "$repo/bazel-bin/gpu_worker/tessera_worker" "--listen=127.0.0.1:$worker_port" \
    "--cache=127.0.0.1:$cache_port" "--model=$folder" "--model_name=$model_name" "--max_len=$max_len" \
    "--chunk_size=$chunk_size" "--blend=$blend" "--check_layer=$check_layer" \
    "--layerwise=$layerwise" "--threads=0" "--metrics_listen=127.0.0.1:$worker_metrics_port" \
    "${chosen[@]}"
}

start_gateway() {
  start 2 gateway "$repo/bazel-bin/gateway/tessera_gateway" "--listen=0.0.0.0:$gateway_port" \
    "--workers=127.0.0.1:$worker_port" "--cache=127.0.0.1:$cache_port" "--model_dir=$folder" \
    "--blend_separator=$separator"
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
  trap '' INT TERM HUP
  # The gateway first: nobody is sent to a worker that is going away.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill -TERM "${pids[i]}" 2>/dev/null || continue
    for _ in {1..100}; do
      kill -0 "${pids[i]}" 2>/dev/null || continue 2
      sleep 0.1
    done
    say "the ${names[i]} did not stop within 10 s: killed"
    kill -USR1 "${pids[i]}" 2>/dev/null || true
  done
}

prepare_folders() {
  log_folder=${TESSERA_LOGS:-$cache/logs/$gateway_port}
  mkdir -p "$log_folder" || die "cannot write logs to $log_folder; set TESSERA_LOGS"
  log_folder=$(realpath "$log_folder")
  say "logs in $log_folder"
  # Whoever can open the socket can read the cache.
  shm_socket=$log_folder/run/cache_$cache_port.sock
  if ((${#shm_socket} < 100)) && mkdir -p "$log_folder/run" && chmod 700 "$log_folder/run"; then return; fi
  say "no shared memory: $shm_socket is no path for a socket (100 characters or more, or in somebody's folder)"
  shm_socket=none
}

serve() {
  local name
  prepare_folders
  trap stop_all EXIT
  trap 'say "stopping"; exit 0' INT TERM HUP
  for name in cache_server worker gateway; do : >"$log_folder/$name.log"; done
  start_cache_server
  await says_ready
  say "metrics of the cache server: http://127.0.0.1:$metrics_port/metrics," \
    "of the worker: http://127.0.0.1:$worker_metrics_port/metrics;" \
    "a look inside the cache: bazel-bin/cache_server/ctl/tessera_ctl --server=127.0.0.1:$cache_port stats"
  say "worker: loading $model_name"
  start_worker
  await says_ready
  start_gateway
  await healthy
  echo "ready: http://127.0.0.1:$gateway_port (Ctrl-C stops), try:" \
    "curl -s http://127.0.0.1:$gateway_port/v1/chat/completions -H 'Content-Type: application/json'" \
    "-d '{\"model\":\"$model_name\",\"messages\":[{\"role\":\"user\",\"content\":\"What is the capital of France?\"}]}'"
  watch_all
}

# Returns never.
watch_all() {
  local ended status i
  while true; do
    ended='' status=0
    wait -n -p ended "${pids[@]}" || status=$?
    [[ -n $ended ]] || die "nothing is left to wait for; the logs are in $log_folder"
    for i in "${!pids[@]}"; do
      [[ ${pids[i]} != "$ended" ]] || restart "$i" "$status"
    done
  done
}

# restart SLOT EXIT_CODE: starts one that has ended again, unless that happens too often.
restart() {
  local slot=$1 how="exit code $2" end recent=()
  (($2 <= 128)) || how="killed by SIG$(kill -l "$2" 2>/dev/null || echo "NAL $(($2 - 128))")"
  for end in "${ends[@]}"; do
    ((SECONDS - ${end%% *} >= 60)) || recent+=("$end")
  done
  ends=("${recent[@]}" "$SECONDS ${names[slot]}")
  ((${#ends[@]} <= most_ends)) || give_up "$slot" "$how"
  say "the ${names[slot]} ended ($how) and is started again, ${#ends[@]} of $most_ends times within a minute"
  echo "start: ended ($how), started again at $(date '+%F %T')" >>"${logs[slot]}"
  "${starts[slot]}"
}

give_up() {  # slot how
  local counts
  counts=$(printf '%s\n' "${ends[@]#* }" | sort | uniq -c | awk '{n = $1; $1 = ""; print $0 " " n}' | paste -sd ,)
  fail_with_log "$1" "ended ($2), end ${#ends[@]} within a minute (${counts# }): all are stopped"
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
