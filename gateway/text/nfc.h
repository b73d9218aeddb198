// Unicode's normalization form C.
#ifndef TESSERA_GATEWAY_TEXT_NFC_H_
#define TESSERA_GATEWAY_TEXT_NFC_H_

#include <string>
#include <string_view>

namespace tessera {

// True when `text` (UTF-8) surely is in form C already: a quick look, which may say false for text
// that is. The first call takes tens of milliseconds.
bool IsSurelyNfc(std::string_view text);

// `text` (UTF-8) in form C.
std::string Nfc(std::string_view text);

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_NFC_H_
