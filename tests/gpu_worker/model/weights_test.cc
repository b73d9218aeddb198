#include "gpu_worker/model/weights.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "gpu_worker/model/safetensors.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/tiny_model.h"

namespace tessera {
namespace {

void WriteFile(const std::string& path, const std::string& header, const std::string& body) {
  std::ofstream file(path, std::ios::binary);
  const uint64_t length = header.size();
  file.write(reinterpret_cast<const char*>(&length), 8);
  file << header << body;
}

absl::Status LoadStatus(const std::string& folder, const std::string& config) {
  const auto model = ParseModelConfig(config);
  return model.ok() ? LoadWeights(folder, *model).status() : model.status();
}

TEST(WeightsTest, NamesWhatIsMissingMisshapenOrUnknown) {
  const std::string folder = TestFolder("weights");
  WriteTinyModel(TinyLlamaConfig(), folder);
  EXPECT_TRUE(LoadStatus(folder, TinyLlamaConfig()).ok());
  auto with = [](const char* from, const char* to) {
    return absl::StrReplaceAll(TinyLlamaConfig(), {{from, to}});
  };
  const absl::Status missing =
      LoadStatus(folder, with("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"));
  EXPECT_EQ(missing.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(missing.message(), "model.layers.3.")) << missing;
  const absl::Status shape =
      LoadStatus(folder, with("\"intermediate_size\": 128", "\"intermediate_size\": 96"));
  EXPECT_TRUE(absl::StrContains(shape.message(), "gate_proj")) << shape;
  const absl::Status unknown =
      LoadStatus(folder, with("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2"));
  EXPECT_EQ(unknown.code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(absl::StrContains(unknown.message(), "model.layers.2.")) << unknown;
}

TEST(SafeTensorsTest, RefusesBrokenFiles) {
  const std::string folder = TestFolder("broken"), path = folder + "/model.safetensors";
  EXPECT_EQ(SafeTensors::Open(folder).status().code(), absl::StatusCode::kNotFound);
  for (const char* header :
       {"", "[]", "{\"a\":1}", R"({"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,100]}})",
        R"({"a":{"dtype":"BF16","shape":[3],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"BF16","shape":[-2],"data_offsets":[0,4]}})",
        R"({"a":{"dtype":"BF16","shape":[4611686018427387904,4],"data_offsets":[0,8]}})"}) {
    WriteFile(path, header, "12345678");
    EXPECT_EQ(SafeTensors::Open(folder).status().code(), absl::StatusCode::kInvalidArgument)
        << header;
  }
  WriteFile(path, R"({"a":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}})", "12345678");
  EXPECT_EQ(SafeTensors::Open(folder).status().code(), absl::StatusCode::kUnimplemented);
  std::ofstream(path) << "abc";
  EXPECT_EQ(SafeTensors::Open(folder).status().code(), absl::StatusCode::kInvalidArgument);
  WriteFile(path, R"({"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}})", "12345678");
  std::filesystem::resize_file(path, 40);
  EXPECT_EQ(SafeTensors::Open(folder).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SafeTensorsTest, DigestChangesWithAnyByte) {
  const std::string folder = TestFolder("digest"), path = folder + "/model.safetensors";
  const char* header = R"({"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}})";
  WriteFile(path, header, "12345678");
  const std::string one = (*SafeTensors::Open(folder))->Digest();
  EXPECT_EQ(one, (*SafeTensors::Open(folder))->Digest());
  EXPECT_EQ(one.size(), 64u);
  WriteFile(path, header, "12345679");
  EXPECT_NE(one, (*SafeTensors::Open(folder))->Digest());
}

}  // namespace
}  // namespace tessera
