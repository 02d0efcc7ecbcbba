//! Compares the tracker with the decoder of actix.

use actix_http::ServiceConfig;
use actix_http::h1::{Codec, Message, MessageType};
use bytes::BytesMut;
use proptest::prelude::*;
use tokio::task::LocalSet;
use tokio_util::codec::Decoder as _;

use super::*;

thread_local! {
    /// The configuration spawns a task, which is never run.
    static CONFIG: (LocalSet, ServiceConfig) = {
        let tasks = LocalSet::new();
        let guard = tasks.enter();
        let config = ServiceConfig::default();
        drop(guard);
        (tasks, config)
    };
}

/// actix's decoder with its buffer.
struct Decoder {
    codec: Codec,
    buffer: BytesMut,
    requests: u64,
    failed: bool,
}

impl Decoder {
    fn new() -> Self {
        Self {
            codec: Codec::new(CONFIG.with(|(_, config)| config.clone())),
            buffer: BytesMut::new(),
            requests: 0,
            failed: false,
        }
    }

    fn on_read(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        while !self.failed {
            match self.codec.decode(&mut self.buffer) {
                Ok(Some(Message::Item(_))) => self.requests += 1,
                Ok(Some(Message::Chunk(_))) => {}
                Ok(None) => break,
                Err(_) => self.failed = true,
            }
        }
    }

    fn is_between(&self) -> bool {
        !self.failed
            && self.buffer.is_empty()
            && matches!(self.codec.message_type(), MessageType::None)
    }

    fn is_raw(&self) -> bool {
        !self.failed && matches!(self.codec.message_type(), MessageType::Stream)
    }
}

/// Feeds both with the same pieces. Wherever the tracker is sure, actix must agree.
fn compare(pieces: &[&[u8]]) -> (RequestTracker, Decoder) {
    let (mut tracker, mut actix) = (RequestTracker::default(), Decoder::new());
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            rest = &rest[tracker.on_read(rest)..];
        }
        actix.on_read(piece);
        while tracker.dispatched < actix.requests {
            tracker.on_dispatch();
        }
        let text = || String::from_utf8_lossy(&pieces.concat()).into_owned();
        if !actix.failed && actix.requests > 0 {
            assert!(
                tracker.end_of_request().is_none() || actix.is_between(),
                "actix is not between requests: {:?}",
                text()
            );
            assert!(
                tracker.end_of_upgrade().is_none() || actix.is_raw(),
                "actix sees no upgrade: {:?}",
                text()
            );
        }
    }
    (tracker, actix)
}

fn split<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .filter_map(|pair| bytes.get(pair[0]..pair[1]))
        .collect()
}

/// The tracker is sure after these bytes, however they are split.
#[track_caller]
fn sure(text: &str) {
    for cut in 0..=text.len() {
        let (tracker, actix) = compare(&[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]);
        assert!(actix.is_between(), "actix: {text:?}");
        assert_eq!(
            tracker.end_of_request(),
            Some(text.len() as u64),
            "{text:?} split at {cut}"
        );
    }
    let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
    assert!(compare(&bytes).0.end_of_request().is_some(), "{text:?}");
}

/// The tracker is not sure after these bytes.
#[track_caller]
fn unsure(text: &str) {
    for cut in 0..=text.len() {
        let (tracker, _) = compare(&[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]);
        let dispatched = tracker.dispatched;
        assert!(
            dispatched == 0 || tracker.end_of_request().is_none(),
            "{text:?} split at {cut}"
        );
    }
}

const GET: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";

#[test]
fn complete_requests_are_recognised() {
    for before in ["", "\r\n", "\n", "\r\n\r\n", "\n\r\n\n"] {
        for request in [
            GET,
            "GET / HTTP/1.1\nhost: h\n\n",
            "GET / HTTP/1.1\r\nhost: h\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}",
            "POST / HTTP/1.1\r\nhost: h\r\nContent-Length:2  \r\n\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: Chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1 \r\n\r\r\n0\r\na: b\r\n\r\n",
        ] {
            sure(&format!("{before}{request}"));
            sure(&format!("{before}{request}{before}{request}"));
            unsure(&format!("{before}{request}\r\n"));
            unsure(&format!("{before}{request}G"));
            unsure(&format!("{before}{}", &request[..request.len() - 1]));
        }
    }
}

