//! JSON that refers to texts which were streamed before.
//!
//! A Responses upstream repeats each text of its answer up to four times: in the events that close
//! the text, its part and its item, and in the terminal response object. A string that equals a
//! streamed text is kept as a reference to it:
//!
//! ```text
//!   {"type":"response.output_text.done","item_id":"msg_1","text":"\u00013.0.1048576"}
//!                                                                item ─┘ │  └─ bytes
//!                                                                        └─ text of the item
//! ```
//!
//! Such a string is valid JSON, so members can be read, replaced and left out without its text. A
//! string that begins with U+0001 for another reason gets `=` after it. Only
//! [closing events](super::event::Relayed::is_closing) and terminal objects are kept in this form.

use std::fmt;
use std::ops::Range;

use memchr::memmem;
use serde::{Deserialize, Serialize};

/// What a reference begins with, after the quote of its string.
const MARK: &str = r"\u0001";
/// The same with the quote.
const QUOTED_MARK: &[u8] = br#""\u0001"#;

/// JSON in which strings may be references.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FoldedJson(String);

/// A streamed text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TextRef {
    /// The item's `output_index`.
    pub(crate) item: u64,
    /// The number of the text among those of the item, in the order in which they began.
    pub(crate) text: usize,
    /// How much of it, in bytes of its JSON-escaped form.
    pub(crate) bytes: usize,
}

/// A part of folded JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FoldedPart {
    /// These bytes of it.
    Literal(Range<usize>),
    /// The content of a string.
    Text(TextRef),
}

/// The meaning of a decoded string of folded JSON that begins with U+0001.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FoldedString {
    Literal(String),
    Text(TextRef),
}

impl fmt::Display for TextRef {
    /// Writes the reference without its mark.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { item, text, bytes } = self;
        write!(f, "{item}.{text}.{bytes}")
    }
}

impl TextRef {
    /// Returns the decoded string that stands for the text.
    pub(crate) fn string(self) -> String {
        format!("\u{1}{self}")
    }
}

impl fmt::Debug for FoldedJson {
    /// Omits the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FoldedJson")
            .field("bytes", &self.0.len())
            .finish_non_exhaustive()
    }
}

impl FoldedJson {
    /// Keeps JSON without references.
    #[must_use]
    pub fn plain(json: String) -> Self {
        if !has_marks(&json) {
            return Self(json);
        }
        let mut folded = FoldedWriter::default();
        folded.literal(&json);
        folded.end()
    }

    /// Takes JSON that is folded already.
    pub(crate) fn of_folded(json: String) -> Self {
        Self(json)
    }

    /// Returns the JSON with its references.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }

    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

/// Writes folded JSON.
#[derive(Debug, Default)]
pub(crate) struct FoldedWriter(String);

impl FoldedWriter {
    /// Appends JSON without references.
    pub(crate) fn literal(&mut self, json: &str) {
        let mut copied = 0;
        for at in memmem::find_iter(json.as_bytes(), QUOTED_MARK) {
            let end = at + QUOTED_MARK.len();
            self.0.push_str(&json[copied..end]);
            self.0.push('=');
            copied = end;
        }
        self.0.push_str(&json[copied..]);
    }

    /// Appends a reference, between the quotes of a string.
    pub(crate) fn text(&mut self, text: TextRef) {
        self.0.push_str(MARK);
        self.0.push_str(&text.to_string());
    }

    pub(crate) fn end(mut self) -> FoldedJson {
        self.0.shrink_to_fit();
        FoldedJson(self.0)
    }
}

/// Returns true if folded JSON is not the JSON that it stands for.
pub(crate) fn has_marks(json: &str) -> bool {
    has_marks_in(json.as_bytes())
}

/// Returns true if records may hold folded JSON that is not what it stands for.
pub(crate) fn has_marks_in(records: &[u8]) -> bool {
    memmem::find(records, QUOTED_MARK).is_some()
}

/// Returns the parts of folded JSON in order.
pub(crate) fn parts(json: &str) -> Vec<FoldedPart> {
    let mut parts = Vec::new();
    let mut start = 0;
    for at in memmem::find_iter(json.as_bytes(), QUOTED_MARK) {
        let end = at + QUOTED_MARK.len();
        let rest = &json[end..];
        if rest.starts_with('=') {
            parts.push(FoldedPart::Literal(start..end));
            start = end + 1;
        } else if let Some((inside, _)) = rest.split_once('"')
            && let Some(text) = parse(inside)
        {
            parts.push(FoldedPart::Literal(start..at + 1));
            parts.push(FoldedPart::Text(text));
            start = end + inside.len();
        }
    }
    parts.push(FoldedPart::Literal(start..json.len()));
    parts
}

/// Returns the bytes of the texts that folded JSON refers to.
pub(crate) fn text_bytes(json: &str) -> usize {
    let texts = parts(json).into_iter().map(|part| match part {
        FoldedPart::Text(text) => text.bytes,
        FoldedPart::Literal(_) => 0,
    });
    texts.sum()
}

/// Returns what a decoded string of folded JSON stands for; `None` for itself.
pub(crate) fn folded_string(text: &str) -> Option<FoldedString> {
    let rest = text.strip_prefix('\u{1}')?;
    if let Some(rest) = rest.strip_prefix('=') {
        return Some(FoldedString::Literal(format!("\u{1}{rest}")));
    }
    parse(rest).map(FoldedString::Text)
}

fn parse(reference: &str) -> Option<TextRef> {
    let (item, rest) = reference.split_once('.')?;
    let (text, bytes) = rest.split_once('.')?;
    Some(TextRef {
        item: item.parse().ok()?,
        text: text.parse().ok()?,
        bytes: bytes.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unfolded(json: &str) -> String {
        let part = |part: FoldedPart| match part {
            FoldedPart::Literal(range) => json[range].to_owned(),
            FoldedPart::Text(text) => format!("<{}.{}.{}>", text.item, text.text, text.bytes),
        };
        parts(json).into_iter().map(part).collect()
    }

    #[test]
    fn strings_that_begin_with_the_mark_are_kept() {
        for json in [
            r#"{"a":"b"}"#,
            r#"{"a":"\u0001"}"#,
            r#"{"a":"\u00011.2.3","b":"\u0001="}"#,
            r#"{"a":"x\"\u0001y"}"#,
        ] {
            let folded = FoldedJson::plain(json.to_owned());
            assert_eq!(unfolded(folded.as_str()), json);
            assert_eq!(text_bytes(folded.as_str()), 0);
        }
    }

    #[test]
    fn reference_is_a_string_of_its_own() {
        let text = TextRef {
            item: 3,
            text: 0,
            bytes: 1 << 20,
        };
        let mut writer = FoldedWriter::default();
        writer.literal(r#"{"b":"\u0001","a":""#);
        writer.text(text);
        writer.literal(r#"","c":1}"#);
        let folded = writer.end();
        assert_eq!(
            unfolded(folded.as_str()),
            r#"{"b":"\u0001","a":"<3.0.1048576>","c":1}"#
        );
        let value: serde_json::Value = serde_json::from_str(folded.as_str()).unwrap();
        let meaning = |name: &str| folded_string(value[name].as_str().unwrap_or_default());
        assert_eq!(meaning("a"), Some(FoldedString::Text(text)));
        let literal = FoldedString::Literal("\u{1}".to_owned());
        assert_eq!(meaning("b"), Some(literal));
        assert_eq!(meaning("c"), None);
    }
}
