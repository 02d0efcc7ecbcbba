//! The models of an upstream, and their names there.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::timeouts::TimeoutOverrides;

/// The models of an upstream: a list of patterns, or a map from the name that clients use to the
/// name that the upstream uses.
///
/// In a pattern `*` stands for any run of characters: `gpt-*`, `*/llama-3*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Models {
    /// Models with the same name in public and upstream. An empty list is every model.
    Patterns(Vec<String>),
    /// Public name to upstream model. No other model is served.
    Renamed(BTreeMap<String, Model>),
}

/// One model: its upstream name, alone or with its own timeouts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Upstream name; the public one if `None`.
    pub name: Option<String>,
    /// Overrides of the upstream's timeouts.
    pub timeouts: TimeoutOverrides,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Detailed {
    name: Option<String>,
    timeouts: TimeoutOverrides,
}

// === impl Models ===

impl Models {
    /// Returns the upstream name of the model `public`, or `None` if the upstream does not serve it.
    #[must_use]
    pub fn upstream_name<'a>(&'a self, public: &'a str) -> Option<&'a str> {
        match self {
            Self::Patterns(patterns) if patterns.is_empty() => Some(public),
            Self::Patterns(patterns) => patterns
                .iter()
                .any(|pattern| matches(pattern, public))
                .then_some(public),
            Self::Renamed(names) => names
                .get(public)
                .map(|model| model.name.as_deref().unwrap_or(public)),
        }
    }

    /// Returns the timeout overrides of the model `public`.
    #[must_use]
    pub fn timeouts(&self, public: &str) -> Option<&TimeoutOverrides> {
        match self {
            Self::Patterns(_) => None,
            Self::Renamed(names) => names.get(public).map(|model| &model.timeouts),
        }
    }

    /// Returns the public names of the model that the upstream calls `upstream`.
    #[must_use]
    pub fn public_names(&self, upstream: &str) -> Vec<String> {
        match self {
            Self::Patterns(_) => self
                .upstream_name(upstream)
                .map(str::to_owned)
                .into_iter()
                .collect(),
            Self::Renamed(names) => names
                .iter()
                .filter(|(public, model)| model.name.as_ref().unwrap_or(public) == upstream)
                .map(|(public, _)| public.clone())
                .collect(),
        }
    }

    /// Returns the public names that are listed in full, without patterns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (patterns, renamed) = match self {
            Self::Patterns(patterns) => (patterns.as_slice(), None),
            Self::Renamed(names) => (&[][..], Some(names)),
        };
        let listed = patterns.iter().filter(|pattern| !pattern.contains('*'));
        listed
            .chain(renamed.into_iter().flat_map(BTreeMap::keys))
            .map(String::as_str)
    }

    /// Returns the first of [`names`](Self::names).
    #[must_use]
    pub fn first_name(&self) -> Option<&str> {
        self.names().next()
    }
}

impl From<&str> for Model {
    fn from(name: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            timeouts: TimeoutOverrides::default(),
        }
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

impl Serialize for Model {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.name {
            Some(name) if self.timeouts == TimeoutOverrides::default() => {
                serializer.serialize_str(name)
            }
            name => Detailed {
                name: name.clone(),
                timeouts: self.timeouts.clone(),
            }
            .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Model {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ModelReader)
    }
}

struct ModelReader;

impl<'de> Visitor<'de> for ModelReader {
    type Value = Model;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upstream's name for the model, or a map with `name` and `timeouts`")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Model, E> {
        Ok(name.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Model, A::Error> {
        let Detailed { name, timeouts } =
            Detailed::deserialize(MapAccessDeserializer::new(entries))?;
        Ok(Model { name, timeouts })
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

/// Whether `name` matches `pattern`, in which `*` stands for any run of characters.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let (Some(first), last) = (pieces.next(), pieces.next_back()) else {
        return false;
    };
    let Some(last) = last else {
        return pattern == name;
    };
    let Some(mut rest) = name
        .strip_prefix(first)
        .and_then(|rest| rest.strip_suffix(last))
    else {
        return false;
    };
    // The earliest match of each piece leaves the most text for the later ones.
    for piece in pieces {
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = rest.get(at + piece.len()..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_matches_any_run_of_characters() {
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
    fn map_renames_models_and_serves_no_other() {
        let models: Models = serde_json::from_str(r#"{"fast":"gpt-4o-mini"}"#).unwrap();
        assert_eq!(models.upstream_name("fast"), Some("gpt-4o-mini"));
        assert_eq!(models.upstream_name("gpt-4o-mini"), None);
        assert_eq!(models.first_name(), Some("fast"));
    }

    #[test]
    fn model_overrides_timeouts() {
        let text = r#"{"slow":{"name":"o3","timeouts":{"first_token":"10m"}},"same":{"timeouts":{"total":"1h"}},"fast":"mini"}"#;
        let models: Models = serde_json::from_str(text).unwrap();
        assert_eq!(
            [models.upstream_name("slow"), models.upstream_name("same")],
            [Some("o3"), Some("same")]
        );
        let first_token = |public| {
            models
                .timeouts(public)
                .and_then(|timeouts| timeouts.first_token)
        };
        assert_eq!(
            (first_token("slow"), first_token("fast")),
            (Some(std::time::Duration::from_secs(600)), None)
        );
        assert_eq!(
            (models.public_names("o3"), models.public_names("same")),
            (vec!["slow".to_owned()], vec!["same".to_owned()])
        );
        let again: Models = serde_json::from_value(serde_json::to_value(&models).unwrap()).unwrap();
        assert_eq!(again, models);
        assert!(serde_json::from_str::<Models>(r#"{"slow":{"nam":"o3"}}"#).is_err());
    }

    #[test]
    fn empty_list_serves_every_model() {
        assert_eq!(Models::default().upstream_name("x"), Some("x"));
        assert_eq!(Models::default().first_name(), None);
    }
}
