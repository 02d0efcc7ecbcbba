//! Tells whether an installation still matches its lock files.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// A copy of the lock files that an installation was made from, kept inside the installation.
/// It is compared byte by byte, and its text shows why something was installed again.
#[derive(Debug)]
pub(crate) struct Stamp {
    file: PathBuf,
    expected: Vec<u8>,
}

impl Stamp {
    /// Returns the stamp of `folder` for the lock files `pinned`.
    ///
    /// # Errors
    /// A lock file cannot be read.
    pub(crate) fn new(folder: &Path, pinned: &[PathBuf]) -> Result<Self, Error> {
        let mut expected = Vec::new();
        for path in pinned {
            expected.extend(std::fs::read(path).map_err(Error::file("read", path))?);
        }
        Ok(Self {
            file: folder.join(".made-from"),
            expected,
        })
    }

    /// Returns whether the installation is complete and was made from the same files.
    pub(crate) fn matches(&self) -> bool {
        std::fs::read(&self.file).is_ok_and(|found| found == self.expected)
    }

    /// Marks the installation as complete.
    ///
    /// # Errors
    /// The stamp cannot be written.
    pub(crate) fn set(&self) -> Result<(), Error> {
        std::fs::write(&self.file, &self.expected).map_err(Error::file("write", &self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_matches_until_a_lock_file_changes() {
        let folder = tempfile::Builder::new()
            .prefix("a folder ")
            .tempdir()
            .unwrap();
        let folder = folder.path();
        let pinned = folder.join("lock");
        std::fs::write(&pinned, "one==1").unwrap();

        let stamp = Stamp::new(folder, std::slice::from_ref(&pinned)).unwrap();
        assert!(!stamp.matches(), "nothing is installed yet");
        stamp.set().unwrap();
        assert!(
            Stamp::new(folder, std::slice::from_ref(&pinned))
                .unwrap()
                .matches()
        );

        std::fs::write(&pinned, "one==2").unwrap();
        assert!(
            !Stamp::new(folder, std::slice::from_ref(&pinned))
                .unwrap()
                .matches()
        );
    }

    #[test]
    fn error_names_the_missing_lock_file() {
        let error = Stamp::new(Path::new("/"), &[PathBuf::from("/no/such/lock")]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("failed to read /no/such/lock: "),
            "{error}"
        );
    }
}
