#include "gpu_worker/model/config.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "tests/gpu_worker/tiny_model.h"

namespace tessera {
namespace {

std::string With(const std::string& from, const std::string& to) {
  return absl::StrReplaceAll(TinyLlamaConfig(), {{from, to}});
}

TEST(ConfigTest, ReadsTheFacts) {
  const auto model = ParseModelConfig(TinyLlamaConfig());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->family, "llama");
  EXPECT_EQ(model->head_dim, 16);
  EXPECT_EQ(model->kv_heads, 2);
  EXPECT_EQ(model->bos_token_id, 1);
  EXPECT_EQ(model->eos_token_ids, std::vector<uint32_t>{2});
  EXPECT_EQ(model->rope.kind, "default");
}

TEST(ConfigTest, ReadsBothWaysOfNamingRope) {
  const auto old = ParseModelConfig(
      With("\"rope_theta\": 10000.0",
           R"("rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0})"));
  ASSERT_TRUE(old.ok()) << old.status();
  EXPECT_EQ(old->rope.kind, "linear");
  EXPECT_EQ(old->rope.theta, 5e5);
  const auto young = ParseModelConfig(
      With("\"rope_theta\": 10000.0",
           R"("rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5})"));
  ASSERT_TRUE(young.ok()) << young.status();
  EXPECT_EQ(young->rope.ToString(), old->rope.ToString());
}

TEST(ConfigTest, RefusesByName) {
  auto expect = [](const std::string& config, absl::StatusCode code, const std::string& word) {
    const auto model = ParseModelConfig(config);
    EXPECT_EQ(model.status().code(), code) << model.status();
    EXPECT_TRUE(absl::StrContains(model.status().message(), word)) << model.status();
  };
  expect(With("\"llama\"", "\"gpt2\""), absl::StatusCode::kUnimplemented, "gpt2");
  expect(With("\"silu\"", "\"gelu\""), absl::StatusCode::kUnimplemented, "gelu");
  expect(With("\"rope_theta\": 10000.0", R"("rope_scaling": {"rope_type": "longrope"})"),
         absl::StatusCode::kUnimplemented, "longrope");
  expect(With("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 0"),
         absl::StatusCode::kInvalidArgument, "num_hidden_layers");
  expect(With("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"),
         absl::StatusCode::kInvalidArgument, "num_key_value_heads");
  expect("{", absl::StatusCode::kInvalidArgument, "JSON");
  EXPECT_EQ(ReadModelConfig("/nowhere").status().code(), absl::StatusCode::kNotFound);
}

TEST(ConfigTest, ASlidingWindowBoundsTheLength) {
  const auto model = ParseModelConfig(With("\"llama\"", R"("mistral", "sliding_window": 128)"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->max_positions, 128);
}

}  // namespace
}  // namespace tessera
