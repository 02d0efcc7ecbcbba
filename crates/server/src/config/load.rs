//! Merges the sources: defaults, file, environment, flags.
//!
//! figment merges them and records the origin of every value. This module adds two features: it
//! continues after a value of a wrong type, so that all problems are reported at once, and it sets
//! values inside lists (`TOKENWIRE_UPSTREAMS__0__API_KEY`), whose origins it records itself.

mod explain;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value as Merged};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Deserialize;
use serde_json::{Value, json};

use self::explain::explain;
use super::check::check;
use super::environment::{Assignment, CONFIG_FILE, Environment};
use super::file;
use super::finding::Finding;
use super::jwt_issuer::JwtIssuer;
use super::problem::{ConfigError, Problem, written};
use super::schema::{Auth, Config, KeyEntry, OPENAI_BASE_URL, Upstream, WatchEntry};
use crate::cli::Cli;

/// Name of the upstream that `--base-url`, `OPENAI_BASE_URL` or `OPENAI_API_KEY` configures.
const ONLY_UPSTREAM: &str = "default";

/// A valid configuration and its origins.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file that was read, if one was.
    pub file: Option<PathBuf>,
    /// Origin of each value that was set, by path.
    pub(crate) sources: BTreeMap<String, String>,
}

// === impl Config ===

impl Config {
    /// Loads the configuration from the flags, `environment` and the file.
    ///
    /// The file is the one that `--config` or `TOKENWIRE_CONFIG` names, else
    /// [`DEFAULT_PATH`](super::DEFAULT_PATH) if it exists.
    ///
    /// # Errors
    /// All problems: an unreadable file, unknown keys, values of a wrong type, values that cannot
    /// work.
    pub fn load(
        cli: &Cli,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigError> {
        let environment = Environment::new(environment);
        let template = template();
        let mut layers = Layers::new();
        let file = layers.add_file(cli, &environment, &template)?;
        layers.add_environment(&environment, &template);
        layers.add_flags(cli);
        layers.choose_upstream(cli, &environment);
        let config = layers.extract(&template)?;
        let sources = layers.sources(&config, &template);
        Ok(Loaded {
            config,
            file,
            sources,
        })
    }

    /// Checks a configuration that was put together from others. `origin` says how.
    ///
    /// # Errors
    /// Values that cannot work.
    pub(crate) fn check(&self, origin: &str) -> Result<(), ConfigError> {
        let findings = check(self).into_iter();
        let problems: Vec<Problem> = findings
            .map(|finding| Problem {
                origin: origin.to_owned(),
                key: written(&finding.path),
                found: finding.found,
                expected: finding.expected,
                remedy: finding.remedy,
            })
            .collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(ConfigError { problems }),
        }
    }
}

/// Returns the defaults with one item in each list of sections, so that it contains every key.
pub(super) fn template() -> Value {
    let whole = Config {
        upstreams: vec![Upstream::default()],
        auth: Auth {
            keys: vec![KeyEntry::default()],
            jwt: vec![JwtIssuer::default()],
            ..Auth::default()
        },
        watch: vec![WatchEntry::default()],
        ..Config::default()
    };
    serde_json::to_value(whole).unwrap_or_default()
}

/// One source and its values.
struct Layer {
    origin: String,
    tree: Value,
}

/// The sources merged so far.
struct Layers {
    merged: Figment,
    /// Origins of values inside lists.
    in_lists: BTreeMap<Vec<String>, String>,
    /// Problems so far, with their paths.
    problems: Vec<(Vec<String>, Problem)>,
}

// === impl Layer ===

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        let dict = Merged::serialize(&self.tree)?
            .into_dict()
            .unwrap_or_default();
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

// === impl Layers ===

impl Layers {
    const DEFAULT: &str = "default";

