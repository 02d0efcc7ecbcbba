//! Who sent a request.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokenwire_core::engine::{Admission, GenerationEnd, Meter, Metered, MeteredStart};
use tokenwire_core::generation::{Generation, OutputMeter};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::Owner;
use tokenwire_core::upstream::Scope;
use tokenwire_ws::{SocketAccess, SocketCredential, SocketReads};

use super::credential::invalid;
use super::key::Key;
use super::revocation::{Revocation, Running};
use super::ticket::{Issuer, Right, Ticket, TicketKind, TokenRights, expired_ticket, late_ticket};
use crate::config::auth::Role;
use crate::limits::{ClientMeter, Limits, Reservation, Reserving};

/// Who sent a request: the holder of a key, of a ticket that was made with one, or where credentials
/// are not checked the anonymous owner, who may do everything.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The key, or that of the ticket.
    key: Option<Arc<Key>>,
    ticket: Option<Arc<Ticket>>,
    /// What the ticket may use, if that is less than what the key may.
    ticket_scope: Option<Arc<Scope>>,
    /// Ends what the ticket has open.
    of_ticket: Option<Arc<Revocation>>,
    /// The counters of what it uses, once they were looked up.
    client: Option<ClientMeter>,
}

// === impl Identity ===

impl Identity {
    pub(super) fn of_key(key: Arc<Key>) -> Self {
        Self {
            key: Some(key),
            ..Self::default()
        }
    }

    /// The holder of a ticket, which was made with this key, or without one.
    pub(super) fn of_ticket(
        key: Option<Arc<Key>>,
        ticket: Ticket,
        revocation: Arc<Revocation>,
    ) -> Self {
        let ticket = Arc::new(ticket);
        let ticket_scope = (!ticket.models.is_empty()).then(|| {
            let (models, upstreams) = ((key.clone(), ticket.clone()), key.clone());
            Arc::new(Scope::new(
                move |name| {
                    let (key, ticket) = &models;
                    may_use(key.as_deref(), Some(ticket), name)
                },
                move |name| {
                    let key = upstreams.as_ref();
                    key.is_none_or(|key| key.rights.has_upstream(name))
                },
            ))
        });
        Self {
            key,
            ticket: Some(ticket),
            ticket_scope,
            of_ticket: Some(revocation),
            client: None,
        }
    }

    /// Returns the owner of what it starts.
    #[must_use]
    pub fn owner(&self) -> Owner {
        match (&self.ticket, &self.key) {
            (Some(ticket), _) => ticket.owner(),
            (None, Some(key)) => key.rights.owner.clone(),
            (None, None) => Owner::Anonymous,
        }
    }

