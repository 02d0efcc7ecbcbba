//! The functions that run for each token and each request, for the linker.
//!
//! valgrind counts the calls of each function under the loads of the benchmarks. Which functions
//! run how often depends on the code only, so a busy machine records the same.

use std::collections::BTreeMap;
use std::path::Path;

use super::load::{LOADS, Load, Part};
use crate::error::Error;
use crate::functions_for::environment;
use crate::process;
use crate::terminal;

/// How many calls make a function worth a place.
const FEW: u64 = 20;

const HEADER: &str = "\
# The functions that run for tokens, then those for requests, then others that run often, each part in the order of the program.
# Written by `cargo xtask profile`; build.rs passes it to the linker.
";

/// The calls and the first address of each function.
#[derive(Debug, Default, PartialEq, Eq)]
struct Calls(BTreeMap<String, Function>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Function {
    calls: u64,
    address: u64,
}

/// Counts the calls of the functions of a gateway, and writes the file. Returns how many it has.
///
/// # Errors
/// A program cannot be started or measured, or the file cannot be written.
pub(super) fn record(
    root: &Path,
    programs: &Path,
    folder: &Path,
    file: &Path,
) -> Result<usize, Error> {
    let mut places = BTreeMap::new();
    for load in LOADS {
        let counted = count(programs, folder, load)?;
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
    std::fs::write(file, text).map_err(Error::file("write", file))?;
    Ok(names.len())
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
    let gateway = programs.join("tokenwire");
    let under_valgrind = format!(
        "valgrind --tool=callgrind --dump-instr=yes --demangle=no --compress-strings=no \
         --compress-pos=no --callgrind-out-file={} {}",
        process::quoted(profile.as_os_str()),
        process::quoted(gateway.as_os_str()),
    );
    load.run(programs, folder, &under_valgrind)?;
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
