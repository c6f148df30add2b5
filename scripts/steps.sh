# shellcheck shell=bash
# Announces the steps of a script and says how long those took that took long; sourced, from the root of the tree.
source scripts/toolchain.sh

# The compiler's colours and progress are for terminals.
[ -t 2 ] || export CARGO_TERM_PROGRESS_WHEN=never

step() { # WHAT COMMAND...
    local what=$1 begin=$SECONDS took
    shift
    echo "==> $what" >&2
    "$@" || {
        local code=$?
        echo "==> $what: failed (exit code $code)" >&2
        exit "$code"
    }
    took=$((SECONDS - begin))
    [ "$took" -lt 5 ] || echo "    $took s" >&2
}