#[test]
fn upgrade_ends_at_its_head() {
    let text = "GET /ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n";
    for after in ["", "\r\n\r\n", "\x01\x02", GET] {
        let (tracker, _) = compare(&[text.as_bytes(), after.as_bytes()]);
        assert_eq!(tracker.end_of_upgrade(), Some(text.len() as u64));
        assert_eq!(tracker.end_of_request(), None);
        assert_eq!(tracker.total_read(), (text.len() + after.len()) as u64);
    }
}

#[test]
fn long_lines_are_skipped() {
    let long = "a".repeat(1000);
    sure(&format!(
        "GET /{long} HTTP/1.1\r\nhost: h\r\nx: {long}\r\n{long}: b\r\n\r\n"
    ));
    unsure(&format!(
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {}1\r\n\r\n{{",
        " ".repeat(MAX_LINE)
    ));
}

#[test]
fn refused_requests_are_not_recognised() {
    for text in [
        "\rGET / HTTP/1.1\r\nhost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\n\r\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +1\r\n\r\na",
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n\r\n\r\n",
    ] {
        unsure(text);
    }
}

#[test]
fn incomplete_part_is_named() {
    let long = " ".repeat(MAX_LINE);
    for (text, expected) in [
        (GET, None),
        ("\r", Some(Part::Head)),
        ("GET / HTTP/1.1\r\n", Some(Part::Head)),
        (
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{",
            Some(Part::Body),
        ),
        (
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
            Some(Part::Body),
        ),
        (
            &format!("GET / HTTP/1.1\r\nhost: h\r\nupgrade: {long}\r\n\r\n"),
            Some(Part::Unknown),
        ),
    ] {
        let (tracker, _) = compare(&[text.as_bytes()]);
        assert_eq!(
            tracker.incomplete().map(|(_, part)| part),
            expected,
            "{text:?}"
        );
    }
}

/// Requests and fragments of requests.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(GET.to_owned()),
        Just("\r\n".to_owned()),
        Just("\n".to_owned()),
        Just("GET / HTTP/1.1\nhost: h\n\n".to_owned()),
        Just("CONNECT h:1 HTTP/1.1\r\nhost: h\r\n\r\n".to_owned()),
        Just("GET / HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\n\r\n".to_owned()),
        (0..40_usize, "[ \t]{0,3}", "[a-z\r\n]{0,40}").prop_map(|(length, space, body)| format!(
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length:{space}{length}\r\n\r\n{body}"
        )),
        (
            prop::collection::vec(("[a-f\r\n]{1,20}", "(;[a-z=]{0,5})?"), 0..4),
            "([a-z]{1,3}: [a-z]{0,3}\r\n){0,2}",
        )
            .prop_map(|(chunks, trailers)| {
                let chunks: String = chunks
                    .iter()
                    .map(|(data, extension)| format!("{:x}{extension}\r\n{data}\r\n", data.len()))
                    .collect();
                format!(
                    "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n{trailers}\r\n"
                )
            }),
        "[\\x00-\\x7f]{0,8}",
    ]
}

proptest! {
    #[test]
    fn tracker_is_sure_only_where_actix_is_between_requests(
        pieces in prop::collection::vec(piece(), 1..6),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = pieces.concat().into_bytes();
        for (at, byte) in flips {
            let at = at % bytes.len().max(1);
            if let Some(found) = bytes.get_mut(at) {
                *found = byte;
            }
        }
        compare(&split(&bytes, &cuts));
    }

    #[test]
    fn tracker_is_sure_after_every_valid_request(
        pieces in prop::collection::vec(
            prop_oneof![Just(GET), Just("\r\nPOST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\n\r\n\r"),
                Just("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n")],
            1..6,
        ),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let text = pieces.concat();
        let (tracker, actix) = compare(&split(text.as_bytes(), &cuts));
        prop_assert!(actix.is_between());
        prop_assert_eq!(tracker.end_of_request(), Some(text.len() as u64));
        prop_assert_eq!(tracker.complete, pieces.len() as u64);
    }
}
