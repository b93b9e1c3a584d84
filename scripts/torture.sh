#!/usr/bin/env bash
# Attack the program for MINUTES (default 20) and exit with 1 on any fault: scripts/torture.sh [MINUTES] [--seed N] [--only PART[:NUMBER]]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-$here/../.venv/bin/python}" "$here/torture" "$@"
