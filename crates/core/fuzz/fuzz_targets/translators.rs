//! For any body the translators do not panic, numbers have no gaps, and one terminal record ends
//! the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::upstream::decode::{Flow, SseDecoder, SseEvent};
use tokenwire_core::upstream::translate::{
    BodyEnd, ChatTranslator, Progress, RecordWriter, ResponsesTranslator,
};

fn check(records: &RecordWriter) {
    let mut next = Seq(0);
    for record in records.batch().iter() {
        assert_eq!(record.first_seq, next);
        assert!(record.events > 0, "record without an event");
        next = Seq(next.0 + record.events);
    }
    assert_eq!(records.next_seq(), next, "events outside any record");
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (n, responses, body) = input;
    let mut records = RecordWriter::new();
    let mut chat = ChatTranslator::new(u32::from(n % 4));
    let mut relay = ResponsesTranslator::new(&GenerationId::random(), None);
    let mut ending = None;
    let mut sink = |event: SseEvent<'_>| {
        let progress = match event {
            SseEvent::Data {
                name,
                data,
                terminated,
            } if responses => relay.payload(name, data, terminated, &mut records).progress,
            SseEvent::Data {
                name,
                data,
                terminated,
            } => chat.payload(name, data, terminated, &mut records).progress,
            SseEvent::ErrorField(value) => Progress::Over(chat.error_field(value)),
            SseEvent::KeepAlive => Progress::Open,
        };
        match progress {
            Progress::Over(over) => {
                ending = Some(over);
                Flow::Stop
            }
            Progress::Open | Progress::Finished | Progress::Failing => Flow::Continue,
        }
    };
    let mut decoder = SseDecoder::new(1 << 20);
    let flow = decoder.push(body, &mut sink);
    if flow == Ok(Flow::Continue) {
        let _ = decoder.finish(&mut sink);
    }
    let before = records.batch().iter().count();
    if responses {
        let ending = ending.unwrap_or_else(|| relay.body_ended(BodyEnd::Clean));
        relay.end(ending, 0, &mut records);
    } else {
        let ending = ending.unwrap_or_else(|| chat.body_ended(BodyEnd::Clean));
        chat.end(ending, 0, &mut records);
    }
    // A held usage chunk comes before a failure.
    let added = records.batch().iter().count() - before;
    assert!((1..=2).contains(&added), "the end must be one record");
    check(&records);
});
