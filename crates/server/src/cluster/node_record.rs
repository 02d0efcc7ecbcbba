//! What a node says of itself in Redis.

use serde::{Deserialize, Serialize};
use tokenwire_core::model::id::Tag;

/// The value of `node:<tag>`. Later versions may add members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    /// Host and port by which other nodes reach it.
    pub(super) address: String,
    /// The process that answers for it, where that is another one: it has taken over what this one
    /// left on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) holder: Option<String>,
    /// Its name, for people.
    pub(super) name: String,
    /// The version of the internal protocol.
    pub(super) protocol: u8,
    /// The version of the program.
    pub(super) version: String,
}

impl NodeRecord {
    /// Returns the process that answers for that of this tag.
    pub(super) fn holder(&self, tag: &Tag) -> Tag {
        let holder = self.holder.as_deref();
        holder
            .and_then(|holder| holder.parse().ok())
            .unwrap_or_else(|| tag.clone())
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_of_a_later_version_is_read() {
        let text =
            r#"{"address":"10.0.0.7:4100","name":"a","protocol":1,"version":"9.0","load":3}"#;
        let record = NodeRecord::from_json(text).unwrap();
        assert_eq!(record.address, "10.0.0.7:4100");
        assert_eq!(NodeRecord::from_json(&record.to_json()), Some(record));
        assert_eq!(NodeRecord::from_json("{}"), None);
    }
}
