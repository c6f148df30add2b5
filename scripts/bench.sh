#!/usr/bin/env bash
# Measures what SPECIFICATION.md promises, with an optimised pyro; prints a table, and keeps raw samples in bench/runs/.
# Arguments are passed on to `pyro bench`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/steps.sh

step "installing what is missing" scripts/bootstrap.sh demo
choose_cargo
step "building pyro" cargo build --release --locked --package pyro-cli
step "making the runtime" cargo xtask runtime
step "making the environment debian:12" target/release/pyro env pull debian:12
runs=bench/runs/$(date -u +%Y-%m-%dT%H%M%SZ).json
target/release/pyro bench --output "$runs" "$@"
echo "==> raw samples: $runs" >&2
