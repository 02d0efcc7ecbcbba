//! Compiles the watch rules of the configuration.

use std::sync::Arc;

use tokenwire_core::generation::watch::{RuleError, Watch, WatchRule, WatchRules};
use tokenwire_webhooks::Webhooks;

use crate::activity::{Activity, MatchListener, RuleAction};
use crate::config::schema::{Config, WatchEntry};

/// Returns the rules of a configuration, with what their matches do. `None` without rules.
///
/// # Errors
/// A rule that cannot be watched for. The check of the configuration finds it before.
pub(crate) fn watch_of(
    config: &Config,
    activity: &Activity,
    webhooks: &Webhooks,
) -> Result<Option<Watch>, RuleError> {
    if config.watch.is_empty() {
        return Ok(None);
    }
    let rules: Vec<WatchRule> = config.watch.iter().map(WatchEntry::rule).collect();
    let actions = config.watch.iter().map(|entry| RuleAction {
        action: entry.action,
        include_text: entry.include_text,
    });
    let listener = MatchListener {
        activity: activity.clone(),
        webhooks: webhooks.clone(),
        rules: actions.collect(),
    };
    Ok(Some(Watch {
        rules: Arc::new(WatchRules::compile(&rules)?),
        listener: Arc::new(listener),
    }))
}
