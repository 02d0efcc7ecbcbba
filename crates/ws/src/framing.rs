//! The framing of a WebSocket: one text frame per event, with the lane's `stream_id` in its JSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{BufMut as _, BytesMut};
use tokenwire_core::dialect::{Dialect, Frame, Framing};
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
    // A lane's name is `[A-Za-z0-9_.-]` only, so it needs no escapes.
    let (json, label, tail): (&[u8], _, &[u8]) = match (stream_id, json.strip_suffix(b"}")) {
        (Some(name), Some(open)) => (open, Some(name), b"\"}"),
        _ => (json, None, b""),
    };
    const MEMBER: &[u8] = b",\"stream_id\":\"";
    let length = json.len() + label.map_or(0, |name| MEMBER.len() + name.len()) + tail.len();
    out.reserve(length + 10);
    put_head(0x81, length, out);
    out.put_slice(json);
    if let Some(name) = label {
        out.put_slice(MEMBER);
        out.put_slice(name.as_bytes());
    }
    out.put_slice(tail);
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
    fn frame_head_depends_on_payload_size() {
        for (length, head) in [(125, 2), (126, 4), (65535, 4), (65536, 10)] {
            let mut out = BytesMut::new();
            put_text(&vec![b' '; length], None, &mut out);
            assert_eq!(out.len(), length + head);
        }
    }
}
