//! Words that the texts of the project do not use, since components are things and readers are
//! "the reader" or "it".
#![expect(clippy::unwrap_used, reason = "a test that cannot look has failed")]

use std::path::{Path, PathBuf};

/// Whole words, in any case.
const FORBIDDEN: &[&str] = &[
    "whoever",
    "somebody",
    "nobody",
    "everybody",
    "he",
    "him",
    "his",
];
/// Files that are searched, by the end of their name.
const SEARCHED: &[&str] = &[
    "rs", "md", "yaml", "yml", "js", "mjs", "ts", "jsx", "py", "html", "css", "toml", "sh",
];
/// Folders that git ignores, and this file, which has to name the words.
const SKIPPED: &[&str] = &["target", ".tools", ".git", "node_modules", "words.rs"];

/// The checkout.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.ancestors().nth(2).unwrap().to_owned()
}

/// Appends the files to search below `folder`.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        if SKIPPED.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            collect(&path, files);
        } else if path
            .extension()
            .is_some_and(|extension| SEARCHED.iter().any(|searched| extension == *searched))
        {
            files.push(path);
        }
    }
}

/// The forbidden words of a text, each with its line.
fn forbidden(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        for word in words {
            if FORBIDDEN
                .iter()
                .any(|forbidden| word.eq_ignore_ascii_case(forbidden))
            {
                found.push((index + 1, word.to_owned()));
            }
        }
    }
    found
}

#[test]
fn texts_use_no_forbidden_words() {
    let root = root();
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(
        files.len() > 200,
        "the files are not where they are expected"
    );
    files.sort();
    let mut report = Vec::new();
    for file in &files {
        let text = String::from_utf8(std::fs::read(file).unwrap()).unwrap();
        let name = file.strip_prefix(&root).unwrap().display();
        for (line, word) in forbidden(&text) {
            report.push(format!("{name}:{line}: `{word}`"));
        }
    }
    assert!(
        report.is_empty(),
        "write what the component is (\"the reader\", \"the client\", \"it\"):\n{}",
        report.join("\n")
    );
}

#[test]
fn words_are_found_whole_and_in_any_case() {
    let text = "the first line\nNobody asks, and he's here\nthe heap, a_his_b, anybody";
    assert_eq!(
        forbidden(text),
        [(2, "Nobody".to_owned()), (2, "he".to_owned())]
    );
}
