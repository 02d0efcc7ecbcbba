#!/usr/bin/env bash
# Cargo starts this in place of rustc. What belongs to a program of the profile `dist` is optimised by
# the profile in crates/server/dist.profdata, which `cargo xtask profile` records; anything else is
# compiled as it is. Without the profile, or with another RUSTC_WRAPPER, such a program works the same
# and takes about a fifth more CPU time for a request.
#
# It is bash because other shells pass on no variable with a hyphen, such as CARGO_BIN_EXE_tokenwire-bench.
# `RUSTC_WRAPPER= cargo build` does without.
#
# PROFILE_INTO=<folder> builds a program that writes such a profile when it ends.
set -eu

# The LLVM that wrote the profile. An older one cannot read it.
llvm=22

case " $* " in
*/dist/deps*) ;;
*) exec "$@" ;;
esac
if [ -n "${PROFILE_INTO:-}" ]; then
    exec "$@" "-Cprofile-generate=$PROFILE_INTO"
fi
profile=${0%/*}/../crates/server/dist.profdata
version=$("$1" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
if [ -f "$profile" ] && [ "${version:-0}" -ge "$llvm" ]; then
    # Functions that have changed since are optimised without it, as if they were new.
    exec "$@" "-Cprofile-use=$profile" -Cllvm-args=-no-pgo-warn-mismatch
fi
exec "$@"
