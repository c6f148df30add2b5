#!/usr/bin/env bash
# Fuzzes the decoders of what a guest, a disk image, an archive or a patch wrote: libFuzzer, led by coverage, built by the
# compiler that everything is built by. What was found interesting is kept in fuzz/corpus, what was found wrong in
# fuzz/artifacts.
#
#   fuzz.sh                   every target
#   fuzz.sh TARGET FILE...    runs inputs again, such as an artifact
#
#   FUZZ_SECONDS   for each target (60)
#   FUZZ_TARGETS   which of them, by their names in fuzz/Cargo.toml (all)
#   FUZZ_JOBS      how many at a time (1)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/steps.sh
choose_cargo

seconds=${FUZZ_SECONDS:-60}
host=$(rustc -vV | sed -n 's/^host: //p')
built=${CARGO_TARGET_DIR:-target}/fuzz
all=$(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"$|\1|p' fuzz/Cargo.toml)

build() { # TARGET...
    # Nothing but what a stable compiler has: the pass counts edges and notes comparisons. Sanitizers would need a nightly one,
    # and have little to find where `unsafe` is forbidden; overflows and failed assertions panic.
    local flags="-Cpasses=sancov-module" flag bins=()
    for flag in level=4 inline-8bit-counters pc-table trace-compares; do
        flags+=" -Cllvm-args=-sanitizer-coverage-$flag"
    done
    flags+=" --cfg fuzzing"
    for target in "$@"; do bins+=(--bin "$target"); done
    RUSTFLAGS=$flags cargo build --manifest-path fuzz/Cargo.toml --locked --quiet --release \
        --target "$host" --target-dir "$built" "${bins[@]}"
}

# An input of a few MiB takes milliseconds, a loaded machine many times that.
options=(-timeout=20 -rss_limit_mb=1024)

run() { # TARGET; says one line, or all when something was found
    local target=$1 log=$built/$1.log seeds=() code=0
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    [ ! -d "fuzz/seeds/$target" ] || seeds=("fuzz/seeds/$target")
    "$built/$host/release/$target" "fuzz/corpus/$target" "${seeds[@]}" "${options[@]}" -max_len=8192 \
        -max_total_time="$seconds" -artifact_prefix="fuzz/artifacts/$target/" -print_final_stats=1 >"$log" 2>&1 || code=$?
    if [ "$code" != 0 ]; then
        grep -v '^#[0-9]*[[:space:]]\|^INFO:\|^stat::' "$log" >&2
        local artifact
        artifact=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "==> $target found something (exit code $code)${artifact:+; again: scripts/fuzz.sh $target $artifact}" >&2
        return 1
    fi
    local runs cov
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    cov=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | sed -n '1p;$p' | paste -sd- | sed 's/-/ to /')
    echo "    $target: $runs runs, coverage $cov" >&2
}

if [ $# -gt 0 ]; then
    target=$1
    shift
    build "$target"
    exec "$built/$host/release/$target" "${options[@]}" "$@"
fi

read -ra targets <<<"$(echo ${FUZZ_TARGETS:-$all})"
step "building the fuzz targets" build "${targets[@]}"
echo "==> fuzzing ${#targets[@]} decoders for $seconds s each" >&2
failed=0 running=0
for target in "${targets[@]}"; do
    if [ "$running" -ge "${FUZZ_JOBS:-1}" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    run "$target" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit "$failed"
