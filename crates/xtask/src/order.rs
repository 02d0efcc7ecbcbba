//! The functions that run for each token and each request, for the linker.
//!
//! valgrind counts the calls of each function under the loads of the benchmarks. Which functions
//! run how often depends on the code only, so a busy machine records the same.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::debian::VALGRIND;
use crate::error::Error;
use crate::functions_for::environment;
use crate::install;
use crate::need::Need;
use crate::process;
use crate::terminal;
use crate::workspace::Workspace;

/// How many calls make a function worth a place.
const FEW: u64 = 20;

const HEADER: &str = "\
# The functions that run for tokens, then those for requests, then others that run often, each part in the order of the program.
# Written by `cargo xtask order`; build.rs passes it to the linker.
";

/// A load under which calls are counted.
struct Load {
    name: &'static str,
    /// Arguments of `tokenwire-bench`.
    arguments: &'static str,
    /// Tokens, or requests, of the load.
    units: u64,
    of: Part,
    keyed: bool,
}

/// How often a function runs, most often first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Token,
    Request,
    Other,
}

const LOADS: &[Load] = &[
    tokens("chat", "paced -r chat -n 20 --tokens 100", 2_000),
    tokens("ws", "paced -r ws -n 20 --tokens 100", 2_000),
    tokens("lanes", "paced -r lanes -n 20 --tokens 100", 2_000),
    tokens("readers", "fanout -r streams -n 20 --tokens 60", 1_200),
    tokens("ws-readers", "fanout -r ws -n 20 --tokens 60", 1_200),
    requests("requests", "short -r chat -n 8 --requests 400", 400),
    requests("responses", "short -r responses -n 8 --requests 400", 400),
    requests("connections", "short-new -r chat -n 8 --requests 400", 400),
    Load {
        keyed: true,
        ..requests("keys", "short -r chat -n 8 --requests 400", 400)
    },
];

const fn tokens(name: &'static str, arguments: &'static str, units: u64) -> Load {
    Load {
        name,
        arguments,
        units,
        of: Part::Token,
        keyed: false,
    }
}

const fn requests(name: &'static str, arguments: &'static str, units: u64) -> Load {
    Load {
        of: Part::Request,
        ..tokens(name, arguments, units)
    }
}

