//! The credential of a socket, and how it is replaced.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures::future::LocalBoxFuture;
use tokenwire_core::engine::{Caller, Engine};
use tokenwire_core::generation::Generation;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::activity::ActivityFeed;

/// How long before its end a client is told of it.
const NOTICE: Duration = Duration::from_secs(25);

/// What a socket may do, and how long. The default may do everything for ever.
#[derive(Clone, Debug, Default)]
pub struct SocketCredential {
    /// Cancelled when the credential is revoked: the socket closes with 4401.
    pub revoked: Option<CancellationToken>,
    /// When it ends. A client that takes `tokenwire:` events is told 25 s before.
    pub expires: Option<SystemTime>,
    /// Whether the socket closes with 4401 when it ends.
    pub closes: bool,
    /// What it may do.
    pub access: SocketAccess,
}

/// What a client of a socket may do.
#[derive(Clone, Debug)]
pub struct SocketAccess {
    /// Whether it starts generations.
    pub starts: bool,
    /// Whether it cancels those that it may read.
    pub cancels: bool,
    /// What it reads of its owner's streams.
    pub reads: SocketReads,
}

/// The streams that a client of a socket may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketReads {
    /// All of its owner.
    All,
    /// None but those that the socket starts.
    None,
    /// One.
    Stream(GenerationId),
    /// The one that was started under this idempotency key.
    Keyed(String),
}

/// Another credential for a socket.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// The client, for what it starts from now on.
    pub caller: Caller,
    /// The engine, as the client may use it.
    pub engine: Engine,
    /// What the client may do from now on.
    pub credential: SocketCredential,
    /// The activity that the client sees from now on; `None` for none.
    pub activity: Option<Rc<dyn ActivityFeed>>,
}

/// Checks the tickets that clients send on their sockets.
pub trait TicketCheck: fmt::Debug {
    /// Checks a ticket for a socket of this owner.
    ///
    /// # Errors
    /// The ticket is not valid, or is not one for this socket.
    fn renew(
        &self,
        ticket: String,
        owner: Owner,
    ) -> LocalBoxFuture<'static, Result<Renewal, ApiError>>;
}

/// The next thing to do about a credential's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// Tell the client at this time.
    Notice(Instant),
    /// Close the socket at this time.
    Close(Instant),
}

// === impl SocketAccess ===

impl Default for SocketAccess {
    fn default() -> Self {
        Self {
            starts: true,
            cancels: true,
            reads: SocketReads::All,
        }
    }
}

impl SocketAccess {
    /// Checks that the client may start something.
    pub(crate) fn check_start(&self) -> Result<(), ApiError> {
        if self.starts {
            return Ok(());
        }
        Err(not_allowed("start", "start"))
    }

    /// Checks that the client may watch what its owner has.
    fn check_watch(&self) -> Result<(), ApiError> {
        if self.reads == SocketReads::All {
            return Ok(());
        }
        let message = "The ticket may not watch its owner's streams. Get one without 'stream', that may 'read', or send a key.";
        Err(ApiError::new(ErrorCode::TicketNotAllowed, message))
    }

    /// Checks that the client may cancel what it may read.
    pub(crate) fn check_cancel(&self) -> Result<(), ApiError> {
        if self.cancels {
            return Ok(());
        }
        Err(not_allowed("cancel", "cancel"))
    }

    /// Checks that the client may read a stream, as far as its id shows.
    pub(crate) fn check_id(&self, id: &GenerationId) -> Result<(), ApiError> {
        match &self.reads {
            SocketReads::Stream(own) if own != id => Err(ApiError::new(
                ErrorCode::TicketNotAllowed,
                "The ticket is for another stream. Get one for this stream with POST /v1/tickets.",
            )),
            SocketReads::None => Err(not_allowed("read streams", "read")),
            _ => Ok(()),
        }
    }

    /// Whether only a generation itself shows if it may be read.
    pub(crate) fn reads_by_key(&self) -> bool {
        matches!(self.reads, SocketReads::Keyed(_))
    }

    /// Checks that the client may read this generation.
    pub(crate) fn check(&self, generation: &Generation) -> Result<(), ApiError> {
        let id = &generation.meta().id;
        if let SocketReads::Keyed(key) = &self.reads {
            let known = generation.header().idempotency.as_ref();
            if known.is_none_or(|known| *known.key != **key) {
                let message = format!("Response with id '{id}' not found.");
                return Err(ApiError::new(ErrorCode::NotFound, message));
            }
        }
        self.check_id(id)
    }
}

fn not_allowed(what: &str, right: &str) -> ApiError {
    let message = format!("The ticket may not {what}: 'may' does not have '{right}'.");
    ApiError::new(ErrorCode::TicketNotAllowed, message)
}

// === impl SocketCredential ===

impl SocketCredential {
    /// Checks that the client may watch its owner's streams now.
    pub(crate) fn check_watch(&self) -> Result<(), ApiError> {
        if self.is_over() {
            let message = "The credential has expired, so that the socket does not watch any more.";
            return Err(ApiError::new(ErrorCode::InvalidApiKey, message));
        }
        self.access.check_watch()
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// Returns what is to be done about its end, and when. `told`: the client was told of it.
    pub(crate) fn expiry(&self, told: bool) -> Option<Expiry> {
        let left = self.left()?;
        let now = Instant::now();
        match (told, self.closes) {
            (false, _) => Some(Expiry::Notice(now + left.saturating_sub(NOTICE))),
            (true, true) => Some(Expiry::Close(now + left)),
            (true, false) => None,
        }
    }

    /// Returns the time until its end.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = self.expires?.duration_since(SystemTime::now());
        Some(left.unwrap_or_default())
    }
}
