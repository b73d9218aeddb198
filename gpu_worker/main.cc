// tessera_worker: loads a model, checks itself, serves proto/worker.proto.
#include <atomic>
#include <cstdio>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/cancel_flag.h"
#include "base/config/start.h"
#include "base/grpc_log.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/process.h"
#include "base/process_metrics.h"
#include "base/status_macros.h"
#include "cache_server/client/cache_client.h"
#include "gpu_worker/blend/blender.h"
#include "gpu_worker/blend/chunk_pool.h"
#include "gpu_worker/blend/cost_measure.h"
#include "gpu_worker/blend/cost_model.h"
#include "gpu_worker/blend/device_read_memory.h"
#include "gpu_worker/blend/metered_client.h"
#include "gpu_worker/blend/self_test.h"
#include "gpu_worker/calibrate/calibrate.h"
#include "gpu_worker/calibrate/calibration.h"
#include "gpu_worker/device/make_ops.h"
#include "gpu_worker/device/ops.h"
#include "gpu_worker/model/decoder.h"
#include "gpu_worker/model/kv_memory.h"
#include "gpu_worker/serve/chunk_writer.h"
#include "gpu_worker/serve/engine.h"
#include "gpu_worker/serve/worker_metrics.h"
#include "gpu_worker/serve/worker_samples.h"
#include "gpu_worker/serve/worker_service.h"
#include "gpu_worker/settings.h"
#include "proto/config.pb.h"

namespace tessera {
namespace {

// A prompt of max_len tokens needs that much KV memory: better to know it now than in the middle of
// a request.
absl::Status CheckKvFits(const Decoder& decoder) {
  const int64_t physical = decoder.memory().total_bytes();
  const int64_t needed = decoder.max_len() * decoder.KvBytesPerToken();
  if (needed <= physical) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the KV of ", decoder.max_len(), " tokens takes ", needed >> 20, " MiB, but this device has ",
      physical >> 20, " MiB: set --max_len to at most ", physical / decoder.KvBytesPerToken() / 2));
}

// False when the worker must not blend: it then serves exact, which is always right.
bool PassesSelfTest(const Decoder& decoder, const BlendConfig& config, Blender& blender,
                    WorkerMetrics& metrics) {
  const absl::StatusOr<SelfTestReport> report = RunSelfTest(decoder, config);
  if (!report.ok()) {
    LOG_EVENT(kError, "self_test_failed").With("blending", "off").WithError(report.status());
    return false;
  }
  blender.set_seconds_per_token(report->seconds_per_token);
  metrics.SetSelfTest(true, report->full_blend_kl);
  LOG_EVENT(kInfo, "self_test_passed")
      .With("full_blend_kl", report->full_blend_kl)
      .With("prefill_tokens_per_s", 1 / report->seconds_per_token);
  return true;
}

CostCoefficients MeasuredCosts(const Decoder& decoder) {
  const absl::Time start = absl::Now();
  const CostCoefficients costs = MeasureCosts(decoder);
  LOG_EVENT(kInfo, "costs_measured")
      .WithMs("total_ms", absl::Now() - start)
      .With("pass_s", costs.pass)
      .With("row_s", costs.row)
      .With("pair_s", costs.pair)
      .With("scored_pair_s", costs.scored_pair)
      .With("placed_row_s", costs.placed_row)
      .With("correction_s", costs.correction)
      .With("logits_s", costs.logits);
  return costs;
}

MeteredCacheClient::Listeners CacheListeners(CostModel* costs, Metrics* metrics) {
  return {costs,
          metrics->AddLatency("tessera_worker_cache_lookup_seconds",
                              "Until the cache said what it has of a prompt.", {}),
          metrics->AddLatency("tessera_worker_cache_fetch_seconds",
                              "From then on, until the last bytes of the prompt were taken.", {})};
}

ValueHistogram* DriftKl(Metrics* metrics) {
  return metrics->AddHistogram("tessera_worker_drift_kl",
                               "Nats between a full recompute's first token and the blend's.", {},
                               {1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1, 2, 5});
}

