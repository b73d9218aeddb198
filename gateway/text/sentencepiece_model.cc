#include "gateway/text/sentencepiece_model.h"

#include <dlfcn.h>
#include <sentencepiece_processor.h>

#include <new>
#include <type_traits>
#include <utility>

// Debian's libsentencepiece exports a protobuf 3.14 of its own, which must not meet the system's in
// one program. So it is not linked but loaded when a model needs it, in a scope where its own names
// come first. All that is used of it are virtual functions, found through its objects, and the
// three names looked up below.
namespace tessera {
namespace {

constexpr char kLibrary[] = "libsentencepiece.so.0";

using sentencepiece::SentencePieceProcessor;
using LibraryStatus = sentencepiece::util::Status;

// AddressSanitizer refuses a scope of its own; its tests do not bring another protobuf.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TESSERA_ADDRESS_SANITIZER  // clang's
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(TESSERA_ADDRESS_SANITIZER)
constexpr int kScope = 0;
#else
constexpr int kScope = RTLD_DEEPBIND;
#endif

struct Symbols {
  void (*construct_processor)(void*) = nullptr;
  void (*destroy_status)(void*) = nullptr;
  std::string (*status_to_string)(const void*) = nullptr;
  std::string error;  // why it cannot be used; empty: it can
};

Symbols LoadSymbols() {
  Symbols symbols;
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL | kScope);
  auto find = [&](const char* name, auto& function) {
    void* address = library == nullptr ? nullptr : dlsym(library, name);
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(address);
    return address != nullptr;
  };
  const bool found =
      find("_ZN13sentencepiece22SentencePieceProcessorC1Ev", symbols.construct_processor) &&
      find("_ZN13sentencepiece4util6StatusD1Ev", symbols.destroy_status) &&
      find("_ZNK13sentencepiece4util6Status8ToStringB5cxx11Ev", symbols.status_to_string);
  if (!found) {
    const char* why = dlerror();
    symbols.error =
        std::string("cannot use ") + kLibrary + (why == nullptr ? "" : std::string(": ") + why);
  }
  return symbols;
}

const Symbols& TheLibrary() {
  static const Symbols symbols = LoadSymbols();
  return symbols;
}

// Runs call(), which returns a status of the library, and turns that into a bool and a text.
template <typename Call>
bool Succeeds(const Call& call, std::string* error) {
  // In a union, so that nothing here refers to the status's destructor.
  union Holder {
    Holder() {}
    ~Holder() {}
    LibraryStatus status;
  } holder;
  new (&holder.status) LibraryStatus(call());
  const bool ok = holder.status.ok();
  if (!ok) *error = TheLibrary().status_to_string(&holder.status);
  TheLibrary().destroy_status(&holder.status);
  return ok;
}

std::unique_ptr<SentencePieceProcessor> MakeProcessor() {
  void* memory = ::operator new(sizeof(SentencePieceProcessor));
  TheLibrary().construct_processor(memory);
  return std::unique_ptr<SentencePieceProcessor>(static_cast<SentencePieceProcessor*>(memory));
}

}  // namespace

struct SentencepieceModel::Library {
  std::unique_ptr<SentencePieceProcessor> processor;
};

SentencepieceModel::SentencepieceModel(std::unique_ptr<Library> library)
    : library_(std::move(library)) {}
SentencepieceModel::~SentencepieceModel() = default;

std::unique_ptr<SentencepieceModel> SentencepieceModel::Load(std::string_view bytes,
                                                             std::string* error) {
  if (!TheLibrary().error.empty()) {
    *error = TheLibrary().error;
    return nullptr;
  }
  auto library = std::make_unique<Library>();
  library->processor = MakeProcessor();
  const absl::string_view serialized(bytes.data(), bytes.size());
  if (!Succeeds([&] { return library->processor->LoadFromSerializedProto(serialized); }, error)) {
    return nullptr;
  }
  return std::unique_ptr<SentencepieceModel>(new SentencepieceModel(std::move(library)));
}

bool SentencepieceModel::Encode(std::string_view text, std::vector<uint32_t>* ids,
                                std::string* error) const {
  std::vector<int> pieces;
  const bool ok = Succeeds([&] { return library_->processor->Encode(text, &pieces); }, error);
  ids->insert(ids->end(), pieces.begin(), pieces.end());
  return ok;
}

uint32_t SentencepieceModel::size() const {
  return static_cast<uint32_t>(library_->processor->GetPieceSize());
}

const std::string& SentencepieceModel::Piece(uint32_t id) const {
  return library_->processor->IdToPiece(static_cast<int>(id));
}

SentencepieceModel::Kind SentencepieceModel::KindOf(uint32_t id) const {
  const int piece = static_cast<int>(id);
  if (library_->processor->IsControl(piece)) return Kind::kControl;
  if (library_->processor->IsUnknown(piece)) return Kind::kUnknown;
  return library_->processor->IsByte(piece) ? Kind::kByte : Kind::kText;
}

std::optional<uint32_t> SentencepieceModel::Find(std::string_view piece) const {
  const int id = library_->processor->PieceToId(piece);
  if (library_->processor->IsUnknown(id)) return std::nullopt;
  return static_cast<uint32_t>(id);
}

}  // namespace tessera
