//! Makes tickets, and admits what browsers send with them.

use std::path::Path;
use std::sync::Arc;

use rand::RngCore as _;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::GenerationId;

use super::authenticator::Authenticator;
use super::identity::Identity;
use super::key::Key;
use super::revocation_list::{Entry, Holder};
use super::revocation_request::{RevocationRequest, owner_of};
use super::revocations::{RevocableKeys, Revocations};
use super::ticket::{
    Issuer, Ticket, TicketKind, expired_ticket, invalid_ticket, late_ticket, longest, not_allowed,
    unix_now,
};
use super::ticket_keys::TicketKeys;
use super::ticket_request::TicketRequest;
use super::ticket_uses::{Beyond, SharedUses, TicketUses};
use crate::config::Config;
use crate::config::schema::StoreKind;
use crate::sealing::kept;
use crate::time_limit::{START, within};
use tokenwire_core::generation::Generation;

/// The file in the store's folder that has the key.
const FILE: &str = "tickets.key";

/// Bytes of a key that is made here.
const LENGTH: usize = 32;

/// The tickets of a gateway. All workers share one.
#[derive(Debug)]
pub struct Tickets {
    keys: TicketKeys,
    uses: TicketUses,
    revocations: Arc<Revocations>,
    /// How long a ticket is good for a stream at most, in seconds.
    longest: u64,
}

// === impl Tickets ===

impl Tickets {
    /// Returns the tickets of this configuration. Their key is the configured one, else that of the
    /// cluster, else the one that is kept in the store's folder, else a new one for this process.
    #[must_use]
    pub fn of(
        config: &Config,
        nodes: Option<Arc<dyn SharedUses>>,
        revocations: Arc<Revocations>,
    ) -> Self {
        let configured = &config.auth.tickets;
        let folder = match (config.store.kind, &config.store.path) {
            (StoreKind::Disk, Some(path)) => Some(path.into()),
            _ => None,
        };
        let shared = configured
            .secret
            .as_ref()
            .or(config.cluster.secret.as_ref());
        let made = match shared {
            Some(_) => Vec::new(),
            None => vec![secret(folder.as_deref())],
        };
        let current = shared.into_iter().chain(&configured.previous);
        let current = current.map(|secret| secret.expose().as_bytes());
        let keys = TicketKeys::new(made.iter().map(Vec::as_slice).chain(current));
        let beyond = match (nodes, folder) {
            (Some(nodes), _) => Beyond::Nodes(nodes),
            (None, Some(folder)) => Beyond::Folder(folder),
            (None, None) => Beyond::Memory,
        };
        Self {
            keys,
            uses: TicketUses::new(beyond),
            revocations,
            longest: longest(config),
        }
    }

    /// Makes a ticket of this client.
    ///
    /// # Errors
    /// A fault of the request, or a right that the client does not have.
    pub(crate) fn issue(
        &self,
        request: TicketRequest,
        identity: &Identity,
    ) -> Result<Ticket, ApiError> {
        request.ticket(identity, self.longest)
    }

    /// Returns the text of a ticket.
    ///
    /// # Errors
    /// `invalid_ticket`, which does not happen: a ticket always fits.
    pub(crate) fn seal(&self, ticket: &Ticket) -> Result<String, ApiError> {
        let sealed = self.keys.seal(ticket);
        sealed.ok_or_else(|| invalid_ticket("The ticket cannot be made."))
    }

    /// Returns the ticket with this text, whatever it is good for.
    ///
    /// # Errors
    /// `invalid_ticket` for any other text.
    pub(crate) fn open(&self, text: &str) -> Result<Ticket, ApiError> {
        self.keys.open(text)
    }

    /// Returns who a client with this ticket is. Without `auth` only tickets that were made without
    /// it are good.
    ///
    /// # Errors
    /// `invalid_ticket` for one that is not valid, has ended, or whose issuer is not valid any more.
    pub(crate) fn identify(
        &self,
        text: &str,
        auth: Option<&Authenticator>,
    ) -> Result<Identity, ApiError> {
        let ticket = self.open(text)?;
        if ticket.is_expired() {
            return Err(expired_ticket());
        }
        let gone =
            || invalid_ticket("The key that the ticket was made with is not valid any more.");
        match (&ticket.issuer, auth) {
            (Issuer::Open, None) => self.held(None, ticket),
            (Issuer::Key(prefix), Some(auth)) => {
                let key = auth.key_of(*prefix).ok_or_else(gone)?;
                if key.is_expired() || !key.may_be(&ticket.owner()) {
                    return Err(gone());
                }
                self.held(Some(key), ticket)
            }
            (Issuer::Token(rights), Some(auth)) => {
                let key = auth
                    .key_of_token(rights, ticket.expiry())
                    .ok_or_else(gone)?;
                if !key.may_be(&ticket.owner()) {
                    return Err(gone());
                }
                self.held(Some(key), ticket)
            }
            (Issuer::Token(_), None) | (Issuer::Open, Some(_)) | (Issuer::Key(_), None) => {
                Err(gone())
            }
        }
    }

