// KV memory with the same numbers on the CPU and on a CUDA device. For tests.
#ifndef TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_KV_PAIR_H_
#define TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_KV_PAIR_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "tests/gpu_worker/device/cuda/ops_pair.h"

namespace tessera {

// [kv_head][slot][head_dim] each.
struct KvNumbers {
  Floats k, v;
};

inline KvNumbers RandomKv(int64_t kv_heads, int64_t slots, int64_t head_dim, uint32_t seed) {
  return {Random(kv_heads * slots * head_dim, seed),
          Random(kv_heads * slots * head_dim, seed + 500)};
}

inline ModelConfig ModelOf(int64_t layers, int64_t kv_heads, int64_t head_dim) {
  ModelConfig model;
  model.layers = layers;
  model.kv_heads = kv_heads;
  model.head_dim = head_dim;
  return model;
}

// One device's: memory of its own, or shuffled blocks of a pool in which others remain.
class TestKv {
 public:
  TestKv(DeviceMemory& memory, const ModelConfig& model, int64_t slots, bool pooled, uint32_t seed)
      : memory_(memory) {
    if (!pooled) {
      kv_ = KvMemory(model, slots, memory);
      return;
    }
    const int64_t needed = KvPool::BlocksFor(slots);
    pool_ = std::make_unique<KvPool>(model, needed + 3, &memory);
    std::vector<int32_t> blocks;
    EXPECT_TRUE(pool_->Allocate(needed + 3, &blocks));
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(seed));
    kv_ = KvMemory(pool_.get());
    kv_.Share(absl::MakeConstSpan(blocks).first(needed));
    for (const int32_t block : blocks) pool_->Release(block);
  }

  LayerKv Layer(int64_t layer = 0) const { return kv_.Layer(layer); }
  // For tables.
  LayerKv Pool() const { return pool_->Layer(0, {}); }
  const std::vector<int32_t>& blocks() const { return kv_.blocks(); }
  int64_t slots() const { return kv_.capacity(); }

  void Set(int64_t layer, const KvNumbers& numbers) {
    const LayerKv kv = Layer(layer);
    auto set = [&](const Floats& from, void* to) {
      Floats all(RowsOf(kv) * kv.head_dim, kStray);
      ForSlots(kv, [&](int64_t at, int64_t row) {
        std::copy_n(from.begin() + at * kv.head_dim, kv.head_dim, all.begin() + row * kv.head_dim);
      });
      WriteNumbers(memory_, memory_.kv_type(), all, to);
    };
    set(numbers.k, kv.k);
    set(numbers.v, kv.v);
  }

  // Checks too that the pool's other blocks are as they were.
  KvNumbers Get(int64_t layer = 0) const {
    const LayerKv kv = Layer(layer);
    auto get = [&](const void* from) {
      Floats all = ReadNumbers(memory_, memory_.kv_type(), from, RowsOf(kv) * kv.head_dim);
      Floats numbers;
      ForSlots(kv, [&](int64_t at, int64_t row) {
        const auto first = all.begin() + row * kv.head_dim;
        numbers.insert(numbers.end(), first, first + kv.head_dim);
        std::fill_n(first, kv.head_dim, kStray);
      });
      EXPECT_EQ(std::count(all.begin(), all.end(), kStray), static_cast<int64_t>(all.size()))
          << "numbers of other requests were overwritten";
      return numbers;
    };
    return {get(kv.k), get(kv.v)};
  }

 private:
  static constexpr float kStray = -3;

  static int64_t RowsOf(const LayerKv& kv) {
    return kv.kv_heads * (kv.blocks == nullptr ? kv.capacity : kv.pool_slots);
  }
  template <typename Function>
  static void ForSlots(const LayerKv& kv, Function function) {
    for (int64_t h = 0; h < kv.kv_heads; ++h) {
      for (int64_t s = 0; s < kv.capacity; ++s) {
        function(h * kv.capacity + s,
                 kv.blocks == nullptr
                     ? h * kv.capacity + s
                     : h * kv.pool_slots +
                           kv.blocks[s / LayerKv::kBlockSlots] * LayerKv::kBlockSlots +
                           s % LayerKv::kBlockSlots);
      }
    }
  }

  DeviceMemory& memory_;
  std::unique_ptr<KvPool> pool_;
  KvMemory kv_;
};

// The same on both, in blocks of different orders.
struct KvPair {
  KvPair(DeviceMemory& memory, const ModelConfig& model, int64_t slots, bool pooled,
         uint32_t seed = 1)
      : cpu(HostMemory(), model, slots, pooled, seed),
        cuda(memory, model, slots, pooled, seed + 1) {
    for (int64_t layer = 0; layer < model.layers; ++layer) {
      Set(layer, RandomKv(model.kv_heads, cpu.slots(), model.head_dim, seed + 10 * layer));
    }
  }

  void Set(int64_t layer, const KvNumbers& numbers) {
    cpu.Set(layer, numbers);
    cuda.Set(layer, numbers);
  }

  TestKv cpu, cuda;
};

// The same slots were written on both: K rounded once, V moved.
inline void ExpectWritten(const char* op, const KvPair& kv, int64_t layer,
                          const std::vector<int32_t>& written) {
  const KvNumbers got = kv.cuda.Get(layer), want = kv.cpu.Get(layer);
  const LayerKv shape = kv.cuda.Layer(layer);
  std::vector<bool> is_written(shape.capacity, false);
  for (const int32_t slot : written) is_written[slot] = true;
  Floats got_written, want_written, got_others, want_others;
  for (int64_t row = 0; row < shape.kv_heads * shape.capacity; ++row) {
    const bool here = is_written[row % shape.capacity];
    const auto at = row * shape.head_dim, end = at + shape.head_dim;
    auto append = [&](const Floats& from, Floats& to) {
      to.insert(to.end(), from.begin() + at, from.begin() + end);
    };
    append(got.k, here ? got_written : got_others);
    append(want.k, here ? want_written : want_others);
  }
  ExpectClose(op, got_written, want_written, kRoundedOnce);
  ExpectSame(op, got_others, want_others);
  ExpectSame(op, got.v, want.v);
}

}  // namespace tessera

#endif  // TESSERA_TESTS_GPU_WORKER_DEVICE_CUDA_KV_PAIR_H_
