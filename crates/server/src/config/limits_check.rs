//! Checks of limits of clients, and of prices.

use super::client_limits::ClientLimits;
use super::finding::Finding;
use super::schema::Config;

/// Returns what cannot work in the limits and prices.
pub(super) fn check_limits(config: &Config) -> Vec<Finding> {
    let limits = &config.limits;
    let mut findings = Vec::new();
    let mut add = |path: &[&str], found: &str, expected: &str, remedy: &str| {
        findings.push(Finding {
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            found: found.to_owned(),
            expected: expected.to_owned(),
            remedy: remedy.to_owned(),
        });
    };
    let mut each = |path: &[&str], limits: &ClientLimits| {
        for name in limits.zeros() {
            let path = [path, &[name]].concat();
            add(&path, "is 0", "more than 0", "Leave it out for no limit.");
        }
        let budget = match (limits.budget_per_day, limits.budget_per_month) {
            (Some(_), _) => "budget_per_day",
            (None, Some(_)) => "budget_per_month",
            (None, None) => return,
        };
        if config.prices.0.is_empty() {
            let path = [path, &[budget]].concat();
            let remedy = "Add the models to `prices`.";
            add(
                &path,
                "is set without prices",
                "prices to count it by",
                remedy,
            );
        }
    };
    each(&["limits", "per_key"], &limits.per_key);
    each(&["limits", "per_owner"], &limits.per_owner);
    for (index, entry) in config.auth.keys.iter().enumerate() {
        // The check of the entry finds zeros.
        if entry.limits.zeros().next().is_none() {
            each(
                &["auth", "keys", &index.to_string(), "limits"],
                &entry.limits,
            );
        }
    }
    for (index, issuer) in config.auth.jwt.iter().enumerate() {
        if issuer.limits.zeros().next().is_none() {
            each(
                &["auth", "jwt", &index.to_string(), "limits"],
                &issuer.limits,
            );
        }
    }
    if limits.reserve_output == 0 {
        let expected = "at least 1 token";
        add(&["limits", "reserve_output"], "is 0", expected, "");
    }
    for (model, price) in &config.prices.0 {
        if model.trim().is_empty() {
            let expected = "the name of a model, or a pattern such as gpt-*";
            add(&["prices"], "has an empty name", expected, "");
        }
        if price.max_output == Some(0) {
            let path = ["prices", model, "max_output"];
            add(
                &path,
                "is 0",
                "at least 1 token",
                "Leave it out if it is not known.",
            );
        }
    }
    findings
}
