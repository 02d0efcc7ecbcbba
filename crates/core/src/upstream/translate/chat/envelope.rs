//! The envelope of a chat stream's chunks: all that is around the delta and the finish reason.
//!
//! ```text
//!   {"id":"c1","model":"m","choices":[{"index":0,"delta":{…},"logprobs":null,"finish_reason":null}],"obfuscation":"…"}
//!   └───────────────────── before ──────────────────────┘└─┘└─────────── between ───────────┘└──┘└──── after ─────┘│└┘
//! ```
//!
//! The chunks of a stream have the same one, nearly always. Once a chunk was read as a whole, of
//! those that follow only the delta and the finish reason have to be.

use serde_json::value::RawValue;

use crate::model::json;
use crate::upstream::translate::chunk::{Choice, Chunk};

const NULL: &[u8] = b"null";

/// Most bytes of an envelope that is kept.
const MAX_BYTES: usize = 4 * 1024;

/// The constant parts, joined, and where the others are between them.
#[derive(Debug)]
pub(super) struct Envelope {
    bytes: Vec<u8>,
    delta: usize,
    finish: Option<usize>,
    padding: Option<usize>,
}

/// The parts of a chunk that its envelope does not have. They point into the chunk.
#[derive(Debug)]
pub(super) struct Inside<'a> {
    delta: &'a RawValue,
    finish: Option<&'a RawValue>,
    padding: Option<&'a RawValue>,
}

impl Envelope {
    /// Returns the envelope of a chunk of one choice that has neither usage nor a fault; `None` if
    /// something else of it bears on the answer. `data` is the chunk's JSON.
    pub(super) fn of(chunk: &Chunk<'_>, choice: &Choice<'_>, data: &[u8]) -> Option<Self> {
        let others = [choice.message, choice.text, choice.logprobs, choice.usage];
        let delta = choice.delta.filter(|raw| raw.get().starts_with('{'))?;
        if chunk.is_completion()
            || others.into_iter().any(|raw| json::present(raw).is_some())
            || json::present(choice.finish_reason).is_some()
        {
            return None;
        }
        let padding = match (chunk.obfuscation, chunk.p) {
            (Some(_), Some(_)) => return None,
            (one, other) => one.or(other),
        };
        let variable = [Some(delta), choice.finish_reason, padding];
        let variable = variable.into_iter().flatten();
        let length = data
            .len()
            .saturating_sub(variable.map(|raw| raw.get().len()).sum());
        if length > MAX_BYTES {
            return None;
        }
        let mut envelope = Self {
            // A padding leaves its quotes.
            bytes: Vec::with_capacity(length + 2),
            delta: 0,
            finish: None,
            padding: None,
        };
        let mut end = 0;
        // Takes what is before a part, and returns where it was. The parts have to be in this order.
        let mut cut = |part: &RawValue, quotes: usize| {
            let start = offset(part, data)?;
            envelope
                .bytes
                .extend_from_slice(data.get(end..start + quotes)?);
            end = start + part.get().len() - quotes;
            Some(envelope.bytes.len())
        };
        let delta = cut(delta, 0)?;
        let finish = match choice.finish_reason {
            Some(finish) => Some(cut(finish, 0)?),
            None => None,
        };
        let padding = match padding {
            Some(padding) => {
                json::string_inside(padding)?;
                Some(cut(padding, 1)?)
            }
            None => None,
        };
        envelope.bytes.extend_from_slice(data.get(end..)?);
        Some(Self {
            delta,
            finish,
            padding,
            ..envelope
        })
    }

