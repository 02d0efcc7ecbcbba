//! Sends a webhook.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response};
use tokenwire_core::model::time::unix_now;
use tokenwire_core::upstream::parse_retry_after;

use crate::delivery::{Attempted, DeliveryError};
use crate::delivery_queue::Job;
use crate::endpoint::leads_inside;
use crate::resolver::{PublicResolver, Refused};

/// Maximum number of response body bytes that are read, so that the receiver can finish writing.
/// They are discarded.
const MAX_BODY: usize = 64 * 1024;
/// Maximum time for reading the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes attempts. The dispatcher limits the time of each.
pub(crate) trait Sender: Send + Sync + fmt::Debug {
    /// Makes one attempt.
    fn send(&self, job: Job) -> BoxFuture<'static, Attempted>;
}

/// Makes attempts over HTTP. Usable on one runtime only.
#[derive(Clone, Debug)]
pub(crate) struct HttpSender {
    client: Client,
    allow_private: bool,
}

// === impl HttpSender ===

impl HttpSender {
    /// Creates a sender. It ignores proxies in the environment: they would connect to addresses
    /// that were not checked.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn new(allow_private: bool, timeout: Duration) -> Result<Self, reqwest::Error> {
        // An error means that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(timeout)
            // Every attempt resolves the name again, and keeps no connection.
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
        // The client does not ask the resolver about an address in the URL.
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
            Ok(response) => classify(response).await,
            Err(error) => Err((explain(&error), None)),
        }
    }
}

impl Sender for HttpSender {
    fn send(&self, job: Job) -> BoxFuture<'static, Attempted> {
        self.clone().send(job).boxed()
    }
}

async fn classify(response: Response) -> Attempted {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| parse_retry_after(value.to_str().ok()?, SystemTime::now()));
    // Closing early can look like a failure to the receiver.
    let _ = tokio::time::timeout(BODY_TIMEOUT, read_some(response)).await;
    match status {
        200..=299 => Ok(status),
        300..=399 => Err((DeliveryError::Redirect(status), retry_after)),
        410 => Err((DeliveryError::Gone, None)),
        _ => Err((DeliveryError::Status(status), retry_after)),
    }
}

async fn read_some(mut response: Response) {
    let mut read = 0;
    while read < MAX_BODY
        && let Ok(Some(piece)) = response.chunk().await
    {
        read += piece.len();
    }
}

/// Maps an error of the client, whose own text would show the URL.
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
    use crate::signing_key::SigningKey;

    /// A job whose URL was accepted when private hosts were allowed.
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
    async fn private_address_is_refused_when_connecting() {
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
        // Only the resolver can see that a name leads to this machine.
        let unchecked = HttpSender {
            allow_private: true,
            ..sender
        };
        assert_eq!(
            unchecked
                .send(job(&format!("http://localhost:{port}/")))
                .await,
            Err((DeliveryError::Refused, None))
        );
        let connected = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(connected.is_err(), "a connection was made");
    }

    #[tokio::test]
    async fn errors_are_classified() {
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
    async fn endless_response_body_is_read_up_to_its_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endless = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            // Ends when the sender closes.
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
}
