//! The file of keys: read again when it changes, written by `tokenwire key`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::auth::{KeyEntry, Role};
use crate::config::parse_yaml;

const HEADER: &str = "\
# Keys of clients. `tokenwire key` writes this file: comments of yours are lost. The gateway reads it again when it changes.
";

/// A file of keys.
#[derive(Clone, Debug)]
pub struct KeysFile {
    path: PathBuf,
}

/// What tells one state of the file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    modified: (i64, i64),
    size: u64,
    inode: u64,
}

/// Why the file cannot be used. It never quotes the file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct KeysFileError {
    path: PathBuf,
    why: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Content {
    keys: Vec<KeyEntry>,
}

// === impl KeysFile ===

impl KeysFile {
    /// The file at this path, which need not exist.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn error(&self, why: impl ToString) -> KeysFileError {
        KeysFileError {
            path: self.path.clone(),
            why: why.to_string(),
        }
    }

    /// Returns the version; `None` without a file.
    pub(super) fn version(&self) -> Result<Option<Version>, KeysFileError> {
        match fs::metadata(&self.path) {
            Ok(data) => Ok(Some(Version {
                modified: (data.mtime(), data.mtime_nsec()),
                size: data.len(),
                inode: data.ino(),
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Reads the keys. A missing file has none.
    ///
    /// # Errors
    /// The file cannot be read, is no list of keys, or has a key that cannot work.
    pub fn read(&self) -> Result<Vec<KeyEntry>, KeysFileError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.error(error)),
        };
        let tree = parse_yaml(&text).map_err(|at| self.error(format!("not valid YAML ({at})")))?;
        if tree.is_null() || tree.get("keys").is_some_and(serde_json::Value::is_null) {
            return Ok(Vec::new());
        }
        let entries = tree.get("keys").and_then(|keys| keys.as_array());
        let count = entries.map_or(0, Vec::len);
        // The error of serde would quote values.
        let content: Content = serde_json::from_value(tree).map_err(|_| {
            self.error(format!(
                "not a map with `keys`, each with owner, hash, role, models, upstreams, limits and expires ({count} found)"
            ))
        })?;
        for (index, entry) in content.keys.iter().enumerate() {
            if let Some(problem) = entry.problems().first() {
                let (field, found) = (problem.field, &problem.found);
                let why = format!(
                    "keys[{index}].{field} {found}; expected {}",
                    problem.expected
                );
                return Err(self.error(why));
            }
        }
        Ok(content.keys)
    }

    /// Changes the keys. Other processes that do the same wait. The file is replaced at once, and is
    /// readable by its owner only. Keys in clear text are replaced by their hashes.
    ///
    /// # Errors
    /// Those of [`KeysFile::read`], those of `change`, and the file cannot be written.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<KeyEntry>) -> Result<T, String>,
    ) -> Result<T, KeysFileError> {
        let folder = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let lock = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
        let _lock = lock.map_err(|error| self.error(error))?;
        let mut keys = self.read()?;
        let result = change(&mut keys).map_err(|why| self.error(why))?;
        self.write(&keys).map_err(|error| self.error(error))?;
        Ok(result)
    }

    fn write(&self, keys: &[KeyEntry]) -> io::Result<()> {
        let mut part = self.path.clone().into_os_string();
        part.push(format!(".{}", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&part)?;
        file.write_all(HEADER.as_bytes())?;
        let list = if keys.is_empty() {
            "keys: []\n"
        } else {
            "keys:\n"
        };
        file.write_all(list.as_bytes())?;
        for entry in keys {
            file.write_all(to_yaml(entry).as_bytes())?;
        }
        file.sync_all()?;
        fs::rename(&part, &self.path)
    }
}

/// Writes an entry as an item of a list, without what is the default.
pub(crate) fn to_yaml(entry: &KeyEntry) -> String {
    let hash = entry.key_hash().map(|hash| hash.to_string());
    let mut out = format!("  - owner: {}\n", quoted(&entry.owner));
    out.push_str(&format!("    hash: {}\n", hash.unwrap_or_default()));
    if entry.role == Role::Operator {
        out.push_str("    role: operator\n");
    }
    for (name, list) in [("models", &entry.models), ("upstreams", &entry.upstreams)] {
        if !list.is_empty() {
            let items: Vec<String> = list.iter().map(|item| quoted(item)).collect();
            out.push_str(&format!("    {name}: [{}]\n", items.join(", ")));
        }
    }
    if !entry.limits.is_empty() {
        let limits = entry.limits.written();
        let items: Vec<String> = limits
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        out.push_str(&format!("    limits: {{{}}}\n", items.join(", ")));
    }
    if let Some(expires) = &entry.expires {
        out.push_str(&format!("    expires: {}\n", quoted(expires)));
    }
    out
}

/// A string of JSON is one of YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::client_limits::ClientLimits;
    use crate::config::money::Money;
    use crate::key_hash::KeyHash;

    fn entry(owner: &str) -> KeyEntry {
        KeyEntry {
            owner: owner.to_owned(),
            hash: Some(KeyHash::of(owner).to_string()),
            ..KeyEntry::default()
        }
    }

    #[test]
    fn keys_are_written_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeysFile::at(folder.path().join("keys.yaml"));
        assert_eq!(file.read().unwrap(), []);
        let full = KeyEntry {
            role: Role::Operator,
            models: vec!["gpt-*".to_owned(), "a \"b\"".to_owned()],
            upstreams: vec!["openai".to_owned()],
            limits: ClientLimits {
                streams: Some(3),
                budget_per_day: Money::parse("2.5"),
                ..ClientLimits::default()
            },
            expires: Some("2027-01-31".to_owned()),
            ..entry("alice")
        };
        let all = vec![full, entry("bob")];
        file.change(|keys| {
            keys.clone_from(&all);
            Ok(())
        })
        .unwrap();
        assert_eq!(file.read().unwrap(), all);
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let before = file.version().unwrap();
        file.change(|keys| keys.pop().map(|_| ()).ok_or_else(String::new))
            .unwrap();
        assert_ne!(file.version().unwrap(), before);
        assert_eq!(file.read().unwrap(), all[..1]);
    }

    #[test]
    fn file_with_a_mistake_is_refused_without_its_contents() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeysFile::at(folder.path().join("keys.yaml"));
        for (text, expected) in [
            ("keys: [", "not valid YAML"),
            ("keys: secret-value", "not a map with `keys`"),
            (
                "keys: [{owner: a, hsh: secret-value}]",
                "not a map with `keys`",
            ),
            ("keys: [{owner: a, hash: secret-value}]", "keys[0].hash"),
            (
                "keys: [{owner: a, key: secret-value}]",
                "keys[0].key has 12 characters",
            ),
        ] {
            fs::write(file.path(), text).unwrap();
            let error = file.read().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("secret-value"), "{error}");
        }
    }
}
