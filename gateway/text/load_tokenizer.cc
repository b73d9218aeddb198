// LoadTokenizer: which implementation a model folder needs.
#include <filesystem>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/byte_level_tokenizer.h"
#include "gateway/text/concat.h"
#include "gateway/text/json_access.h"
#include "gateway/text/sentencepiece_tokenizer.h"
#include "gateway/text/tokenizer.h"

namespace tessera {
namespace {

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadByteLevel(const std::string& path) {
  ASSIGN_OR_RETURN(const boost::json::object json, ReadJsonObject(path));
  ASSIGN_OR_RETURN(const ByteLevelSpec spec, ParseTokenizerJson(json));
  return ByteLevelTokenizer::Create(spec);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencepiece(const std::string& model_dir,
                                                             const std::string& path) {
  ASSIGN_OR_RETURN(const std::string model, ReadFile(path));
  boost::json::object config;
  const std::string config_path = Concat(model_dir, "/tokenizer_config.json");
  if (Exists(config_path)) {
    ASSIGN_OR_RETURN(config, ReadJsonObject(config_path));
  }
  return SentencepieceTokenizer::Create(model, config);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir) {
  const std::string json_path = Concat(model_dir, "/tokenizer.json");
  const std::string model_path = Concat(model_dir, "/tokenizer.model");
  const bool has_json = Exists(json_path), has_model = Exists(model_path);
  if (has_json) {
    auto tokenizer = LoadByteLevel(json_path);
    if (!absl::IsUnimplemented(tokenizer.status()) || !has_model) return tokenizer;
  }
  if (has_model) return LoadSentencepiece(model_dir, model_path);
  return absl::NotFoundError(Concat(model_dir, " has neither tokenizer.json nor tokenizer.model"));
}

}  // namespace tessera
