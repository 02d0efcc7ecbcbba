//! The framings of SSE.

use bytes::{BufMut as _, BytesMut};
use tokenwire_core::dialect::{Dialect, Frame, FrameHead, Framing, Wrapping};
use tokenwire_core::model::id::{GenerationId, Seq};

/// For the OpenAI SDKs and `curl -N`: `event:` where the dialect has types, `data:`, no `id:`.
#[derive(Clone, Copy, Debug)]
pub struct Sdk;

/// For EventSource: `id: <response id>.<number>` on every event, no `event:`.
#[derive(Clone, Copy, Debug)]
pub struct EventSource;

/// The payload only.
#[derive(Clone, Copy, Debug)]
pub struct Bare;

impl Framing for Sdk {
    fn frame(&self, _stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut) {
        put_name(frame.relayed_name.or(frame.name), out);
        put_data(frame.data, out);
    }

    fn wrap(&self, _stream: &GenerationId, frame: &FrameHead<'_>) -> Option<Wrapping> {
        let mut before = BytesMut::new();
        put_name(frame.relayed_name.or(frame.name), &mut before);
        Some(around_data(before))
    }

    fn shows_extensions(&self) -> bool {
        false
    }

    fn sends_done(&self, _dialect: Dialect) -> bool {
        true
    }

    fn share_key(&self) -> Option<&'static str> {
        Some("sdk")
    }
}

impl Framing for EventSource {
    fn frame(&self, stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut) {
        put_id(stream, frame.seq, out);
        put_data(frame.data, out);
    }

    fn wrap(&self, stream: &GenerationId, frame: &FrameHead<'_>) -> Option<Wrapping> {
        let mut before = BytesMut::new();
        put_id(stream, frame.seq, &mut before);
        Some(around_data(before))
    }

    fn shows_extensions(&self) -> bool {
        true
    }

    fn sends_done(&self, dialect: Dialect) -> bool {
        dialect == Dialect::Chat
    }

    fn share_key(&self) -> Option<&'static str> {
        Some("eventsource")
    }
}

impl Framing for Bare {
    fn frame(&self, _stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut) {
        out.put_slice(frame.data);
    }

    fn wrap(&self, _stream: &GenerationId, _frame: &FrameHead<'_>) -> Option<Wrapping> {
        Some(Wrapping::default())
    }

    fn shows_extensions(&self) -> bool {
        false
    }

    fn sends_done(&self, _dialect: Dialect) -> bool {
        false
    }

    fn share_key(&self) -> Option<&'static str> {
        None
    }
}

fn put_name(name: Option<&str>, out: &mut BytesMut) {
    if let Some(name) = name {
        out.put_slice(b"event: ");
        // A type that an upstream sent may hold line breaks, which must not end the line.
        put_lines(name.as_bytes(), b"", out);
    }
}

fn put_id(stream: &GenerationId, seq: Seq, out: &mut BytesMut) {
    out.put_slice(b"id: ");
    out.put_slice(stream.as_str().as_bytes());
    out.put_u8(b'.');
    out.put_slice(itoa::Buffer::new().format(seq.0).as_bytes());
    out.put_u8(b'\n');
}

/// As [`put_data`], around a payload that is sent in pieces.
fn around_data(mut before: BytesMut) -> Wrapping {
    before.put_slice(b"data: ");
    Wrapping {
        before,
        after: BytesMut::from(b"\n\n".as_slice()),
        line_end: Some(b"\ndata: "),
        ..Wrapping::default()
    }
}

/// Writes `data:` lines and the blank line that dispatches them.
fn put_data(data: &[u8], out: &mut BytesMut) {
    out.reserve(data.len() + 8);
    out.put_slice(b"data: ");
    put_lines(data, b"data: ", out);
    out.put_u8(b'\n');
}

/// Writes the text and a line end; each further line of it starts with `prefix`. CR, LF and CRLF
/// all end a line in SSE.
fn put_lines(mut text: &[u8], prefix: &[u8], out: &mut BytesMut) {
    while let Some(at) = memchr::memchr2(b'\n', b'\r', text) {
        out.put_slice(&text[..at]);
        let crlf = text[at] == b'\r' && text.get(at + 1) == Some(&b'\n');
        text = &text[at + 1 + usize::from(crlf)..];
        if !prefix.is_empty() {
            out.put_u8(b'\n');
            out.put_slice(prefix);
        }
    }
    out.put_slice(text);
    out.put_u8(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(framing: &dyn Framing, name: Option<&'static str>, data: &str, expected: &str) {
        let mut out = BytesMut::new();
        let id = "resp_abc".parse().unwrap();
        framing.frame(
            &id,
            &Frame {
                seq: Seq(7),
                name,
                relayed_name: None,
                data: data.as_bytes(),
            },
            &mut out,
        );
        assert_eq!(String::from_utf8(out.to_vec()).unwrap(), expected);
        let head = FrameHead {
            seq: Seq(7),
            name,
            relayed_name: None,
            length: data.len(),
            last: data.bytes().last(),
        };
        let wrapping = framing.wrap(&id, &head).unwrap();
        let mut data = data.replace("\r\n", "\n").replace('\r', "\n");
        if let Some(line_end) = wrapping.line_end {
            data = data.replace('\n', std::str::from_utf8(line_end).unwrap());
        }
        assert_eq!(
            [&wrapping.before, data.as_bytes(), &wrapping.after].concat(),
            expected.as_bytes(),
            "in pieces"
        );
    }

    #[test]
    fn each_framing_wraps_an_event() {
        check(
            &Sdk,
            Some("response.created"),
            "{}",
            "event: response.created\ndata: {}\n\n",
        );
        check(&Sdk, None, "[DONE]", "data: [DONE]\n\n");
        check(
            &EventSource,
            Some("response.created"),
            "{}",
            "id: resp_abc.7\ndata: {}\n\n",
        );
        check(&Bare, None, "Hello\n", "Hello\n");
    }

    #[test]
    fn payload_with_line_breaks_becomes_several_data_lines() {
        check(&Sdk, None, "{\n}", "data: {\ndata: }\n\n");
        check(
            &Sdk,
            None,
            "a\r\nb\rc\n",
            "data: a\ndata: b\ndata: c\ndata: \n\n",
        );
        check(
            &EventSource,
            None,
            "a\nb",
            "id: resp_abc.7\ndata: a\ndata: b\n\n",
        );
    }
}
