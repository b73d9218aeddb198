// Cuts a prompt into segments and encodes each on its own, so that a chunk's ids never depend on
// its neighbours.
#ifndef TESSERA_GATEWAY_TEXT_SEGMENTER_H_
#define TESSERA_GATEWAY_TEXT_SEGMENTER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/text/chat_template.h"
#include "gateway/text/model_text.h"
#include "gateway/text/tokenizer.h"

namespace tessera {

struct SegmenterOptions {
  // Marks a border wherever it stands in a completion prompt or in a message's text. Empty: no text
  // marks a border.
  std::string separator = " # # ";
  // Ends every chunk (and the lead, where a separator ended it) in the separator's place.
  std::string join = "\n\n";
  // Ends them with the separator itself instead of `join`.
  bool keep_separator = false;
  // Whether a completion prompt may spell special tokens: only for callers who write their own chat
  // template into it and trust all of its text.
  SpecialTokens completion_special = SpecialTokens::kPlainText;
};

struct SegmentedPrompt {
  // Ids of the lead (everything before the first chunk), the chunks, and last the suffix. At least
  // one segment; none is empty. One alone is a suffix.
  std::vector<std::vector<uint32_t>> segments;

  // Length of the whole prompt.
  size_t token_count() const;

  // The whole prompt: all segments' ids, joined.
  std::vector<uint32_t> Ids() const;
};

// Cuts `prompt` at the separator: "lead # # chunk # # chunk # # question". Without a separator the
// whole prompt is one segment. The model's BOS is put at the front where ModelText has one.
// Errors: INVALID_ARGUMENT, with what to change, for an empty prompt, a segment that is empty or
// white space only (separators doubled, or at either end), and text that is not UTF-8.
absl::StatusOr<SegmentedPrompt> SegmentCompletion(const ModelText& model, std::string_view prompt,
                                                  const SegmenterOptions& options);

// The same for a prompt whose borders stand between its parts too: every part is a segment, or
// several where it has separators.
absl::StatusOr<SegmentedPrompt> SegmentCompletion(const ModelText& model,
                                                  const std::vector<std::string>& parts,
                                                  const SegmenterOptions& options);

// Renders `prompt` and cuts it. A message whose text has separators, or that has several parts, is
// cut there; its last piece is a chunk too in a system, developer or tool message, and stays with
// what follows it in the others (it is the question). Documents reach the prompt through the
// template where it reads `documents`; otherwise each becomes a chunk ("title\ntext") just before
// the text of the last user message. A chunk's text is just what the user wrote plus `join`, even
// where the template trims contents: equal texts are equal ids wherever they stand.
// Errors: those of ChatTemplate::Render; INVALID_ARGUMENT as for SegmentCompletion, for documents
// without a user message, and when the template leaves a chunk out;
// FAILED_PRECONDITION when the model has no chat template.
absl::StatusOr<SegmentedPrompt> SegmentChat(const ModelText& model, const ChatPrompt& prompt,
                                            const SegmenterOptions& options);

// The text that `document` is in a prompt, without the tail that every chunk gets: "title\ntext",
// or the text alone where there is no title or the model's template writes titles itself.
std::string ChunkText(const ModelText& model, const ChatDocument& document);

// Ids of the segment that `document` becomes in a chat, and that its ChunkText becomes between two
// separators of a completion prompt or a message. Errors: INVALID_ARGUMENT, with what to change,
// for a text that is empty or white space only, not UTF-8, or has a separator in it (written into a
// prompt it would be cut there).
absl::StatusOr<std::vector<uint32_t>> SegmentChunk(const ModelText& model,
                                                   const ChatDocument& document,
                                                   const SegmenterOptions& options);

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_SEGMENTER_H_
