//! Estimates the tokens of a request from the body that goes upstream.

use std::sync::LazyLock;

use memchr::memmem::Finder;

/// Bytes of JSON that count as one token. English text has about four bytes in a token; the JSON
/// around it makes the estimate a little too high.
const BYTES: usize = 4;
/// Tokens of an image, a sound or a file that stands in the body. Its size in bytes says little.
const MEDIA: usize = 1000;

/// Returns about how many tokens a body has. It includes what a client does not see: earlier turns,
/// instructions, tools.
pub(super) fn input_tokens(body: &[u8]) -> u64 {
    static MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(";base64,"));
    let (mut media, mut encoded) = (0, 0);
    let mut rest = body;
    while let Some(at) = MARK.find(rest) {
        rest = rest.get(at..).unwrap_or_default();
        let length = memchr::memchr(b'"', rest).unwrap_or(rest.len());
        // A short text that only mentions the mark is text.
        if length > BYTES * MEDIA {
            media += 1;
            encoded += length;
        }
        rest = rest.get(length.max(1)..).unwrap_or_default();
    }
    let text = body.len() - encoded;
    (text.div_ceil(BYTES) + media * MEDIA) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_counts_by_its_bytes_and_media_by_their_number() {
        assert_eq!(input_tokens(b""), 0);
        assert_eq!(input_tokens(b"12345"), 2);
        assert_eq!(input_tokens(&[b'x'; 4000]), 1000);
        let image = |bytes: usize| format!("\"data:image/png;base64,{}\"", "A".repeat(bytes));
        let two = format!("[{},{}]", image(2_000_000), image(50_000));
        assert_eq!(input_tokens(two.as_bytes()), 2009);
        let short = image(100);
        assert_eq!(
            input_tokens(short.as_bytes()),
            short.len().div_ceil(4) as u64
        );
        assert_eq!(input_tokens(b";base64,;base64,"), 4);
    }
}
