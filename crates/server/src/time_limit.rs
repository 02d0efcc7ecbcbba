//! Calls that a disk may hold for ever, made on threads of their own.
//!
//! Such a thread cannot be ended. Unlike one of the runtime's pool, it does not keep the runtime, and
//! so the process, from ending.

use std::io::{self, ErrorKind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

/// The time in which the disk must answer at the start.
pub(crate) const START: Duration = Duration::from_secs(20);
/// The time in which the disk should answer at the end.
pub(crate) const END: Duration = Duration::from_secs(1);

/// Makes a call and blocks until it returns, at most for this time.
///
/// # Errors
/// Those of the call, and [`ErrorKind::TimedOut`].
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, result) = sync_channel(1);
    let thread = std::thread::Builder::new().name("disk-call".to_owned());
    thread.spawn(move || sender.send(call()))?;
    match result.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            let message = format!("the disk has not answered for {}s", limit.as_secs());
            Err(io::Error::new(ErrorKind::TimedOut, message))
        }
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the call panicked")),
    }
}

/// Makes a call, and waits for it without blocking the runtime.
///
/// # Errors
/// Those of the call.
pub(crate) async fn beside_runtime<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("disk-call".to_owned());
    thread.spawn(move || sender.send(call()))?;
    result
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the call panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_that_hangs_is_an_error() {
        let (_sender, never) = sync_channel::<()>(1);
        let hang = move || never.recv().map_err(io::Error::other);
        let error = within(Duration::ZERO, hang).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn result_and_panic_are_returned() {
        assert_eq!(beside_runtime(|| Ok(1)).await.unwrap(), 1);
        let panicked = beside_runtime::<()>(|| panic!("on purpose")).await;
        assert!(panicked.is_err());
        assert_eq!(within(START, || Ok(1)).unwrap(), 1);
        assert!(within::<()>(START, || panic!("on purpose")).is_err());
    }
}
