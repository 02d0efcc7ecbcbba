//! Describes an error of figment in terms of the configuration, without quoting secrets.

use figment::error::{Actual, Kind};
use serde_json::Value;

use super::leaves;
use crate::config::problem::{Problem, nearest, written};
use crate::config::units::duration;

/// Keys whose value is, or holds, a secret.
const SECRETS: &[&str] = &[
    "api_key",
    "jwks",
    "key",
    "previous",
    "sealing_key",
    "secret",
    "url",
];

/// Describes `error`, about a value that `origin` set.
pub(super) fn explain(error: &figment::Error, origin: String, template: &Value) -> Problem {
    let path = &error.path;
    let leaf = path.iter().try_fold(template, |node, part| match node {
        Value::Array(items) => items.first(),
        node => node.get(part),
    });
    // A value that may hold a key is not quoted: a secret, or text in place of a list or section.
    let quotable = leaf.is_some_and(|leaf| !leaf.is_object() && !leaf.is_array())
        && path
            .last()
            .is_none_or(|key| !SECRETS.contains(&key.as_str()));
    let (found, expected, remedy) = match &error.kind {
        Kind::UnknownField(key, siblings) => (
            "is not a known key".to_owned(),
            one_of(siblings),
            meant(path, key, siblings, template).unwrap_or_default(),
        ),
        Kind::UnknownVariant(word, words) => {
            let remedy = if written(path) == "store.kind" {
                "Write disk to keep streams across restarts."
            } else {
                ""
            };
            (format!("is {word:?}"), one_of(words), remedy.to_owned())
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let number = matches!(
                actual,
                Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_)
            );
            let remedy = match expected.as_str() {
                "a string" if number || matches!(actual, Actual::Bool(_)) => "Put it in quotes.",
                duration::EXPECTED if number => "Add a unit: `s` for seconds.",
                _ => "",
            };
            (shown(actual, quotable), plain(expected), remedy.to_owned())
        }
        // These types cause no other error. No text of serde is quoted here.
        _ => (
            "cannot be used".to_owned(),
            "a value as the shipped config/tokenwire.yaml describes it".to_owned(),
            String::new(),
        ),
    };
    Problem {
        origin,
        key: written(path),
        found,
        expected,
        remedy,
    }
}

/// Suggests a key for an unknown one: a sibling with a similar name, or the same name in another
/// section.
fn meant(path: &[String], key: &str, siblings: &[&str], template: &Value) -> Option<String> {
    let parent = path
        .split_last()
        .map(|(_, parent)| parent)
        .unwrap_or_default();
    let key = key.to_lowercase().replace('-', "_");
    let part_of = || {
        siblings
            .iter()
            .copied()
            .find(|sibling| sibling.split('_').any(|part| part == key))
    };
    let sibling = nearest(&key, siblings.iter().copied()).or_else(part_of);
    let elsewhere = || {
        leaves(template)
            .into_iter()
            .find(|known| known.last().is_some_and(|last| *last == key))
    };
    let path = sibling
        .map(|sibling| [parent, &[sibling.to_owned()]].concat())
        .or_else(elsewhere)?;
    Some(format!("Did you mean `{}`?", written(&path)))
}

fn one_of(words: &[&str]) -> String {
    match words {
        [word] => format!("`{word}`"),
        words => format!(
            "one of {}",
            words
                .iter()
                .map(|word| format!("`{word}`"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

/// Returns the value that was found, or only its type if it may be secret.
fn shown(actual: &Actual, quotable: bool) -> String {
    match actual {
        Actual::Bool(value) if quotable => format!("is {value}"),
        Actual::Unsigned(value) if quotable => format!("is {value}"),
        Actual::Signed(value) if quotable => format!("is {value}"),
        Actual::Float(value) if quotable => format!("is {value}"),
        Actual::Char(value) if quotable => format!("is \"{value}\""),
        Actual::Str(value) if quotable => format!("is {value:?}"),
        Actual::Bool(_) => "is true or false".to_owned(),
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "is a number".to_owned(),
        Actual::Seq => "is a list".to_owned(),
        Actual::Map => "is a map".to_owned(),
        Actual::Unit | Actual::Option => "is empty".to_owned(),
        _ => "is text".to_owned(),
    }
}

/// Returns serde's expectation without names of Rust types.
fn plain(expected: &str) -> String {
    match expected {
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a map".to_owned(),
        _ if expected.starts_with("struct ") => "a map of keys".to_owned(),
        _ => expected.to_owned(),
    }
}