    /// Returns what is inside a chunk of this envelope. `None` if it has another one.
    pub(super) fn open<'a>(&self, data: &'a [u8]) -> Option<Inside<'a>> {
        let bytes = &self.bytes[..];
        let mut rest = data.strip_prefix(&bytes[..self.delta])?;
        let mut end = bytes.len();
        // A string is taken to begin at the last quote. With an escaped one in it, what is before
        // does not fit.
        let padding = match self.padding {
            Some(at) => {
                rest = rest.strip_suffix(&bytes[at..end])?;
                end = at;
                let start = memchr::memrchr(b'"', rest)?;
                let quoted = self.delta + start..=self.delta + rest.len();
                rest = &rest[..=start];
                Some(read(data.get(quoted)?)?)
            }
            None => None,
        };
        let mut finish = None;
        if let Some(at) = self.finish {
            rest = rest.strip_suffix(&bytes[at..end])?;
            end = at;
            rest = match rest.strip_suffix(NULL) {
                Some(rest) => rest,
                None => {
                    let start = memchr::memrchr(b'"', rest.strip_suffix(b"\"")?)?;
                    finish = Some(read(&rest[start..])?);
                    &rest[..start]
                }
            };
        }
        let delta = rest.strip_suffix(&bytes[self.delta..end])?;
        Some(Inside {
            delta: read(delta).filter(|_| delta.starts_with(b"{"))?,
            finish,
            padding,
        })
    }
}

impl<'a> Inside<'a> {
    /// Returns the chunk and its choice, as they are read without an envelope, but for the members
    /// that do not bear on the answer.
    pub(super) fn chunk(&self) -> (Chunk<'a>, Choice<'a>) {
        let chunk = Chunk {
            obfuscation: self.padding,
            ..Chunk::default()
        };
        let choice = Choice {
            delta: Some(self.delta),
            finish_reason: self.finish,
            ..Choice::default()
        };
        (chunk, choice)
    }
}

