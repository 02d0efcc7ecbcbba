//! Checks of watch rules.

use tokenwire_core::generation::watch::{RuleProblem, WatchRule, WatchRules};

use super::finding::Finding;
use super::schema::Config;
use super::watch::{Action, WatchEntry};

/// The longest name of a rule, in characters.
const MAX_NAME: usize = 64;

/// Returns what cannot work in the watch rules.
pub(super) fn check_watch(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |index: usize, key: &str, found: String, expected: &str, remedy: &str| {
        let path = ["watch", &index.to_string(), key];
        findings.push(Finding {
            path: path.map(str::to_owned).to_vec(),
            found,
            expected: expected.to_owned(),
            remedy: remedy.to_owned(),
        });
    };
    let mut sound = true;
    for (index, rule) in config.watch.iter().enumerate() {
        let WatchEntry {
            name,
            words,
            regex,
            on,
            action,
            include_text,
        } = rule;
        let length = name.chars().count();
        if length == 0 || length > MAX_NAME || name.chars().any(char::is_control) {
            let expected = "a name of 1 to 64 characters, which matches are reported under";
            add(index, "name", format!("is {name:?}"), expected, "");
        } else if config
            .watch
            .iter()
            .take(index)
            .any(|known| known.name == *name)
        {
            let found = format!("is {name:?} again");
            add(index, "name", found, "a name that no other rule has", "");
        }
        if words.is_empty() == regex.is_none() {
            let found = match regex {
                Some(_) => format!("is beside a regex in the rule {name:?}"),
                None => format!("and regex are both missing in the rule {name:?}"),
            };
            let remedy = "Make two rules of it if both are to be looked for.";
            let remedy = if regex.is_some() { remedy } else { "" };
            add(index, "words", found, "either words or a regex", remedy);
            sound = false;
        }
        if on.is_empty() {
            let found = format!("is empty in the rule {name:?}");
            let expected = "one or more of text, reasoning, arguments";
            add(index, "on", found, expected, "");
        }
        if *action == Action::Webhook && config.webhooks.url.is_none() {
            let found = format!("is webhook in the rule {name:?}, but there is no webhooks.url");
            let remedy = "Set webhooks.url and webhooks.secret.";
            let expected = "notify or stop, or a webhooks.url";
            add(index, "action", found, expected, remedy);
        }
        if *include_text && *action != Action::Webhook {
            let found = format!("is set in the rule {name:?}, which sends no webhook");
            let remedy = "Activity never has a text. Leave it out, or let action be webhook.";
            add(index, "include_text", found, "false", remedy);
        }
    }
    if !sound {
        return findings;
    }
    let rules: Vec<WatchRule> = config.watch.iter().map(WatchEntry::rule).collect();
    if let Err(error) = WatchRules::compile(&rules) {
        let entry = config.watch.get(error.rule);
        let (key, shown) = match entry.and_then(|entry| entry.regex.as_ref()) {
            Some(regex) if regex.chars().count() <= 200 => ("regex", format!(" ({regex:?})")),
            Some(_) => ("regex", String::new()),
            None => ("words", String::new()),
        };
        let expected = match error.problem {
            RuleProblem::TooMany => "fewer rules",
            RuleProblem::Empty | RuleProblem::TooLong => "words that can be looked for",
            _ => "an expression that can be looked for while a text streams",
        };
        let found = format!("of the rule {:?} {}{shown}", error.name, error.problem);
        add(error.rule, key, found, expected, error.problem.remedy());
    }
    findings
}