    /// Counts a ticket as in use.
    fn held(&self, key: Option<Arc<Key>>, ticket: Ticket) -> Result<Identity, ApiError> {
        let of_key = key.as_ref().map(|key| key.rights.owner.clone());
        let holder = Holder {
            ticket: Some(ticket.id.clone()),
            key: key.as_ref().map(|key| key.id.to_string()),
            owners: std::iter::once(ticket.owner()).chain(of_key).collect(),
            issued: ticket.issued,
        };
        let held = self.revocations.hold(&ticket.id, holder);
        let is_revoked = key.as_ref().is_some_and(|key| key.revocation.is_revoked());
        let held = held.filter(|_| !is_revoked);
        let held = held.ok_or_else(|| invalid_ticket("The ticket is revoked."))?;
        Ok(Identity::of_ticket(key, ticket, held))
    }

    /// Revokes what a client names: here when it returns, and at other nodes within a second.
    ///
    /// # Errors
    /// A fault of the request, a right that the client does not have, or `store_unavailable`.
    pub(crate) async fn revoke(
        &self,
        request: &RevocationRequest,
        identity: &Identity,
        auth: Option<&Authenticator>,
    ) -> Result<(), ApiError> {
        let entries = match request {
            RevocationRequest::Ticket(text) => {
                let ticket = self.open(text)?;
                if !identity.may_revoke(&ticket.owner()) {
                    return Err(not_yours("ticket"));
                }
                vec![Entry::ticket(&ticket.id, ticket.valid_until)]
            }
            RevocationRequest::Owner(name) => {
                let owner = owner_of(name);
                let is_own = identity.owner() == owner;
                if !identity.is_operator() && (is_own || !identity.may_revoke(&owner)) {
                    return Err(not_yours("owner"));
                }
                let keys = auth.map(|auth| auth.keys_of(&owner)).unwrap_or_default();
                let keys = keys.iter().map(|id| Entry::key(id));
                keys.chain([Entry::owner(&owner, unix_now())]).collect()
            }
            RevocationRequest::Key(id) => {
                if !identity.is_operator() {
                    return Err(not_yours("key"));
                }
                if !auth.is_some_and(|auth| auth.has_key(id)) {
                    let message =
                        "No key has this id. `tokenwire key list` shows those of the file.";
                    return Err(ApiError::new(ErrorCode::NotFound, message).param("key"));
                }
                vec![Entry::key(id)]
            }
        };
        let keys = auth.map(|auth| auth as &dyn RevocableKeys);
        self.revocations.add(entries, keys).await
    }

    /// Whether the store that knows what is revoked answered last.
    pub(crate) fn is_revocation_reached(&self) -> bool {
        self.revocations.is_reached()
    }

    /// Admits a connection, and notes that its ticket was used. Tickets that start something are
    /// admitted when they do.
    ///
    /// # Errors
    /// `invalid_ticket` for one that was used before and is good for one use, or that is used too
    /// late; `store_unavailable` if that cannot be told.
    pub(crate) async fn admit(&self, ticket: &Ticket) -> Result<(), ApiError> {
        match ticket.kind {
            TicketKind::Start | TicketKind::Cookie => Ok(()),
            TicketKind::Owner if ticket.is_late() => Err(late_ticket()),
            TicketKind::Owner => {
                if self.uses.claim(&ticket.id, ticket.connect_by).await? {
                    Ok(())
                } else {
                    let why = "The ticket was used: it opens one WebSocket.";
                    Err(invalid_ticket(why))
                }
            }
            TicketKind::Stream if ticket.is_late() => {
                let used = self.uses.is_used(&ticket.id, ticket.valid_until).await?;
                if used { Ok(()) } else { Err(late_ticket()) }
            }
            TicketKind::Stream => {
                self.uses.claim(&ticket.id, ticket.valid_until).await?;
                Ok(())
            }
        }
    }
}

// === impl Ticket ===

impl Ticket {
    /// Checks that the ticket is for this stream.
    ///
    /// # Errors
    /// `ticket_not_allowed` for a ticket of another stream.
    pub(crate) fn check_stream(&self, id: &GenerationId) -> Result<(), ApiError> {
        match &self.stream {
            Some(stream) if stream != id.as_str() => Err(not_allowed(
                "The ticket is for another stream. Get one for this stream with POST /v1/tickets.",
            )),
            _ => Ok(()),
        }
    }

    /// Whether a start ticket has started this generation. Other tickets are for any.
    pub(crate) fn has_started(&self, generation: &Generation) -> bool {
        let Some(key) = self.start_key() else {
            return true;
        };
        let known = generation.header().idempotency.as_ref();
        known.is_some_and(|known| *known.key == *key)
    }
}

fn not_yours(param: &'static str) -> ApiError {
    let message = "A key revokes tickets of its owner, and owners below it. The rest needs the role 'operator'.";
    ApiError::new(ErrorCode::RoleRequired, message).param(param)
}

/// Returns the key in this folder, else a new one.
fn secret(folder: Option<&Path>) -> Vec<u8> {
    let make = || {
        let mut key = vec![0; LENGTH];
        rand::rng().fill_bytes(&mut key);
        key
    };
    let Some(folder) = folder.map(Path::to_owned) else {
        return make();
    };
    match within(START, move || kept(&folder, FILE, make)) {
        Ok(key) => key,
        Err(error) => {
            tracing::warn!(%error, "the key of tickets cannot be kept in the store: tickets end with this process");
            make()
        }
    }
}
