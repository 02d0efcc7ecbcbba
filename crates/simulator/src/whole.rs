//! The faults of answers that are not streamed.

use std::collections::VecDeque;
use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, HeaderValue};

use crate::body::{Director, Step};
use crate::error::ApiError;
use crate::fault::{Fault, FaultKind};
use crate::player::insert_into_text;

/// How an answer that is not streamed is sent.
pub(crate) enum Whole {
    /// At once, with its length.
    Sound(Vec<u8>),
    /// As an error.
    Failed(ApiError),
    /// Step by step.
    Staged(Box<dyn Director>),
}

struct Steps(VecDeque<Step>);

impl Director for Steps {
    fn next(&mut self) -> Step {
        self.0.pop_front().unwrap_or(Step::End)
    }
}

/// Applies the fault to the JSON of an answer. Faults that shape server-sent events leave it
/// alone.
pub(crate) fn with_fault(
    mut bytes: Vec<u8>,
    fault: Option<Fault>,
    headers: &mut HeaderMap,
) -> Whole {
    let Some(fault) = fault else {
        return Whole::Sound(bytes);
    };
    let half = |bytes: Vec<u8>, last: Step| {
        let middle = bytes.len() / 2;
        let half = Bytes::from(bytes).slice(..middle);
        Whole::Staged(Box::new(Steps(VecDeque::from([
            Step::Write(half, 0),
            last,
        ]))))
    };
    match fault.kind {
        FaultKind::Stall => half(bytes, Step::Stall),
        FaultKind::Cut => half(bytes, Step::Cut),
        FaultKind::Reset => half(bytes, Step::Reset),
        FaultKind::End => half(bytes, Step::End),
        FaultKind::Hang => Whole::Staged(Box::new(Steps(VecDeque::from([
            Step::Write(bytes.into(), 0),
            Step::Stall,
        ])))),
        FaultKind::Error => Whole::Failed(ApiError::of_status(500, "")),
        FaultKind::Malformed => {
            bytes.truncate(bytes.len() * 2 / 3);
            Whole::Sound(bytes)
        }
        FaultKind::BadUtf8 => {
            insert_into_text(&mut bytes, b"\xff\xc3\x28");
            Whole::Sound(bytes)
        }
        FaultKind::Oversize => {
            let padding = vec![b'x'; fault.size.saturating_sub(bytes.len())];
            insert_into_text(&mut bytes, &padding);
            Whole::Sound(bytes)
        }
        FaultKind::Bom => {
            bytes.splice(..0, *b"\xef\xbb\xbf");
            Whole::Sound(bytes)
        }
        FaultKind::Gzip => {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            // Writing to memory cannot fail.
            let _ = encoder.write_all(&bytes);
            Whole::Sound(encoder.finish().unwrap_or_default())
        }
        FaultKind::Split => {
            let bytes = Bytes::from(bytes);
            let steps =
                (0..bytes.len()).flat_map(|at| [Step::Write(bytes.slice(at..=at), 0), Step::Flush]);
            Whole::Staged(Box::new(Steps(steps.collect())))
        }
        _ => Whole::Sound(bytes),
    }
}
