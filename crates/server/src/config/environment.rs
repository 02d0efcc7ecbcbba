//! Environment variables as assignments to keys: `TOKENWIRE_SERVER__PORT=8080` is `server.port:
//! 8080`.
//!
//! `__` separates the parts of a path, since keys contain `_`; a number is an index of a list. The
//! default at the path decides whether the text is read as a number, a boolean, a list or a string.
//! An empty variable counts as unset.

use std::collections::BTreeMap;

use serde_json::Value;

use super::problem::{Problem, nearest, written};

/// Prefix of the gateway's variables.
pub const PREFIX: &str = "TOKENWIRE_";

/// Names the configuration file, as `--config` does.
pub const CONFIG_FILE: &str = "TOKENWIRE_CONFIG";

/// The gateway's variables, without empty ones. They may hold keys, hence no `Debug`.
#[derive(Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

/// One variable's value and its path. The value may be a key, hence no `Debug`.
pub(crate) struct Assignment {
    pub(crate) variable: String,
    pub(crate) path: Vec<String>,
    pub(crate) value: Value,
}

/// Returns the environment of this process, for [`Config::load`](super::Config::load).
///
/// Unlike [`std::env::vars`] it does not panic on a variable that is not UTF-8: invalid bytes become
/// U+FFFD, and the value is refused where it is used.
pub fn of_this_process() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        )
    })
}

// === impl Environment ===

impl Environment {
    pub(crate) fn new(variables: impl Iterator<Item = (String, String)>) -> Self {
        let ours = |name: &str| {
            name.starts_with(PREFIX)
                || matches!(name, "RUST_LOG" | "OPENAI_API_KEY" | "OPENAI_BASE_URL")
        };
        Self(
            variables
                .filter(|(name, value)| ours(name) && !value.trim().is_empty())
                .collect(),
        )
    }

    /// Returns the value of one variable, without surrounding white space.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim())
    }

    /// Returns the assignments to the keys of `template`, in the order to apply them, and the problems
    /// of all other variables.
    pub(crate) fn assignments(&self, template: &Value) -> (Vec<Assignment>, Vec<Problem>) {
        let (mut assignments, mut problems) = (Vec::new(), Vec::new());
        for (variable, text) in &self.0 {
            let Some(suffix) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            if variable == CONFIG_FILE || is_service_link(variable, text) {
                continue;
            }
            let path: Vec<String> = suffix.split("__").map(str::to_lowercase).collect();
            let leaf = path.iter().try_fold(template, |node, part| match node {
                Value::Object(keys) => keys.get(part),
                Value::Array(items) => part.parse::<usize>().ok().and_then(|_| items.first()),
                _ => None,
            });
            match leaf {
                None => problems.push(unknown(variable, template)),
                Some(Value::Object(keys)) if !keys.is_empty() => {
                    problems.push(section(variable, &path, keys.keys()))
                }
                Some(leaf) => match typed(leaf, text.trim()) {
                    Some(value) => assignments.push(Assignment {
                        variable: variable.clone(),
                        path,
                        value,
                    }),
                    None => problems.push(malformed(variable, &path)),
                },
            }
        }
        // `…__2__…` before `…__10__…`, so that a list grows by one item at a time.
        assignments.sort_by_cached_key(|assignment| {
            assignment
                .path
                .iter()
                .map(|part| {
                    part.parse()
                        .map_or((0, part.clone()), |index: usize| (index, String::new()))
                })
                .collect::<Vec<_>>()
        });
        (assignments, problems)
    }
}

/// Whether Kubernetes sets this variable for a service whose name begins with `tokenwire`:
/// `TOKENWIRE_PORT=tcp://10.0.0.1:3000`.
fn is_service_link(variable: &str, value: &str) -> bool {
    let address = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    let port_part = ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
        let Some((before, after)) = variable.split_once(&format!("{protocol}_")) else {
            return false;
        };
        matches!(after, "PROTO" | "PORT" | "ADDR")
            && before
                .rsplit('_')
                .next()
                .is_some_and(|port| port.parse::<u16>().is_ok())
    });
    !variable.contains("__")
        && (address
            || port_part
            || variable.ends_with("_SERVICE_HOST")
            || variable.ends_with("_SERVICE_PORT")
            || variable.contains("_SERVICE_PORT_"))
}

/// Returns the text of a variable as the type of the default at its path; `None` for a malformed
/// list.
fn typed(default: &Value, text: &str) -> Option<Value> {
    let as_text = || Value::String(text.to_owned());
    match default {
        Value::Number(_) => Some(text.parse::<i64>().map_or_else(|_| as_text(), Value::from)),
        Value::Bool(_) => Some(
            text.to_lowercase()
                .parse::<bool>()
                .map_or_else(|_| as_text(), Value::from),
        ),
        // A map whose keys are the operator's.
        Value::Object(_) => super::file::parse(text).ok().filter(Value::is_object),
        Value::Array(_) if text.starts_with(['[', '{']) => super::file::parse(text).ok(),
        Value::Array(items) if items.first().is_none_or(Value::is_string) => Some(
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(Value::from)
                .collect(),
        ),
        _ => Some(as_text()),
    }
}

fn unknown(variable: &str, template: &Value) -> Problem {
    let known = variables_of(template);
    let remedy = nearest(variable, known.iter().map(String::as_str)).map_or_else(
        || {
            format!(
                "The prefix {PREFIX} is reserved for the gateway: rename or unset the variable."
            )
        },
        |near| format!("Did you mean {near}?"),
    );
    Problem {
        origin: format!("environment variable {variable}"),
        key: String::new(),
        found: "names no key of the configuration".to_owned(),
        expected: format!("a key's path with `__` between its parts, such as {PREFIX}SERVER__PORT"),
        remedy,
    }
}

fn section<'a>(variable: &str, path: &[String], keys: impl Iterator<Item = &'a String>) -> Problem {
    let one = keys
        .map(|key| format!("{variable}__{}", key.to_uppercase()))
        .next()
        .unwrap_or_default();
    Problem {
        origin: format!("environment variable {variable}"),
        key: written(path),
        found: "is a section".to_owned(),
        expected: "one variable for each of its keys".to_owned(),
        remedy: format!("For example {one}."),
    }
}

fn malformed(variable: &str, path: &[String]) -> Problem {
    Problem {
        origin: format!("environment variable {variable}"),
        key: written(path),
        // The value may hold a key, so it is not quoted.
        found: "cannot be read as YAML".to_owned(),
        expected: "a list or a map in YAML or JSON".to_owned(),
        remedy: "Check its brackets and quotes.".to_owned(),
    }
}

/// Returns all valid variables for the keys of `template`.
fn variables_of(template: &Value) -> Vec<String> {
    fn walk(node: &Value, name: &str, found: &mut Vec<String>) {
        match node {
            Value::Object(keys) => keys.iter().for_each(|(key, below)| {
                let separator = if name == PREFIX { "" } else { "__" };
                walk(
                    below,
                    &format!("{name}{separator}{}", key.to_uppercase()),
                    found,
                );
            }),
            leaf => {
                found.push(name.to_owned());
                if let Value::Array(items) = leaf {
                    items
                        .iter()
                        .take(1)
                        .filter(|item| item.is_object())
                        .for_each(|item| walk(item, &format!("{name}__0"), found));
                }
            }
        }
    }
    let mut found = vec![CONFIG_FILE.to_owned()];
    walk(template, PREFIX, &mut found);
    found
}
