#!/bin/sh
# Fuzzes a target with libFuzzer and coverage, on stable Rust: run.sh TARGET [SECONDS]. New inputs go to target/found/TARGET,
# inputs that break the target to target/broken-*. (These are the flags of `cargo fuzz run --sanitizer none`.)
set -eu
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  coverage="$coverage -Cllvm-args=-sanitizer-coverage-$option"
done
# With --target the flags are not used for build scripts.
RUSTFLAGS="--cfg fuzzing $coverage -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks" \
  cargo build --release --target "$host" --target-dir target --bin "$1"
mkdir -p "target/found/$1"
exec "target/$host/release/$1" "target/found/$1" "corpus/$1" "-dict=dictionaries/$1.dict" -max_len=8192 -print_final_stats=1 \
  -artifact_prefix=target/broken- "-max_total_time=${2:-300}"
