#include "gpu_worker/model/kv_pool.h"

#include <sys/mman.h>

#include <algorithm>

#include "glog/logging.h"

namespace tessera {

KvPool::KvPool(const ModelConfig& model, int64_t blocks)
    : layers_(model.layers),
      kv_heads_(model.kv_heads),
      head_dim_(model.head_dim),
      references_(blocks, 0),
      bytes_(static_cast<size_t>(layers_ * 2 * PerLayer()) * sizeof(float)) {
  CHECK_GT(blocks, 0);
  for (int32_t block = 0; block < blocks; ++block) free_.insert(free_.end(), block);
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  PCHECK(memory != MAP_FAILED) << "cannot reserve " << bytes_ << " bytes for KV: lower --kv_bytes";
  numbers_ = static_cast<float*>(memory);
}

KvPool::~KvPool() {
  CHECK_EQ(free_blocks(), blocks()) << "a block outlives its pool";
  munmap(numbers_, bytes_);
}

int32_t KvPool::FindRun(int64_t count, const std::vector<int32_t>& behind) const {
  auto run_from = [&](std::set<int32_t>::const_iterator first) {
    int64_t length = 0;
    for (auto at = first; at != free_.end() && *at == *first + length && length < count; ++at) {
      ++length;
    }
    return length;
  };
  if (!behind.empty()) {
    const auto next = free_.find(behind.back() + 1);
    if (next != free_.end() && run_from(next) == count) return *next;
  }
  for (auto first = free_.begin(); first != free_.end();) {
    const int64_t length = run_from(first);
    if (length == count) return *first;
    std::advance(first, length);
  }
  return -1;
}

void KvPool::Take(int32_t block, std::vector<int32_t>* blocks) {
  free_.erase(block);
  references_[block] = 1;
  blocks->push_back(block);
}

bool KvPool::Allocate(int64_t count, std::vector<int32_t>* blocks) {
  if (count > free_blocks()) return false;
  const int32_t run = FindRun(count, *blocks);
  for (int32_t i = 0; i < count; ++i) Take(run < 0 ? *free_.begin() : run + i, blocks);
  return true;
}

void KvPool::AddReference(int32_t block) {
  CHECK_GT(references_[block], 0);
  ++references_[block];
}

void KvPool::Release(int32_t block) {
  CHECK_GT(references_[block], 0);
  if (--references_[block] == 0) free_.insert(block);
}

void KvPool::CopyBlock(int32_t from, int32_t to) {
  const int64_t head_numbers = kBlockSlots * head_dim_;
  for (int64_t head = 0; head < layers_ * 2 * kv_heads_; ++head) {
    float* first = numbers_ + head * blocks() * head_numbers;
    std::copy_n(first + from * head_numbers, head_numbers, first + to * head_numbers);
  }
}

LayerKv KvPool::Layer(int64_t layer, const std::vector<int32_t>& blocks) const {
  float* k = numbers_ + layer * 2 * PerLayer();
  return {k,
          k + PerLayer(),
          static_cast<int64_t>(blocks.size()) * kBlockSlots,
          kv_heads_,
          head_dim_,
          blocks.data(),
          this->blocks() * kBlockSlots};
}

}  // namespace tessera
