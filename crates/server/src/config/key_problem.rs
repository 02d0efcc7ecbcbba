//! What is wrong with a key or an issuer of tokens.

/// A value of an entry that cannot work: its field, what it is, what is expected, and a remedy.
pub(crate) struct KeyProblem {
    pub(crate) field: &'static str,
    pub(crate) found: String,
    pub(crate) expected: &'static str,
    pub(crate) remedy: &'static str,
}
