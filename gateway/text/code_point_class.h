// What patterns of tokenizer files tell apart in a code point.
#ifndef TESSERA_GATEWAY_TEXT_CODE_POINT_CLASS_H_
#define TESSERA_GATEWAY_TEXT_CODE_POINT_CLASS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tessera {

enum class CodePointClass : uint8_t {
  kOther,
  kLetter,  // \p{L}
  kNumber,  // \p{N}
  kSpace,   // \s
};

// The classes of all code points, by the same tables that Pattern matches with.
class CodePointClasses {
 public:
  // Made by the first call.
  static const CodePointClasses& Get();

  CodePointClass OfAscii(uint8_t byte) const { return classes_[byte]; }

  // `code_point` is at most U+10FFFF.
  CodePointClass Of(char32_t code_point) const {
    return classes_[pages_[code_point / kPage] * kPage + code_point % kPage];
  }

 private:
  static constexpr size_t kPage = 256;
  static constexpr char32_t kEnd = 0x110000;

  CodePointClasses();

  // Every different page once, the first page first.
  std::vector<CodePointClass> classes_;
  std::array<uint16_t, kEnd / kPage> pages_;
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_CODE_POINT_CLASS_H_
