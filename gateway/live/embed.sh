#!/usr/bin/env bash
# Files of text -> C++ that has them (live_files.h), on stdout.
#   gateway/live/embed.sh FILE...
set -euo pipefail

# Ends no line of a file that is ours to write.
end='~live~'

echo '#include "gateway/live/live_files.h"'
echo 'namespace tessera {'
echo 'std::span<const LiveFile> LiveFiles() {'
echo '  static constexpr LiveFile kFiles[] = {'
for file in "$@"; do
  if grep -qF ")$end\"" "$file"; then
    echo "embed: $file has )$end\" in it, which ends a file here" >&2
    exit 1
  fi
  printf '{"%s", R"%s(' "${file##*/}" "$end"
  cat "$file"
  printf ')%s"},\n' "$end"
done
echo '  };'
echo '  return kFiles;'
echo '}'
echo '}  // namespace tessera'
