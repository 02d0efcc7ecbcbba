//! The modules of each crate form layers: siblings never depend on each other in a circle, and the
//! folders of `core` import only those before them.
//!
//! The sources are parsed, not compiled. A dependency is a path in the text: `use`, or a path in an
//! expression, a type or a macro's arguments. A name that a folder's `mod.rs` re-exports belongs to
//! the file that defines it. What a folder's `mod.rs` refers to, and what it defines, does not
//! count. Neither do modules that only the unit tests build.
#![expect(clippy::unwrap_used, reason = "a test that cannot look has failed")]

mod graph;
mod resolve;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use graph::{Cycle, dependencies};
use source::Crate;

/// The folders of `core`, in the order in which the data takes them.
const CORE_LAYERS: [&str; 7] = [
    "model",
    "request",
    "log",
    "upstream",
    "dialect",
    "generation",
    "engine",
];

/// The checkout. cargo says at run time where it is, so that a copy of the binary can look at
/// another.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.ancestors().nth(2).unwrap().to_owned()
}

/// The root files of the crates of the workspace: libraries and binaries.
fn crate_roots() -> Vec<PathBuf> {
    let members = ["crates", "examples"]
        .into_iter()
        .flat_map(|folder| std::fs::read_dir(root().join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .chain([root().join("benches")]);
    let mut roots: Vec<PathBuf> = members
        .flat_map(|member| [member.join("src/lib.rs"), member.join("src/main.rs")])
        .filter(|path| path.is_file())
        .collect();
    roots.sort();
    assert!(
        roots.len() > 10,
        "the crates are not where they are expected: {roots:?}"
    );
    roots
}

/// Reads a crate of the workspace, with paths relative to the checkout.
fn read(path: &Path) -> Crate {
    let base = root();
    let relative = path.strip_prefix(&base).unwrap();
    Crate::parse(relative, &|file| {
        std::fs::read_to_string(base.join(file)).ok()
    })
    .unwrap()
}

fn cycles(krate: &Crate) -> Vec<Cycle> {
    dependencies(krate)
        .iter()
        .flat_map(|(folder, siblings)| siblings.cycles(folder))
        .collect()
}

/// The dependencies of `core` on a folder that comes later, one line for each.
fn against_the_order(krate: &Crate, layers: &[&str]) -> Vec<String> {
    let position = |name: &str| layers.iter().position(|layer| *layer == name);
    dependencies(krate)
        .get(&Vec::new())
        .into_iter()
        .flat_map(|siblings| &siblings.edges)
        .filter(|((from, to), _)| position(from) < position(to))
        .map(|((from, to), place)| format!("{from} imports {to}: {place}"))
        .collect()
}

#[test]
fn core_has_seven_folders_in_order() {
    let folder = root().join("crates/core/src");
    let present: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected: BTreeSet<String> = CORE_LAYERS
        .into_iter()
        .chain(["lib.rs"])
        .map(str::to_owned)
        .collect();
    assert_eq!(
        present, expected,
        "crates/core/src holds lib.rs and the seven layers, nothing else"
    );

    let wrong = against_the_order(&read(&folder.join("lib.rs")), &CORE_LAYERS);
    assert!(
        wrong.is_empty(),
        "a layer of core imports only those before it ({}):\n{}",
        CORE_LAYERS.join(", "),
        wrong.join("\n")
    );
}

#[test]
fn no_crate_has_a_module_cycle() {
    let mut report = String::new();
    for path in crate_roots() {
        for cycle in cycles(&read(&path)) {
            let name = path.strip_prefix(root()).unwrap().display();
            report.push_str(&format!("{name}: {cycle}"));
        }
    }
    assert!(
        report.is_empty(),
        "modules of one folder depend on each other in a circle; move what both need into a third:\n{report}"
    );
}

/// Parses a crate from made-up files.
fn made_up(files: &[(&str, &str)]) -> Crate {
    let files: BTreeMap<PathBuf, &str> = files
        .iter()
        .map(|(path, text)| (PathBuf::from(path), *text))
        .collect();
    Crate::parse(Path::new("src/lib.rs"), &|path| {
        files.get(path).map(|text| (*text).to_owned())
    })
    .unwrap()
}

/// The edges of one folder as `from -> to`.
#[track_caller]
fn check_edges(files: &[(&str, &str)], folder: &[&str], expected: &[&str]) {
    let krate = made_up(files);
    let folder: Vec<String> = folder.iter().map(|name| (*name).to_owned()).collect();
    let found: Vec<String> = dependencies(&krate)
        .get(&folder)
        .into_iter()
        .flat_map(|siblings| siblings.edges.keys())
        .map(|(from, to)| format!("{from} -> {to}"))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_cycle_is_named_with_the_place_of_each_edge() {
    let krate = made_up(&[
        ("src/lib.rs", "mod left;\nmod right;"),
        ("src/left.rs", "use crate::right::Right;\npub struct Left;"),
        (
            "src/right.rs",
            "pub struct Right;\n\nfn make() { super::left::Left; }",
        ),
    ]);
    let found = cycles(&krate);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].to_string(),
        "cycle in the crate's root: left -> right -> left\n    \
         left -> right: src/left.rs:1 `crate::right::Right`\n    \
         right -> left: src/right.rs:3 `super::left::Left`\n"
    );
}

#[test]
fn a_cycle_through_a_third_module_is_found() {
    let krate = made_up(&[
        ("src/lib.rs", "mod a; mod b; mod c; mod d;"),
        ("src/a.rs", "use crate::b::B; pub struct A;"),
        ("src/b.rs", "use crate::c::C; pub struct B;"),
        ("src/c.rs", "use crate::a::A; pub struct C;"),
        ("src/d.rs", "use crate::a::A;"),
    ]);
    let found = cycles(&krate);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].to_string().contains("a -> b -> c -> a"),
        "{}",
        found[0]
    );
}

