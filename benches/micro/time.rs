//! The micro-benchmarks in time: `cargo bench -p tokenwire-micro --bench time`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

mod cases;
mod framings;
mod player;

use cases::{
    Append, Decode, Fanout, Listing, Reading, Requested, Short, Translate, append, decode, fan_out,
    list, read, run_request, short_answer, translate,
};
use framings::Shape;

/// Runs one case. Making and dropping its input is not measured.
fn case<I>(criterion: &mut Criterion, name: &str, setup: impl Fn() -> I, run: impl Fn(I) -> I) {
    criterion.bench_function(name, |bencher| {
        bencher.iter_batched(&setup, |input| black_box(run(input)), BatchSize::LargeInput)
    });
}

fn micro(criterion: &mut Criterion) {
    case(
        criterion,
        "decoder/reads_of_4_kib",
        || Decode::new(4096),
        decode,
    );
    case(
        criterion,
        "decoder/reads_of_7_bytes",
        || Decode::new(7),
        decode,
    );
    case(
        criterion,
        "translator/templated_chunks",
        Translate::templated,
        translate,
    );
    case(
        criterion,
        "translator/parsed_chunks",
        Translate::parsed,
        translate,
    );
    for shape in Shape::ALL {
        case(
            criterion,
            &format!("dialects/{}", shape.name()),
            || Reading::new(shape),
            read,
        );
    }
    case(criterion, "log_append/token_by_token", Append::new, append);
    case(criterion, "log_read/a_thousand_records", Listing::new, list);
    case(
        criterion,
        "fanout/one_token_to_500_sse",
        || Fanout::new(500, Shape::ResponsesEventSource),
        fan_out,
    );
    case(
        criterion,
        "fanout/one_token_to_500_websocket",
        || Fanout::new(500, Shape::ResponsesWebSocket),
        fan_out,
    );
    case(criterion, "request/chat", Requested::chat, run_request);
    case(
        criterion,
        "request/responses",
        Requested::responses,
        run_request,
    );
    case(
        criterion,
        "short/five_tokens_chat",
        || Short::new(Shape::ChatSdk),
        short_answer,
    );
    case(
        criterion,
        "short/five_tokens_responses",
        || Short::new(Shape::ResponsesEventSource),
        short_answer,
    );
}

criterion_group!(all, micro);
criterion_main!(all);
