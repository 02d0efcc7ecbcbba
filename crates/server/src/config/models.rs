//! Which models an upstream serves, and what it calls them.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The models of an upstream: a list of patterns, or a map from the name that clients use to the name that the upstream uses.
///
/// In a pattern `*` stands for any run of characters: `gpt-*`, `*/llama-3*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Models {
    /// Models that keep their names. An empty list is every model.
    Patterns(Vec<String>),
    /// Public name to upstream name; no other model is served.
    Renamed(BTreeMap<String, String>),
}

// === impl Models ===

impl Models {
    /// The upstream's name for the model that a client calls `public`, or `None` where the upstream does not serve it.
    #[must_use]
    pub fn upstream_name<'a>(&'a self, public: &'a str) -> Option<&'a str> {
        match self {
            Self::Patterns(patterns) if patterns.is_empty() => Some(public),
            Self::Patterns(patterns) => patterns.iter().any(|pattern| matches(pattern, public)).then_some(public),
            Self::Renamed(names) => names.get(public).map(String::as_str),
        }
    }

    /// The names by which clients may ask for the model that the upstream calls `upstream`.
    #[must_use]
    pub fn public_names(&self, upstream: &str) -> Vec<String> {
        match self {
            Self::Patterns(_) => self.upstream_name(upstream).map(str::to_owned).into_iter().collect(),
            Self::Renamed(names) => names.iter().filter(|(_, name)| *name == upstream).map(|(public, _)| public.clone()).collect(),
        }
    }

    /// The models that are listed by their full public names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (patterns, renamed) = match self {
            Self::Patterns(patterns) => (patterns.as_slice(), None),
            Self::Renamed(names) => (&[][..], Some(names)),
        };
        let listed = patterns.iter().filter(|pattern| !pattern.contains('*'));
        listed.chain(renamed.into_iter().flat_map(BTreeMap::keys)).map(String::as_str)
    }

    /// The first of these.
    #[must_use]
    pub fn first_name(&self) -> Option<&str> {
        self.names().next()
    }
}

impl Default for Models {
    fn default() -> Self {
        Self::Patterns(Vec::new())
    }
}

impl<'de> Deserialize<'de> for Models {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Models;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of model names or patterns, or a map from public name to upstream name")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Models, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(items)).map(Models::Patterns)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Models, A::Error> {
        BTreeMap::deserialize(MapAccessDeserializer::new(entries)).map(Models::Renamed)
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let (Some(first), last) = (pieces.next(), pieces.next_back()) else { return false };
    let Some(last) = last else { return pattern == name };
    let Some(mut rest) = name.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else { return false };
    // The earliest fit of each piece leaves the most room for those after it.
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = rest.get(at + piece.len()..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, name, fits) in [
            ("gpt-4o", "gpt-4o", true),
            ("gpt-4o", "gpt-4o-mini", false),
            ("gpt-*", "gpt-4o-mini", true),
            ("gpt-*", "gpt", false),
            ("*", "", true),
            ("*", "anything/at:all", true),
            ("*/llama-*b", "meta/llama-70b", true),
            ("*/llama-*b", "meta/llama-70", false),
            ("a*a", "a", false),
            ("a*b*b", "abxb", true),
            ("a*b*b", "ab", false),
            ("a**b", "ab", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_map_renames_and_serves_nothing_else() {
        let models: Models = serde_json::from_str(r#"{"fast":"gpt-4o-mini"}"#).unwrap();
        assert_eq!(models.upstream_name("fast"), Some("gpt-4o-mini"));
        assert_eq!(models.upstream_name("gpt-4o-mini"), None);
        assert_eq!(models.first_name(), Some("fast"));
    }

    #[test]
    fn an_empty_list_serves_every_model() {
        assert_eq!(Models::default().upstream_name("x"), Some("x"));
        assert_eq!(Models::default().first_name(), None);
    }
}