#[test]
fn a_reexport_of_the_parent_leads_to_the_sibling_that_defines_it() {
    check_edges(
        &[
            ("src/lib.rs", "mod upstream;"),
            (
                "src/upstream/mod.rs",
                "mod failover; mod hedge; mod stats;
                 pub use failover::Failover; use stats::*; pub struct Own;",
            ),
            ("src/upstream/failover.rs", "pub struct Failover;"),
            (
                "src/upstream/hedge.rs",
                "use super::Failover as F; fn f(own: super::Own, stats: super::Stats) {}",
            ),
            ("src/upstream/stats.rs", "pub struct Stats;"),
        ],
        &["upstream"],
        &["hedge -> failover", "hedge -> stats"],
    );
}

#[test]
fn a_path_through_an_imported_module_leads_to_the_sibling() {
    check_edges(
        &[
            ("src/lib.rs", "mod upstream;"),
            (
                "src/upstream/mod.rs",
                "mod failover; mod hedge; pub use failover::Failover;",
            ),
            (
                "src/upstream/failover.rs",
                "pub struct Failover; pub enum E { A }",
            ),
            (
                "src/upstream/hedge.rs",
                "use crate::upstream; fn f(_: upstream::Failover) {}",
            ),
        ],
        &["upstream"],
        &["hedge -> failover"],
    );
}

#[test]
fn names_from_a_glob_of_the_parent_are_followed() {
    check_edges(
        &[
            ("src/lib.rs", "mod first; mod second; pub use first::Thing;"),
            ("src/first.rs", "pub struct Thing;"),
            ("src/second.rs", "use super::*; fn f(_: Thing) {}"),
        ],
        &[],
        &["second -> first"],
    );
}

#[test]
fn paths_in_macros_and_attributes_count() {
    check_edges(
        &[
            ("src/lib.rs", "mod a; mod b; mod c; mod d;"),
            (
                "src/a.rs",
                "fn f() { println!(\"{}\", crate::b::name()); }
                 #[serde(with = \"crate::c::duration\")] struct S;
                 macro_rules! m { () => { $crate::d::D } }",
            ),
            ("src/b.rs", "pub fn name() {}"),
            ("src/c.rs", "pub mod duration {}"),
            ("src/d.rs", "pub struct D;"),
        ],
        &[],
        &["a -> b", "a -> c", "a -> d"],
    );
}

#[test]
fn a_file_and_its_folder_are_one_sibling() {
    let files = [
        ("src/lib.rs", "mod chat; mod node;"),
        ("src/chat.rs", "mod items; pub struct Chat;"),
        (
            "src/chat/items.rs",
            "use super::Chat; use crate::node::Node;",
        ),
        ("src/node.rs", "pub struct Node;"),
    ];
    check_edges(&files, &[], &["chat -> node"]);
    check_edges(&files, &["chat"], &[]);
}

#[test]
fn an_inline_module_belongs_to_its_file() {
    check_edges(
        &[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "mod inner { use super::super::b::B; }"),
            ("src/b.rs", "pub struct B;"),
        ],
        &[],
        &["a -> b"],
    );
}

#[test]
fn code_for_tests_and_documentation_does_not_count() {
    check_edges(
        &[
            ("src/lib.rs", "mod a; mod b;"),
            (
                "src/a.rs",
                "#[cfg(test)] mod tests { use crate::b::B; }
                 #[cfg(all(test, unix))] mod missing;
                 #[cfg(test)] use crate::b::B;
                 /// See [`crate::b::B`].
                 pub struct A;
                 impl A { #[cfg(test)] fn f() -> crate::b::B { crate::b::B } }",
            ),
            ("src/b.rs", "use crate::a::A; pub struct B;"),
        ],
        &[],
        &["b -> a"],
    );
}

#[test]
fn other_crates_and_local_names_do_not_count() {
    check_edges(
        &[
            ("src/lib.rs", "mod bytes; mod a;"),
            (
                "src/a.rs",
                "use ::bytes::Bytes; use bytes::Buf; fn f(bytes: u8) -> u8 { bytes + Self::N }",
            ),
            ("src/bytes.rs", "pub struct Bytes;"),
        ],
        &[],
        &[],
    );
}

#[test]
fn a_layer_that_imports_a_later_one_is_named() {
    let krate = made_up(&[
        ("src/lib.rs", "pub mod model; pub mod engine;"),
        (
            "src/model/mod.rs",
            "pub mod id;\nuse crate::engine::Engine;",
        ),
        ("src/model/id.rs", "pub struct Id;"),
        (
            "src/engine/mod.rs",
            "use crate::model::id::Id; pub struct Engine;",
        ),
    ]);
    assert_eq!(
        against_the_order(&krate, &["model", "engine"]),
        ["model imports engine: src/model/mod.rs:2 `crate::engine::Engine`"]
    );
}

#[test]
fn a_missing_file_is_an_error() {
    let error = Crate::parse(Path::new("src/lib.rs"), &|path| {
        (path == Path::new("src/lib.rs")).then(|| "mod gone;".to_owned())
    })
    .unwrap_err();
    assert_eq!(error, "failed to read src/gone.rs, which a `mod` names");
}
