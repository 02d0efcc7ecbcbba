//! Writing JSON around values that are JSON already.

use serde_json::value::RawValue;

use super::string::{needs_no_escape, quoted};
use crate::model::output::Output;

/// Writes one object into a buffer: braces, commas and names. [`ObjectWriter::end`] closes it.
pub(crate) struct ObjectWriter<'o> {
    out: &'o mut String,
    empty: bool,
}

impl<'o> ObjectWriter<'o> {
    /// Writes the opening brace.
    pub(crate) fn begin(out: &'o mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    /// Writes members without braces, to be spliced into an object.
    pub(crate) fn members(out: &'o mut String) -> Self {
        Self { out, empty: true }
    }

    /// Writes a name and returns the buffer, for the caller to write the value.
    pub(crate) fn name(&mut self, name: &str) -> &mut String {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        push_quoted(self.out, name);
        self.out.push(':');
        self.out
    }

    /// Writes a member whose value is JSON.
    pub(crate) fn raw(&mut self, name: &str, json: &str) {
        self.name(name).push_str(json);
    }

    /// Writes a member whose value is a string that is not escaped yet.
    pub(crate) fn string(&mut self, name: &str, text: &str) {
        push_quoted(self.name(name), text);
    }

    /// Writes the closing brace.
    pub(crate) fn end(self) {
        self.out.push('}');
    }
}

/// Writes an array; `each` writes an element.
pub(crate) fn push_array<T>(
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

/// Appends a number in decimal.
pub(crate) fn push_number(out: &mut impl Output, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Returns JSON that was written here as a raw value. All callers pass complete values, so the
/// `null` for anything else is never seen.
pub(crate) fn raw_value(json: String) -> Box<RawValue> {
    RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Returns `text` as a raw JSON string.
pub(crate) fn raw_string(text: &str) -> Box<RawValue> {
    raw_value(quoted(text))
}

fn push_quoted(out: &mut String, text: &str) {
    if needs_no_escape(text) {
        out.extend(["\"", text, "\""]);
    } else {
        out.push_str(&quoted(text));
    }
}
