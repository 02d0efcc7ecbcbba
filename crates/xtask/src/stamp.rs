//! Knowing that an installation still is what its lock files say.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// A copy, inside an installation, of the files that it was made from. Comparing bytes needs no
/// hash, and a person can read why something was installed anew.
#[derive(Debug)]
pub(crate) struct Stamp {
    file: PathBuf,
    wanted: Vec<u8>,
}

impl Stamp {
    /// The stamp of what `folder` is to hold, given the files that pin it.
    ///
    /// # Errors
    /// A pinning file cannot be read.
    pub(crate) fn new(folder: &Path, pinned: &[PathBuf]) -> Result<Self, Error> {
        let mut wanted = Vec::new();
        for path in pinned {
            wanted.extend(std::fs::read(path).map_err(Error::file("read", path))?);
        }
        Ok(Self {
            file: folder.join(".made-from"),
            wanted,
        })
    }

    /// Whether the installation was finished, and made from the same bytes.
    pub(crate) fn holds(&self) -> bool {
        std::fs::read(&self.file).is_ok_and(|found| found == self.wanted)
    }

    /// To be called once the installation stands.
    ///
    /// # Errors
    /// The stamp cannot be written.
    pub(crate) fn set(&self) -> Result<(), Error> {
        std::fs::write(&self.file, &self.wanted).map_err(Error::file("write", &self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_until_a_pinned_file_changes() {
        let folder = tempfile::Builder::new()
            .prefix("a folder ")
            .tempdir()
            .unwrap();
        let folder = folder.path();
        let pinned = folder.join("lock");
        std::fs::write(&pinned, "one==1").unwrap();

        let stamp = Stamp::new(folder, std::slice::from_ref(&pinned)).unwrap();
        assert!(!stamp.holds(), "nothing was installed yet");
        stamp.set().unwrap();
        assert!(
            Stamp::new(folder, std::slice::from_ref(&pinned))
                .unwrap()
                .holds()
        );

        std::fs::write(&pinned, "one==2").unwrap();
        assert!(
            !Stamp::new(folder, std::slice::from_ref(&pinned))
                .unwrap()
                .holds()
        );
    }

    #[test]
    fn a_missing_pinned_file_is_named() {
        let error = Stamp::new(Path::new("/"), &[PathBuf::from("/no/such/lock")]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("failed to read /no/such/lock: "),
            "{error}"
        );
    }
}
