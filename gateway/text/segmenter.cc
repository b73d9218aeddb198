#include "gateway/text/segmenter.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "gateway/text/concat.h"
#include "gateway/text/utf8.h"

namespace tessera {
namespace {

bool IsBlank(std::string_view text) {
  if (FindInvalidUtf8(text) != std::string_view::npos) return false;  // Encode will say where
  for (size_t offset = 0; offset < text.size();) {
    if (!IsWhiteSpace(NextCodePoint(text, &offset))) return false;
  }
  return true;
}

std::vector<std::string_view> CutAt(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> pieces;
  size_t begin = 0;
  while (!separator.empty()) {
    const size_t found = text.find(separator, begin);
    if (found == std::string_view::npos) break;
    pieces.push_back(text.substr(begin, found - begin));
    begin = found + separator.size();
  }
  pieces.push_back(text.substr(begin));
  return pieces;
}

// `where` names the text in the request.
absl::Status CheckPieces(const std::vector<std::string_view>& pieces, std::string_view where,
                         std::string_view separator) {
  if (pieces.size() < 2) return absl::OkStatus();
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (!IsBlank(pieces[i])) continue;
    return absl::InvalidArgumentError(
        Concat(where, ": segment ", i + 1, " of ", pieces.size(),
               " is empty. Put text on both sides of every separator \"", separator,
               "\" (or between every two content parts), or leave it out"));
  }
  return absl::OkStatus();
}

// What ends a chunk, in the separator's place.
std::string_view Tail(const SegmenterOptions& options) {
  return options.keep_separator ? options.separator : options.join;
}

// A piece of a message's text, or a document.
struct Piece {
  std::string text;  // with the tail, if it is a chunk
  bool chunk = false;
};

bool LastPieceIsChunk(std::string_view role) {
  return role == "system" || role == "developer" || role == "tool" || role == "function" ||
         role == "ipython";
}

// Pieces of one message: its parts, cut at the separator.
absl::StatusOr<std::vector<Piece>> CutMessage(const ChatMessage& message, size_t index,
                                              const SegmenterOptions& options) {
  std::vector<std::string_view> texts;
  for (const std::string& part : message.parts) {
    const auto cut = CutAt(part, options.separator);
    texts.insert(texts.end(), cut.begin(), cut.end());
  }
  RETURN_IF_ERROR(CheckPieces(texts, Concat("messages[", index, "].content"), options.separator));
  std::vector<Piece> pieces;
  for (size_t i = 0; i < texts.size(); ++i) {
    const bool last = i + 1 == texts.size();
    const bool chunk = texts.size() > 1 && (!last || LastPieceIsChunk(message.role));
    pieces.push_back({Concat(texts[i], chunk ? Tail(options) : ""), chunk});
  }
  return pieces;
}

std::string DocumentText(const ChatDocument& document, bool with_title) {
  if (!with_title || document.title.empty()) return document.text;
  return Concat(document.title, "\n", document.text);
}

absl::StatusOr<Piece> DocumentPiece(const ChatDocument& document, size_t index, bool with_title,
                                    const SegmenterOptions& options) {
  if (IsBlank(document.text)) {
    return absl::InvalidArgumentError(
        Concat("documents[", index, "] has no text: give it one, or leave the document out"));
  }
  return Piece{Concat(DocumentText(document, with_title), Tail(options)), true};
}

// What is rendered, and its pieces in the order in which ChatTemplate counts parts.
struct CutPrompt {
  ChatPrompt prompt;
  std::vector<Piece> pieces;
};

absl::StatusOr<CutPrompt> CutChat(const ChatPrompt& prompt, bool template_takes_documents,
                                  const SegmenterOptions& options) {
  CutPrompt cut = {prompt, {}};
  std::vector<Piece> documents;
  for (size_t i = 0; i < prompt.documents.size(); ++i) {
    ASSIGN_OR_RETURN(Piece piece,
                     DocumentPiece(prompt.documents[i], i, !template_takes_documents, options));
    if (template_takes_documents) cut.prompt.documents[i].text = piece.text;
    documents.push_back(std::move(piece));
  }
  std::optional<size_t> last_user;
  for (size_t i = 0; i < prompt.messages.size(); ++i) {
    if (prompt.messages[i].role == "user") last_user = i;
  }
  if (!documents.empty() && !template_takes_documents) {
    cut.prompt.documents.clear();
    if (!last_user.has_value()) {
      return absl::InvalidArgumentError("documents need a message of role user to stand before");
    }
  }
  for (size_t i = 0; i < prompt.messages.size(); ++i) {
    ASSIGN_OR_RETURN(std::vector<Piece> pieces, CutMessage(prompt.messages[i], i, options));
    if (!template_takes_documents && i == last_user) {
      pieces.insert(pieces.begin(), documents.begin(), documents.end());
    }
    std::vector<std::string>& parts = cut.prompt.messages[i].parts;
    parts.clear();
    for (Piece& piece : pieces) {
      parts.push_back(piece.text);
      cut.pieces.push_back(std::move(piece));
    }
  }
  if (template_takes_documents) {
    cut.pieces.insert(cut.pieces.end(), documents.begin(), documents.end());
  }
  return cut;
}

// A chunk as the user wrote it, where the template only trimmed it; otherwise as it was rendered.
std::string_view Untrimmed(std::string_view rendered, std::string_view written) {
  const size_t at = written.find(rendered);
  if (at == std::string_view::npos) return rendered;
  const bool trimmed =
      IsBlank(written.substr(0, at)) && IsBlank(written.substr(at + rendered.size()));
  return trimmed ? written : rendered;
}

absl::Status AddSegment(const Tokenizer& tokenizer, const std::vector<TextRun>& runs,
                        SegmentedPrompt* segmented) {
  ASSIGN_OR_RETURN(std::vector<uint32_t> ids, tokenizer.EncodeRuns(runs));
  if (!ids.empty()) segmented->segments.push_back(std::move(ids));
  return absl::OkStatus();
}

// Every chunk is a segment, and so is what stands between two of them.
absl::StatusOr<SegmentedPrompt> EncodeRendered(const Tokenizer& tokenizer,
                                               const std::vector<RenderedRun>& rendered,
                                               const std::vector<Piece>& pieces) {
  SegmentedPrompt segmented;
  std::vector<bool> seen(pieces.size(), false);
  std::vector<TextRun> current;
  for (const RenderedRun& run : rendered) {
    const Piece* piece = run.origin >= 0 ? &pieces[static_cast<size_t>(run.origin)] : nullptr;
    if (piece == nullptr || !piece->chunk) {
      const bool own = run.origin == kFromTemplate;
      current.push_back({run.text, own ? SpecialTokens::kRecognised : SpecialTokens::kPlainText});
      continue;
    }
    seen[static_cast<size_t>(run.origin)] = true;
    RETURN_IF_ERROR(AddSegment(tokenizer, current, &segmented));
    current.clear();
    const TextRun chunk = {Untrimmed(run.text, piece->text), SpecialTokens::kPlainText};
    RETURN_IF_ERROR(AddSegment(tokenizer, {chunk}, &segmented));
  }
  RETURN_IF_ERROR(AddSegment(tokenizer, current, &segmented));
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (!pieces[i].chunk || seen[i]) continue;
    return absl::InvalidArgumentError(
        Concat("the model's chat template leaves out the text that starts with \"",
               pieces[i].text.substr(0, pieces[i].text.find('\n')),
               "\": put it into a message of role user"));
  }
  if (segmented.segments.empty()) {
    return absl::InvalidArgumentError("messages: the prompt is empty; add a message");
  }
  return segmented;
}

