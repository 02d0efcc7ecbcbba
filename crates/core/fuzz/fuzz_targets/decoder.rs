//! The decoder gives the same events, or the same error, for every split of a body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenwire_core::upstream::decode::{Flow, SseDecoder, SseEvent, SseOverflow};

/// Name, data and whether it was terminated (`None` for an `error:` line).
type Event = (Option<Vec<u8>>, Vec<u8>, Option<bool>);

fn decode<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    limit: usize,
) -> Result<Vec<Event>, SseOverflow> {
    let mut events = Vec::new();
    let mut sink = |event: SseEvent<'_>| {
        events.push(match event {
            SseEvent::Data {
                name,
                data,
                terminated,
            } => (name.map(<[u8]>::to_vec), data.to_vec(), Some(terminated)),
            SseEvent::ErrorField(value) => (None, value.to_vec(), None),
            SseEvent::KeepAlive => (None, Vec::new(), None),
        });
        Flow::Continue
    };
    let mut decoder = SseDecoder::new(limit);
    for piece in pieces {
        decoder.push(piece, &mut sink)?;
    }
    decoder.finish(&mut sink)?;
    Ok(events)
}

fuzz_target!(|input: (u8, u16, &[u8])| {
    let (size, limit, body) = input;
    let size = usize::from(size).max(1);
    let unsplit = decode(std::iter::once(body), usize::MAX);
    assert_eq!(
        decode(body.chunks(size), usize::MAX),
        unsplit,
        "cut every {size} bytes"
    );
    assert_eq!(
        decode(body.chunks(1), usize::MAX),
        unsplit,
        "cut at every byte"
    );
    let _ = decode(body.chunks(size), usize::from(limit));
});
