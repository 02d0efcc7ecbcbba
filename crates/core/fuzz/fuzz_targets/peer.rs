//! What another process sends is read, or it is an error, never a panic; and what a frame announces
//! takes no memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenwire_peer::{read_frame, try_decode};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let mut body = Vec::new();
    while let Ok(kind) = futures_executor::block_on(read_frame(&mut rest, usize::MAX, &mut body)) {
        assert!(body.capacity() <= 2 * input.len() + (128 << 10));
        try_decode(kind, &body);
    }
});
