//! Credentials: who sent a request, and what it may do.
//!
//! Where keys are configured, every request under `/v1` carries one. [`Authenticator`] finds it by
//! its hash and returns an [`Identity`], whose owner all streams belong to and whose scope limits
//! models and upstreams. Keys in a file can change while the gateway runs: those that the file does
//! not have any more are revoked, which cancels what they run and cuts what they read.

mod authenticator;
mod credential;
mod identity;
mod key;
mod keyring;
mod keys_file;
mod made_key;
mod revocation;

pub use authenticator::Authenticator;
pub(crate) use credential::CREDENTIAL_HEADERS;
pub use identity::Identity;
pub(crate) use keys_file::to_yaml;
pub use keys_file::{KeysFile, KeysFileError};
pub use made_key::{MadeKey, announcement, made_key};
pub(crate) use revocation::{OpenBody, Revocation};
