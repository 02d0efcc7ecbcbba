//! Owners of keys and tokens, and their roles.

use serde::{Deserialize, Serialize};

/// What a credential may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Uses the models, and sees its owner's streams.
    #[default]
    User,
    /// Also reads metrics and the state of the upstreams.
    Operator,
}

/// What the name of an owner is made of, for messages about another one.
pub(crate) const OWNER_CHARACTERS: &str =
    "1 to 128 characters out of A-Z, a-z, 0-9, `_`, `.`, `@`, `:` and `-`";

/// Whether the text can be the name of an owner.
pub(crate) fn is_owner(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@:-".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(is_allowed)
}
