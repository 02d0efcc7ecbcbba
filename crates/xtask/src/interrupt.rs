//! Ends what was started when this program is ended.
//!
//! A terminal sends Ctrl-C to all of them. A signal to this program alone, as from a supervisor or a
//! time limit, would leave servers and browsers behind, with their ports.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long what was started may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Whether one of the signals has come.
static HAPPENED: AtomicBool = AtomicBool::new(false);

/// Begins to listen to SIGINT and SIGTERM: the first one ends all that was started, and this program.
///
/// # Errors
/// The system does not let signals be handled.
pub(crate) fn handle() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            HAPPENED.store(true, Ordering::Release);
            end_descendants(process::id());
            process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Returns whether this program is being ended: nothing may be started then.
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::Acquire)
}

/// Does not return if this program is being ended: it ends once all that it started has.
pub(crate) fn wait_if_happened() {
    while happened() {
        thread::park();
    }
}

/// Ends the descendants of a process: with SIGTERM, and with SIGKILL what does not end in [`GRACE`].
fn end_descendants(ancestor: u32) {
    // Found before any of them ends: its children would be another's then.
    let mut left = descendants(ancestor);
    signal("TERM", &left);
    let deadline = Instant::now() + GRACE;
    while !left.is_empty() && Instant::now() < deadline {
        thread::sleep(PAUSE);
        left.retain(|id| parent(*id).is_some());
    }
    signal("KILL", &left);
}

/// Returns the children of a process, their children and so on; none where there is no `/proc`.
fn descendants(ancestor: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some((id, parent)) = id.and_then(|id| Some((id, parent(id)?))) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![ancestor];
    while let Some(id) = next.pop() {
        let of_this = children.remove(&id).unwrap_or_default();
        found.extend(&of_this);
        next.extend(of_this);
    }
    found
}

/// Returns the parent of a process; `None` if it has ended, also if nothing has waited for it yet.
fn parent(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat")).ok()?;
    // The program's name is in parentheses and may contain any character.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    (state != "Z")
        .then(|| fields.next()?.parse().ok())
        .flatten()
}

fn signal(name: &str, ids: &[u32]) {
    if ids.is_empty() {
        return;
    }
    // The shell's own `kill`: the program is not on every machine.
    let _ = Command::new("sh")
        .args(["-c", "kill -s \"$@\"", "sh", name])
        .args(ids.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status();
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    #[test]
    fn children_of_children_are_ended_also_those_that_ignore_it() {
        // Both inner processes are known once they have printed their ids.
        let script = "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.1; done' & \
                      sh -c 'echo $$; exec sleep 1000' & wait";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let inner: Vec<u32> = lines
            .take(2)
            .map(|line| line.unwrap().parse().unwrap())
            .collect();
        let found = descendants(child.id());
        assert!(inner.iter().all(|id| found.contains(id)), "{found:?}");
        end_descendants(child.id());
        for id in inner {
            let deadline = Instant::now() + 10 * GRACE;
            while parent(id).is_some() {
                assert!(Instant::now() < deadline, "process {id} goes on");
                thread::sleep(PAUSE);
            }
        }
        child.wait().unwrap();
    }
}
