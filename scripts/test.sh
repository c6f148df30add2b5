#!/usr/bin/env bash
# Everything that must hold, real microVMs included; what CI runs.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/steps.sh

cache=${XDG_CACHE_HOME:-$HOME/.cache}/pyro-mcp
tools=${PYRO_BUILD_CACHE_DIR:-$cache/build}/tools
export PYRO_ENVIRONMENT_CACHE_DIR=${PYRO_ENVIRONMENT_CACHE_DIR:-$cache/environments}
export PYRO_RUNTIME_BUNDLE_DIR=$PWD/target/lib/pyro/runtime

step "installing what is missing" scripts/bootstrap.sh test
choose_cargo
PATH="$tools/bin:$PATH"
if ! cargo nextest --version >/dev/null 2>&1; then
    step "building cargo-nextest (once; it takes minutes)" \
        env -u RUSTFLAGS cargo install --locked --quiet --version "$(cat .config/nextest-version)" --root "$tools" cargo-nextest
fi
scripts/lint.sh
step "building pyro" cargo build --release --locked --package pyro-cli
step "making the runtime" cargo xtask runtime
PYRO_TEST_KERNEL=$(cargo xtask kernel)
export PYRO_TEST_KERNEL
PYRO_TEST_FIRECRACKER_DIR=$(cargo xtask firecracker)
export PYRO_TEST_FIRECRACKER_DIR
PYRO_TEST_MCP_CLIENTS_DIR=$(scripts/mcp-clients.sh)
export PYRO_TEST_MCP_CLIENTS_DIR
for environment in debian:12 debian:12-base debian:12-build; do
    step "making the environment $environment" target/release/pyro env pull "$environment"
done
step "building the tests" cargo nextest run --workspace --locked --no-run
step "documentation tests" cargo test --workspace --doc --locked --quiet
# Ten seconds for each decoder: what a change broke shows mostly at once, from the inputs in fuzz/seeds on.
FUZZ_SECONDS=${FUZZ_SECONDS:-10} FUZZ_JOBS=2 scripts/fuzz.sh
log=target/tests.log
step "tests" cargo nextest run --workspace --locked 2>&1 | tee "$log"
echo "==> not tested here, for want of a KVM that runs guests' programs: $(grep -c 'NOT TESTED' "$log" || true)"
