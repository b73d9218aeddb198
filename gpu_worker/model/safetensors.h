// Tensors of *.safetensors files, mapped into memory and not copied.
#ifndef TESSERA_GPU_WORKER_MODEL_SAFETENSORS_H_
#define TESSERA_GPU_WORKER_MODEL_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/device/tensor.h"

namespace tessera {

struct TensorView {
  const std::byte* data = nullptr;
  size_t bytes = 0;
  DType dtype = DType::kBf16;
  std::vector<int64_t> shape;
};

// Read-only and thread-safe. Views live as long as it does.
class SafeTensors {
 public:
  // Maps every *.safetensors file of `folder`. NOT_FOUND: there is none; INVALID_ARGUMENT: a header
  // that is broken or points outside its file; UNIMPLEMENTED: a dtype other than BF16 and F32, with
  // the tensor's name.
  static absl::StatusOr<std::unique_ptr<SafeTensors>> Open(const std::string& folder);
  ~SafeTensors();

  // By name, in name order.
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

  size_t total_bytes() const { return total_bytes_; }

  // Hex SHA-256 over every tensor's name, type, shape and bytes.
  std::string Digest() const;

 private:
  struct Mapping {
    void* address;
    size_t size;
  };
  SafeTensors() = default;
  absl::Status Map(const std::string& path);
  absl::Status ReadHeader(const std::string& path, const std::byte* file, size_t size);

  std::vector<Mapping> mappings_;
  std::map<std::string, TensorView> tensors_;
  size_t total_bytes_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_GPU_WORKER_MODEL_SAFETENSORS_H_
