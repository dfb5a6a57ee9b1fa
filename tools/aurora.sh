#!/bin/sh
# Run the aurora of this checkout, or else the one on PATH. Used by package.json.
set -eu
own=$(dirname "$0")/../.venv/bin/aurora
if [ -x "$own" ]; then
    exec "$own" "$@"
fi
if ! command -v aurora >/dev/null 2>&1; then
    echo "aurora is not installed: run 'make demo' here, or pip install aurora-backup" >&2
    exit 127
fi
exec aurora "$@"
