//! Replaces the HTTP of deliveries.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::delivery::{Attempted, DeliveryError};
use crate::delivery_queue::Job;
use crate::sender::Sender;

/// Takes deliveries in place of their endpoints: a simulation of these.
pub trait Post: Send + Sync + fmt::Debug {
    /// Takes an event: its id, and its body. Returns the status of the response, or `None` if there is
    /// no connection.
    fn post(&self, event: &str, body: &str) -> BoxFuture<'static, Option<u16>>;
}

/// Makes attempts over a [`Post`].
#[derive(Debug)]
pub(crate) struct PostSender(pub(crate) Arc<dyn Post>);

impl Sender for PostSender {
    fn send(&self, job: Job) -> BoxFuture<'static, Attempted> {
        let answer = self.0.post(&job.event.id, &job.event.body());
        async move {
            match answer.await {
                Some(status @ 200..=299) => Ok(status),
                Some(status) => Err((DeliveryError::Status(status), None)),
                None => Err((DeliveryError::Connection, None)),
            }
        }
        .boxed()
    }
}
