#!/usr/bin/env bash
# Turns NAME, FILE.gguf or a Hugging Face folder into the folder that the worker and the gateway read,
# and prints that folder last. Progress goes to standard error.
#   deploy/models/fetch.sh [NAME|FILE.gguf|FOLDER]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$("$here/../venv.sh" venv "$here/requirements.txt")
exec "$python" "$here/fetch.py" "$@"
