#!/bin/sh
# Runs every fuzzer for some seconds: tools/fuzz.sh SECONDS. What it finds new stays in build-fuzz/corpus; a crash is a file build-fuzz/NAME-crash-….
set -eu
[ -e build-fuzz/build.ninja ] ||
    CC=clang meson setup build-fuzz -Dlibfuzzer=true -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=2 >/dev/null
ninja -C build-fuzz --quiet
for fuzzer in build-fuzz/tests/fuzz/fuzz_*; do
    [ -f "$fuzzer" ] || continue
    name=${fuzzer##*/fuzz_}
    mkdir -p "build-fuzz/corpus/$name"
    log=build-fuzz/$name.log
    if "$fuzzer" -max_total_time="$1" -rss_limit_mb=1024 -timeout=10 -artifact_prefix="build-fuzz/$name-" \
        "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name" >"$log" 2>&1; then
        echo "fuzz $name: $(grep -o 'Done .*' "$log")"
    else
        tail -30 "$log"
        echo "fuzz $name: FAILED, see $log" >&2
        exit 1
    fi
done
