#include "gateway/text/sentencepiece_model.h"

#include <sentencepiece_processor.h>

#include <utility>

namespace tessera {

struct SentencepieceModel::Library {
  sentencepiece::SentencePieceProcessor processor;
};

SentencepieceModel::SentencepieceModel(std::unique_ptr<Library> library)
    : library_(std::move(library)) {}
SentencepieceModel::~SentencepieceModel() = default;

std::unique_ptr<SentencepieceModel> SentencepieceModel::Load(std::string_view bytes,
                                                             std::string* error) {
  auto library = std::make_unique<Library>();
  const auto status = library->processor.LoadFromSerializedProto(bytes);
  if (!status.ok()) {
    *error = status.ToString();
    return nullptr;
  }
  return std::unique_ptr<SentencepieceModel>(new SentencepieceModel(std::move(library)));
}

bool SentencepieceModel::Encode(std::string_view text, std::vector<uint32_t>* ids,
                                std::string* error) const {
  std::vector<int> pieces;
  const auto status = library_->processor.Encode(text, &pieces);
  if (!status.ok()) *error = status.ToString();
  ids->insert(ids->end(), pieces.begin(), pieces.end());
  return status.ok();
}

uint32_t SentencepieceModel::size() const {
  return static_cast<uint32_t>(library_->processor.GetPieceSize());
}

const std::string& SentencepieceModel::Piece(uint32_t id) const {
  return library_->processor.IdToPiece(static_cast<int>(id));
}

SentencepieceModel::Kind SentencepieceModel::KindOf(uint32_t id) const {
  const int piece = static_cast<int>(id);
  if (library_->processor.IsControl(piece)) return Kind::kControl;
  if (library_->processor.IsUnknown(piece)) return Kind::kUnknown;
  return library_->processor.IsByte(piece) ? Kind::kByte : Kind::kText;
}

std::optional<uint32_t> SentencepieceModel::Find(std::string_view piece) const {
  const int id = library_->processor.PieceToId(piece);
  if (library_->processor.IsUnknown(id)) return std::nullopt;
  return static_cast<uint32_t>(id);
}

}  // namespace tessera
