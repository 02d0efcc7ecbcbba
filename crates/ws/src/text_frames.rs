//! The framing of a WebSocket: one text frame per event, with the lane's `stream_id` in its JSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{BufMut as _, BytesMut};
use tokenwire_core::dialect::{Dialect, Frame, FrameHead, Framing, Wrapping};
use tokenwire_core::model::id::GenerationId;

/// A lane's name.
pub(crate) type StreamId = Arc<str>;

/// Text frames for one lane, or for the socket's own lane.
#[derive(Clone, Debug)]
pub(crate) struct TextFrames {
    pub(crate) stream_id: Option<StreamId>,
    /// Whether the client takes events whose type begins with `tokenwire:`.
    pub(crate) extensions: Arc<AtomicBool>,
}

impl Framing for TextFrames {
    fn frame(&self, _stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut) {
        put_text(frame.data, self.stream_id.as_deref(), out);
    }

    fn wrap(&self, _stream: &GenerationId, frame: &FrameHead<'_>) -> Option<Wrapping> {
        let name = self
            .stream_id
            .as_deref()
            .filter(|_| frame.last == Some(b'}'));
        let mut after = BytesMut::new();
        if let Some(name) = name {
            put_member(name, &mut after);
        }
        let length = frame.length - usize::from(name.is_some()) + after.len();
        let mut before = BytesMut::new();
        put_head(0x81, length, &mut before);
        Some(Wrapping {
            before,
            cuts_last: name.is_some(),
            after,
            line_end: None,
        })
    }

    fn shows_extensions(&self) -> bool {
        self.extensions.load(Ordering::Relaxed)
    }

    fn sends_done(&self, _dialect: Dialect) -> bool {
        false
    }

    fn share_key(&self) -> Option<&'static str> {
        let key = if self.shows_extensions() {
            "websocket"
        } else {
            "websocket without extensions"
        };
        self.stream_id.is_none().then_some(key)
    }
}

/// Writes a text frame with this JSON object, and the lane's name as its last member.
pub(crate) fn put_text(json: &[u8], stream_id: Option<&str>, out: &mut BytesMut) {
    let (json, name) = match (stream_id, json.strip_suffix(b"}")) {
        (Some(name), Some(open)) => (open, Some(name)),
        _ => (json, None),
    };
    let length = json.len() + name.map_or(0, |name| MEMBER.len() + name.len() + END.len());
    out.reserve(length + 10);
    put_head(0x81, length, out);
    out.put_slice(json);
    if let Some(name) = name {
        put_member(name, out);
    }
}

/// The member with a lane's name is between these.
const MEMBER: &[u8] = b",\"stream_id\":\"";
const END: &[u8] = b"\"}";

/// Writes the lane's name as the last member of an object, and the object's end.
fn put_member(name: &str, out: &mut BytesMut) {
    // It is `[A-Za-z0-9_.-]` only, so it needs no escapes.
    out.put_slice(MEMBER);
    out.put_slice(name.as_bytes());
    out.put_slice(END);
}

/// Writes a frame's head, unmasked as from a server (RFC 6455, section 5.2).
fn put_head(first: u8, length: usize, out: &mut BytesMut) {
    out.put_u8(first);
    match length {
        0..126 => out.put_u8(length as u8),
        126..65536 => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenwire_core::model::id::Seq;

    #[test]
    fn stream_id_is_the_last_member() {
        let mut out = BytesMut::new();
        put_text(br#"{"type":"x"}"#, Some("a.b"), &mut out);
        put_text(br#"{"type":"x"}"#, None, &mut out);
        let first = br#"{"type":"x","stream_id":"a.b"}"#;
        assert_eq!(&out[..2], &[0x81, first.len() as u8]);
        assert_eq!(&out[2..2 + first.len()], first);
        assert_eq!(
            &out[2 + first.len()..],
            [b"\x81\x0c".as_slice(), br#"{"type":"x"}"#].concat()
        );
    }

    #[test]
    fn wrapping_has_the_bytes_of_the_frame() {
        for stream_id in [None, Some("a.b".into())] {
            let framing = TextFrames {
                stream_id,
                extensions: Arc::default(),
            };
            for length in [2, 125, 126, 65_520, 65_536, 100_000] {
                let data = format!("{{{}}}", " ".repeat(length - 2));
                let (seq, name, relayed_name) = (Seq(7), None, None);
                let id = "resp_abc".parse().unwrap();
                let data = data.as_bytes();
                let mut whole = BytesMut::new();
                let frame = Frame {
                    seq,
                    name,
                    relayed_name,
                    data,
                };
                framing.frame(&id, &frame, &mut whole);
                let head = FrameHead {
                    seq,
                    name,
                    relayed_name,
                    length,
                    last: data.last().copied(),
                };
                let wrapping = framing.wrap(&id, &head).unwrap();
                let sent = &data[..length - usize::from(wrapping.cuts_last)];
                assert_eq!(whole, [&wrapping.before, sent, &wrapping.after].concat());
            }
        }
    }

    #[test]
    fn frame_head_depends_on_payload_size() {
        for (length, head) in [(125, 2), (126, 4), (65535, 4), (65536, 10)] {
            let mut out = BytesMut::new();
            put_text(&vec![b' '; length], None, &mut out);
            assert_eq!(out.len(), length + head);
        }
    }
}
