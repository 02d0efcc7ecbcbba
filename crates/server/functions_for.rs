// What the names in `functions.txt` and `dist.profdata` depend on beside the code: for the build script,
// which compares, and for `cargo xtask profile`, which writes it down.

use std::path::Path;
use std::process::Command;

/// Returns the compiler and the FNV-1a hash of the lock file.
pub(crate) fn environment(compiler: &str, lock: &Path) -> Option<String> {
    let version = Command::new(compiler).arg("--version").output().ok()?;
    let version = String::from_utf8(version.stdout).ok()?;
    let hash = std::fs::read(lock)
        .ok()?
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    Some(format!("{}, Cargo.lock {hash:016x}", version.trim()))
}
