//! Other processes on the same store: during a rolling restart the one before serves what it runs,
//! and this one reads its streams. What it leaves at its end becomes this one's.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokenwire_core::engine::{
    GenerationSource, Located, Peer as _, PeerError, SharedEngine, StoredSource,
};
use tokenwire_core::log::{LogStore as _, StoreError};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner, Tag};
use tokenwire_peer::{Address, Client, KeyAnswer, Secret, Server};
use tokenwire_store::DiskStore;
use tokenwire_webhooks::Webhooks;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::limits::Limits;
use crate::storage::{end_each, owed, settle_lost, settle_rest};
use crate::time_limit::{START, beside_runtime, within};

/// How often the folders of other processes are looked at.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a request waits for what an ended process left.
const WAIT: Duration = Duration::from_secs(3);
/// The time in which the own store answers.
const STORE: Duration = Duration::from_secs(2);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(25);

/// The other processes on the same store.
#[derive(Debug)]
pub struct Neighbours {
    store: Arc<DiskStore>,
    own: StoredSource,
    tag: Tag,
    running: Mutex<BTreeMap<Tag, Client>>,
    look: Notify,
    /// Counts how often the folders were looked at.
    looked: watch::Sender<u64>,
}

impl Neighbours {
    /// Creates an empty list. [`Neighbours::watch`] fills it.
    #[must_use]
    pub fn new(store: Arc<DiskStore>) -> Self {
        Self {
            own: StoredSource::new(store.clone(), STORE),
            tag: store.tag(),
            store,
            running: Mutex::default(),
            look: Notify::new(),
            looked: watch::Sender::new(0),
        }
    }

