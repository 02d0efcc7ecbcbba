//! Writing JSON around pieces that are JSON already.

use serde_json::value::RawValue;

use crate::model::json::needs_no_escape;

/// Writes one object into a buffer: commas, names, braces. [`ObjectWriter::end`] closes it.
pub(super) struct ObjectWriter<'o> {
    out: &'o mut String,
    empty: bool,
}

impl<'o> ObjectWriter<'o> {
    pub(super) fn begin(out: &'o mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    /// Goes on with an object whose opening brace is not this writer's business.
    pub(super) fn members(out: &'o mut String) -> Self {
        Self { out, empty: true }
    }

    /// Writes the name; the caller writes the value into what is returned.
    pub(super) fn name(&mut self, name: &str) -> &mut String {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        push_string(self.out, name);
        self.out.push(':');
        self.out
    }

    /// A member whose value is JSON already.
    pub(super) fn raw(&mut self, name: &str, json: &str) {
        self.name(name).push_str(json);
    }

    /// A member whose value is a string still to be escaped.
    pub(super) fn string(&mut self, name: &str, text: &str) {
        push_string(self.name(name), text);
    }

    pub(super) fn end(self) {
        self.out.push('}');
    }
}

/// Writes an array, its elements by `each`.
pub(super) fn push_array<T>(
    out: &mut String,
    elements: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (i, element) in elements.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        each(out, element);
    }
    out.push(']');
}

pub(super) fn push_string(out: &mut String, text: &str) {
    if needs_no_escape(text) {
        out.extend(["\"", text, "\""]);
        return;
    }
    // A string always serialises.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// What was written here as a raw value of its own. All callers pass whole JSON values, so `null`
/// is never seen.
pub(super) fn raw_value(json: String) -> Box<RawValue> {
    RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

pub(super) fn raw_string(text: &str) -> Box<RawValue> {
    raw_value(quoted(text))
}

/// A text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    out
}
