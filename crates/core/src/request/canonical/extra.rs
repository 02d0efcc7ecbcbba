//! Members that the canonical form does not model.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use super::Value;
use crate::model::error::ApiError;
use crate::model::json::{Members, quote};

/// A member that is not modelled: its name and its value as it was read.
#[derive(Clone)]
pub struct Extra<'a> {
    /// The name of the member.
    pub name: Cow<'a, str>,
    /// Its value, never `null`.
    pub value: Value<'a>,
    /// What the client can do where the upstream has no such member. Empty: the general advice.
    pub advice: &'static str,
}

// === impl Extra ===

impl<'a> Extra<'a> {
    /// A member of this name.
    #[must_use]
    pub fn new(name: impl Into<Cow<'a, str>>, value: Value<'a>) -> Self {
        Self {
            name: name.into(),
            value,
            advice: "",
        }
    }

    /// The members of an object that are not among `known`.
    pub(crate) fn others(object: &Members<'a>, known: &[&str]) -> Vec<Self> {
        object
            .others(known)
            .map(|(name, raw)| Self::of(object, name, raw))
            .collect()
    }

    pub(crate) fn of(object: &Members<'a>, name: &str, raw: &'a RawValue) -> Self {
        Self::new(
            name.to_owned(),
            Value::new(raw, object.path_of(&quote(name))),
        )
    }

    /// Copies what is borrowed.
    #[must_use]
    pub fn into_owned(self) -> Extra<'static> {
        Extra {
            name: Cow::Owned(self.name.into_owned()),
            value: self.value.into_owned(),
            advice: self.advice,
        }
    }

    /// Returns `unsupported_parameter` for it: `why`, which is empty or a sentence, then the advice of
    /// the member, or `remedy` if it has none.
    pub(crate) fn refuse(&self, why: &str, remedy: &str) -> ApiError {
        let advice = if self.advice.is_empty() {
            remedy
        } else {
            self.advice
        };
        let space = if why.is_empty() { "" } else { " " };
        self.value.unsupported(&format!("{why}{space}{advice}"))
    }
}

impl fmt::Debug for Extra<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extra").finish_non_exhaustive()
    }
}

/// Copies what is borrowed.
pub(super) fn owned(list: Vec<Extra<'_>>) -> Vec<Extra<'static>> {
    list.into_iter().map(Extra::into_owned).collect()
}