    /// Returns the name of this process.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.tag.clone()
    }

    /// Listens for the other processes. Call it on a Tokio runtime.
    ///
    /// # Errors
    /// Those of the system: the path of the socket may be too long.
    pub fn listen(&self, engine: SharedEngine) -> io::Result<Server> {
        let Address { socket, secret } = Address::of(self.store.path());
        let runtime = tokio::runtime::Handle::current();
        within(START, move || {
            let _runtime = runtime.enter();
            let secret = Secret::create(&secret)?;
            Server::bind(&socket, secret, engine)
        })
    }

    /// Looks at the folders of other processes, and takes over what ended ones have left.
    pub async fn watch(
        self: Arc<Self>,
        engine: &SharedEngine,
        webhooks: &Webhooks,
        limits: &Arc<Limits>,
    ) {
        loop {
            let store = self.store.clone();
            let look = move || {
                let mut found = store.neighbours()?;
                // One without a socket was taken over by the process that holds it, or just starts.
                found
                    .running
                    .retain(|neighbour| Address::of(&neighbour.path).socket.exists());
                Ok(found)
            };
            match beside_runtime(look).await {
                Ok(found) => {
                    self.set_running(found.running);
                    if !found.taken.is_empty() {
                        let lost = limits.take_over(&found.entries);
                        let mut ids = found.unfinished;
                        ids.extend(owed(found.entries, webhooks));
                        // Each is ended once, also if it runs and owes a webhook.
                        ids.sort();
                        ids.dedup();
                        let (engine, webhooks) = (engine.clone(), webhooks.clone());
                        let limits = limits.clone();
                        tokio::spawn(async move {
                            end_all(ids, &engine, &webhooks).await;
                            let rest = settle_lost(lost, &engine, &limits).await;
                            settle_rest(rest, &engine, &limits).await;
                        });
                    }
                }
                Err(error) => tracing::warn!(%error, "the store's folders cannot be listed"),
            }
            self.looked.send_modify(|count| *count += 1);
            let _ = timeout(INTERVAL, self.look.notified()).await;
        }
    }

    fn set_running(&self, found: Vec<tokenwire_store::Neighbour>) {
        let mut running = self.running.lock();
        let mut before = std::mem::take(&mut *running);
        for neighbour in found {
            let tag = neighbour.tag;
            let known = before.remove(&tag);
            let address = || Address::of(&neighbour.path);
            let client = known.unwrap_or_else(|| Client::new(tag.as_str(), address()));
            running.insert(tag, client);
        }
    }

    /// Waits until the folders have been looked at after this call.
    async fn looked_again(&self) {
        let mut looked = self.looked.subscribe();
        // One that is under way may have passed the folder already.
        for _ in 0..2 {
            looked.borrow_and_update();
            self.look.notify_one();
            let _ = timeout(WAIT, looked.changed()).await;
        }
    }

    /// Waits until the folders have been looked at: before, no other process is known.
    async fn looked_once(&self) {
        let mut looked = self.looked.subscribe();
        let _ = timeout(WAIT, looked.wait_for(|count| *count > 0)).await;
    }

    fn peer(&self, tag: &str) -> Option<Client> {
        let tag: Tag = tag.parse().ok()?;
        self.running.lock().get(&tag).cloned()
    }

    fn peers(&self) -> Vec<Client> {
        self.running.lock().values().cloned().collect()
    }

    async fn find(&self, id: &GenerationId) -> Result<Located, ApiError> {
        let deadline = Instant::now() + WAIT;
        let mut looked = false;
        loop {
            let tag = id.tag().filter(|tag| *tag != self.tag.as_str());
            if let Some(peer) = tag.and_then(|tag| self.peer(tag)) {
                if !peer.take_failed() {
                    return Ok(Located::Remote(Arc::new(peer)));
                }
                // It may have ended.
                self.looked_again().await;
                if let Some(peer) = tag.and_then(|tag| self.peer(tag)) {
                    return Ok(Located::Remote(Arc::new(peer)));
                }
            }
            match self.own.locate(id).await? {
                Located::Gone => {}
                // It is being ended.
                located @ Located::Unreachable { .. } => {
                    if Instant::now() >= deadline {
                        return Ok(located);
                    }
                    sleep(PAUSE).await;
                    continue;
                }
                located => return Ok(located),
            }
            // The tag may be of a process that has started or ended just now.
            if tag.is_some() && !looked {
                looked = true;
                self.looked_again().await;
                continue;
            }
            return self.find_among_others(id).await;
        }
    }

    /// Asks the others for what ended processes have left to them.
    async fn find_among_others(&self, id: &GenerationId) -> Result<Located, ApiError> {
        let question = |peer: Client| async move {
            let has = peer.has(id).await?;
            Ok(has.then(|| Located::Remote(Arc::new(peer))))
        };
        let own = || async {
            Ok(match self.own.locate(id).await? {
                Located::Gone => None,
                located => Some(located),
            })
        };
        Ok(match self.ask(Self::peers, question, own).await? {
            Asked::Found(located) => located,
            Asked::Unknown => Located::Gone,
            Asked::Away(peer) => Located::Unreachable {
                node: peer.name().to_owned(),
            },
        })
    }

    /// Asks these processes. If one does not answer and has ended, asks the own store, and then the
    /// processes that are left: one of them has what the ended one had. Waits up to [`WAIT`] for one
    /// that does not answer: another process may be taking its folder over.
    async fn ask<T, Q, O>(
        &self,
        peers: impl Fn(&Self) -> Vec<Client>,
        question: impl Fn(Client) -> Q,
        own: impl Fn() -> O,
    ) -> Result<Asked<T>, ApiError>
    where
        Q: Future<Output = Result<Option<T>, PeerError>>,
        O: Future<Output = Result<Option<T>, ApiError>>,
    {
        self.looked_once().await;
        let deadline = Instant::now() + WAIT;
        loop {
            let asked = peers(self);
            let answers = join_all(asked.iter().cloned().map(&question)).await;
            let mut away = Vec::new();
            for (peer, answer) in asked.into_iter().zip(answers) {
                match answer {
                    Ok(Some(answer)) => return Ok(Asked::Found(answer)),
                    Ok(None) => {}
                    Err(_) => away.push(peer),
                }
            }
            if !away.is_empty() {
                self.looked_again().await;
            }
            // Asked last: this process may have taken a folder over meanwhile.
            if let Some(answer) = own().await? {
                return Ok(Asked::Found(answer));
            }
            if away.is_empty() {
                return Ok(Asked::Unknown);
            }
            let running = away.into_iter().find(|peer| self.runs(peer));
            if let Some(peer) = running {
                if Instant::now() >= deadline {
                    return Ok(Asked::Away(peer));
                }
                sleep(PAUSE).await;
            }
        }
    }

    fn runs(&self, peer: &Client) -> bool {
        self.peer(peer.name()).is_some()
    }

    /// Waits for the own store.
    async fn stored<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, ApiError> {
        let answer = timeout(STORE, answer).await;
        let no_answer = || StoreError::Unavailable("it does not answer in time".into());
        answer
            .unwrap_or_else(|_| Err(no_answer()))
            .map_err(|error| {
                tracing::error!(%error, "the store cannot be asked");
                ApiError::new(
                    ErrorCode::StoreUnavailable,
                    "The store cannot be asked now.",
                )
                .retry_after(Duration::from_secs(1))
            })
    }
}

