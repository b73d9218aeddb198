#include "gpu_worker/serve/logprobs.h"

#include <algorithm>
#include <cmath>

#include "glog/logging.h"

namespace tessera {

std::vector<uint32_t> Likeliest(absl::Span<const float> logits, size_t count) {
  auto likelier = [&](uint32_t a, uint32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  count = std::min(count, logits.size());
  std::vector<uint32_t> heap;  // the least likely of those kept is in front
  if (count == 0) return heap;
  heap.reserve(count);
  for (uint32_t id = 0; id < logits.size(); ++id) {
    if (heap.size() < count) {
      heap.push_back(id);
    } else if (logits[id] > logits[heap.front()]) {  // an equal one comes later, and so after it
      std::pop_heap(heap.begin(), heap.end(), likelier);
      heap.back() = id;
    } else {
      continue;
    }
    std::push_heap(heap.begin(), heap.end(), likelier);
  }
  std::sort_heap(heap.begin(), heap.end(), likelier);
  return heap;
}

RowLogprobs::RowLogprobs(absl::Span<const float> logits) : logits_(logits) {
  CHECK(!logits.empty());
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float x : logits) sum += std::exp(x - top);
  log_sum_ = top + std::log(sum);
}

TokenLogprob RowLogprobs::Of(uint32_t id) const {
  CHECK_LT(id, logits_.size());
  return {id, static_cast<float>(logits_[id] - log_sum_)};
}

std::vector<TokenLogprob> RowLogprobs::Top(size_t count) const {
  std::vector<TokenLogprob> top;
  for (uint32_t id : Likeliest(logits_, count)) top.push_back(Of(id));
  return top;
}

}  // namespace tessera
