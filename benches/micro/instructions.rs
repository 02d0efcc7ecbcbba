//! The micro-benchmarks in instructions, counted by valgrind: `cargo xtask test --only micro`.
//!
//! Instruction counts do not depend on the load of the machine, so a change of a few per cent is
//! reproducible. Making and dropping an input is not counted.
#![allow(missing_docs, reason = "the macros make public modules")]

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};

mod cases;
mod framings;
mod player;

use cases::{
    Append, Decode, Fanout, Listing, Reading, Requested, Short, Translate, append, decode, fan_out,
    list, read, run_request, short_answer, translate,
};
use framings::Shape;

#[library_benchmark]
#[bench::reads_of_4_kib(Decode::new(4096))]
#[bench::reads_of_7_bytes(Decode::new(7))]
fn decoder(input: Decode) -> Decode {
    black_box(decode(input))
}

#[library_benchmark]
#[bench::templated_chunks(Translate::templated())]
#[bench::parsed_chunks(Translate::parsed())]
fn translator(input: Translate) -> Translate {
    black_box(translate(input))
}

#[library_benchmark]
#[bench::responses_sdk(Reading::new(Shape::ResponsesSdk))]
#[bench::responses_eventsource(Reading::new(Shape::ResponsesEventSource))]
#[bench::responses_websocket(Reading::new(Shape::ResponsesWebSocket))]
#[bench::chat_sdk(Reading::new(Shape::ChatSdk))]
#[bench::chat_eventsource(Reading::new(Shape::ChatEventSource))]
#[bench::chat_websocket(Reading::new(Shape::ChatWebSocket))]
#[bench::text_sdk(Reading::new(Shape::TextSdk))]
#[bench::text_eventsource(Reading::new(Shape::TextEventSource))]
#[bench::text_websocket(Reading::new(Shape::TextWebSocket))]
fn dialects(input: Reading) -> Reading {
    black_box(read(input))
}

#[library_benchmark]
#[bench::token_by_token(Append::new())]
fn log_append(input: Append) -> Append {
    black_box(append(input))
}

#[library_benchmark]
#[bench::a_thousand_records(Listing::new())]
fn log_read(input: Listing) -> Listing {
    black_box(list(input))
}

#[library_benchmark]
#[bench::one_token_to_500_sse(Fanout::new(500, Shape::ResponsesEventSource))]
#[bench::one_token_to_500_websocket(Fanout::new(500, Shape::ResponsesWebSocket))]
fn fanout(input: Fanout) -> Fanout {
    black_box(fan_out(input))
}

#[library_benchmark]
#[bench::chat(Requested::chat())]
#[bench::responses(Requested::responses())]
fn request(input: Requested) -> Requested {
    black_box(run_request(input))
}

#[library_benchmark]
#[bench::five_tokens_chat(Short::new(Shape::ChatSdk))]
#[bench::five_tokens_responses(Short::new(Shape::ResponsesEventSource))]
fn short(input: Short) -> Short {
    black_box(short_answer(input))
}

library_benchmark_group!(
    name = micro,
    benchmarks = [
        decoder, translator, dialects, log_append, log_read, fanout, request, short
    ]
);
main!(library_benchmark_groups = micro);