    /// Whether it may see what concerns all owners. A ticket never may.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        let is_key_of_one = |key: &Arc<Key>| key.rights.role == Role::Operator;
        self.ticket.is_none() && self.key.as_ref().is_none_or(is_key_of_one)
    }

    /// Whether it may use the model that clients call so.
    #[must_use]
    pub fn has_model(&self, name: &str) -> bool {
        may_use(self.key.as_deref(), self.ticket.as_deref(), name)
    }

    /// Whether it may use the upstream of this name.
    #[must_use]
    pub fn has_upstream(&self, name: &str) -> bool {
        self.key
            .as_ref()
            .is_none_or(|key| key.rights.has_upstream(name))
    }

    /// Returns what it may use of the upstreams; `None` for all.
    pub(crate) fn scope(&self) -> Option<&Arc<Scope>> {
        let by_ticket = self.ticket_scope.as_ref();
        by_ticket.or_else(|| self.key.as_ref()?.scope.as_ref())
    }

    /// Returns what ends its open connections.
    pub(crate) fn revocation(&self) -> Option<&Arc<Revocation>> {
        let of_key = || self.key.as_ref().map(|key| &key.revocation);
        self.of_ticket.as_ref().or_else(of_key)
    }

    /// Whether it may revoke what this owner has.
    pub(super) fn may_revoke(&self, owner: &Owner) -> bool {
        let key = self.key.as_ref();
        self.is_operator() || key.is_some_and(|key| key.may_be(owner))
    }

    /// Returns the limits that apply to it, and the counters of what it uses; `None` where nothing of
    /// clients is counted.
    fn client(&self, limits: &Arc<Limits>) -> Option<ClientMeter> {
        match (&self.key, &self.ticket) {
            // What a ticket uses counts for its issuer, also where it is another owner's.
            (Some(key), _) => {
                let rights = &key.rights;
                Some(limits.client(Some((key.id.clone(), &rights.limits)), &rights.owner))
            }
            (None, Some(_)) => Some(limits.client(None, &self.owner())),
            (None, None) => limits.anonymous(),
        }
    }

    /// Looks up its counters, for the request that it sent.
    pub(crate) fn look_up(&mut self, limits: &Arc<Limits>) -> Option<&ClientMeter> {
        self.client = self.client(limits);
        self.client.as_ref()
    }

    /// Returns what admits the generations that it starts.
    pub(crate) fn meter(&self, limits: &Arc<Limits>) -> Option<Arc<dyn Meter>> {
        let known = self.client.clone();
        let client = known.or_else(|| self.client(limits))?;
        if self.key.is_none() && self.ticket.is_none() {
            return Some(Arc::new(client));
        }
        Some(Arc::new(CredentialMeter {
            key: self.key.clone(),
            ticket: self.ticket.clone(),
            of_ticket: self.of_ticket.clone(),
            client,
        }))
    }

    /// Whether credentials are checked.
    pub(crate) fn is_checked(&self) -> bool {
        self.key.is_some()
    }

    /// Returns the ticket, if it came with one.
    pub(crate) fn ticket(&self) -> Option<&Arc<Ticket>> {
        self.ticket.as_ref()
    }

    /// Whether the browser sent its credential by itself.
    pub(crate) fn is_by_cookie(&self) -> bool {
        let ticket = self.ticket.as_ref();
        ticket.is_some_and(|ticket| ticket.kind == TicketKind::Cookie)
    }

    /// Whether it has this right. A key has all.
    pub(crate) fn may(&self, right: Right) -> bool {
        self.ticket.as_ref().is_none_or(|ticket| ticket.may(right))
    }

    /// Returns the time at which the key or the ticket ends.
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        let of_key = self.key.as_ref().and_then(|key| key.rights.expires);
        let of_ticket = self.ticket.as_ref().map(|ticket| ticket.expiry());
        of_key.into_iter().chain(of_ticket).min()
    }

    /// Returns what it may do on a socket. One that a ticket opened closes when the ticket ends, but
    /// for a ticket of one stream, whose end ends nothing that is open.
    pub(crate) fn socket_credential(&self) -> SocketCredential {
        let kind = self.ticket.as_ref().map(|ticket| ticket.kind);
        let of_stream = matches!(kind, Some(TicketKind::Stream | TicketKind::Start));
        SocketCredential {
            revoked: self.revocation().map(|known| known.sockets().clone()),
            expires: self.expires().filter(|_| !of_stream),
            closes: kind.is_some(),
            access: SocketAccess {
                starts: self.may(Right::Start),
                cancels: self.may(Right::Cancel),
                reads: self.socket_reads(),
            },
        }
    }

    fn socket_reads(&self) -> SocketReads {
        let Some(ticket) = &self.ticket else {
            return SocketReads::All;
        };
        match (ticket.start_key(), ticket.stream_id()) {
            (Some(key), _) => SocketReads::Keyed(key),
            (None, Some(id)) if ticket.may(Right::Read) => SocketReads::Stream(id),
            (None, None) if ticket.may(Right::Read) => SocketReads::All,
            (None, _) => SocketReads::None,
        }
    }

    /// Returns whose a ticket is that it makes.
    pub(super) fn issuer(&self) -> Issuer {
        let Some(key) = &self.key else {
            return Issuer::Open;
        };
        let rights = &key.rights;
        match &rights.issuer {
            Some(issuer) => Issuer::Token(Box::new(TokenRights {
                issuer: issuer.to_string(),
                owner: match &rights.owner {
                    Owner::Anonymous => String::new(),
                    Owner::Named(name) => name.to_string(),
                },
                role: rights.role,
                limits: rights.limits,
            })),
            None => Issuer::Key(rights.hash.prefix()),
        }
    }
}

