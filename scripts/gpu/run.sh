#!/usr/bin/env bash
# scripts/gpu/run.sh DIR: prove and measure on the GPU here, where nothing can be installed.
# What Python lacks there is taken from offline/, which `make offline-bundle` fills.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" offline/wheels/*.whl
cp -n offline/autoconv.db offline/autoconv.db.sha256 tuning_db/prebuilt/
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python3 scripts/gpu/run.py "$out" "${@:2}"
