//! Generations for the tests of this folder.

use std::sync::Arc;
use std::time::Duration;

use super::{Generation, Holdings};
use crate::log::{LogHeader, LogLimits, LogTail};
use crate::model::account::Account;
use crate::model::id::{GenerationId, Owner};
use crate::model::snapshot::{Api, Meta};

/// What describes a chat answer that is not kept.
pub(super) fn meta() -> Meta {
    Meta {
        id: GenerationId::random(),
        owner: Owner::Anonymous,
        created_at: 0,
        model: "model".to_owned(),
        request_fields: "".into(),
        api: Api::Chat,
        background: false,
        store: false,
        include_usage: false,
    }
}

/// A generation with an empty log. `grace` is its time without a reader.
pub(super) fn generation(meta: Meta, grace: Duration) -> Arc<Generation> {
    let limits = LogLimits {
        bytes: 1 << 28,
        events: 1 << 20,
    };
    let log = Arc::new(LogTail::new(limits, Account::default()));
    let header = Arc::new(LogHeader::new(meta, "scripted"));
    Generation::new(header, log, grace, Holdings::uncounted())
}
