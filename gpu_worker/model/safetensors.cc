#include "gpu_worker/model/safetensors.h"

#include <fcntl.h>
#include <openssl/sha.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "boost/json.hpp"

namespace tessera {
namespace {

namespace json = boost::json;

using Sha256 = std::array<uint8_t, SHA256_DIGEST_LENGTH>;

absl::Status Broken(const std::string& path, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(path, " is not a sound safetensors file: ", why));
}

absl::StatusOr<TensorView> ParseTensor(const std::string& path, const std::string& name,
                                       const json::value& facts, const std::byte* begin,
                                       size_t size) {
  const auto* object = facts.if_object();
  const auto* dtype = object ? object->if_contains("dtype") : nullptr;
  const auto* shape = object ? object->if_contains("shape") : nullptr;
  const auto* offsets = object ? object->if_contains("data_offsets") : nullptr;
  if (!dtype || !dtype->is_string() || !shape || !shape->is_array() || !offsets ||
      !offsets->is_array() || offsets->as_array().size() != 2) {
    return Broken(path, absl::StrCat("tensor ", name, " lacks dtype, shape or data_offsets"));
  }
  TensorView view;
  if (dtype->as_string() == "BF16") {
    view.dtype = DType::kBf16;
  } else if (dtype->as_string() == "F32") {
    view.dtype = DType::kF32;
  } else {
    return absl::UnimplementedError(
        absl::StrCat(path, ": tensor ", name, " has dtype ", std::string(dtype->as_string()),
                     "; BF16 and F32 are supported: convert the model to bf16"));
  }
  int64_t count = 1;
  for (const json::value& side : shape->as_array()) {
    const int64_t n = side.is_int64() ? side.as_int64() : -1;
    if (n < 0 || (n > 0 && count > (int64_t{1} << 50) / n))
      return Broken(path, "a shape overflows");
    view.shape.push_back(n);
    count *= n;
  }
  const json::array& range = offsets->as_array();
  const int64_t first = range[0].is_int64() ? range[0].as_int64() : -1;
  const int64_t last = range[1].is_int64() ? range[1].as_int64() : -1;
  if (first < 0 || last < first || static_cast<size_t>(last) > size ||
      last - first != count * BytesPer(view.dtype)) {
    return Broken(path, absl::StrCat("tensor ", name, " does not fit its data_offsets"));
  }
  view.data = begin + first;
  view.bytes = static_cast<size_t>(last - first);
  return view;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafeTensors>> SafeTensors::Open(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path().string());
  }
  if (paths.empty()) {
    return absl::NotFoundError(absl::StrCat("no *.safetensors in ", folder));
  }
  std::sort(paths.begin(), paths.end());
  std::unique_ptr<SafeTensors> tensors(new SafeTensors);
  for (const std::string& path : paths) RETURN_IF_ERROR(tensors->Map(path));
  return tensors;
}

SafeTensors::~SafeTensors() {
  for (const Mapping& mapping : mappings_) munmap(mapping.address, mapping.size);
}

absl::Status SafeTensors::Map(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  struct stat facts;
  const bool known = fstat(file, &facts) == 0;
  const size_t size = known ? static_cast<size_t>(facts.st_size) : 0;
  void* address = size < 8 ? MAP_FAILED : mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (address == MAP_FAILED) return Broken(path, "it is too short, or cannot be mapped");
  mappings_.push_back({address, size});
  return ReadHeader(path, static_cast<const std::byte*>(address), size);
}

// Format: 8 bytes little-endian length of the header, the header (JSON), then all tensors.
absl::Status SafeTensors::ReadHeader(const std::string& path, const std::byte* file, size_t size) {
  uint64_t length = 0;
  std::memcpy(&length, file, 8);
  if (length > size - 8) return Broken(path, "its header is longer than the file");
  boost::system::error_code error;
  const json::value header =
      json::parse(json::string_view(reinterpret_cast<const char*>(file) + 8, length), error);
  if (error || !header.is_object()) return Broken(path, "its header is not a JSON object");
  for (const auto& [key, facts] : header.as_object()) {
    if (key == "__metadata__") continue;
    const std::string name(key);
    ASSIGN_OR_RETURN(TensorView view,
                     ParseTensor(path, name, facts, file + 8 + length, size - 8 - length));
    total_bytes_ += view.bytes;
    if (!tensors_.emplace(name, std::move(view)).second) {
      return Broken(path, absl::StrCat("tensor ", name, " is in two files"));
    }
  }
  return absl::OkStatus();
}

std::string SafeTensors::Digest() const {
  std::vector<const TensorView*> views;
  for (const auto& [name, view] : tensors_) views.push_back(&view);
  std::vector<Sha256> digests(views.size());
  std::atomic<size_t> next{0};
  auto work = [&] {
    for (size_t i = next++; i < views.size(); i = next++) {
      SHA256(reinterpret_cast<const uint8_t*>(views[i]->data), views[i]->bytes, digests[i].data());
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < std::thread::hardware_concurrency(); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  std::string all;
  size_t i = 0;
  for (const auto& [name, view] : tensors_) {
    absl::StrAppend(&all, name, "|", static_cast<int>(view.dtype), "|",
                    absl::StrJoin(view.shape, ","), "|");
    all.append(reinterpret_cast<const char*>(digests[i].data()), digests[i].size());
    ++i;
  }
  Sha256 digest;
  SHA256(reinterpret_cast<const uint8_t*>(all.data()), all.size(), digest.data());
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

}  // namespace tessera