/// A key of the configuration below, of no use elsewhere.
const KEY: &str = "sk-tw-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The calls and the first address of each function.
#[derive(Debug, Default, PartialEq, Eq)]
struct Calls(BTreeMap<String, Function>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Function {
    calls: u64,
    address: u64,
}

/// Builds the gateway as packages are built, counts the calls of its functions and writes the file.
///
/// # Errors
/// A program cannot be built, started or measured, or the file cannot be written.
pub(crate) fn record(workspace: &Workspace) -> Result<(), Error> {
    install::ensure(workspace, &[Need::Debian(VALGRIND)], true)?;
    let root = workspace.root();
    let mut build = process::cargo(root);
    // At a known place, whatever CARGO_TARGET_DIR is.
    build.args(["build", "--profile", "dist", "--target-dir"]);
    build.arg(root.join("target"));
    for package in ["tokenwire", "tokenwire-simulator", "tokenwire-bench"] {
        build.args(["-p", package]);
    }
    process::run(&mut build)?;
    let folder = workspace.tools().join("order");
    std::fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
    let programs = root.join("target/dist");
    // As callgrind names them.
    let programs = std::fs::canonicalize(&programs).map_err(Error::file("find", &programs))?;
    let mut places = BTreeMap::new();
    for load in LOADS {
        let counted = count(&programs, &folder, load)?;
        terminal::text(&format!("{}: {} functions", load.name, counted.0.len()));
        if counted.0.is_empty() {
            return Err(Error::Missing {
                what: format!("the calls under the load {}", load.name),
                remedy: "see what valgrind and the gateway print".to_owned(),
            });
        }
        for (name, function) in counted.0 {
            let Some(part) = part(function.calls, load.units, load.of) else {
                continue;
            };
            let place = places.entry(name).or_insert((part, function.address));
            place.0 = place.0.min(part);
        }
    }
    let file = root.join("crates/server/functions.txt");
    let mut names: Vec<_> = places.into_iter().collect();
    names.sort_by_key(|(_, place)| *place);
    let environment = environment("rustc", &root.join("Cargo.lock"));
    let environment = environment.ok_or_else(|| Error::Missing {
        what: "rustc or Cargo.lock".to_owned(),
        remedy: "run it in a checkout that builds".to_owned(),
    })?;
    let mut text = format!("{HEADER}# for {environment}\n");
    for (name, _) in &names {
        text.push_str(name);
        text.push('\n');
    }
    std::fs::write(&file, text).map_err(Error::file("write", &file))?;
    terminal::text(&format!(
        "{} functions are in {}; build again, and measure before it is committed",
        names.len(),
        file.display()
    ));
    Ok(())
}

/// Returns how often a function runs that was called so often under a load of `units`.
fn part(calls: u64, units: u64, of: Part) -> Option<Part> {
    // What runs for every second unit belongs to all of them.
    if calls * 2 >= units {
        Some(of)
    } else {
        (calls >= FEW).then_some(Part::Other)
    }
}

fn count(programs: &Path, folder: &Path, load: &Load) -> Result<Calls, Error> {
    let profile = folder.join(format!("{}.callgrind", load.name));
    if profile.exists() {
        std::fs::remove_file(&profile).map_err(Error::file("delete", &profile))?;
    }
    let config = folder.join("config.json");
    let mut text = json!({"log": {"filter": "error"}, "default_model": "simulator"});
    if load.keyed {
        // No load reaches these limits, which are counted all the same.
        let limits = json!({"requests_per_minute": 100_000_000, "tokens_per_minute": 1_000_000_000_000_u64,
            "streams": 1_000_000});
        text["auth"] = json!({"keys": [{"owner": "bench", "key": KEY, "limits": limits}]});
    }
    std::fs::write(&config, text.to_string()).map_err(Error::file("write", &config))?;
    let gateway = programs.join("tokenwire");
    let under_valgrind = format!(
        "gateway=env -C {} valgrind --tool=callgrind --dump-instr=yes --demangle=no \
         --compress-strings=no --compress-pos=no --callgrind-out-file={} \
         {} --workers {{workers}} --port {{port}} --config {}",
        process::quoted(folder.as_os_str()),
        process::quoted(profile.as_os_str()),
        process::quoted(gateway.as_os_str()),
        process::quoted(config.as_os_str()),
    );
    let mut bench = process::command(programs.join("tokenwire-bench"), folder);
    bench
        .args(load.arguments.split(' '))
        .args(["--alone", "--no-build", "--no-pin", "--rounds", "1"])
        .args(["--key", KEY, "--gateway", &under_valgrind]);
    process::run(&mut bench)?;
    let text = std::fs::read_to_string(&profile).map_err(Error::file("read", &profile))?;
    Ok(Calls::parse(&text, &gateway))
}

// === impl Calls ===

impl Calls {
    /// Parses what callgrind writes with neither names nor positions compressed.
    fn parse(text: &str, program: &Path) -> Self {
        let mut all = Self::default();
        let program = program.display().to_string();
        let (mut object, mut called_object, mut called) = ("", None, "");
        let mut function = String::new();
        // The line after `calls=` belongs to the called function.
        let mut is_call = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("ob=") {
                object = name;
            } else if let Some(name) = line.strip_prefix("cob=") {
                called_object = Some(name);
            } else if let Some(name) = line.strip_prefix("fn=") {
                function = plain(name).to_owned();
            } else if let Some(name) = line.strip_prefix("cfn=") {
                called = plain(name);
            } else if let Some(call) = line.strip_prefix("calls=") {
                let count = call.split(' ').next().and_then(|word| word.parse().ok());
                if called_object.take().unwrap_or(object) == program {
                    all.function(called).calls += count.unwrap_or(0);
                }
                is_call = true;
            } else if let Some(digits) = line.strip_prefix("0x")
                && !std::mem::take(&mut is_call)
                && object == program
            {
                let address = digits.split(' ').next().unwrap_or_default();
                let address = u64::from_str_radix(address, 16).unwrap_or(u64::MAX);
                let known = &mut all.function(&function).address;
                *known = (*known).min(address);
            }
        }
        all
    }

    fn function(&mut self, name: &str) -> &mut Function {
        self.0.entry(name.to_owned()).or_insert(Function {
            calls: 0,
            address: u64::MAX,
        })
    }
}

/// Returns the symbol; callgrind marks the depth of a recursion behind it.
fn plain(name: &str) -> &str {
    name.split('\'').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "\
version: 1
positions: instr line
events: Ir

ob=/target/tokenwire
fl=???
fn=_ZN4loop17h01E
0x2000 0 5
cob=/usr/lib/libc.so.6
cfi=???
cfn=memcpy
calls=7 0x9000 0
0x2004 0 70
cfi=???
cfn=_ZN4step17h02E
calls=40 0x1000 0
0x2008 0 400

fn=_ZN4step17h02E
0x1004 0 1
0x1000 0 1
cfn=_ZN4step17h02E'2
calls=2 0x1000 0
0x1008 0 3

ob=/usr/lib/libc.so.6
fl=???
fn=memcpy
0x9000 0 70
cob=/target/tokenwire
cfi=???
cfn=_ZN4loop17h01E
calls=1 0x2000 0
0x9004 0 9
";

    #[test]
    fn calls_and_addresses_of_the_program_are_read() {
        let calls = Calls::parse(PROFILE, Path::new("/target/tokenwire"));
        let function = |calls, address| Function { calls, address };
        assert_eq!(
            calls.0,
            BTreeMap::from([
                ("_ZN4loop17h01E".to_owned(), function(1, 0x2000)),
                ("_ZN4step17h02E".to_owned(), function(42, 0x1000)),
            ])
        );
    }

    #[test]
    fn functions_are_placed_by_how_often_they_run() {
        assert_eq!(part(1_000, 2_000, Part::Token), Some(Part::Token));
        assert_eq!(part(999, 2_000, Part::Token), Some(Part::Other));
        assert_eq!(part(200, 400, Part::Request), Some(Part::Request));
        assert_eq!(part(19, 400, Part::Request), None);
        assert!(Part::Token < Part::Request && Part::Request < Part::Other);
    }
}
