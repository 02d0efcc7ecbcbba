//! The key that is made at the start where other machines reach the gateway.

use std::net::SocketAddr;
use std::path::Path;

use crate::config::Config;
use crate::config::schema::StoreKind;
use crate::key_hash::new_key;
use crate::sealing::kept;

/// The file in the store's folder that holds the key.
const FILE: &str = "anonymous.key";

/// A key for this run, or as long as the store is kept.
pub struct MadeKey {
    /// The key.
    pub key: String,
    /// Whether it is the same at the next start.
    pub kept: bool,
}

impl std::fmt::Debug for MadeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeKey")
            .field("kept", &self.kept)
            .finish_non_exhaustive()
    }
}

/// Returns whether clients need a key although none is configured: others reach the address, and there
/// is an upstream's key to guard.
#[must_use]
pub(crate) fn needs_key(config: &Config, address: SocketAddr) -> bool {
    let server = &config.server;
    let is_public = !address.ip().to_canonical().is_loopback()
        || !server.allowed_hosts.is_empty()
        || server.public_url.is_some();
    !config.auth.has_keys() && !config.auth.anonymous && is_public && config.has_upstream_key()
}

/// Returns a key if one is needed: no credentials are configured, others reach the address, and there
/// is an upstream's key to guard.
#[must_use]
pub fn made_key(config: &Config, address: SocketAddr) -> Option<MadeKey> {
    if !needs_key(config, address) {
        return None;
    }
    let path = match (config.store.kind, &config.store.path) {
        (StoreKind::Disk, Some(path)) => path,
        _ => {
            return Some(MadeKey {
                key: new_key(),
                kept: false,
            });
        }
    };
    match kept_key(Path::new(path)) {
        Ok(key) => Some(MadeKey { key, kept: true }),
        Err(error) => {
            tracing::warn!(%error, "the key cannot be kept in the store: it changes with each start");
            Some(MadeKey {
                key: new_key(),
                kept: false,
            })
        }
    }
}

/// Returns the key in this folder. Makes one if there is none.
fn kept_key(folder: &Path) -> std::io::Result<String> {
    let bytes = kept(folder, FILE, || new_key().into_bytes())?;
    String::from_utf8(bytes).map_err(|_| std::io::Error::other("the key is not text"))
}

/// Returns what is shown of a key, once, at the start.
#[must_use]
pub fn announcement(made: &MadeKey, tls: bool, port: u16) -> String {
    let scheme = if tls { "https" } else { "http" };
    let until = if made.kept {
        "It stays the same as long as the store is kept."
    } else {
        "It changes with each start."
    };
    format!(
        "Other machines reach this address, so requests need this key: {key}\n\
         {until} Configure `auth.keys`, or `auth.anonymous: true` to need none.\n\
         \n\
         \x20 chat page  {scheme}://localhost:{port}/#key={key}\n",
        key = made.key
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::Upstream;

    fn guarded() -> Config {
        Config {
            upstreams: vec![Upstream {
                api_key: Some("sk-upstream".to_owned().into()),
                ..Upstream::default()
            }],
            ..Config::default()
        }
    }

    #[test]
    fn key_is_made_where_others_reach_a_configured_upstream_key() {
        let (open, local) = ("0.0.0.0:1".parse().unwrap(), "127.0.0.1:1".parse().unwrap());
        assert!(made_key(&guarded(), open).is_some());
        assert!(made_key(&guarded(), local).is_none());
        assert!(made_key(&Config::default(), open).is_none());
        let mut config = guarded();
        config.server.allowed_hosts = vec!["chat.example.com".to_owned()];
        assert!(made_key(&config, local).is_some());
        config.auth.anonymous = true;
        assert!(made_key(&config, local).is_none());
        let mut config = guarded();
        config.auth.keys_file = Some("keys.yaml".to_owned());
        assert!(made_key(&config, open).is_none());
    }

    #[test]
    fn key_in_a_store_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = guarded();
        config.store.kind = StoreKind::Disk;
        config.store.path = Some(folder.path().display().to_string());
        let open = "0.0.0.0:1".parse().unwrap();
        let (first, second) = (
            made_key(&config, open).unwrap(),
            made_key(&config, open).unwrap(),
        );
        assert_eq!(first.key, second.key);
        assert!(first.kept);
        let text = announcement(&first, false, 3000);
        assert!(text.contains(&format!("http://localhost:3000/#key={}", first.key)));
        let text = announcement(&first, true, 3000);
        assert!(text.contains("https://localhost:3000/#key="));
    }
}