// Every piece of a completion prompt is a segment.
absl::StatusOr<SegmentedPrompt> EncodePieces(const ModelText& model,
                                             const std::vector<std::string_view>& pieces,
                                             const SegmenterOptions& options) {
  RETURN_IF_ERROR(CheckPieces(pieces, "prompt", options.separator));
  SegmentedPrompt segmented;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const bool last = i + 1 == pieces.size();
    const std::string text = Concat(pieces[i], last ? "" : Tail(options));
    ASSIGN_OR_RETURN(std::vector<uint32_t> ids,
                     model.tokenizer->Encode(text, options.completion_special));
    if (i == 0 && model.completion_bos.has_value()) ids.insert(ids.begin(), *model.completion_bos);
    if (!ids.empty()) segmented.segments.push_back(std::move(ids));
  }
  if (segmented.segments.empty()) {
    return absl::InvalidArgumentError("prompt has no text that the model's vocabulary knows");
  }
  return segmented;
}

}  // namespace

size_t SegmentedPrompt::token_count() const {
  size_t count = 0;
  for (const std::vector<uint32_t>& segment : segments) count += segment.size();
  return count;
}

std::vector<uint32_t> SegmentedPrompt::Ids() const {
  std::vector<uint32_t> ids;
  for (const std::vector<uint32_t>& segment : segments) {
    ids.insert(ids.end(), segment.begin(), segment.end());
  }
  return ids;
}

