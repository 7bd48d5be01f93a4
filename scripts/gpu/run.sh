#!/usr/bin/env bash
# scripts/gpu/run.sh DIR [ARGUMENTS of run.py]: where nothing can be installed.
# What its Python lacks, and the packaged database, come out of offline/, which `make offline-bundle` fills.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" offline/wheels/*.whl
[ -e tuning_db/prebuilt/autoconv.db ] || cp offline/autoconv.db offline/autoconv.db.sha256 tuning_db/prebuilt/
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
python3 -m scripts.gpu.run "$out" "${@:2}"
