//! The keys of these tests, and whose they are.

use tokenwire::config::auth::KeyEntry;

pub(crate) const ALICE: &str = "sk-tw-alice-alice-alice-alice";
pub(crate) const BOB: &str = "sk-tw-bob-bob-bob-bob-bob-bob";
pub(crate) const OPERATOR: &str = "sk-tw-operator-operator-oper";
/// Of those models only that a test names.
pub(crate) const LIMITED: &str = "sk-tw-limited-limited-limited";

/// The configuration of an owner's key.
pub(crate) fn entry(owner: &str, key: &str) -> KeyEntry {
    KeyEntry {
        owner: owner.to_owned(),
        key: Some(key.to_owned().into()),
        ..KeyEntry::default()
    }
}
