//! A block that parses has the records that it lists; any other is an error, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

fuzz_target!(|input: (u64, &[u8])| {
    let (first, block) = input;
    let Ok(parsed) = RecordBatch::parse(Seq(first), block.to_vec()) else {
        return;
    };
    let mut again = RecordBatch::default();
    again.restart(Seq(first));
    for record in &parsed {
        again.skip(record.first_seq.0 - again.end_seq().0);
        again.push(record.events, record.payload);
    }
    assert_eq!(again.end_seq(), parsed.end_seq());
    let reparsed = RecordBatch::parse(Seq(first), again.as_block().to_vec())
        .expect("what was pushed parses");
    assert!(reparsed.iter().eq(parsed.iter()));
});
