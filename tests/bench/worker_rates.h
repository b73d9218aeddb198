// What a device can do at best, measured on a decoder's own shapes: what a bench holds times
// against.
#ifndef TESSERA_TESTS_BENCH_WORKER_RATES_H_
#define TESSERA_TESTS_BENCH_WORKER_RATES_H_

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/clock.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

struct DeviceRates {
  double product = 0;    // flops a second: the widest product of a long prompt
  double attention = 0;  // flops a second: causal, a long prompt
  double memory = 0;     // bytes a second read and written: a copy within the device
  double upload = 0;     // bytes a second from the host's memory
};

// Numbers in the weights of one layer's products.
inline double ProductNumbers(const ModelConfig& model) {
  const int64_t q = model.heads * model.head_dim, kv = model.kv_heads * model.head_dim;
  return static_cast<double>(model.hidden * (2 * q + 2 * kv + 3 * model.intermediate));
}

// Of a few runs, each of `times` times the work.
inline double FastestSeconds(DeviceMemory& memory, int times, absl::FunctionRef<void()> work) {
  double fastest = std::numeric_limits<double>::infinity();
  for (int run = 0; run < 4; ++run) {
    memory.Synchronize();
    const absl::Time start = absl::Now();
    for (int i = 0; i < times; ++i) work();
    memory.Synchronize();
    if (run > 0) fastest = std::min(fastest, absl::ToDoubleSeconds(absl::Now() - start));
  }
  return fastest / times;
}

inline DeviceRates MeasureRates(const Decoder& decoder) {
  const ModelConfig& model = decoder.config();
  DeviceMemory& memory = decoder.memory();
  Ops& ops = decoder.ops();
  const int64_t rows = memory.is_host() ? 512 : 8192;
  const int times = memory.is_host() ? 1 : 4;
  DeviceRates rates;
  std::vector<uint32_t> ids(rows);
  for (int64_t i = 0; i < rows; ++i) ids[i] = static_cast<uint32_t>(i % model.vocab);
  const Activations h = decoder.Embed(ids);
  const Indices positions(memory, PositionsFrom(0, rows));
  const KvMemory kv = decoder.MakeKv(rows);
  Qkv fresh = decoder.ProjectQkv(0, h);
  ops.Rotate(fresh.q, positions, decoder.rope());
  ops.RotateAndWriteKv(fresh.k, fresh.v, positions, decoder.rope(), kv.Layer(0));
  const Activations attention = decoder.MakeRows(rows, fresh.q->cols);
  const auto heads = static_cast<double>(model.heads * model.head_dim);
  rates.attention = 2.0 * static_cast<double>(rows * (rows + 1)) * heads /
                    FastestSeconds(memory, times,
                                   [&] { ops.Attend(fresh.q, positions, kv.Layer(0), attention); });
  const LayerWeights& w = decoder.weights().layers[0];
  const Activations x = decoder.MakeRows(rows, model.hidden);
  ops.RmsNorm(h, w.input_norm, model.rms_eps, x);
  const std::vector<Activations> wide =
      Activations::SideBySide(memory, rows, {model.intermediate, model.intermediate});
  rates.product = 4.0 * static_cast<double>(rows * model.hidden * model.intermediate) /
                  FastestSeconds(memory, times, [&] {
                    ops.MatMulMany(x, {w.gate, w.up}, {}, /*by_row=*/false, {wide[0], wide[1]});
                  });
  const size_t bytes = size_t{memory.is_host() ? 256u : 1024u} << 20;
  const std::shared_ptr<void> from = AllocateShared(memory, bytes),
                              to = AllocateShared(memory, bytes);
  void* const host = memory.AllocateHost(bytes);
  rates.memory = 2.0 * static_cast<double>(bytes) / FastestSeconds(memory, times, [&] {
                   memory.Copy(from.get(), bytes, to.get(), bytes, bytes, 1);
                 });
  rates.upload = static_cast<double>(bytes) / FastestSeconds(memory, 1, [&] {
                   memory.BeginUpload(host, bytes, to.get())->Wait();
                 });
  memory.FreeHost(host);
  return rates;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_BENCH_WORKER_RATES_H_