/// Returns the value that these bytes are, if they are one.
fn read(bytes: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

/// Returns where a value begins in the chunk that it was borrowed from.
fn offset(value: &RawValue, data: &[u8]) -> Option<usize> {
    (value.get().as_ptr() as usize).checked_sub(data.as_ptr() as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ChatTranslator;
    use crate::model::event::Ending;
    use crate::upstream::translate::RecordWriter;

    /// Translates a stream and returns its records, and how many chunks an envelope opened.
    fn translate(chunks: &[String], with_envelopes: bool) -> (Vec<u8>, usize) {
        let mut translator = ChatTranslator::new(1);
        let mut records = RecordWriter::new();
        let mut opened = 0;
        for chunk in chunks {
            if !with_envelopes {
                translator.envelope = None;
            }
            let data = chunk.as_bytes();
            let envelope = translator.envelope.as_ref();
            opened += usize::from(envelope.is_some_and(|envelope| envelope.open(data).is_some()));
            translator.payload(None, data, true, &mut records);
        }
        translator.end(Ending::Completed, 1, &mut records);
        (records.batch().as_block().to_vec(), opened)
    }

    /// Checks that a stream is translated as without envelopes.
    fn check(chunks: &[String], expected: usize) {
        let (records, opened) = translate(chunks, true);
        let (plain, _) = translate(chunks, false);
        assert!(records == plain, "{chunks:#?}");
        assert_eq!(opened, expected, "{chunks:#?}");
    }

    /// Writes a stream of these deltas and finish reasons.
    fn stream(envelope: &str, parts: &[(&str, &str)]) -> Vec<String> {
        let chunk = |(delta, finish): &(&str, &str)| {
            let chunk = envelope.replace("DELTA", delta);
            chunk.replace("FINISH", finish)
        };
        parts.iter().map(chunk).collect()
    }

    const OPENAI: &str = r#"{"id":"c","choices":[{"index":0,"delta":DELTA,"logprobs":null,"finish_reason":FINISH}],"usage":null}"#;
    const PADDED: &str =
        r#"{"choices":[{"delta":DELTA,"finish_reason":FINISH}],"obfuscation":"aB3"}"#;

    #[test]
    fn chunks_in_a_known_envelope_are_translated_as_others() {
        let answer = [
            (r#"{"role":"assistant","content":""}"#, "null"),
            (r#"{"content":"a\"b"}"#, "null"),
            (r#"{"content":"c"}"#, "null"),
            (r#"{"reasoning_content":"d"}"#, "null"),
            (
                r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{}"}}]}"#,
                "null",
            ),
            ("{}", r#""tool_calls""#),
        ];
        for envelope in [OPENAI, PADDED] {
            check(&stream(envelope, &answer), 5);
        }
    }

    #[test]
    fn chunks_that_bear_on_more_are_read_as_a_whole() {
        let first = (r#"{"role":"assistant","content":""}"#, "null");
        for second in [
            (r#"{"content":"a"}"#, r#""sto\"p""#),
            (r#"{"content":"a"},"delta":{"content":"b"}"#, "null"),
            (r#"{"content":"a"}"#, r#"null,"usage":{"prompt_tokens":1}"#),
            (r#"{"content":"a"}"#, "0"),
            (r#"["content"]"#, "null"),
            (r#"{"content":"a""#, "null"),
        ] {
            check(&stream(OPENAI, &[first, second]), 0);
        }
        // These are opened, and then left to the parser of whole chunks.
        for second in [
            (r#"{"content":"a","usage":{"prompt_tokens":1}}"#, "null"),
            (r#"{"content":"a"}"#, r#""error""#),
        ] {
            check(&stream(OPENAI, &[first, second]), 1);
        }
    }

    #[test]
    fn chunks_with_more_than_a_delta_make_no_envelope() {
        for first in [
            r#"{"choices":[{"message":{"content":"a"},"delta":DELTA,"finish_reason":FINISH}]}"#,
            r#"{"choices":[{"text":"a","delta":DELTA,"finish_reason":FINISH}]}"#,
            r#"{"choices":[{"delta":DELTA,"logprobs":{"content":[]},"finish_reason":FINISH}]}"#,
            r#"{"choices":[{"delta":DELTA,"finish_reason":FINISH}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[{"finish_reason":FINISH,"delta":DELTA}]}"#,
            r#"{"obfuscation":"a","choices":[{"delta":DELTA,"finish_reason":FINISH}]}"#,
            r#"{"choices":[{"delta":DELTA}],"obfuscation":"a","p":"b"}"#,
            r#"{"object":"chat.completion","choices":[{"delta":DELTA,"finish_reason":FINISH}]}"#,
        ] {
            let parts = [(r#"{"content":"a"}"#, "null"), ("{}", r#""stop""#)];
            check(&stream(first, &parts), 0);
        }
    }

    fn delta() -> impl Strategy<Value = String> {
        let text = "[a-z\u{e9}\"\\\\{}\\[\\]:,]{0,6}"
            .prop_map(|text| serde_json::to_string(&text).unwrap_or_default());
        let name = prop::sample::select(vec![
            "content",
            "reasoning_content",
            "refusal",
            "role",
            "finish_reason",
            "usage",
        ]);
        prop::collection::vec((name, text), 0..3).prop_map(|members| {
            let members = members
                .iter()
                .map(|(name, text)| format!(r#""{name}":{text}"#));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        })
    }

    proptest! {
        #[test]
        fn streams_are_translated_as_without_envelopes(
            parts in prop::collection::vec((delta(), 0usize..8, 0usize..4), 1..8),
        ) {
            let finishes = ["null", "null", "null", "null", r#""stop""#, r#""length""#, r#""""#, r#""error""#];
            let envelopes = [
                OPENAI,
                PADDED,
                r#"{"choices":[{"delta":DELTA}]}"#,
                r#"{"choices":[{"delta":DELTA,"finish_reason":FINISH,"x":{"finish_reason":null}}],"p":"\"a"}"#,
            ];
            let chunks: Vec<String> = parts
                .iter()
                .map(|(delta, finish, envelope)| {
                    // Most streams have one envelope.
                    let envelope = envelopes[if *envelope == 0 { parts[0].1 % 4 } else { parts[0].2 }];
                    envelope.replace("DELTA", delta).replace("FINISH", finishes[*finish])
                })
                .collect();
            let (records, _) = translate(&chunks, true);
            prop_assert_eq!(records, translate(&chunks, false).0);
        }

        #[test]
        fn chunks_of_any_bytes_are_not_opened_wrongly(
            at: prop::sample::Index,
            bytes in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let first = (r#"{"role":"assistant","content":""}"#, "null");
            let mut chunks = stream(PADDED, &[first, (r#"{"content":"a"}"#, "null")]);
            let mut second = chunks[1].clone().into_bytes();
            let at = at.index(second.len());
            second.splice(at..=at, bytes);
            if let Ok(second) = String::from_utf8(second) {
                chunks[1] = second;
                prop_assert_eq!(translate(&chunks, true).0, translate(&chunks, false).0);
            }
        }
    }
}
