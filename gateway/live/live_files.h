// The files of the live page, as embed.sh puts them into the program.
#ifndef TESSERA_GATEWAY_LIVE_LIVE_FILES_H_
#define TESSERA_GATEWAY_LIVE_LIVE_FILES_H_

#include <span>
#include <string_view>

namespace tessera {

struct LiveFile {
  std::string_view name;  // "index.html"
  std::string_view text;
};

// In no order. They live as long as the program.
std::span<const LiveFile> LiveFiles();

}  // namespace tessera

#endif  // TESSERA_GATEWAY_LIVE_LIVE_FILES_H_
