#include "gpu_worker/model/kv_pool.h"

#include <algorithm>

#include "glog/logging.h"

namespace tessera {

KvPool::KvPool(const ModelConfig& model, int64_t blocks, DeviceMemory* memory)
    : memory_(*memory),
      layers_(model.layers),
      kv_heads_(model.kv_heads),
      head_dim_(model.head_dim),
      references_(blocks, 0),
      bytes_(static_cast<size_t>(layers_ * 2 * PerLayer())) {
  CHECK_GT(blocks, 0);
  for (int32_t block = 0; block < blocks; ++block) free_.insert(free_.end(), block);
  numbers_ = static_cast<char*>(memory_.Reserve(bytes_));
}

KvPool::~KvPool() {
  CHECK_EQ(free_blocks(), blocks()) << "a block outlives its pool";
  memory_.Release(numbers_, bytes_);
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
  const int64_t block = kBlockSlots * head_dim_ * BytesPer(memory_.kv_type());
  const int64_t head = blocks() * block;
  memory_.Copy(numbers_ + from * block, head, numbers_ + to * block, head, block,
               layers_ * 2 * kv_heads_);
}

LayerKv KvPool::Layer(int64_t layer, const std::vector<int32_t>& blocks,
                      const int32_t* device_blocks) const {
  char* k = numbers_ + layer * 2 * PerLayer();
  return {k,
          k + PerLayer(),
          static_cast<int64_t>(blocks.size()) * kBlockSlots,
          kv_heads_,
          head_dim_,
          blocks.data(),
          this->blocks() * kBlockSlots,
          device_blocks};
}

}  // namespace tessera
