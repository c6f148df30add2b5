#!/usr/bin/env bash
# Measures what SPECIFICATION.md promises, with optimised binaries; raw runs go to bench/runs/.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/steps.sh

step "installing what is missing" scripts/bootstrap.sh bench
choose_cargo
step "building pyro" cargo build --release --locked --package pyro-cli
step "making the runtime" cargo xtask runtime
step "making the environment debian:12" target/release/pyro env pull debian:12
step "building the benchmark" cargo build --release --locked --package xtask
target/release/xtask bench "$@"
