#!/usr/bin/env bash
# From a clone to a command in a microVM; cheap to repeat.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/steps.sh

step "installing what is missing" scripts/bootstrap.sh demo
choose_cargo
step "building pyro" cargo build --release --locked --package pyro-cli
step "making the runtime" cargo xtask runtime
step "making the environment debian:12" target/release/pyro env pull debian:12
target/release/pyro run debian:12 -- git --version
