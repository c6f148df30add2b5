# shellcheck shell=bash
# Which cargo is used; sourced by the other scripts, from the root of the tree.
#
# `choose_cargo` puts a toolchain in front that is at least as new as Cargo.toml asks for: the one that the tree pins
# through rustup, else another of rustup's, else the system's own. It fails when there is none.

floor=$(sed -n 's/^rust-version = "\([0-9.]*\)"$/\1/p' Cargo.toml)

# Whether version $1 is at least version $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Whether the cargo and rustc in front work here and are new enough.
toolchain_works() {
    local version
    cargo --version >/dev/null 2>&1 || return 1
    version=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) && [ -n "$version" ] && at_least "$version" "$floor"
}

choose_cargo() {
    local toolchain
    toolchain_works && return
    if [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
        toolchain_works && return
    fi
    if command -v rustup >/dev/null; then
        # The pinned toolchain is not there and could not be fetched: another one that is new enough will do.
        for toolchain in $(rustup toolchain list 2>/dev/null | cut -d ' ' -f 1 | sort -r); do
            case $toolchain in nightly* | beta*) continue ;; esac
            export RUSTUP_TOOLCHAIN=$toolchain
            toolchain_works && return
        done
        unset RUSTUP_TOOLCHAIN
    fi
    # Debian packages it as cargo-web and rustc-web, whose programs are /usr/bin/cargo and /usr/bin/rustc.
    PATH="/usr/bin:$PATH"
    toolchain_works
}
