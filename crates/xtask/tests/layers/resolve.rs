//! Which module defines what a path refers to.

use crate::source::{Crate, Segments};

/// Imports that lead to imports are followed this far; Rust allows circles of globs.
const DEPTH: usize = 16;

/// Returns the module of `krate` that defines what `segments`, read in the module `from`, refers
/// to. Re-exports are followed to the definition. `None` for other crates, local names and
/// built-ins.
pub(crate) fn resolve(krate: &Crate, from: usize, segments: &[String]) -> Option<usize> {
    Resolver { krate }.path(from, segments, DEPTH)
}

struct Resolver<'a> {
    krate: &'a Crate,
}

// === impl Resolver ===

impl Resolver<'_> {
    fn path(&self, from: usize, segments: &[String], depth: usize) -> Option<usize> {
        let first = segments.first()?;
        let mut rest = &segments[1..];
        let mut start = match first.as_str() {
            "" | "Self" => return None,
            "crate" => 0,
            "self" => from,
            "super" => self.krate.modules[from].parent?,
            _ => return self.walk(from, segments, depth),
        };
        while rest.first().is_some_and(|segment| segment == "super") {
            start = self.krate.modules[start].parent?;
            rest = &rest[1..];
        }
        // A name that is not found (a macro made it) is taken to be the module's own.
        self.walk(start, rest, depth).or(Some(start))
    }

    fn walk(&self, start: usize, segments: &[String], depth: usize) -> Option<usize> {
        let Some((first, rest)) = segments.split_first() else {
            return Some(start);
        };
        let depth = depth.checked_sub(1)?;
        let module = &self.krate.modules[start];
        let is_item = module.items.contains(first);
        if let Some(child) = module.children.get(first)
            && !(is_item && rest.is_empty())
        {
            return self.walk(*child, rest, depth).or(Some(*child));
        }
        if is_item {
            return Some(start);
        }
        if let Some(import) = module.imports.get(first) {
            let target: Segments = import.iter().chain(rest).cloned().collect();
            // `use bytes;` in a module imports the crate, not itself.
            return (*import != [first.clone()])
                .then(|| self.path(start, &target, depth))
                .flatten();
        }
        module.globs.iter().find_map(|glob| {
            let target = self.path(start, glob, depth)?;
            if target == start {
                return None;
            }
            self.walk(target, segments, depth)
        })
    }
}
