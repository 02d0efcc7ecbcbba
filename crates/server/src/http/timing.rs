//! Times of one request, for `Server-Timing`: the gateway's own share is what is left after the
//! waits for the client's body and for the upstream.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

tokio::task_local! {
    static WAITS: Rc<Waits>;
}

#[derive(Debug, Default)]
struct Waits {
    client: Cell<Duration>,
    upstream: Cell<Duration>,
}

/// Measures one request.
#[derive(Debug)]
pub(super) struct Timing {
    began: Instant,
    waits: Rc<Waits>,
}

// === impl Timing ===

impl Timing {
    pub(super) fn start() -> Self {
        Self {
            began: Instant::now(),
            waits: Rc::default(),
        }
    }

    /// Runs the handler, whose waits count for this request.
    pub(super) async fn measure<F: Future>(&self, handler: F) -> F::Output {
        WAITS.scope(self.waits.clone(), handler).await
    }

    /// Adds `Server-Timing`, in milliseconds.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        let upstream = self.waits.upstream.get();
        let gateway = self
            .began
            .elapsed()
            .saturating_sub(upstream + self.waits.client.get());
        let mut value = Vec::with_capacity(64);
        value.extend_from_slice(b"gateway;dur=");
        push_milliseconds(&mut value, gateway);
        if !upstream.is_zero() {
            value.extend_from_slice(b", upstream;dur=");
            push_milliseconds(&mut value, upstream);
        }
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(value)) {
            headers.insert(SERVER_TIMING, value);
        }
    }
}

/// Appends a time in milliseconds with two decimals.
fn push_milliseconds(out: &mut Vec<u8>, time: Duration) {
    let hundredths = (time.as_nanos() + 5_000) / 10_000;
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    let mut digits = itoa::Buffer::new();
    let whole = u64::try_from(whole).unwrap_or(u64::MAX);
    out.extend_from_slice(digits.format(whole).as_bytes());
    out.push(b'.');
    if rest < 10 {
        out.push(b'0');
    }
    out.extend_from_slice(digits.format(rest).as_bytes());
}

/// Waits for bytes of the client.
pub(super) async fn for_client<F: Future>(wait: F) -> F::Output {
    let mut wait = pin!(wait);
    // What is there at once was not waited for: the clock is not read.
    if let Poll::Ready(output) = futures::poll!(wait.as_mut()) {
        return output;
    }
    add(|waits| &waits.client, wait).await
}

/// Waits for the upstream.
pub(super) async fn for_upstream<F: Future>(wait: F) -> F::Output {
    add(|waits| &waits.upstream, wait).await
}

async fn add<F: Future>(to: fn(&Waits) -> &Cell<Duration>, wait: F) -> F::Output {
    let began = Instant::now();
    let output = wait.await;
    // Outside of a measured request there is nothing to count for.
    let _ = WAITS.try_with(|waits| to(waits).set(to(waits).get() + began.elapsed()));
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_decimals_and_are_rounded() {
        for (nanoseconds, expected) in [
            (0, "0.00"),
            (4_999, "0.00"),
            (5_000, "0.01"),
            (90_000, "0.09"),
            (994_999, "0.99"),
            (995_000, "1.00"),
            (12_345_678, "12.35"),
            (3_600_000_000_000, "3600000.00"),
        ] {
            let mut out = Vec::new();
            push_milliseconds(&mut out, Duration::from_nanos(nanoseconds));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
