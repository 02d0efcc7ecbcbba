//! Commands that wait for what is not in this process.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::LocalBoxFuture;

/// What follows a command's operation in the session.
pub(crate) type Continuation<S> = Box<dyn FnOnce(&mut S)>;

/// The operations that the commands of a session wait for.
pub(crate) struct WaitingCommands<S>(Vec<LocalBoxFuture<'static, Continuation<S>>>);

impl<S> Default for WaitingCommands<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S: 'static> WaitingCommands<S> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an operation that was polled, and what follows it.
    pub(crate) fn push<T: 'static>(
        &mut self,
        operation: Pin<Box<impl Future<Output = T> + 'static>>,
        then: impl FnOnce(&mut S, T) + 'static,
    ) {
        self.0.push(Box::pin(async move {
            let output = operation.await;
            Box::new(move |session: &mut S| then(session, output)) as Continuation<S>
        }));
    }

    /// Removes an operation that is done, and returns what follows it.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Option<Continuation<S>> {
        let polled = |(at, operation): (usize, &mut LocalBoxFuture<'static, Continuation<S>>)| {
            match operation.as_mut().poll(cx) {
                Poll::Ready(then) => Some((at, then)),
                Poll::Pending => None,
            }
        };
        let (at, then) = self.0.iter_mut().enumerate().find_map(polled)?;
        drop(self.0.remove(at));
        Some(then)
    }
}
