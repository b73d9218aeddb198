#!/usr/bin/env bash
# Builds the fuzz targets with clang where their sources have changed, and runs them, two at a time.
#   tests/fuzz/run.sh [SECONDS [TARGET...]]      (default: 60 seconds each, all targets)
# One line a target: passed|failed NAME SECONDS executions=N coverage=N. What a target finds new is
# kept beside the build, and tried first the next time; an input that breaks it is kept too.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$repo"
out="${XDG_CACHE_HOME:-$HOME/.cache}/tessera/fuzz"
self=tests/fuzz/run.sh
flags_file=$out/flags

RAM_STORE="
base/log.cc
cache_server/chunk/checksum.cc cache_server/chunk/digest.cc cache_server/chunk/key.cc
cache_server/chunk/shared_memory.cc
cache_server/store/admission_policy.cc cache_server/store/chunk_store.cc
cache_server/store/key_events.cc cache_server/store/loader.cc cache_server/store/pin_table.cc
cache_server/store/promotion_policy.cc cache_server/store/write_behind.cc
cache_server/tier/arena.cc cache_server/tier/eviction_policy.cc cache_server/tier/lru_policy.cc
cache_server/tier/ram_piece.cc cache_server/tier/ram_tier.cc cache_server/tier/s3_fifo_policy.cc
cache_server/tier/tier.cc
"
TEMPLATES="
gateway/text/chat_template.cc gateway/text/jinja_builtins.cc gateway/text/jinja_evaluate.cc
gateway/text/jinja_expression_parser.cc gateway/text/jinja_lexer.cc gateway/text/jinja_lists.cc
gateway/text/jinja_operators.cc gateway/text/jinja_parser.cc gateway/text/jinja_postfix_parser.cc
gateway/text/jinja_print.cc gateway/text/jinja_renderer.cc gateway/text/jinja_strings.cc
gateway/text/jinja_tests.cc gateway/text/jinja_value.cc gateway/text/tracked_text.cc
gateway/text/utf8.cc
"
# What each target is made of, beside its own source; *.pb.cc is generated.
declare -A SOURCES=(
  [store_stream_fuzz]="$RAM_STORE cache_server/service/piece_writer.cc
    cache_server/transfer/slice_wire.cc proto/kv_cache.pb.cc"
  [value_header_fuzz]="cache_server/chunk/checksum.cc cache_server/chunk/key.cc
    cache_server/chunk/digest.cc cache_server/tier/tier.cc cache_server/tier/value_header.cc"
  [shm_wire_fuzz]="cache_server/chunk/key.cc cache_server/chunk/digest.cc
    cache_server/transfer/shm_wire.cc"
  [shm_session_fuzz]="$RAM_STORE cache_server/service/call_log.cc cache_server/service/fetch_pieces.cc
    cache_server/service/shm_session.cc cache_server/service/waker.cc
    cache_server/transfer/lease_table.cc
    cache_server/transfer/shm_wire.cc cache_server/transfer/unix_socket.cc"
  [api_json_fuzz]="gateway/openai/chunk_resolver.cc gateway/openai/controls.cc
    gateway/openai/error.cc gateway/openai/fields.cc gateway/openai/parse_prompt.cc
    gateway/openai/request.cc gateway/openai/sampling.cc gateway/openai/unsupported.cc
    gateway/text/utf8.cc proto/worker.pb.cc"
  [tokenizer_fuzz]="gateway/text/added_tokens.cc gateway/text/bpe_model.cc
    gateway/text/byte_level_tokenizer.cc gateway/text/code_point_class.cc
    gateway/text/json_access.cc gateway/text/known_pattern.cc gateway/text/merge_table.cc
    gateway/text/nfc.cc gateway/text/pattern.cc gateway/text/pre_tokenizer.cc
    gateway/text/run_text.cc gateway/text/sentencepiece_model.cc
    gateway/text/sentencepiece_tokenizer.cc gateway/text/token_table.cc gateway/text/tokenizer.cc
    gateway/text/tokenizer_json.cc gateway/text/utf8.cc"
  [chat_template_fuzz]="$TEMPLATES"
  [config_yaml_fuzz]="base/config/command_line.cc base/config/config.cc base/config/lmcache.cc
    base/config/option_value.cc base/config/options.cc base/config/print.cc base/config/text.cc
    base/config/units.cc base/config/yaml_file.cc base/config/yaml_value.cc base/files.cc
    base/config/option.pb.cc proto/config.pb.cc"
)
# Folders of seeds that other tests have anyway.
declare -A MORE_SEEDS=([chat_template_fuzz]=tests/gateway/text/templates)
TARGETS=(store_stream_fuzz shm_session_fuzz value_header_fuzz shm_wire_fuzz api_json_fuzz
  tokenizer_fuzz chat_template_fuzz config_yaml_fuzz)

CLANG=clang++-14
FLAGS=(-std=c++20 -O1 -g1 -Wall -Wextra -Werror -Wno-unused-parameter -fno-omit-frame-pointer
  "-fsanitize=fuzzer,address,undefined" -fno-sanitize-recover=all -I. "-I$out/gen")

die() { echo "fuzz: $*" >&2; exit 1; }

