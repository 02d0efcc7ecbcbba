//! What a credential has open, so that it can be ended when the credential is revoked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use slab::Slab;
use tokenwire_core::generation::Generation;
use tokio_util::sync::CancellationToken;

use super::revocation_list::Holder;

/// The time in which readers of a cancelled generation get its end, before they are cut.
const LAST_EVENTS: Duration = Duration::from_millis(200);

/// The generations that run by a credential and the responses that it reads.
#[derive(Debug, Default)]
pub(crate) struct Revocation {
    state: Mutex<State>,
    is_revoked: AtomicBool,
    /// Closes its sockets.
    sockets: CancellationToken,
    /// Says by what it can be revoked, where it is no key.
    holder: Holder,
}

#[derive(Debug, Default)]
struct State {
    running: Slab<Weak<Generation>>,
    bodies: Slab<Arc<Cut>>,
    is_cut: bool,
}

/// Ends one response body.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    is_cut: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// A place in a [`Revocation`], given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Running(Arc<Revocation>, usize);

/// A body in a [`Revocation`].
#[derive(Debug)]
pub(crate) struct OpenBody {
    revocation: Arc<Revocation>,
    place: usize,
    cut: Arc<Cut>,
    /// The waker that [`Cut`] knows.
    waker: Option<Waker>,
}

// === impl Revocation ===

impl Revocation {
    /// What a ticket or token has open.
    pub(super) fn of(holder: Holder) -> Self {
        Self {
            holder,
            ..Self::default()
        }
    }

    pub(super) fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Refuses what begins from now on.
    pub(super) fn close(&self) {
        self.is_revoked.store(true, Ordering::Release);
    }

    /// Whether the credential is revoked.
    pub(crate) fn is_revoked(&self) -> bool {
        self.is_revoked.load(Ordering::Acquire)
    }

    /// Cancelled when the sockets of the key have to close.
    pub(crate) fn sockets(&self) -> &CancellationToken {
        &self.sockets
    }

    /// Counts a generation as the key's. It is cancelled if the key is revoked.
    pub(crate) fn run(self: &Arc<Self>, generation: &Arc<Generation>) -> Running {
        let place = self.state.lock().running.insert(Arc::downgrade(generation));
        if self.is_revoked() {
            generation.cancel();
        }
        Running(self.clone(), place)
    }

    /// Counts a response body as the key's.
    pub(crate) fn open(self: &Arc<Self>) -> OpenBody {
        let cut = Arc::new(Cut::default());
        let mut state = self.state.lock();
        cut.is_cut.store(state.is_cut, Ordering::Release);
        OpenBody {
            revocation: self.clone(),
            place: state.bodies.insert(cut.clone()),
            cut,
            waker: None,
        }
    }

    /// Cancels what the credential runs, then cuts what it reads.
    pub(crate) async fn revoke(&self) {
        self.close();
        let running: Vec<_> = {
            let state = self.state.lock();
            state
                .running
                .iter()
                .filter_map(|(_, known)| known.upgrade())
                .collect()
        };
        for generation in running {
            generation.cancel();
        }
        tokio::time::sleep(LAST_EVENTS).await;
        self.sockets.cancel();
        let bodies: Vec<_> = {
            let mut state = self.state.lock();
            state.is_cut = true;
            state.bodies.iter().map(|(_, cut)| cut.clone()).collect()
        };
        for cut in bodies {
            cut.is_cut.store(true, Ordering::Release);
            if let Some(waker) = cut.waker.lock().take() {
                waker.wake();
            }
        }
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state.lock().running.try_remove(self.1);
    }
}

// === impl OpenBody ===

impl OpenBody {
    /// Whether the body has to end. Wakes this waker when it has to. Without a new waker it is one
    /// atomic load.
    pub(crate) fn poll_cut(&mut self, waker: &Waker) -> bool {
        if !self
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            self.waker = Some(waker.clone());
            *self.cut.waker.lock() = Some(waker.clone());
        }
        self.cut.is_cut.load(Ordering::Acquire)
    }
}

impl Drop for OpenBody {
    fn drop(&mut self) {
        self.revocation.state.lock().bodies.try_remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn revocation_wakes_and_cuts_open_bodies_and_sockets() {
        let revocation = Arc::new(Revocation::default());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut body = revocation.open();
        assert!(!body.poll_cut(&waker));
        drop(revocation.open());
        revocation.revoke().await;
        assert!(woken.0.load(Ordering::Acquire));
        assert!(body.poll_cut(&waker));
        assert!(revocation.sockets().is_cancelled());
        assert!(
            revocation.open().poll_cut(&waker),
            "a later body is cut too"
        );
        drop(body);
        assert!(revocation.state.lock().bodies.is_empty());
    }
}