/// What other processes and the own store answer to one question.
enum Asked<T> {
    /// One of them has an answer.
    Found(T),
    /// All have answered, and none has one.
    Unknown,
    /// This process runs and does not answer. The others have none.
    Away(Client),
}

/// Ends what ran in a process that has ended, many at a time.
async fn end_all(ids: Vec<GenerationId>, engine: &SharedEngine, webhooks: &Webhooks) {
    const AT_ONCE: usize = 64;
    for ids in ids.chunks(AT_ONCE) {
        let each = ids.iter().map(|id| async move {
            let mut rest = end_each(vec![id.clone()], engine, webhooks).await;
            while !rest.is_empty() {
                sleep(INTERVAL).await;
                rest = end_each(rest, engine, webhooks).await;
            }
        });
        join_all(each).await;
    }
}

fn starting() -> ApiError {
    ApiError::new(
        ErrorCode::Overloaded,
        "A request with this idempotency key is just being started.",
    )
    .retry_after(Duration::from_secs(1))
}

/// Returns the error for a process that runs and does not answer.
pub(crate) fn no_answer(peer: &Client) -> ApiError {
    ApiError::new(
        ErrorCode::OwnerUnreachable,
        format!("The node '{}' cannot be reached.", peer.name()),
    )
    .retry_after(Duration::from_secs(1))
}

impl GenerationSource for Neighbours {
    fn locate(&self, id: &GenerationId) -> BoxFuture<'_, Result<Located, ApiError>> {
        let id = id.clone();
        async move { self.find(&id).await }.boxed()
    }

    fn keyed<'a>(
        &'a self,
        owner: &'a Owner,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<GenerationId>, ApiError>> {
        async move {
            let question = |peer: Client| async move {
                Ok(match peer.key(owner, key).await? {
                    KeyAnswer::Known(id) => Some(Ok(id)),
                    KeyAnswer::Starting => Some(Err(starting())),
                    KeyAnswer::Unknown => None,
                })
            };
            let own = || async {
                let known = self.stored(self.store.keyed(owner, key)).await?;
                Ok(known.map(Ok))
            };
            match self.ask(Self::peers, question, own).await? {
                Asked::Found(known) => known.map(Some),
                Asked::Unknown => Ok(None),
                Asked::Away(peer) => Err(no_answer(&peer)),
            }
        }
        .boxed()
    }

    fn delete<'a>(&'a self, id: &'a GenerationId) -> BoxFuture<'a, Result<(), ApiError>> {
        async move {
            if id.tag() == Some(self.tag.as_str()) {
                return Ok(());
            }
            let peers = |this: &Self| {
                let named = id.tag().and_then(|tag| this.peer(tag));
                named.map_or_else(|| this.peers(), |peer| vec![peer])
            };
            let question = |peer: Client| async move {
                peer.delete(id).await?;
                Ok(None)
            };
            // What an ended process had is deleted where it is now.
            let own = || async {
                self.stored(self.store.delete(id)).await?;
                Ok(None)
            };
            match self.ask::<(), _, _>(peers, question, own).await? {
                Asked::Found(()) | Asked::Unknown => Ok(()),
                Asked::Away(peer) => Err(no_answer(&peer)),
            }
        }
        .boxed()
    }
}
