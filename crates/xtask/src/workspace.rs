//! Where things are.

use std::path::{Path, PathBuf};

/// The checkout this command works on.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The checkout that holds this crate. cargo says at run time where that is, so that a moved or
    /// copied checkout is found; the place of compilation serves when the binary is run by hand.
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

    /// Everything that is installed or made here: ignored by git, and free to delete.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    /// The tests that run unmodified clients against the real gateway.
    pub(crate) fn clients(&self) -> PathBuf {
        self.root.join("crates/server/tests/clients")
    }
}
