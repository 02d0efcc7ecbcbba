//! Idempotency keys of all nodes: `tw:key:<hash>` has the generation that a key started.

use std::sync::LazyLock;

use redis::{Script, cmd};
use ring::digest::{Context, SHA256};
use tokenwire_core::engine::KeyClaimed;
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::{GenerationId, Owner};

use super::{Cluster, unavailable};

/// Claims a key, unless the claim of another generation than a stale one stands. Returns that claim.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local claim = redis.call('GET', KEYS[1])
         if claim and string.sub(claim, 1, #ARGV[2]) ~= ARGV[2] then return claim end
         redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
         return false",
    )
});

/// What the id in a claim ends with, so that no id is the beginning of another one.
const END: char = ' ';

impl Cluster {
    /// Returns the generation that was started under a key.
    pub(super) async fn claimed(
        &self,
        owner: &Owner,
        key: &str,
    ) -> Result<Option<GenerationId>, ApiError> {
        let command = cmd("GET").arg(self.claim_key(owner, key)).to_owned();
        let claim: Option<String> = self
            .redis
            .query(command)
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(claim.as_deref().and_then(claimed_by))
    }

    /// Claims a key for a generation. Returns the one whose claim stands instead.
    pub(super) async fn claim(
        &self,
        claim: KeyClaimed<'_>,
        stale: Option<&GenerationId>,
    ) -> Result<Option<GenerationId>, ApiError> {
        let KeyClaimed {
            owner,
            key,
            fingerprint,
            id,
        } = claim;
        let name = self.claim_key(owner, key);
        let value = format!("{id}{END}{}", hex(fingerprint));
        // Without a stale claim the only one that is replaced is this one: it was made before, and
        // the answer was lost.
        let stale = format!("{}{END}", stale.unwrap_or(id));
        let retain = u64::try_from(self.retain.as_millis()).unwrap_or(u64::MAX);
        let standing: Option<String> = self
            .redis
            .script(&CLAIM, move |script| {
                script.key(name).arg(value).arg(stale).arg(retain);
            })
            .await
            .map_err(|error| unavailable(&error))?;
        let standing = standing.as_deref().and_then(claimed_by);
        Ok(standing.filter(|standing| standing != id))
    }

    /// Neither the owner nor the key can be read from it.
    fn claim_key(&self, owner: &Owner, key: &str) -> String {
        let owner = match owner {
            Owner::Anonymous => None,
            Owner::Named(name) => Some(name.as_bytes()),
        };
        let mut digest = Context::new(&SHA256);
        digest.update(&[u8::from(owner.is_some())]);
        let owner = owner.unwrap_or_default();
        digest.update(&(owner.len() as u64).to_be_bytes());
        digest.update(owner);
        digest.update(key.as_bytes());
        self.redis
            .key(format_args!("key:{}", hex(digest.finish().as_ref())))
    }
}

fn claimed_by(claim: &str) -> Option<GenerationId> {
    claim.split(END).next()?.parse().ok()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
