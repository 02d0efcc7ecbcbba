//! Credentials: who sent a request, and what it may do.
//!
//! Where keys are configured, every request under `/v1` carries one. [`Authenticator`] finds it by
//! its hash and returns an [`Identity`], whose owner all streams belong to and whose scope limits
//! models and upstreams. Keys in a file can change while the gateway runs: those that the file does
//! not have any more are revoked, which cancels what they run and cuts what they read.

mod authenticator;
mod credential;
mod identity;
mod jwk;
mod jwks;
mod jwt_issuers;
mod key;
mod keyring;
mod keys_file;
mod line_file;
mod made_key;
mod revocation;
mod revocation_file;
mod revocation_list;
mod revocation_request;
mod revocations;
mod ticket;
mod ticket_keys;
mod ticket_request;
mod ticket_routes;
mod ticket_uses;
mod tickets;
mod verified_tokens;

pub use authenticator::Authenticator;
pub(crate) use credential::{CREDENTIAL_HEADERS, has_credential};
pub use identity::Identity;
pub(crate) use keys_file::to_yaml;
pub use keys_file::{KeysFile, KeysFileError};
pub(crate) use made_key::needs_key;
pub use made_key::{MadeKey, announcement, made_key};
pub(crate) use revocation::{OpenBody, Revocation};
pub(crate) use revocation_request::RevocationRequest;
pub(crate) use revocations::RevocableKeys;
pub use revocations::{Revocations, SharedRevocations};
pub(crate) use ticket::{Ticket, TicketKind, not_allowed};
pub(crate) use ticket_request::TicketRequest;
pub(crate) use ticket_routes::{Asked, check_route};
pub use ticket_uses::SharedUses;
pub use tickets::Tickets;
