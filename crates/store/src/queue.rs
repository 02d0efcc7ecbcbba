//! A bounded queue from tasks to threads.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Tasks wait for room, threads for items.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    room: Arc<Semaphore>,
}

struct State<T> {
    items: VecDeque<(T, Option<OwnedSemaphorePermit>)>,
    closed: bool,
}

/// What a thread gets.
pub(crate) enum Received<T> {
    /// An item. It takes up room until the permit is dropped.
    Item(T, Option<OwnedSemaphorePermit>),
    /// Nothing came in time.
    Nothing,
    /// The queue is closed and empty.
    Closed,
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    /// Creates a queue with room for this many items, those that are worked on included.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                closed: false,
            }),
            ready: Condvar::new(),
            room: Arc::new(Semaphore::new(room)),
        }
    }

    /// Waits for room and adds an item. Returns it if the queue is closed.
    pub(crate) async fn send(&self, item: T) -> Result<(), T> {
        match self.room.clone().acquire_owned().await {
            Ok(permit) => self.push(item, Some(permit)),
            Err(_) => Err(item),
        }
    }

    /// Adds an item beyond the bound.
    pub(crate) fn send_now(&self, item: T) {
        let _ = self.push(item, None);
    }

    fn push(&self, item: T, permit: Option<OwnedSemaphorePermit>) -> Result<(), T> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(item);
        }
        state.items.push_back((item, permit));
        self.ready.notify_one();
        Ok(())
    }

    /// Waits for an item until `due`; without it for ever.
    pub(crate) fn receive(&self, due: Option<Instant>) -> Received<T> {
        let mut state = self.state.lock();
        loop {
            if let Some((item, permit)) = state.items.pop_front() {
                return Received::Item(item, permit);
            }
            if state.closed {
                return Received::Closed;
            }
            match due {
                None => self.ready.wait(&mut state),
                Some(due) => {
                    if self.ready.wait_until(&mut state, due).timed_out() {
                        return Received::Nothing;
                    }
                }
            }
        }
    }

    /// Returns an item, if there is one.
    pub(crate) fn try_receive(&self) -> Option<(T, Option<OwnedSemaphorePermit>)> {
        self.state.lock().items.pop_front()
    }

    /// Refuses new items. Those that wait are still received.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.room.close();
        self.ready.notify_all();
    }
}

/// Returns the time after `wait` from now.
pub(crate) fn after(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or(now)
}
