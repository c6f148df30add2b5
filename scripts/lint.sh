#!/usr/bin/env bash
# Formatting, clippy and the structure of the tree.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/steps.sh
choose_cargo

# Without the tool a developer goes on, told so; CI does not.
have() { # SUBCOMMAND
    cargo "$1" --version >/dev/null 2>&1 && return
    echo "==> WARNING: this toolchain has no cargo $1, so it is NOT run" >&2
    [ "${CI:-}" != true ] || exit 1
    return 1
}

have fmt && step "formatting" scripts/format.sh --check
if have clippy; then
    # Every release of clippy finds something new: only the pinned one decides.
    pinned=$(sed -n 's/^channel = "\([0-9]*\.[0-9]*\).*"$/\1/p' rust-toolchain.toml)
    case $(rustc --version) in
        "rustc $pinned."*) step "clippy" cargo clippy --workspace --all-targets --locked -- -D warnings ;;
        *)
            echo "==> this is $(rustc --version | cut -d ' ' -f 1-2), not $pinned: clippy's warnings are shown, and are no errors" >&2
            step "clippy" cargo clippy --workspace --all-targets --locked
            ;;
    esac
fi
step "structure" cargo xtask check
