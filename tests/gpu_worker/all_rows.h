// A plain prefill that keeps every row, which the decoder itself never does.
#ifndef TESSERA_TESTS_GPU_WORKER_ALL_ROWS_H_
#define TESSERA_TESTS_GPU_WORKER_ALL_ROWS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "gpu_worker/model/decoder.h"

namespace tessera {

// Hidden rows [ids][hidden] after the last layer.
inline Activations AllRows(const Decoder& decoder, absl::Span<const uint32_t> ids) {
  const auto n = static_cast<int64_t>(ids.size());
  const KvMemory kv = decoder.MakeKv(n);
  Activations h = decoder.Embed(ids);
  const std::vector<int32_t> positions = PositionsFrom(0, n);
  for (int64_t layer = 0; layer < decoder.config().layers; ++layer) {
    decoder.RunLayer(layer, positions, kv, h, n);
  }
  return h;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_GPU_WORKER_ALL_ROWS_H_
