//! What a check of the configuration finds.

/// A value that cannot work, with its path in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: Vec<String>,
    pub(crate) found: String,
    pub(crate) expected: String,
    pub(crate) remedy: String,
}
