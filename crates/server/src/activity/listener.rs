//! What happens when a watch rule matches.

use tokenwire_core::generation::Generation;
use tokenwire_core::generation::watch::{RuleMatch, WatchListener};
use tokenwire_webhooks::Webhooks;

use super::{Activity, event};
pub(crate) use crate::config::watch::Action;

/// The most bytes of text in a webhook.
const MAX_TEXT: usize = 1024;

/// What one rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleAction {
    pub(crate) action: Action,
    pub(crate) include_text: bool,
}

/// Reports matches to watchers and webhooks. The core has stopped an answer by itself.
#[derive(Debug)]
pub(crate) struct MatchListener {
    pub(crate) activity: Activity,
    pub(crate) webhooks: Webhooks,
    /// By the number of the rule.
    pub(crate) rules: Vec<RuleAction>,
}

impl WatchListener for MatchListener {
    fn matched(&self, generation: &Generation, found: &RuleMatch) {
        let Some(rule) = self.rules.get(found.rule) else {
            return;
        };
        let meta = generation.meta();
        let action = rule.action;
        tracing::info!(generation = %meta.id, rule = %found.name, action = action.as_str(), "a watch rule has matched");
        self.activity.matched(generation, found, action);
        if action == Action::Webhook {
            let mut data = event::match_members(&meta.id, found);
            if let Some(members) = data.as_object_mut() {
                // The name that the SDKs look for.
                members.remove("response_id");
                if rule.include_text {
                    let text = found.text(generation, MAX_TEXT);
                    members.insert("text".to_owned(), text.into());
                }
            }
            self.webhooks.matched(&meta.owner, &meta.id, data);
        }
    }
}
