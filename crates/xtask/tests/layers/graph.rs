//! Which siblings of a folder depend on which, and the cycles among them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;

use crate::resolve::resolve;
use crate::source::{Crate, Segments};

/// Where one sibling first refers to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    pub(crate) path: String,
    /// How many references there are in all.
    pub(crate) count: usize,
}

/// The dependencies among the siblings of one folder.
#[derive(Debug, Default)]
pub(crate) struct Siblings {
    pub(crate) edges: BTreeMap<(String, String), Place>,
}

/// Siblings that depend on each other, directly or through others.
#[derive(Debug)]
pub(crate) struct Cycle {
    /// The module that the siblings are in; empty for the crate's root.
    pub(crate) folder: Segments,
    /// A shortest way around.
    pub(crate) way: Vec<(String, String, Place)>,
    /// The other dependencies among the siblings that the way's modules are tied to.
    pub(crate) others: Vec<(String, String, Place)>,
}

// === impl Siblings ===

/// Returns the dependencies of every folder of `krate`, by the path of its module.
pub(crate) fn dependencies(krate: &Crate) -> BTreeMap<Segments, Siblings> {
    let mut folders: BTreeMap<Segments, Siblings> = BTreeMap::new();
    for (index, module) in krate.modules.iter().enumerate() {
        for reference in &module.references {
            let Some(target) = resolve(krate, index, &reference.segments) else {
                continue;
            };
            let target = &krate.modules[target].path;
            let common = module
                .path
                .iter()
                .zip(target)
                .take_while(|(own, other)| own == other)
                .count();
            let (Some(from), Some(to)) = (module.path.get(common), target.get(common)) else {
                continue;
            };
            folders
                .entry(target[..common].to_vec())
                .or_default()
                .edges
                .entry((from.clone(), to.clone()))
                .and_modify(|place| place.count += 1)
                .or_insert_with(|| Place {
                    file: module.file.clone(),
                    line: reference.line,
                    path: reference.segments.join("::"),
                    count: 1,
                });
        }
    }
    folders
}

impl Siblings {
    /// Returns one cycle for each group of siblings that are tied to each other.
    pub(crate) fn cycles(&self, folder: &Segments) -> Vec<Cycle> {
        let mut seen = BTreeSet::new();
        let mut cycles = Vec::new();
        for (from, _) in self.edges.keys() {
            if seen.contains(from) {
                continue;
            }
            let group: BTreeSet<&String> = self
                .reachable(from)
                .into_iter()
                .filter(|name| self.reachable(name).contains(from))
                .collect();
            seen.extend(group.iter().map(|name| (*name).clone()));
            let Some(way) = group
                .iter()
                .filter_map(|name| self.way_around(name))
                .min_by_key(Vec::len)
            else {
                continue;
            };
            let others = self
                .edges
                .iter()
                .filter(|((from, to), _)| group.contains(from) && group.contains(to))
                .filter(|((from, to), _)| !way.iter().any(|(f, t, _)| f == from && t == to))
                .map(|((from, to), place)| (from.clone(), to.clone(), place.clone()))
                .collect();
            cycles.push(Cycle {
                folder: folder.clone(),
                way,
                others,
            });
        }
        cycles
    }

    fn next<'a>(&'a self, from: &str) -> impl Iterator<Item = &'a String> {
        self.edges
            .keys()
            .filter(move |(source, _)| source == from)
            .map(|(_, to)| to)
    }

    fn reachable(&self, from: &str) -> BTreeSet<&String> {
        let mut found: BTreeSet<&String> = BTreeSet::new();
        let mut queue: VecDeque<&String> = self.next(from).collect();
        while let Some(name) = queue.pop_front() {
            if found.insert(name) {
                queue.extend(self.next(name));
            }
        }
        found
    }

    /// The shortest way from `start` back to `start`.
    fn way_around(&self, start: &str) -> Option<Vec<(String, String, Place)>> {
        let mut before: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(name) = queue.pop_front() {
            for next in self.next(name) {
                if next == start {
                    let mut names = vec![start, name];
                    let mut name = name;
                    while name != start {
                        name = before[name];
                        names.push(name);
                    }
                    names.reverse();
                    return Some(self.steps(&names));
                }
                if !before.contains_key(next.as_str()) {
                    before.insert(next, name);
                    queue.push_back(next);
                }
            }
        }
        None
    }

    fn steps(&self, names: &[&str]) -> Vec<(String, String, Place)> {
        names
            .windows(2)
            .map(|pair| {
                let key = (pair[0].to_owned(), pair[1].to_owned());
                let place = self.edges[&key].clone();
                (key.0, key.1, place)
            })
            .collect()
    }
}

// === impl Cycle ===

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = if self.folder.is_empty() {
            "the crate's root".to_owned()
        } else {
            self.folder.join("::")
        };
        let way: Vec<&str> = self.way.iter().map(|(from, ..)| from.as_str()).collect();
        writeln!(f, "cycle in {folder}: {} -> {}", way.join(" -> "), way[0])?;
        for (from, to, place) in &self.way {
            writeln!(f, "    {from} -> {to}: {place}")?;
        }
        if !self.others.is_empty() {
            writeln!(f, "  other dependencies among the same modules:")?;
        }
        for (from, to, place) in &self.others {
            writeln!(f, "    {from} -> {to}: {place}")?;
        }
        Ok(())
    }
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} `{}`", self.file.display(), self.line, self.path)?;
        if self.count > 1 {
            write!(f, " and {} more", self.count - 1)?;
        }
        Ok(())
    }
}
