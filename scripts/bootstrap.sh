#!/usr/bin/env bash
# Installs what this machine lacks, by apt; does nothing, and asks apt nothing, when nothing is missing.
#
#   bootstrap.sh demo    what is needed to build and run pyro
#   bootstrap.sh fuzz    that, and what libFuzzer is built by
#   bootstrap.sh test    that, and what its tests and checks need
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/toolchain.sh

purpose=${1:-demo}
packages=()

need_program() { # PROGRAM PACKAGE
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || packages+=("$2")
}
need_file() { # FILE PACKAGE
    [ -e "$1" ] || packages+=("$2")
}

need_program gcc gcc
need_program ld binutils
need_program make make
need_program flex flex
need_program bison bison
need_program bc bc
need_program tar tar
need_program xz xz-utils
need_program qemu-system-x86_64 qemu-system-x86
need_program mmdebstrap mmdebstrap
need_program mke2fs e2fsprogs
need_file /usr/include/stdio.h libc6-dev
need_file /usr/include/gelf.h libelf-dev
need_file /usr/src/linux-source-6.1.tar.xz linux-source-6.1
need_file /etc/ssl/certs/ca-certificates.crt ca-certificates
case $purpose in
    fuzz | test) need_program c++ g++ ;;
esac
case $purpose in
    test)
        need_program ps procps
        # Kills at a named step.
        need_program strace strace
        need_program mount mount
        need_program mkfs.xfs xfsprogs
        # Firecracker's release, and the way to it where the release cannot be reached.
        need_program curl curl
        python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
        # The clients of the MCP server.
        need_program npm npm
        ;;
esac
if [ "$(id -u)" != 0 ]; then
    # mmdebstrap as an ordinary user maps user ids.
    need_program newuidmap uidmap
fi
if ! choose_cargo; then
    packages+=(cargo-web rustc-web)
    [ "$purpose" != test ] || packages+=(rustfmt-web rust-web-clippy)
elif [ "$purpose" = test ] && [ "$(readlink -f "$(command -v cargo)")" = /usr/bin/cargo ]; then
    need_program cargo-fmt rustfmt-web
    need_program cargo-clippy rust-web-clippy
fi
[ ${#packages[@]} -gt 0 ] || exit 0

install=(apt-get install --yes --no-install-recommends "${packages[@]}")
if ! command -v apt-get >/dev/null; then
    echo "[bootstrap] this machine has no apt; it lacks what Debian 12 has in: ${packages[*]}" >&2
    exit 1
elif [ "$(id -u)" = 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root=(sudo)
else
    echo "[bootstrap] missing packages, and neither root nor sudo here; as root: ${install[*]}" >&2
    exit 1
fi
echo "[bootstrap] installing: ${packages[*]}" >&2

# Quiet unless it fails: apt's own words then say why.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "$@" >"$log" 2>&1
}
known() {
    local package
    for package in "${packages[@]}"; do
        apt-cache show --no-all-versions "$package" >/dev/null 2>&1 || return 1
    done
}
if ! known; then
    echo "[bootstrap] apt-get update" >&2
    apt apt-get update || { cat "$log" >&2; exit 1; }
    updated=1
fi
if ! apt "${install[@]}"; then
    # A list that is out of date names packages that are gone.
    if [ -n "${updated:-}" ] || ! apt apt-get update || ! apt "${install[@]}"; then
        cat "$log" >&2
        echo "[bootstrap] the packages could not be installed: ${install[*]}" >&2
        exit 1
    fi
fi
hash -r
if ! choose_cargo; then
    echo "[bootstrap] no Rust $floor or newer came with the packages; rustup can install one" >&2
    exit 1
fi
