#!/usr/bin/env bash
# Formats every Rust file, or with --check says what is not formatted. `cargo fmt` alone leaves out the modules that a macro
# declares: operations of workspaces and verbs of the command line.
set -euo pipefail
cd "$(dirname "$0")/.."
find crates xtask fuzz/fuzz_targets -name target -prune -o -name '*.rs' -print0 | xargs -0 rustfmt --edition 2024 "$@"
