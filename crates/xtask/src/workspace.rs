//! Paths of the checkout.

use std::path::{Path, PathBuf};

/// The checkout that this command works on.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Returns the checkout that holds this crate. cargo passes its path at run time, so a moved
    /// checkout works. Without cargo, the path of the compilation is used.
    pub(crate) fn find() -> Self {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .ancestors()
            .nth(2)
            .map_or_else(|| manifest.clone(), Path::to_owned);
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of everything that is installed or generated. git ignores it; it can be deleted.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    /// The folder of what steps print while they run beside others, and of their servers' logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.tools().join("logs")
    }

    /// The folder of the tests that run unmodified clients against the gateway.
    pub(crate) fn clients(&self) -> PathBuf {
        self.root.join("crates/server/tests/clients")
    }

    /// The folder of the tests that run unmodified agents against the gateway.
    pub(crate) fn agents(&self) -> PathBuf {
        self.root.join("crates/server/tests/agents")
    }
}