/// Whether both the key and the ticket, where there is one, may use the model that clients call so.
fn may_use(key: Option<&Key>, ticket: Option<&Ticket>, model: &str) -> bool {
    key.is_none_or(|key| key.rights.has_model(model))
        && ticket.is_none_or(|ticket| ticket.has_model(model))
}

/// Admits what a credential starts while it is valid: a socket outlives the check of its request.
#[derive(Debug)]
struct CredentialMeter {
    key: Option<Arc<Key>>,
    ticket: Option<Arc<Ticket>>,
    /// Ends what the ticket has open.
    of_ticket: Option<Arc<Revocation>>,
    client: ClientMeter,
}

/// A generation that a credential started.
#[derive(Debug)]
struct CredentialMetered {
    reservation: Reservation,
    revocation: Option<Arc<Revocation>>,
    running: Mutex<Option<Running>>,
}

// === impl CredentialMeter ===

impl CredentialMeter {
    /// Checks that the credential is still valid.
    fn check(&self) -> Result<(), ApiError> {
        let of_key = self.key.as_ref().map(|key| &key.revocation);
        let known = self.of_ticket.iter().chain(of_key);
        if known.into_iter().any(|known| known.is_revoked()) {
            return Err(revoked());
        }
        if self.key.as_ref().is_some_and(|key| key.is_expired()) {
            return Err(expired());
        }
        if let Some(ticket) = &self.ticket {
            if ticket.is_expired() {
                return Err(expired_ticket());
            }
            // A repetition attaches, and is not asked for here.
            if ticket.kind == TicketKind::Start && ticket.is_late() {
                return Err(late_ticket());
            }
        }
        Ok(())
    }
}

impl Meter for CredentialMeter {
    fn needs_usage(&self) -> bool {
        self.client.needs_usage()
    }

    fn admit(&self, start: &MeteredStart<'_>) -> Admission {
        if let Err(error) = self.check() {
            return Admission::Now(Err(error));
        }
        let of_key = || self.key.as_ref().map(|key| &key.revocation);
        let revocation = self.of_ticket.as_ref().or_else(of_key).cloned();
        let metered = |reservation| {
            let running = Mutex::default();
            Arc::new(CredentialMetered {
                reservation,
                revocation,
                running,
            }) as Arc<dyn Metered>
        };
        match self.client.reserve(start) {
            Reserving::Now(reserved) => Admission::Now(reserved.map(metered)),
            Reserving::Later(reserved) => {
                Admission::Later(Box::pin(async move { reserved.await.map(metered) }))
            }
        }
    }
}

// === impl CredentialMetered ===

impl OutputMeter for CredentialMetered {
    fn reserved(&self) -> Option<u64> {
        self.reservation.reserved()
    }

    fn extend(&self, output: u64) -> Option<u64> {
        self.reservation.extend(output)
    }

    fn continued_without_usage(&self, output: u64) {
        self.reservation.continued_without_usage(output);
    }
}

impl Metered for CredentialMetered {
    fn started(&self, generation: &Arc<Generation>) {
        self.reservation.started(generation);
        let revocation = self.revocation.as_ref();
        *self.running.lock() = revocation.map(|revocation| revocation.run(generation));
    }

    fn relayed(&self, usage: Option<&str>) {
        self.reservation.relayed(usage);
    }

    fn ended(&self, end: &GenerationEnd<'_>) {
        self.running.lock().take();
        self.reservation.ended(end);
    }
}

/// Refuses a credential that is revoked.
pub(super) fn revoked() -> ApiError {
    invalid("The credential is revoked.")
}

/// Refuses a key that has expired.
pub(super) fn expired() -> ApiError {
    invalid("The key has expired. Ask the operator of the gateway for a new one.")
}