void AddSources(const CacheClient& client, const ChunkWriter& writer, const ChunkPool& pool,
                const Engine& engine, WorkerMetrics& metrics) {
  metrics.AddSource([&](MetricSamples* samples) {
    AddEngineSamples(engine.stats(), samples);
    AddPoolSamples(pool.stats(), samples);
    AddClientSamples(client.counters(), samples);
    samples->Counter("dropped_chunks", "Chunks not stored, because the cache took too few.",
                     static_cast<double>(writer.dropped()));
  });
}

absl::StatusOr<std::unique_ptr<CacheClient>> ConnectCache(const CacheAddress& cache,
                                                          ReadMemory* read_memory) {
  if (cache.address.empty()) return MakeNullCacheClient();
  return MakeCacheClient(cache, read_memory);
}

// Until the first stop signal.
absl::Status CalibrateUntilStopped(const config::WorkerConfig& config, const Decoder& decoder,
                                   const ChunkKey& fingerprint) {
  ASSIGN_OR_RETURN(const BlendConfig blend, BlendConfigFrom(config));
  CancelFlag stopped;
  std::atomic<bool> done = false;
  std::thread watch([&] {
    while (!done) {
      if (WaitForStopSignal(absl::Milliseconds(200))) stopped.Set();
    }
  });
  const absl::Status status =
      Calibrate(CalibrateOptionsFrom(config), decoder, fingerprint, blend, stopped);
  done = true;
  watch.join();
  return status;
}

// Takes over the model's calibration, if there is one: then says which.
absl::StatusOr<std::string> TakeCalibration(const ChunkKey& fingerprint, const Ops& ops,
                                            const config::LoadedConfig& loaded,
                                            config::WorkerConfig* config) {
  ASSIGN_OR_RETURN(const std::optional<Calibration> calibration,
                   ReadCalibration(config->model(), fingerprint.ToHex()));
  if (!calibration.has_value()) return std::string();
  ApplyCalibration(*calibration, loaded, config);
  if (calibration->device != ops.name()) {
    LOG_EVENT(kWarning, "calibrated_elsewhere")
        .With("device", ops.name())
        .With("calibrated_on", calibration->device)
        .With("msg", "its times are another device's: calibrate again here");
  }
  LOG_EVENT(kInfo, "calibrated")
      .With("choice", calibration->Choice())
      .With("kl16", calibration->kl16)
      .With("ttft_share", calibration->ttft_share)
      .With("cases", calibration->cases);
  return absl::StrCat(calibration->budget, ",", calibration->date);
}

