#include "gateway/openai/chunk_resolver.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "gateway/openai/error.h"
#include "gateway/openai/views.h"

namespace tessera::openai {

absl::StatusOr<std::string> ChunkResolver::Resolve(std::string_view id, std::string_view param) {
  if (++chunks_ > kMaxChunks) {
    return ParameterError(param, absl::StrCat("a prompt names at most ", kMaxChunks,
                                              " chunks: send fewer, or join their texts"));
  }
  auto found = found_.find(id);
  if (found == found_.end()) {
    if (texts_ == nullptr) {
      return ParameterError(
          param, "this gateway has no cache to look chunks up in: send the text instead of an id");
    }
    absl::StatusOr<std::string> text = texts_->TextOf(id, salt_);
    if (!text.ok()) {
      return WithParameter(text.status(), param,
                           absl::IsNotFound(text.status()) ? "chunk_not_found" : "");
    }
    found = found_.emplace(id, *std::move(text)).first;
  }
  // The same chunk many times over is as long as many chunks.
  bytes_ += found->second.size();
  if (bytes_ > kMaxBytes) {
    return ParameterError(param, absl::StrCat("the chunks of a prompt have at most ", kMaxBytes,
                                              " bytes of text together: name fewer"));
  }
  return found->second;
}

}  // namespace tessera::openai
