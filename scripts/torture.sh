#!/usr/bin/env bash
# Attack the program as often as two fast cores do in MINUTES (default 20), print what came of it, exit with 1 on any fault:
# scripts/torture.sh [MINUTES] [--seed N] [--only PART[:NUMBER]] [--jobs N]
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)
# The code beside this script is attacked; each command has one thread, and lines that are wide enough for its messages.
export PYTHONPATH="$scripts/..:$scripts/torture" OMP_NUM_THREADS=1 COLUMNS=200
exec "${PYTHON:-$scripts/../.venv/bin/python}" "$scripts/torture" "$@"
