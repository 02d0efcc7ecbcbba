//! A client, as its requests are counted.

use std::sync::Arc;

use super::parties::Parties;
use super::table::Limits;

/// Who is counted, and where.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) limits: Arc<Limits>,
    pub(super) key: Option<Arc<str>>,
    pub(super) owner: Option<Arc<str>>,
    pub(super) parties: Parties,
}