    fn new() -> Self {
        let defaults = Layer {
            origin: Self::DEFAULT.to_owned(),
            tree: serde_json::to_value(Config::default()).unwrap_or_default(),
        };
        Self {
            merged: Figment::from(defaults),
            in_lists: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    fn merge(&mut self, origin: &str, tree: Value) {
        self.merged = std::mem::take(&mut self.merged).merge(Layer {
            origin: origin.to_owned(),
            tree,
        });
    }

    /// Sets one value. A path through a list must name an item of it or the place after the last;
    /// otherwise the error is the length of the list.
    fn set(&mut self, origin: &str, path: &[String], value: Value) -> Result<(), usize> {
        self.in_lists.retain(|known, _| !known.starts_with(path));
        let Some(at) = path.iter().position(|part| part.parse::<usize>().is_ok()) else {
            self.merge(origin, nest(path, value));
            return Ok(());
        };
        let (list_path, rest) = path.split_at(at);
        let mut list = self.list(list_path).unwrap_or_default();
        let index: usize = rest
            .first()
            .and_then(|part| part.parse().ok())
            .unwrap_or_default();
        let length = list.len();
        if index == length {
            list.push(json!({}));
        }
        let item = list.get_mut(index).ok_or(length)?;
        put(item, rest.get(1..).unwrap_or_default(), value);
        let list_origin = self.origin_of(list_path);
        self.merge(origin, nest(list_path, Value::Array(list)));
        if list_origin != Self::DEFAULT {
            self.in_lists
                .entry(list_path.to_vec())
                .or_insert(list_origin);
        }
        self.in_lists.insert(path.to_vec(), origin.to_owned());
        Ok(())
    }

    fn list(&self, path: &[String]) -> Option<Vec<Value>> {
        let list = self.merged.find_value(&path.join(".")).ok()?;
        list.as_array()?;
        serde_json::to_value(list).ok()?.as_array().cloned()
    }

    fn add_file(
        &mut self,
        cli: &Cli,
        environment: &Environment,
        template: &Value,
    ) -> Result<Option<PathBuf>, ConfigError> {
        let named = cli
            .config
            .clone()
            .or_else(|| environment.get(CONFIG_FILE).map(PathBuf::from));
        let path = named.as_deref().unwrap_or(Path::new(file::DEFAULT_PATH));
        let Some(mut tree) = file::read(path, named.is_some())? else {
            return Ok(None);
        };
        prune(&mut tree, template);
        self.merge(&path.display().to_string(), tree);
        Ok(Some(path.to_owned()))
    }

    fn add_environment(&mut self, environment: &Environment, template: &Value) {
        let (assignments, problems) = environment.assignments(template);
        self.problems
            .extend(problems.into_iter().map(|problem| (Vec::new(), problem)));
        for Assignment {
            variable,
            path,
            value,
        } in assignments
        {
            let origin = format!("environment variable {variable}");
            if let Err(length) = self.set(&origin, &path, value) {
                let problem = Problem {
                    origin,
                    key: written(&path),
                    found: "is beyond the end of the list".to_owned(),
                    expected: format!("a place from 0 to {length}"),
                    remedy: "Places in a list are numbered from 0, without gaps.".to_owned(),
                };
                self.problems.push((path, problem));
            }
        }
        if let Some(filter) = environment.get("RUST_LOG") {
            self.merge(
                "environment variable RUST_LOG",
                json!({ "log": { "filter": filter } }),
            );
        }
    }

    fn add_flags(&mut self, cli: &Cli) {
        let flags = [
            (
                "--host",
                cli.host
                    .as_ref()
                    .map(|host| json!({ "server": { "host": host } })),
            ),
            (
                "--port",
                cli.port.map(|port| json!({ "server": { "port": port } })),
            ),
            (
                "--workers",
                cli.workers
                    .map(|workers| json!({ "server": { "workers": workers } })),
            ),
            (
                "--model",
                cli.model
                    .as_ref()
                    .map(|model| json!({ "default_model": model })),
            ),
            (
                "--log",
                cli.log
                    .as_ref()
                    .map(|filter| json!({ "log": { "filter": filter } })),
            ),
        ];
        for (flag, tree) in flags {
            if let Some(tree) = tree {
                self.merge(&format!("flag {flag}"), tree);
            }
        }
    }

    /// Sets the upstream of `--base-url`, or of the variables of OpenAI's SDKs if no other is
    /// configured.
    fn choose_upstream(&mut self, cli: &Cli, environment: &Environment) {
        let (key, base) = (
            environment.get("OPENAI_API_KEY"),
            environment.get("OPENAI_BASE_URL"),
        );
        let list = vec!["upstreams".to_owned()];
        let none_so_far = self
            .list(&list)
            .is_some_and(|upstreams| upstreams.is_empty());
        let (origin, base_url) = if cli.simulator {
            self.in_lists.clear();
            self.merge("flag --simulator", json!({ "upstreams": [] }));
            return;
        } else if let Some(base_url) = &cli.base_url {
            ("flag --base-url", base_url.as_str())
        } else if none_so_far && let Some(base_url) = base {
            ("environment variable OPENAI_BASE_URL", base_url)
        } else if none_so_far && key.is_some() {
            ("environment variable OPENAI_API_KEY", OPENAI_BASE_URL)
        } else {
            return;
        };
        self.in_lists.clear();
        let upstream = json!({ "name": ONLY_UPSTREAM, "base_url": base_url, "api_key": key });
        self.merge(origin, json!({ "upstreams": [upstream] }));
        if key.is_some() {
            let path = ["upstreams", "0", "api_key"].map(str::to_owned);
            self.in_lists.insert(list, origin.to_owned());
            self.in_lists.insert(
                path.to_vec(),
                "environment variable OPENAI_API_KEY".to_owned(),
            );
        }
    }

    /// Returns the typed tree. A value that cannot be read is reported and removed, so that the
    /// remaining ones are read too.
    fn extract(&mut self, template: &Value) -> Result<Config, ConfigError> {
        let data = Provider::data(&self.merged)
            .map(|mut profiles| profiles.remove(&Profile::Default).unwrap_or_default());
        let mut root = Merged::from(data.unwrap_or_default());
        let config = loop {
            match Config::deserialize(&root) {
                Ok(config) => break Some(config),
                Err(error) => {
                    let problem = explain(&error, self.origin_of(&error.path), template);
                    let removed = remove(&mut root, &error.path);
                    self.problems.push((error.path, problem));
                    if !removed {
                        break None;
                    }
                }
            }
        };
        let findings = config.as_ref().map(check).unwrap_or_default();
        for Finding {
            path,
            found,
            expected,
            remedy,
        } in findings
        {
            // A removed value would be reported again as missing.
            if !self
                .problems
                .iter()
                .any(|(known, _)| !known.is_empty() && path.starts_with(known))
            {
                let problem = Problem {
                    origin: self.origin_of(&path),
                    key: written(&path),
                    found,
                    expected,
                    remedy,
                };
                self.problems.push((path, problem));
            }
        }
        match config {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(ConfigError {
                problems: self
                    .problems
                    .drain(..)
                    .map(|(_, problem)| problem)
                    .collect(),
            }),
        }
    }

    /// Returns the origin of the value at `path`, or of the section that contains it.
    fn origin_of(&self, path: &[String]) -> String {
        let prefixes = (1..=path.len())
            .rev()
            .filter_map(|length| path.get(..length));
        let listed = prefixes
            .clone()
            .find_map(|prefix| self.in_lists.get(prefix).cloned());
        let merged = || {
            prefixes.clone().find_map(|prefix| {
                Some(
                    self.merged
                        .find_metadata(&prefix.join("."))?
                        .name
                        .to_string(),
                )
            })
        };
        listed
            .or_else(merged)
            .unwrap_or_else(|| Self::DEFAULT.to_owned())
    }

    /// Returns the origin of every value that differs from the default, or that a flag or a variable
    /// set.
    fn sources(&self, config: &Config, template: &Value) -> BTreeMap<String, String> {
        let (effective, defaults) = (
            serde_json::to_value(config).unwrap_or_default(),
            serde_json::to_value(Config::default()).unwrap_or_default(),
        );
        let at = |tree: &Value, path: &[String]| {
            path.iter()
                .try_fold(tree, |node, part| node.get(part))
                .cloned()
        };
        let mut sources = BTreeMap::new();
        for path in leaves(template) {
            let origin = self.origin_of(&path);
            let by_hand = origin.starts_with("flag") || origin.starts_with("environment");
            if origin != Self::DEFAULT && (by_hand || at(&effective, &path) != at(&defaults, &path))
            {
                let mut origins = vec![origin];
                origins.extend(
                    self.in_lists
                        .iter()
                        .filter(|(known, _)| known.starts_with(&path))
                        .map(|(_, origin)| origin.clone()),
                );
                origins.dedup();
                sources.insert(path.join("."), origins.join(", "));
            }
        }
        sources
    }
}

/// Returns `value` below the keys of `path`.
fn nest(path: &[String], value: Value) -> Value {
    path.iter()
        .rev()
        .fold(value, |below, key| json!({ key: below }))
}

/// Puts `value` at `path` inside `tree`, and creates missing sections.
fn put(tree: &mut Value, path: &[String], value: Value) {
    match path.split_first() {
        None => *tree = value,
        Some((key, rest)) => {
            if !tree.is_object() {
                *tree = json!({});
            }
            if let Value::Object(keys) = tree {
                put(keys.entry(key.as_str()).or_insert(Value::Null), rest, value);
            }
        }
    }
}

/// Removes known keys without a value, such as a section whose keys are all commented out. They mean
/// the default.
fn prune(tree: &mut Value, template: &Value) {
    match (tree, template) {
        (Value::Object(keys), Value::Object(known)) => {
            keys.retain(|key, value| !(value.is_null() && known.contains_key(key)));
            for (key, value) in keys {
                prune(value, known.get(key).unwrap_or(&Value::Null));
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            let known = known.first().unwrap_or(&Value::Null);
            items.iter_mut().for_each(|item| prune(item, known));
        }
        _ => {}
    }
}

/// Removes the value at `path`. A list item removes the whole list, since the indexes of the others
/// would change.
fn remove(root: &mut Merged, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    match root {
        Merged::Dict(_, keys) if rest.iter().all(|part| part.parse::<usize>().is_ok()) => {
            keys.remove(first).is_some()
        }
        Merged::Dict(_, keys) => keys.get_mut(first).is_some_and(|below| remove(below, rest)),
        Merged::Array(_, items) => first
            .parse::<usize>()
            .ok()
            .and_then(|index| items.get_mut(index))
            .is_some_and(|below| remove(below, rest)),
        _ => false,
    }
}

/// Returns the paths of all keys with values. A list counts as one value, and so does an empty map,
/// whose keys are the operator's.
pub(super) fn leaves(template: &Value) -> Vec<Vec<String>> {
    match template {
        Value::Object(keys) if !keys.is_empty() => keys
            .iter()
            .flat_map(|(key, below)| {
                leaves(below)
                    .into_iter()
                    .map(move |rest| [vec![key.clone()], rest].concat())
            })
            .collect(),
        _ => vec![Vec::new()],
    }
}
