//! Recognises the usage chunk of OpenAI and most servers without parsing it: each answer of a chat
//! upstream whose client did not request the usage has such a chunk, which is hidden.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// The end of the usage chunk: no choices, and the usage.
const MEMBERS: &str = r#""choices":[],"usage":{"#;
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
    // Without an escape every quote begins or ends a string, so that what is found are names; and
    // before an object or a list has begun they are names of the chunk itself.
    let is_at_top = before.first() == Some(&b'{')
        && memchr::memchr3(b'{', b'[', b'\\', &before[1..]).is_none()
        && memchr::memchr(b'\\', after).is_none();
    let occurs = |other: &Finder<'_>| other.find(before).or_else(|| other.find(after)).is_some();
    is_at_top && !finders.others.iter().any(occurs)
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
