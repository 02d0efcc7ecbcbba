# What people type. Without `just`, type what stands on the right.

# The gateway with its embedded simulator, on port 3000
run *ARGUMENTS:
    cargo run --release -- {{ARGUMENTS}}

# Every check, as CI runs it
test *ARGUMENTS:
    cargo xtask test {{ARGUMENTS}}

# The checks that take seconds
quick:
    cargo xtask test --only fmt --only clippy

# The formatting that the checks ask for
fmt:
    cargo fmt --all

# The documentation of all crates, in a browser
doc:
    cargo doc --workspace --no-deps --open

# A thousand streams through a proxy that cuts each of them; one run again with CHAOS_SEED
chaos:
    CHAOS_STREAMS=1000 cargo test -p tokenwire --release --test chaos -- --nocapture

# Everything at once for so many minutes, after which nothing may be left; one run again with SOAK_SEED
soak MINUTES="30":
    SOAK_MINUTES={{MINUTES}} cargo xtask test --only soak
