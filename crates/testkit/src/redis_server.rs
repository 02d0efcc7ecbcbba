//! A Redis server as a child process.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::free_port;

/// A Redis server on a port of this machine, without persistence. It is killed when this is dropped.
///
/// Needs the program `redis-server`, as in Debian's package of that name.
#[derive(Debug)]
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    settings: Vec<(String, String)>,
    password: Option<String>,
    folder: TempDir,
}

// === impl RedisServer ===

impl RedisServer {
    /// Starts an empty server on a free port.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts an empty server with these settings, as `redis.conf` has them: `("maxmemory", "4mb")`.
    /// With `requirepass` the URL holds the password. With `tls-cert-file` it speaks TLS only.
    #[must_use]
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let settings: Vec<_> = settings.iter().map(owned).collect();
        let password = settings.iter().find(|(name, _)| name == "requirepass");
        let password = password.map(|(_, value)| value.clone());
        let mut this = Self {
            child: None,
            port: free_port(),
            settings,
            password,
            folder: TempDir::new().expect("a folder"),
        };
        assert!(this.spawn(), "redis-server does not start");
        this
    }

    /// Starts the server and waits until it takes connections. Returns false if it ends before.
    fn spawn(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        let port = self.port.to_string();
        if self
            .settings
            .iter()
            .any(|(name, _)| name == "tls-cert-file")
        {
            command.args(["--port", "0", "--tls-port", &port]);
        } else {
            command.args(["--port", &port]);
        }
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--enable-debug-command", "local"]);
        for (name, value) in &self.settings {
            command.arg(format!("--{name}")).arg(value);
        }
        let mut child = command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server can be started: is the package redis-server installed?");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        while output.read_line(&mut line).is_ok_and(|length| length > 0) {
            if line.contains("eady to accept connections") {
                std::thread::spawn(move || drop(output.read_to_end(&mut Vec::new())));
                self.child = Some(child);
                return true;
            }
            line.clear();
        }
        let _ = child.wait();
        false
    }

    /// Returns its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Returns the value of a setting that it was started with.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        let mut settings = self.settings.iter();
        let found = settings.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns its URL, with the password if it has one.
    #[must_use]
    pub fn url(&self) -> String {
        let user = self.password.as_ref();
        let user = user.map_or_else(String::new, |password| format!(":{password}@"));
        format!("redis://{user}127.0.0.1:{}/", self.port)
    }

    /// Ends it at once, as `kill -9` does. Its data are lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port, empty. Ends it before if it runs.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.spawn(), "redis-server does not start again");
    }

    /// Stops its process (SIGSTOP): connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused process go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a process id"), signal).expect("the server runs");
    }

    /// Runs a command, such as `["FLUSHALL"]`, and returns the answer's lines, joined. An error
    /// begins with `-`.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn command(&self, arguments: &[&str]) -> String {
        self.try_command(arguments).expect("an answer")
    }

    /// Does the same with a server that may end the connection. One does while a Sentinel makes it a
    /// master: that ends all connections of clients.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn try_command(&self, arguments: &[&str]) -> io::Result<String> {
        let mut socket = BufReader::new(TcpStream::connect(self.address())?);
        if let Some(password) = &self.password {
            let answer = exchange(&mut socket, &["AUTH", password])?;
            assert_eq!(answer, "OK");
        }
        exchange(&mut socket, arguments)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn exchange(socket: &mut BufReader<TcpStream>, arguments: &[&str]) -> io::Result<String> {
    let mut request = format!("*{}\r\n", arguments.len());
    for argument in arguments {
        request.push_str(&format!("${}\r\n{argument}\r\n", argument.len()));
    }
    socket.get_mut().write_all(request.as_bytes())?;
    let mut lines = Vec::new();
    read_value(socket, &mut lines)?;
    Ok(lines.join("\n"))
}

/// Reads a value of RESP version 2.
fn read_value(socket: &mut BufReader<TcpStream>, lines: &mut Vec<String>) -> io::Result<()> {
    let mut line = String::new();
    if socket.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let length = || line[1..].parse::<i64>().expect("a length");
    match line.as_bytes().first() {
        Some(b'+' | b':') => lines.push(line[1..].to_owned()),
        Some(b'$') => {
            if let Ok(length) = usize::try_from(length()) {
                let mut bytes = vec![0; length + 2];
                socket.read_exact(&mut bytes)?;
                lines.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
        }
        Some(b'*') => {
            for _ in 0..length() {
                read_value(socket, lines)?;
            }
        }
        _ => lines.push(line.to_owned()),
    }
    Ok(())
}