object_of() { echo "$out/obj/$(tr / _ <<<"$1").o"; }

generate() {
  local proto flags="$CLANG ${FLAGS[*]}"
  [[ $(cat "$flags_file" 2>/dev/null) == "$flags" ]] || echo "$flags" >"$flags_file"
  for proto in proto/kv_cache.proto proto/worker.proto proto/config.proto base/config/option.proto; do
    [[ $out/gen/${proto%.proto}.pb.cc -nt $proto ]] || protoc -I. "--cpp_out=$out/gen" "$proto"
  done
}

# Whether an object must be made again: it, or something that it was made from, has changed.
is_stale() {  # OBJECT
  local file
  [[ -f $1 && -f $1.d && ! $flags_file -nt $1 ]] || return 0
  # What the compiler wrote: "object: file file \".
  while read -r file; do
    [[ -e $file && ! $file -nt $1 ]] || return 0
  done < <(sed -e 's/^[^ ]*: //' -e 's/\\$//' "$1.d" | tr -s ' ' '\n' | grep .)
  return 1
}

compile() {  # SOURCE
  local source=$1 object extra=()
  object=$(object_of "$source")
  if [[ $source == *.pb.cc ]]; then
    # Generated code is not ours to keep free of warnings.
    source=$out/gen/$source extra=(-w)
  elif [[ $source == */sentencepiece_model.cc ]]; then
    # The library is loaded, not linked: its type information is not there to compare with.
    extra=(-fno-sanitize=vptr)
  fi
  is_stale "$object" || return 0
  "$CLANG" "${FLAGS[@]}" "${extra[@]}" -MD -MF "$object.d" -c "$source" -o "$object" ||
    { rm -f "$object"; return 1; }
}

build() {  # TARGET...
  local target source objects libraries
  generate
  for target in "$@"; do
    tr -s ' \n' '\n' <<<"tests/fuzz/$target.cc ${SOURCES[$target]}"
  done | sort -u | xargs -P 2 -n 1 "$self" --compile || die "the build failed"
  libraries=$(grep -o '"-labsl[^"]*"' third_party/system/BUILD | tr -d '"')
  for target in "$@"; do
    objects=()
    for source in "tests/fuzz/$target.cc" ${SOURCES[$target]}; do
      objects+=("$(object_of "$source")")
    done
    # shellcheck disable=SC2086  # one argument a library
    "$CLANG" "${FLAGS[@]}" "${objects[@]}" -o "$out/$target" -Wl,--as-needed -lprotobuf -lglog \
      -lcrypto -lxxhash -lboost_json -lpcre2-8 -lutf8proc \
      -lyaml-cpp -ldl $libraries || die "linking $target failed"
  done
}

stat_of() {  # LOG NAME
  awk -v name="stat::$2:" '$1 == name {print $2}' "$1"
}

run_target() {  # TARGET SECONDS
  local target=$1 log="$out/$1.log" start=$SECONDS verdict=passed coverage seeds=()
  mkdir -p "$out/corpus/$target" "$out/crashes"
  [[ ! -d tests/fuzz/corpus/$target ]] || seeds=("tests/fuzz/corpus/$target")
  [[ -z ${MORE_SEEDS[$target]:-} ]] || seeds+=("${MORE_SEEDS[$target]}")
  "$out/$target" -max_total_time="$2" -timeout=20 -rss_limit_mb=2048 -max_len=4096 \
    -use_value_profile=1 -print_final_stats=1 -artifact_prefix="$out/crashes/$target-" \
    "$out/corpus/$target" "${seeds[@]}" >"$log" 2>&1 || verdict=failed
  coverage=$(grep -o ' cov: [0-9]*' "$log" | tail -n 1 | tr -dc 0-9 || true)
  echo "$verdict $target $((SECONDS - start)) executions=$(stat_of "$log" number_of_executed_units)" \
    "coverage=${coverage:-0}"
  [[ $verdict == passed ]] && return
  grep -v '^#' "$log" | tail -n 40 | sed 's/^/    /'
  echo "    the whole log: $log; the inputs that broke it: $out/crashes/$target-*"
  return 1
}

main() {
  local seconds=${1:-60} target running=0 failed=0
  [[ $seconds =~ ^[0-9]+$ ]] || die "usage: tests/fuzz/run.sh [SECONDS [TARGET...]]"
  shift || true
  local targets=("${@:-${TARGETS[@]}}")
  for target in "${targets[@]}"; do
    [[ -n ${SOURCES[$target]:-} ]] || die "no target $target; there are: ${TARGETS[*]}"
  done
  command -v "$CLANG" >/dev/null || die "no $CLANG; deploy/install.sh tests installs it"
  mkdir -p "$out/gen" "$out/obj"
  build "${targets[@]}"
  for target in "${targets[@]}"; do
    if ((running == 2)); then
      wait -n || failed=1
      running=$((running - 1))
    fi
    run_target "$target" "$seconds" &
    running=$((running + 1))
  done
  for ((; running > 0; --running)); do
    wait -n || failed=1
  done
  return "$failed"
}

if [[ ${1:-} == --compile ]]; then
  compile "$2"
else
  main "$@"
fi
