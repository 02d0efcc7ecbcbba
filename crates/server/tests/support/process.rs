//! The gateway's binary as a process.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// A gateway that runs as a process and is killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    /// Holds the configuration file.
    folder: tempfile::TempDir,
}

impl Process {
    /// Starts it with this configuration file and environment, on a free port.
    pub(crate) fn start(config: &str, environment: &[(&str, &str)]) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_tokenwire"));
        Self::spawn(command, config, environment, 0)
    }

    /// Starts it on this port.
    pub(crate) fn start_on(port: u16, config: &str) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_tokenwire"));
        Self::spawn(command, config, &[], port)
    }

    /// Starts it on this port, which fails, and returns what it says.
    pub(crate) fn fail_on(port: u16, config: &str) -> String {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokenwire.yaml");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new("timeout");
        command.args(["30", env!("CARGO_BIN_EXE_tokenwire")]);
        command.args(["--port", &port.to_string(), "--config"]);
        let output = command.arg(&path).output().unwrap();
        let is_refused = !matches!(output.status.code(), None | Some(0 | 124));
        assert!(is_refused, "it started: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts it below `systemd-socket-activate`, which listens on this port and passes the socket.
    pub(crate) fn start_activated(port: u16, config: &str) -> Self {
        let mut command = Command::new("systemd-socket-activate");
        let address = format!("127.0.0.1:{port}");
        command.args(["--listen", &address, "--"]);
        command.arg(env!("CARGO_BIN_EXE_tokenwire"));
        Self::spawn(command, config, &[], port)
    }

    /// Starts it with at most this number of open descriptors.
    pub(crate) fn start_with_descriptors(config: &str, limit: usize) -> Self {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\""))
            .arg(env!("CARGO_BIN_EXE_tokenwire"));
        Self::spawn(command, config, &[], 0)
    }

    fn spawn(mut command: Command, config: &str, environment: &[(&str, &str)], port: u16) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokenwire.yaml");
        std::fs::write(&path, config).unwrap();
        command
            .args(["--port", &port.to_string(), "--config"])
            .arg(&path)
            .current_dir(folder.path());
        for name in [
            "MIMALLOC_ALLOW_THP",
            "OPENAI_API_KEY",
            "OPENAI_BASE_URL",
            "RUST_LOG",
        ] {
            command.env_remove(name);
        }
        command
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut all = Vec::new();
            let _ = stderr.read_to_end(&mut all);
            String::from_utf8_lossy(&all).into_owned()
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        let address = loop {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                panic!(
                    "the gateway printed no address: stdout {banner:?}, stderr {:?}",
                    stderr.join()
                );
            }
            banner.push_str(&line);
            if let Some(address) = address_in(&line) {
                break address;
            }
        };
        let stdout = std::thread::spawn(move || {
            let _ = stdout.read_to_string(&mut banner);
            banner
        });
        Self {
            child,
            address,
            stdout: Some(stdout),
            stderr: Some(stderr),
            folder,
        }
    }

    /// Replaces the configuration file.
    pub(crate) fn configure(&self, config: &str) {
        let part = self.folder.path().join("part");
        std::fs::write(&part, config).unwrap();
        std::fs::rename(part, self.folder.path().join("tokenwire.yaml")).unwrap();
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the exit. Returns whether it was successful, and the output.
    pub(crate) fn output(mut self) -> (bool, String) {
        let status = self.child.wait().unwrap();
        let stdout = self.stdout.take().unwrap().join().unwrap();
        let stderr = self.stderr.take().unwrap().join().unwrap();
        (status.success(), stdout + &stderr)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Parses the address at the end of the banner's first line.
fn address_in(line: &str) -> Option<SocketAddr> {
    line.split_whitespace().next_back()?.parse().ok()
}

/// Returns what `/proc` says of a process under this name; `None` if it has ended or the kernel does
/// not say it.
pub(crate) fn status_of(process: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(known, _)| *known == name)?;
    Some(value.trim().to_owned())
}

/// Returns the bytes of memory that a process has; `None` if it has ended.
pub(crate) fn resident(process: u32) -> Option<usize> {
    let kib = status_of(process, "VmRSS")?;
    Some(kib.split_whitespace().next()?.parse::<usize>().ok()? * 1024)
}