// Serves the model until the stop signal. calibration: which one its defaults are from; empty:
// none.
absl::Status Serve(const config::WorkerConfig& config, const Decoder& decoder,
                   const ChunkKey& fingerprint, const std::string& calibration) {
  ASSIGN_OR_RETURN(const BlendConfig blend, BlendConfigFrom(config));
  const std::unique_ptr<Metrics> metrics = Metrics::Make();
  WorkerMetrics counts(
      metrics.get(),
      {.kv_bytes_per_token = KvMemory::BytesPerToken(decoder.config(), DType::kBf16),
       .has_cache = !config.cache().empty(),
       .vllm_model = config.vllm_metric_names() ? ModelNameFrom(config) : ""});
  CostModel costs(MeasuredCosts(decoder));
  DeviceReadMemory read_memory(&decoder.memory());
  ASSIGN_OR_RETURN(
      const std::unique_ptr<CacheClient> connection,
      ConnectCache(CacheAddressFrom(config), decoder.memory().is_host() ? nullptr : &read_memory));
  MeteredCacheClient client(connection.get(), CacheListeners(&costs, metrics.get()));
  ChunkPool pool(ChunkPoolBytes(config, decoder.memory()));
  Blender blender(&decoder, &client, fingerprint, blend, &pool);
  blender.set_costs(&costs);
  ServedModel served{ModelNameFrom(config), fingerprint.ToHex(),
                     config.blend() && PassesSelfTest(decoder, blend, blender, counts),
                     !config.cache().empty(), calibration};
  // As much as the chunks of one longest prompt.
  ChunkWriter writer(&client, blend.tokens_per_piece,
                     decoder.max_len() * KvMemory::BytesPerToken(decoder.config(), DType::kBf16));
  DriftSampler drift(config.drift_sample(), &decoder, DriftKl(metrics.get()));
  Engine engine(&decoder, &blender, &writer, EngineOptionsFrom(config, decoder, &drift));
  ASSIGN_OR_RETURN(const std::unique_ptr<WorkerServer> server,
                   StartWorkerServer(config.listen(), served,
                                     {.decoder = &decoder,
                                      .defaults = &blend,
                                      .engine = &engine,
                                      .metrics = &counts,
                                      .drift = &drift,
                                      .residents = &pool.residents()}));
  AddSources(client, writer, pool, engine, counts);
  metrics->AddSource([&] { return counts.VllmSamples(engine.stats()); });
  metrics->AddSource([] { return ProcessSamples("worker"); });
  counts.AddSource([&](MetricSamples* samples) {
    AddCostSamples(costs, samples);
    drift.AddSamples(samples);
  });
  // Before anything that they read ends; nobody scrapes before Serve.
  const absl::Cleanup no_sources = [&metrics] { metrics->RemoveSources(); };
  if (!config.metrics_listen().empty()) RETURN_IF_ERROR(metrics->Serve(config.metrics_listen()));
  LOG_EVENT(kInfo, "ready")
      .With("listen", config.listen())
      .With("port", server->port())
      .With("model", served.name)
      .With("device", decoder.ops().name())
      .With("max_len", decoder.max_len())
      .With("blend", served.blend_enabled)
      .With("policy", blend.policy.name())
      .With("recompute_ratio", blend.recompute_ratio)
      .With("chunk_pool_bytes", pool.stats().limit_bytes)
      .With("calibration", calibration.empty() ? "none" : calibration)
      .With("metrics", config.metrics_listen().empty() ? "none" : config.metrics_listen());
  WaitForStopSignal();
  LOG_EVENT(kInfo, "stopping");
  server->Shutdown();
  LOG_EVENT(kInfo, "stopped");
  return absl::OkStatus();
}

absl::Status Run(config::WorkerConfig config, const config::LoadedConfig& loaded) {
  QuietGrpc();
  // Before the model is read, which takes a while.
  RETURN_IF_ERROR(BlendConfigFrom(config).status());
  ASSIGN_OR_RETURN(const std::unique_ptr<Ops> ops,
                   MakeOps(config.device(), static_cast<int>(config.threads())));
  const absl::Time start = absl::Now();
  LOG_EVENT(kInfo, "loading").With("model", config.model());
  ASSIGN_OR_RETURN(const std::unique_ptr<Decoder> decoder,
                   Decoder::Load(config.model(), config.max_len(), ops.get()));
  const ChunkKey fingerprint =
      LayoutOf(decoder->config(), decoder->weights().files->Digest()).Fingerprint();
  if (config.check_layer() >= decoder->config().layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("--check_layer must be between 0 and ", decoder->config().layers - 1));
  }
  RETURN_IF_ERROR(CheckKvFits(*decoder));
  LOG_EVENT(kInfo, "loaded")
      .WithMs("total_ms", absl::Now() - start)
      .With("weights_bytes", decoder->weights().files->total_bytes())
      .With("fingerprint", fingerprint.ToHex().substr(0, 16));
  decoder->Prepare(DeviceCacheFolder(config));
  if (!config.calibrate().empty()) return CalibrateUntilStopped(config, *decoder, fingerprint);
  ASSIGN_OR_RETURN(const std::string calibration,
                   TakeCalibration(fingerprint, *ops, loaded, &config));
  return Serve(config, *decoder, fingerprint, calibration);
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::config::WorkerConfig config;
  const tessera::config::LoadedConfig loaded =
      tessera::config::StartConfigured(argc, argv, &config);
  absl::Status status;
  try {
    status = tessera::Run(config, loaded);
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError(
        "the device has too little memory for the model and its KV: lower --kv_bytes and "
        "--chunk_pool_bytes, or choose another --device");
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "tessera_worker: %s\n", std::string(status.message()).c_str());
  return 1;
}
