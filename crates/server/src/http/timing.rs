//! Times of one request, for `Server-Timing`: the gateway's own share is what is left after the
//! waits for the client's body and for the upstream.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

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
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        let mut value = format!("gateway;dur={:.2}", milliseconds(gateway));
        if !upstream.is_zero() {
            value.push_str(&format!(", upstream;dur={:.2}", milliseconds(upstream)));
        }
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(SERVER_TIMING, value);
        }
    }
}

/// Waits for bytes of the client.
pub(super) async fn for_client<F: Future>(wait: F) -> F::Output {
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
