// tessera_worker: loads a model, checks itself, serves proto/worker.proto.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/process.h"
#include "base/status_macros.h"
#include "cache_server/client/cache_client.h"
#include "glog/logging.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/self_test.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/serve/chunk_writer.h"
#include "gpu_worker/serve/engine.h"
#include "gpu_worker/serve/worker_service.h"

ABSL_FLAG(std::string, listen, "127.0.0.1:7601",
          "host:port to serve on; port 0 takes any free one");
ABSL_FLAG(std::string, cache, "127.0.0.1:7600",
          "host:port or unix:/path of the cache server; empty: no cache, every chunk is computed");
ABSL_FLAG(std::string, cache_ca, "",
          "file with the certificates that the cache server's must come from; empty: no TLS");
ABSL_FLAG(std::string, cache_cert, "", "file with this worker's certificate for the cache server");
ABSL_FLAG(std::string, cache_key, "", "file with the key of --cache_cert");
ABSL_FLAG(std::string, cache_token, "",
          "file whose first line is the token that the cache server wants; empty: none");
ABSL_FLAG(bool, cache_shm, true,
          "read the memory of a cache server on this machine in place, where it offers that");
ABSL_FLAG(std::string, model, "",
          "Hugging Face folder: config.json and *.safetensors in bf16 or f32 (required)");
ABSL_FLAG(std::string, model_name, "", "name that clients give; empty: the folder's name");
ABSL_FLAG(int64_t, max_len, 0,
          "longest prompt plus answer, tokens; 0: as long as the model allows");
ABSL_FLAG(int64_t, chunk_size, 256, "tokens in a piece, the unit of storage; changes no result");
ABSL_FLAG(bool, blend, true, "reuse chunks; false: every request is a plain full prefill");
ABSL_FLAG(std::string, policy, "query_v",
          "which cached rows are recomputed, unless a request says");
ABSL_FLAG(double, recompute_ratio, 0.15,
          "share of cached rows recomputed, 0..1, unless a request says");
ABSL_FLAG(std::string, correction, "auto",
          "correct the rows that are not recomputed: true, false, or auto (as suits the policy)");
ABSL_FLAG(int64_t, check_layer, 1, "layer at which the hkvd policies choose");
ABSL_FLAG(bool, layerwise, true, "compute a layer while later ones still arrive");
ABSL_FLAG(std::string, sink, "bos",
          "what a chunk is computed behind: bos (the model's first token), lead (the prompt's "
          "lead), none");
ABSL_FLAG(int, threads, 0, "threads that compute; 0: one per core");
ABSL_FLAG(int, queue, 256, "requests that may wait before new ones are refused");
ABSL_FLAG(int, max_running, 32, "requests that run at a time, as rows of one decode step");
ABSL_FLAG(int64_t, kv_bytes, 0,
          "KV memory of all running requests, bytes; 0: half of this machine's memory");

namespace tessera {
namespace {

int64_t PhysicalBytes() { return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE); }

absl::StatusOr<EngineOptions> EngineOptionsFromFlags(const ModelConfig& model) {
  EngineOptions options;
  if (absl::GetFlag(FLAGS_queue) < 1 || absl::GetFlag(FLAGS_max_running) < 1) {
    return absl::InvalidArgumentError("--queue and --max_running must be at least 1");
  }
  options.queue = absl::GetFlag(FLAGS_queue);
  options.max_running = absl::GetFlag(FLAGS_max_running);
  const int64_t bytes = absl::GetFlag(FLAGS_kv_bytes);
  if (bytes < 0) return absl::InvalidArgumentError("--kv_bytes must be at least 0");
  options.kv_tokens = (bytes > 0 ? bytes : PhysicalBytes() / 2) / KvMemory::BytesPerToken(model);
  return options;
}

// A prompt of max_len tokens needs that much KV memory: better to know it now than in the middle of
// a request.
absl::Status CheckKvFits(const Decoder& decoder) {
  const int64_t physical = PhysicalBytes();
  const int64_t needed = decoder.max_len() * KvMemory::BytesPerToken(decoder.config());
  if (needed <= physical) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the KV of ", decoder.max_len(), " tokens takes ", needed >> 20,
                   " MiB, but this machine has ", physical >> 20, " MiB: set --max_len to at most ",
                   physical / KvMemory::BytesPerToken(decoder.config()) / 2));
}

absl::StatusOr<BlendConfig> BlendConfigFromFlags() {
  BlendConfig config;
  ASSIGN_OR_RETURN(config.policy, SelectionPolicy::Parse(absl::GetFlag(FLAGS_policy)));
  config.recompute_ratio = absl::GetFlag(FLAGS_recompute_ratio);
  if (!(config.recompute_ratio >= 0 && config.recompute_ratio <= 1)) {
    return absl::InvalidArgumentError("--recompute_ratio must be between 0 and 1");
  }
  const std::string correction = absl::GetFlag(FLAGS_correction);
  if (correction == "true" || correction == "false") {
    config.correction = correction == "true";
  } else if (correction != "auto") {
    return absl::InvalidArgumentError("--correction must be true, false or auto");
  }
  const std::string sink = absl::GetFlag(FLAGS_sink);
  if (sink != "bos" && sink != "lead" && sink != "none") {
    return absl::InvalidArgumentError("--sink must be bos, lead or none");
  }
  config.sink = sink == "bos" ? SinkKind::kBos : sink == "lead" ? SinkKind::kLead : SinkKind::kNone;
  config.check_layer = absl::GetFlag(FLAGS_check_layer);
  config.tokens_per_piece = absl::GetFlag(FLAGS_chunk_size);
  config.layerwise = absl::GetFlag(FLAGS_layerwise);
  if (config.tokens_per_piece < 16 || config.tokens_per_piece > 65536) {
    return absl::InvalidArgumentError("--chunk_size must be between 16 and 65536 tokens");
  }
  return config;
}

