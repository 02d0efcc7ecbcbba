# Shortcuts. Without `just`, type the commands below.

# The gateway with its embedded simulator, on port 3000
run *ARGUMENTS:
    cargo run --release -- {{ARGUMENTS}}

# The checks before a change is handed in: at most 15 minutes
test *ARGUMENTS:
    cargo xtask test {{ARGUMENTS}}

# The checks before a commit: at most 4 minutes
quick:
    cargo xtask test --quick

# The checks of CI: at most 30 minutes
ci:
    .ci/run

# Format all crates
fmt:
    cargo fmt --all

# Build the documentation of all crates and open it
doc:
    cargo doc --workspace --no-deps --open

# 1000 streams through a proxy that cuts each of them; CHAOS_SEED repeats a run
chaos:
    CHAOS_STREAMS=1000 cargo test -p tokenwire --release --test chaos -- --nocapture

# All clients and faults at once for some minutes, after which nothing may be left; SOAK_SEED repeats a run
soak MINUTES="30":
    SOAK_MINUTES={{MINUTES}} cargo xtask test --only soak
