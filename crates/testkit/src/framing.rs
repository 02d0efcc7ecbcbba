//! A minimal framing: one JSON line per frame.

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokenwire_core::dialect::{Dialect, Frame, Framing};
use tokenwire_core::model::id::GenerationId;

/// Writes a frame as `{"seq":3,"name":"response.created","data":"…"}` and a line feed. The payload
/// is a JSON string.
#[derive(Clone, Copy, Debug)]
pub struct JsonLines {
    /// Whether readers see `tokenwire:` events.
    pub extensions: bool,
    /// Whether the responses dialect ends with `[DONE]`.
    pub done: bool,
    /// Whether readers may share encoded bytes.
    pub shared: bool,
}

impl Default for JsonLines {
    fn default() -> Self {
        Self {
            extensions: true,
            done: false,
            shared: true,
        }
    }
}

/// A frame read back from [`JsonLines`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The event's number.
    pub seq: u64,
    /// Its type, where the dialect has types.
    pub name: Option<String>,
    /// Its payload.
    pub data: String,
}

impl Line {
    /// Parses all frames in these bytes.
    ///
    /// # Panics
    /// If they are not complete lines of this framing.
    #[must_use]
    pub fn all(bytes: &[u8]) -> Vec<Self> {
        assert!(
            bytes.is_empty() || bytes.ends_with(b"\n"),
            "a frame was cut: {}",
            String::from_utf8_lossy(bytes)
        );
        let text = std::str::from_utf8(bytes).expect("frames are UTF-8");
        text.lines()
            .map(|line| {
                serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("not a frame ({error}): {line}"))
            })
            .collect()
    }

    /// The payload as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| {
            panic!(
                "the payload of event {} is not JSON ({error}): {}",
                self.seq, self.data
            )
        })
    }
}

impl Framing for JsonLines {
    fn frame(&self, _stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut) {
        let name = frame.relayed_name.or(frame.name).map(str::to_owned);
        let data = std::str::from_utf8(frame.data)
            .expect("a payload is UTF-8")
            .to_owned();
        let line = serde_json::to_vec(&Line {
            seq: frame.seq.0,
            name,
            data,
        })
        .expect("a struct of strings serialises");
        out.extend_from_slice(&line);
        out.extend_from_slice(b"\n");
    }

    fn shows_extensions(&self) -> bool {
        self.extensions
    }

    fn sends_done(&self, _dialect: Dialect) -> bool {
        self.done
    }

    fn share_key(&self) -> Option<&'static str> {
        self.shared.then_some(match (self.extensions, self.done) {
            (true, true) => "lines-extensions-done",
            (true, false) => "lines-extensions",
            (false, true) => "lines-done",
            (false, false) => "lines",
        })
    }
}
