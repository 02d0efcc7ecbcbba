//! The names under which tools were declared to an upstream.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::canonical::ToolKind;
use crate::model::json::{escape, unescape};

/// The longest name of a function, in characters. OpenAI and most others have this limit.
const MAX_NAME: usize = 64;

/// The tools that an upstream knows under another name, or as another kind, than the client. Calls
/// of them are translated back. Cheap to clone.
///
/// `Debug` shows no names.
#[derive(Clone, Default)]
pub struct ToolNames(Option<Arc<HashMap<String, ToolName>>>);

/// A tool as the client declared it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolName {
    /// The kind of tool.
    pub kind: ToolKind,
    /// Its namespace, JSON-escaped.
    pub namespace: Option<Box<str>>,
    /// Its name, JSON-escaped.
    pub name: Box<str>,
}

// === impl ToolNames ===

impl ToolNames {
    /// Returns the tool that was declared under this name, JSON-escaped. `None` if it has the same
    /// name and kind for the client.
    #[must_use]
    pub fn get(&self, sent: &str) -> Option<&ToolName> {
        self.0.as_ref()?.get(sent)
    }

    /// Whether all tools have the same names and kinds for client and upstream.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl FromIterator<(String, ToolName)> for ToolNames {
    /// The tools by their names at the upstream, JSON-escaped.
    fn from_iter<T: IntoIterator<Item = (String, ToolName)>>(tools: T) -> Self {
        let names: HashMap<_, _> = tools.into_iter().collect();
        Self((!names.is_empty()).then(|| Arc::new(names)))
    }
}

impl fmt::Debug for ToolNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tools = self.0.as_ref().map_or(0, |names| names.len());
        f.debug_struct("ToolNames").field("tools", &tools).finish()
    }
}

/// Returns the name of a namespace's tool where there are no namespaces. All names are JSON-escaped.
/// It depends on the two names only, so that a call has the same bytes in every turn.
pub(super) fn qualified(namespace: &str, name: &str) -> String {
    let separator = if namespace.ends_with('_') { "" } else { "__" };
    let full = [&unescape(namespace), separator, &unescape(name)].concat();
    if full.chars().count() <= MAX_NAME {
        return escape(&full);
    }
    // The end tells the tools of a namespace apart. The hash tells names apart that end alike.
    let hash = format!("{:08x}_", fnv(full.as_bytes()));
    let keep = MAX_NAME - hash.len();
    let skip = full.chars().count() - keep;
    escape(&(hash + &full.chars().skip(skip).collect::<String>()))
}

/// A hash that is the same in every process (FNV-1a).
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811C_9DC5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_namespace_is_joined_and_bounded() {
        assert_eq!(qualified("crm", "list"), "crm__list");
        assert_eq!(qualified("mcp__files__", "read"), "mcp__files__read");
        assert_eq!(qualified("a\\\"", "b"), "a\\\"__b");
        let (one, two) = (
            qualified(&"n".repeat(60), "tool_one"),
            qualified(&"m".repeat(60), "tool_one"),
        );
        assert_eq!((one.len(), two.len()), (64, 64));
        assert!(one.ends_with("tool_one") && one != two);
    }
}
