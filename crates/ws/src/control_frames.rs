//! Control frames to a client (RFC 6455, section 5.5).

use bytes::{BufMut as _, BytesMut};

/// The longest payload of a control frame.
const MAX_PAYLOAD: usize = 125;

const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// The code and the reason of a close. It may have none.
pub(crate) type CloseReason = Option<(u16, &'static str)>;

/// A frame beside the messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ControlFrame<'a> {
    Ping,
    /// The answer to a ping with this payload.
    Pong(&'a [u8]),
    /// Nothing follows it.
    Close(CloseReason),
}

// === impl ControlFrame ===

impl ControlFrame<'_> {
    pub(crate) fn write(self, out: &mut BytesMut) {
        match self {
            Self::Ping => put(PING, b"", out),
            Self::Pong(payload) => put(PONG, payload, out),
            Self::Close(None) => put(CLOSE, b"", out),
            Self::Close(Some((code, reason))) => {
                let mut payload = code.to_be_bytes().to_vec();
                payload.extend_from_slice(reason.as_bytes());
                put(CLOSE, &payload, out);
            }
        }
    }
}

fn put(first: u8, payload: &[u8], out: &mut BytesMut) {
    let payload = &payload[..payload.len().min(MAX_PAYLOAD)];
    out.reserve(2 + payload.len());
    out.put_u8(first);
    out.put_u8(payload.len() as u8);
    out.put_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_rfc() {
        for (frame, expected) in [
            (ControlFrame::Ping, &b"\x89\x00"[..]),
            // The example of section 5.7.
            (ControlFrame::Pong(b"Hello"), b"\x8a\x05Hello"),
            (ControlFrame::Close(None), b"\x88\x00"),
            (
                ControlFrame::Close(Some((1001, "bye"))),
                b"\x88\x05\x03\xe9bye",
            ),
        ] {
            let mut out = BytesMut::new();
            frame.write(&mut out);
            assert_eq!(out, expected, "{frame:?}");
        }
    }

    #[test]
    fn payload_is_cut_at_the_maximum() {
        let mut out = BytesMut::new();
        ControlFrame::Pong(&[7; 200]).write(&mut out);
        assert_eq!(out.len(), 2 + MAX_PAYLOAD);
        assert_eq!(out[1], 125);
    }
}
