#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS (60).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/steps.sh

if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "[fuzz] this needs a nightly toolchain from rustup, and cargo install cargo-fuzz" >&2
    exit 1
fi
for target in $(cargo +nightly fuzz list); do
    step "fuzzing $target" cargo +nightly fuzz run "$target" -- -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=1024
done
