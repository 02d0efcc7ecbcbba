//! Recognises the usage chunk of OpenAI and most servers, and reads it, without parsing the whole:
//! each answer of a chat upstream has such a chunk, which is hidden if its client did not request
//! it.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::plain_usage;
use super::usage::Usage;
use crate::model::json;

/// The end of the usage chunk: no choices, and the usage.
const MEMBERS: &str = r#""choices":[],"usage":{"#;
/// The part of it that every chunk has, and what follows that.
const CHOICES: &[u8] = br#""choices":["#;
const USAGE: &[u8] = br#"],"usage":"#;
/// The member that may follow the usage.
const PADDING: &[u8] = br#","obfuscation":""#;
/// Names that make it something else: of a repeated member the last one counts, and an error is no
/// report of usage.
const OTHERS: [&str; 4] = [r#""choices""#, r#""usage""#, r#""error""#, r#""base_resp""#];

struct Finders {
    members: Finder<'static>,
    others: [Finder<'static>; 4],
}

static FINDERS: LazyLock<Finders> = LazyLock::new(|| Finders {
    members: Finder::new(MEMBERS),
    others: OTHERS.map(Finder::new),
});

/// Returns true for a valid chunk that reports the usage and nothing else, written as OpenAI does.
/// False says nothing.
pub(super) fn is_plain(chunk: &[u8]) -> bool {
    let finders = &*FINDERS;
    let Some(found) = finders.members.find(chunk) else {
        return false;
    };
    let (before, after) = (&chunk[..found], &chunk[found + MEMBERS.len()..]);
    let has_others = |text| {
        finders
            .others
            .iter()
            .any(|other| other.find(text).is_some())
    };
    are_flat(before)
        && memchr::memchr(b'\\', after).is_none()
        && !has_others(before)
        && !has_others(after)
}

/// Returns the usage if that is all the chunk reports, written as OpenAI does, and it begins as
/// `known` does, the beginning of a valid chunk of a delta. `None` says nothing.
pub(super) fn read(chunk: &[u8], known: &[u8]) -> Option<Usage> {
    let (same, rest) = chunk.split_at(common_len(chunk, known));
    // What the known chunk began with was no error, nor is it one here.
    if !are_flat(same.strip_suffix(CHOICES)?) {
        return None;
    }
    let (usage, rest) = plain_usage::read(rest.strip_prefix(USAGE)?)?;
    let rest = match rest.strip_prefix(PADDING) {
        Some(padding) => {
            let (padding, rest) = padding.split_at(json::string_inside_len(padding)?);
            let rest = rest.strip_prefix(b"\"")?;
            json::is_string_inside(padding).then_some(rest)?
        }
        None => rest,
    };
    (rest == b"}").then(|| usage.into())
}

/// Returns the number of bytes with which both begin.
fn common_len(a: &[u8], b: &[u8]) -> usize {
    let blocks = a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0);
    let blocks = 16 * blocks.take_while(|(a, b)| a == b).count();
    let rest = a[blocks..].iter().zip(&b[blocks..]);
    blocks + rest.take_while(|(a, b)| a == b).count()
}

/// Whether the members that a chunk begins with hold neither objects, lists nor escapes.
fn are_flat(members: &[u8]) -> bool {
    // Without an escape every quote begins or ends a string, so that what is found are names; and
    // before an object or a list has begun they are names of the chunk itself.
    members.first() == Some(&b'{') && memchr::memchr3(b'{', b'[', b'\\', &members[1..]).is_none()
}

#[cfg(test)]
mod tests {
    use super::super::is_parsed_usage_chunk;
    use super::*;

    #[test]
    fn plain_usage_chunk_is_recognised() {
        for chunk in [
            r#"{"choices":[],"usage":{}}"#,
            r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","service_tier":"default","system_fingerprint":null,"choices":[],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0}},"obfuscation":"x"}"#,
        ] {
            assert!(is_plain(chunk.as_bytes()), "{chunk}");
            assert!(is_parsed_usage_chunk(chunk.as_bytes()), "{chunk}");
        }
    }

    #[test]
    fn plain_usage_is_read_after_a_known_beginning() {
        const KNOWN: &[u8] = br#"{"id":"chatcmpl-1","model":"m","choices":[{"index":0,"#;
        let read = |chunk: &str| read(chunk.as_bytes(), KNOWN).map(Usage::to_responses);
        let usage = r#"{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}"#;
        for rest in ["", r#","obfuscation":"""#, r#","obfuscation":"x\"y""#] {
            let chunk =
                format!(r#"{{"id":"chatcmpl-1","model":"m","choices":[],"usage":{usage}{rest}}}"#);
            let parsed =
                Usage::parse(serde_json::from_str(usage).unwrap()).map(Usage::to_responses);
            assert!(parsed.is_some());
            assert_eq!(read(&chunk), parsed, "{chunk}");
            let is_plain = is_plain(chunk.as_bytes());
            assert_eq!(is_plain, !rest.contains('\\'), "{chunk}");
            assert!(is_parsed_usage_chunk(chunk.as_bytes()), "{chunk}");
        }
        for chunk in [
            r#"{"id":"chatcmpl-2","model":"m","choices":[],"usage":USAGE}"#,
            r#"{"id":"chatcmpl-1","model":"m","choices":[],"usage":USAGE,"error":{}}"#,
            r#"{"id":"chatcmpl-1","model":"m","choices":[],"usage":USAGE,"obfuscation":"x}"#,
            r#"{"id":"chatcmpl-1","model":"m","choices":[],"usage":USAGE"#,
            r#"{"id":"chatcmpl-1","model":"m","choices":[],"usage":USAGE} "#,
            r#"{"id":"chatcmpl-1","model":"m","choices":[{"index":0}],"usage":USAGE}"#,
        ] {
            assert_eq!(read(&chunk.replace("USAGE", usage)), None, "{chunk}");
        }
        for further in [r#""error":{}"#, r#""usage":null"#, r#""choices":[{}]"#] {
            let chunk = format!(
                r#"{{"id":"chatcmpl-1","model":"m","choices":[],"usage":{usage},{further}}}"#
            );
            assert!(!is_plain(chunk.as_bytes()), "{chunk}");
        }
    }

    #[test]
    fn other_chunks_are_left_to_the_parser() {
        for chunk in [
            r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#,
            r#"{"choices":[],"usage":null}"#,
            r#"{"choices":[],"usage":{},"choices":[{"delta":{}}]}"#,
            r#"{"choices":[],"usage":{"a":1},"usage":null}"#,
            r#"{"choices":[],"usage":{},"error":{"message":"no"}}"#,
            r#"{"error":"no","choices":[],"usage":{}}"#,
            r#"{"choices":[],"usage":{},"base_resp":{"status_code":1}}"#,
            r#"{"choices":[],"usage":{},"\u0065rror":{"message":"no"}}"#,
            r#"{"x":{"choices":[],"usage":{}},"choices":[{"delta":{}}]}"#,
            r#"{"x":[{"choices":[],"usage":{}}]}"#,
            r#"{"x\"choices":[],"usage":{}}"#,
            "",
            "null",
        ] {
            assert!(!is_plain(chunk.as_bytes()), "{chunk}");
        }
    }
}
