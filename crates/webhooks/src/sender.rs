//! The one who makes an attempt.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response};
use tokenwire_core::model::time::unix_now;

use super::delivery::{Attempted, DeliveryError};
use super::endpoint::leads_inside;
use super::queue::Job;
use super::resolver::{PublicResolver, Refused};

/// How much of an answer's body is read, so that its sender can finish; what is in it is of no
/// interest.
const MOST_OF_A_BODY: usize = 64 * 1024;
/// How long that may take.
const BODY_TIME: Duration = Duration::from_secs(1);

/// Makes attempts. The dispatcher sees to it that each ends in time.
pub(crate) trait Sender: Send + Sync + fmt::Debug {
    /// Makes one.
    fn send(&self, job: Job) -> BoxFuture<'static, Attempted>;
}

/// Makes attempts over HTTP. Belongs to the runtime that uses it first.
#[derive(Clone, Debug)]
pub(crate) struct HttpSender {
    client: Client,
    allow_private: bool,
}

// === impl HttpSender ===

impl HttpSender {
    /// A courier. No proxy is used, whatever the environment says: it would connect to addresses
    /// that nobody looked at.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(allow_private: bool, timeout: Duration) -> Result<Self, reqwest::Error> {
        // Another part of the process may have chosen a provider already; that is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(timeout)
            // Every attempt asks for the addresses anew, and no host is held on to.
            .pool_max_idle_per_host(0)
            .referer(false)
            .user_agent(concat!("tokenwire/", env!("CARGO_PKG_VERSION")));
        if !allow_private {
            client = client.dns_resolver(Arc::new(PublicResolver));
        }
        Ok(Self {
            client: client.build()?,
            allow_private,
        })
    }

    async fn send(self, job: Job) -> Attempted {
        // The resolver is not asked about addresses that stand in the URL.
        if !self.allow_private && leads_inside(job.endpoint.url()) {
            return Err((DeliveryError::Refused, None));
        }
        let (id, timestamp, body) = (job.event.id.as_str(), unix_now(), job.event.body());
        let request = self
            .client
            .post(job.endpoint.url().clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header(
                "webhook-signature",
                job.endpoint.key().sign(id, timestamp, &body),
            )
            .body(body);
        match request.send().await {
            Ok(response) => judge(response).await,
            Err(error) => Err((explain(&error), None)),
        }
    }
}

impl Sender for HttpSender {
    fn send(&self, job: Job) -> BoxFuture<'static, Attempted> {
        self.clone().send(job).boxed()
    }
}

async fn judge(response: Response) -> Attempted {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
    // An end that is cut short may look like a failure on the other side.
    let _ = tokio::time::timeout(BODY_TIME, read_some(response)).await;
    match status {
        200..=299 => Ok(status),
        300..=399 => Err((DeliveryError::Redirect(status), retry_after)),
        410 => Err((DeliveryError::Gone, None)),
        _ => Err((DeliveryError::Status(status), retry_after)),
    }
}

async fn read_some(mut response: Response) {
    let mut read = 0;
    while read < MOST_OF_A_BODY
        && let Ok(Some(piece)) = response.chunk().await
    {
        read += piece.len();
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    date.duration_since(now).ok()
}

/// What went wrong, without the URL that the error itself would show.
fn explain(error: &reqwest::Error) -> DeliveryError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<Refused>() {
            return DeliveryError::Refused;
        }
        cause = error.source();
    }
    if error.is_timeout() {
        DeliveryError::TimedOut
    } else if error.is_dns() {
        DeliveryError::Unresolved
    } else {
        DeliveryError::Connection
    }
}

#[cfg(test)]
mod tests {
    use tokenwire_core::model::id::GenerationId;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::endpoint::{Endpoint, parse_url};
    use crate::event::Event;
    use crate::signature::SigningKey;

    /// A URL that was let through when it was asked for, whatever it leads to now.
    fn job(url: &str) -> Job {
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let endpoint = Endpoint::new(parse_url(url, true).unwrap(), key);
        Job {
            number: 0,
            event: Event::new("response.completed", GenerationId::random()),
            endpoint,
        }
    }

    #[tokio::test]
    async fn what_is_connected_to_is_judged_and_not_what_was_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sender = HttpSender::new(false, Duration::from_secs(30)).unwrap();
        for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "localhost", "2130706433"] {
            let attempted = sender
                .clone()
                .send(job(&format!("http://{host}:{port}/")))
                .await;
            assert_eq!(attempted, Err((DeliveryError::Refused, None)), "{host}");
        }
        // A name that looks like any other, and resolves to this machine: only the resolver can
        // tell.
        let blind = HttpSender {
            allow_private: true,
            ..sender
        };
        assert_eq!(
            blind.send(job(&format!("http://localhost:{port}/"))).await,
            Err((DeliveryError::Refused, None))
        );
        let connected = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(connected.is_err(), "somebody was connected to");
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let sender = HttpSender::new(true, Duration::from_millis(200)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(
            sender
                .clone()
                .send(job(&format!("http://{address}/")))
                .await,
            Err((DeliveryError::TimedOut, None))
        );
        drop(listener);
        assert_eq!(
            sender
                .clone()
                .send(job(&format!("http://{address}/")))
                .await,
            Err((DeliveryError::Connection, None))
        );
        let sender = HttpSender::new(true, Duration::from_secs(30)).unwrap();
        assert_eq!(
            sender.send(job("http://no-such-name.invalid/")).await,
            Err((DeliveryError::Unresolved, None))
        );
    }

    #[tokio::test]
    async fn of_an_answer_without_end_no_more_is_read_than_may_be() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endless = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            // Until the other side has closed.
            while socket.write_all(&[b'x'; 4096]).await.is_ok() {}
        });
        let sender = HttpSender::new(true, Duration::from_secs(30)).unwrap();
        assert_eq!(
            sender.send(job(&format!("http://{address}/"))).await,
            Ok(200)
        );
        tokio::time::timeout(Duration::from_secs(30), endless)
            .await
            .unwrap()
            .unwrap();
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
        for (value, expected) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("Sun, 06 Nov 1993 08:49:37 GMT", None),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(
                retry_after(value, now),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
    }
}
