//! The step of the container image, which needs no registry of images.

use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::process;
use crate::servers;
use crate::step::{Context, Outcome};

/// The release that `deploy/Dockerfile` is based on.
const SUITE: &str = "bookworm";

/// Where apt keeps its sources.
const SOURCES: &str = "/etc/apt";

/// Builds the image with the binary of the tests, runs it, and removes it again.
///
/// # Errors
/// The image does not build, or does not serve as its documentation says.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let root = context.workspace.root();
    let id = process::output(process::command("id", root).arg("-u"));
    if id.is_none_or(|id| id.trim() != "0") {
        return Ok(Outcome::Skipped("buildah's chroot isolation needs root"));
    }
    let mirror = mirror(Path::new(SOURCES)).ok_or_else(|| Error::Missing {
        what: format!("a mirror of Debian's {SUITE} in {SOURCES}"),
        remedy: "run the step on Debian 12".to_owned(),
    })?;
    let programs = servers::build(context.workspace, ["tokenwire", "tokenwire-simulator"])?;
    let folder = context.workspace.tools().join("container");
    fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
    let script = root.join("crates/server/tests/container/test.sh");
    let mut command = process::command("timeout", &folder);
    command.args(["--kill-after=10", "300", "bash"]).arg(script);
    command.arg(root).arg(SUITE).args(programs);
    // Not an argument: it would be shown.
    command.env("MIRROR", mirror);
    process::run(&mut command).map(|()| Outcome::Passed)
}

/// Returns the mirror that apt takes the packages of the release from.
fn mirror(folder: &Path) -> Option<String> {
    let parts = fs::read_dir(folder.join("sources.list.d")).ok();
    let parts = parts.into_iter().flatten().flatten();
    let mut files: Vec<_> = parts.map(|entry| entry.path()).collect();
    files.push(folder.join("sources.list"));
    files.sort();
    let texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    texts.map(|text| mirror_in(&text)).find_map(|found| found)
}

/// Returns the mirror of the release in a file of either format.
fn mirror_in(text: &str) -> Option<String> {
    let one_line = text.lines().find_map(|line| {
        let line = line.strip_prefix("deb ")?;
        // `[options]` may stand before the URI.
        let line = line.rsplit_once(']').map_or(line, |(_, rest)| rest);
        let mut words = line.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        let is_main = suite == SUITE && words.any(|word| word == "main");
        is_main.then(|| uri.to_owned())
    });
    one_line.or_else(|| {
        text.split("\n\n").find_map(|block| {
            let field = |name: &str| {
                let mut lines = block.lines();
                lines
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::trim)
            };
            let has = |name, wanted| {
                let value = field(name).unwrap_or_default();
                value.split_whitespace().any(|word| word == wanted)
            };
            let uri = field("URIs:")?.split_whitespace().next()?;
            (has("Suites:", SUITE) && has("Components:", "main")).then(|| uri.to_owned())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_is_found_in_both_formats_of_sources() {
        for (text, expected) in [
            (
                "deb [signed-by=/x] http://m.example/debian bookworm main\n",
                Some("http://m.example/debian"),
            ),
            (
                "# deb http://no.example bookworm main\ndeb http://m.example bookworm contrib main",
                Some("http://m.example"),
            ),
            ("deb http://m.example/security bookworm-security main", None),
            (
                "Types: deb\n# a comment\nURIs: http://m.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n",
                Some("http://m.example/debian"),
            ),
            (
                "Types: deb\nURIs: http://s.example\nSuites: bookworm-security\nComponents: main\n\nURIs: http://m.example\nSuites: bookworm\nComponents: main",
                Some("http://m.example"),
            ),
            ("", None),
        ] {
            assert_eq!(mirror_in(text).as_deref(), expected, "{text}");
        }
    }
}