std::string ModelName(std::string folder) {
  const std::string given = absl::GetFlag(FLAGS_model_name);
  if (!given.empty()) return given;
  while (!folder.empty() && folder.back() == '/') folder.pop_back();
  return folder.substr(folder.rfind('/') + 1);
}

// False when the worker must not blend: it then serves exact, which is always right.
bool PassesSelfTest(const Decoder& decoder, const BlendConfig& config, Blender& blender) {
  const absl::StatusOr<SelfTestReport> report = RunSelfTest(decoder, config);
  if (!report.ok()) {
    LOG(ERROR) << "event=self_test_failed blending=off reason=\"" << report.status().message()
               << "\"";
    return false;
  }
  blender.set_seconds_per_token(report->seconds_per_token);
  LOG(INFO) << "event=self_test_passed full_blend_kl=" << report->full_blend_kl
            << " prefill_tokens_per_s=" << 1 / report->seconds_per_token;
  return true;
}

absl::StatusOr<std::unique_ptr<CacheClient>> CacheClientFromFlags() {
  CacheAddress cache;
  cache.address = absl::GetFlag(FLAGS_cache);
  if (cache.address.empty()) return MakeNullCacheClient();
  cache.ca_file = absl::GetFlag(FLAGS_cache_ca);
  cache.cert_file = absl::GetFlag(FLAGS_cache_cert);
  cache.key_file = absl::GetFlag(FLAGS_cache_key);
  cache.token_file = absl::GetFlag(FLAGS_cache_token);
  cache.shared_memory = absl::GetFlag(FLAGS_cache_shm);
  return MakeCacheClient(cache);
}

absl::Status Serve() {
  const std::string folder = absl::GetFlag(FLAGS_model);
  if (folder.empty())
    return absl::InvalidArgumentError("--model is required: a Hugging Face folder");
  ASSIGN_OR_RETURN(const BlendConfig config, BlendConfigFromFlags());
  const std::unique_ptr<Ops> ops = MakeCpuOps(absl::GetFlag(FLAGS_threads));
  const absl::Time start = absl::Now();
  LOG(INFO) << "event=loading model=" << folder;
  ASSIGN_OR_RETURN(const std::unique_ptr<Decoder> decoder,
                   Decoder::Load(folder, absl::GetFlag(FLAGS_max_len), ops.get()));
  if (config.check_layer < 0 || config.check_layer >= decoder->config().layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("--check_layer must be between 0 and ", decoder->config().layers - 1));
  }
  RETURN_IF_ERROR(CheckKvFits(*decoder));
  ASSIGN_OR_RETURN(const EngineOptions engine_options, EngineOptionsFromFlags(decoder->config()));
  const ChunkKey fingerprint =
      LayoutOf(decoder->config(), decoder->weights().files->Digest()).Fingerprint();
  LOG(INFO) << "event=loaded seconds=" << absl::ToDoubleSeconds(absl::Now() - start)
            << " weights_bytes=" << decoder->weights().files->total_bytes()
            << " fingerprint=" << fingerprint.ToHex().substr(0, 16);
  ASSIGN_OR_RETURN(const std::unique_ptr<CacheClient> client, CacheClientFromFlags());
  Blender blender(decoder.get(), client.get(), fingerprint, config);
  ServedModel served{ModelName(folder), fingerprint.ToHex(),
                     absl::GetFlag(FLAGS_blend) && PassesSelfTest(*decoder, config, blender),
                     !absl::GetFlag(FLAGS_cache).empty()};
  // As much as the chunks of one longest prompt, which are bf16 and half the KV memory's size.
  ChunkWriter writer(client.get(), config.tokens_per_piece,
                     decoder->max_len() * KvMemory::BytesPerToken(decoder->config()) / 2);
  Engine engine(decoder.get(), &blender, &writer, engine_options);
  ASSIGN_OR_RETURN(
      const std::unique_ptr<WorkerServer> server,
      StartWorkerServer(absl::GetFlag(FLAGS_listen), served, decoder.get(), &config, &engine));
  LOG(INFO) << "event=ready listen=" << absl::GetFlag(FLAGS_listen) << " port=" << server->port()
            << " model=" << served.name << " device=" << ops->name()
            << " max_len=" << decoder->max_len() << " blend=" << served.blend_enabled
            << " policy=" << config.policy.name() << " recompute_ratio=" << config.recompute_ratio;
  WaitForStopSignal();
  LOG(INFO) << "event=stopping";
  server->Shutdown();
  return absl::OkStatus();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::StartProcess(argc, argv);
  const absl::Status status = tessera::Serve();
  if (status.ok()) return 0;
  std::fprintf(stderr, "tessera_worker: %s\n", std::string(status.message()).c_str());
  return 1;
}