absl::StatusOr<SegmentedPrompt> SegmentCompletion(const ModelText& model, std::string_view prompt,
                                                  const SegmenterOptions& options) {
  if (prompt.empty()) return absl::InvalidArgumentError("prompt is empty: give it some text");
  return EncodePieces(model, CutAt(prompt, options.separator), options);
}

absl::StatusOr<SegmentedPrompt> SegmentCompletion(const ModelText& model,
                                                  const std::vector<std::string>& parts,
                                                  const SegmenterOptions& options) {
  std::vector<std::string_view> pieces;
  for (const std::string& part : parts) {
    const std::vector<std::string_view> cut = CutAt(part, options.separator);
    pieces.insert(pieces.end(), cut.begin(), cut.end());
  }
  if (pieces.empty()) return absl::InvalidArgumentError("prompt is empty: give it some text");
  return EncodePieces(model, pieces, options);
}

absl::StatusOr<SegmentedPrompt> SegmentChat(const ModelText& model, const ChatPrompt& prompt,
                                            const SegmenterOptions& options) {
  if (!model.chat_template.has_value()) {
    return absl::FailedPreconditionError(
        "this model has no chat template: send a completion prompt instead");
  }
  if (prompt.messages.empty()) {
    return absl::InvalidArgumentError("messages is empty: add a message");
  }
  const ChatTemplate& chat_template = *model.chat_template;
  ASSIGN_OR_RETURN(const CutPrompt cut, CutChat(prompt, chat_template.Uses("documents"), options));
  ASSIGN_OR_RETURN(const std::vector<RenderedRun> rendered, chat_template.Render(cut.prompt));
  return EncodeRendered(*model.tokenizer, rendered, cut.pieces);
}

std::string ChunkText(const ModelText& model, const ChatDocument& document) {
  const bool template_writes_titles =
      model.chat_template.has_value() && model.chat_template->Uses("documents");
  return DocumentText(document, !template_writes_titles);
}

absl::StatusOr<std::vector<uint32_t>> SegmentChunk(const ModelText& model,
                                                   const ChatDocument& document,
                                                   const SegmenterOptions& options) {
  if (IsBlank(document.text)) {
    return absl::InvalidArgumentError("the text is empty: give it some, or leave it out");
  }
  const std::string text = ChunkText(model, document);
  if (!options.separator.empty() && text.find(options.separator) != std::string::npos) {
    return absl::InvalidArgumentError(
        Concat("the text has the separator \"", options.separator,
               "\" in it, where a prompt would be cut: send what stands between as texts of their "
               "own"));
  }
  ASSIGN_OR_RETURN(std::vector<uint32_t> ids,
                   model.tokenizer->Encode(Concat(text, Tail(options)), SpecialTokens::kPlainText));
  if (ids.empty()) {
    return absl::InvalidArgumentError("the text has nothing that the model's vocabulary knows");
  }
  return ids;
}

}  // namespace tessera
