//! The servers of the client tests: the project's own binaries, started as a user starts them.

use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::process;
use crate::rust;
use crate::step::Context;
use crate::workspace::Workspace;

/// How long a server may take until its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Ports of servers.
const PORTS: Range<u16> = 20_000..32_000;
/// How much of a server's log an error quotes, in lines.
const TAIL: usize = 30;
/// Environment variables that would change the behaviour of the clients or the gateway.
const FOREIGN: [&str; 10] = [
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];

/// A simulator as upstream, and gateways. All are stopped when this value is dropped.
pub(crate) struct Servers {
    program: PathBuf,
    simulator: Server,
    /// Each with the variable that tells the tests its address.
    gateways: Vec<(&'static str, Server)>,
}

/// How fast the simulator writes an answer whose question does not say it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Without a pause, for programs.
    AtOnce,
    /// Some seconds for an answer, as a person reads it.
    Readable,
}

/// How a gateway is started.
struct Gateway {
    /// The variable that tells the tests its address.
    variable: &'static str,
    name: &'static str,
    config: PathBuf,
    /// The variables that give it the simulator's address.
    upstreams: &'static [&'static str],
}

/// One running server.
struct Server {
    name: &'static str,
    url: String,
    log: PathBuf,
    child: Child,
}

// === impl Servers ===

impl Servers {
    /// Starts three gateways: one for most tests, one that deletes a stream soon after its end, and one
    /// with keys that have limits.
    ///
    /// # Errors
    /// A server does not build, does not start, or does not answer in time.
    pub(crate) fn start(context: &Context<'_>, pace: Pace) -> Result<Self, Error> {
        let gateway = |variable, name, config: &str| Gateway {
            variable,
            name,
            config: context.workspace.clients().join(config),
            upstreams: &["OPENAI_BASE_URL"],
        };
        let gateways = [
            gateway("TOKENWIRE_URL", "gateway", "gateway.yaml"),
            gateway(
                "TOKENWIRE_FORGETFUL_URL",
                "forgetful-gateway",
                "forgetful.yaml",
            ),
            gateway("TOKENWIRE_LIMITED_URL", "limited-gateway", "limited.yaml"),
        ];
        Self::start_all(context, pace, gateways)
    }

    /// Starts a gateway with a chat and a Responses upstream, which answer at once.
    ///
    /// # Errors
    /// As [`Servers::start`].
    pub(crate) fn for_agents(context: &Context<'_>) -> Result<Self, Error> {
        let gateway = Gateway {
            variable: "TOKENWIRE_URL",
            name: "agents-gateway",
            config: context.workspace.agents().join("gateway.yaml"),
            upstreams: &[
                "TOKENWIRE_UPSTREAMS__0__BASE_URL",
                "TOKENWIRE_UPSTREAMS__1__BASE_URL",
            ],
        };
        Self::start_all(context, Pace::AtOnce, [gateway])
    }

    /// Builds and starts the servers, and waits until each answers.
    fn start_all(
        context: &Context<'_>,
        pace: Pace,
        gateways: impl IntoIterator<Item = Gateway>,
    ) -> Result<Self, Error> {
        let [gateway_program, simulator_program] =
            build(context.workspace, ["tokenwire", "tokenwire-simulator"])?;
        // Another step may run servers of the same names meanwhile.
        let folder = context.workspace.logs().join(context.step);
        let simulator = Server::start(
            &folder,
            "simulator",
            &simulator_program,
            "/stats",
            |command| {
                if matches!(pace, Pace::AtOnce) {
                    command.args(["--first-token", "0", "--answer-pace", "0"]);
                }
            },
        )?;
        let upstream = format!("{}/v1", simulator.url);
        let gateways = gateways
            .into_iter()
            .map(|gateway| {
                let configure = |command: &mut Command| {
                    command.arg("--config").arg(&gateway.config);
                    command.envs(gateway.upstreams.iter().map(|name| (name, &upstream)));
                };
                Server::start(
                    &folder,
                    gateway.name,
                    &gateway_program,
                    "/readyz",
                    configure,
                )
                .map(|server| (gateway.variable, server))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            program: gateway_program,
            simulator,
            gateways,
        })
    }

    /// Passes the addresses of the servers to the tests, without the shell's own settings.
    pub(crate) fn tell(&self, tests: &mut Command) {
        isolate(tests);
        for (variable, gateway) in &self.gateways {
            tests.env(variable, &gateway.url);
        }
        tests.env("SIMULATOR_URL", &self.simulator.url);
        // For tests that start a gateway with their own upstream.
        tests.env("TOKENWIRE_PROGRAM", &self.program);
    }

    /// Checks that all servers are still running.
    ///
    /// # Errors
    /// A server has ended; the error names it and its exit status.
    pub(crate) fn still_running(&mut self) -> Result<(), Error> {
        let gateways = self.gateways.iter_mut().map(|(_, server)| server);
        for server in std::iter::once(&mut self.simulator).chain(gateways) {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(Error::Died {
                    name: server.name,
                    status,
                    tail: tail(&server.log),
                    log: server.log.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Builds the binaries of `packages` and returns their paths, which cargo reports.
///
/// The whole workspace is selected, with [`rust::WHOLE`]: so the dependencies get the features that
/// they have in the `test` step, and are not built a second time.
///
/// # Errors
/// The build fails, or a package has no binary of its name.
pub(crate) fn build<const N: usize>(
    workspace: &Workspace,
    packages: [&'static str; N],
) -> Result<[PathBuf; N], Error> {
    let mut arguments = vec!["build", "--workspace", "--test", rust::WHOLE];
    arguments.extend(packages.iter().flat_map(|package| ["--bin", package]));
    process::run(process::cargo(workspace.root()).args(&arguments))?;
    let messages = process::output(
        process::cargo(workspace.root())
            .args(&arguments)
            .args(["--quiet", "--message-format=json"]),
    );
    let messages = messages.unwrap_or_default();
    let mut programs = [const { PathBuf::new() }; N];
    for (program, package) in programs.iter_mut().zip(packages) {
        *program = executable(&messages, package).ok_or(Error::NoExecutable(package))?;
    }
    Ok(programs)
}

fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| {
            let matches =
                message["target"]["name"] == name && message["target"]["kind"][0] == "bin";
            if matches {
                message["executable"].as_str().map(PathBuf::from)
            } else {
                None
            }
        })
}

// === impl Server ===

impl Server {
    fn start(
        folder: &Path,
        name: &'static str,
        program: &Path,
        ready: &str,
        configure: impl FnOnce(&mut Command),
    ) -> Result<Self, Error> {
        let address = free_address()?;
        std::fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).map_err(Error::file("write", &log))?;
        let errors = output.try_clone().map_err(Error::file("write", &log))?;

        // Its own folder, so that it finds no configuration file by accident.
        let mut command = process::command(program, folder);
        isolate(&mut command);
        command
            .args(["--host", "127.0.0.1", "--port"])
            .arg(address.port().to_string())
            .stdout(output)
            .stderr(errors);
        configure(&mut command);
        let child = command.spawn().map_err(|source| Error::Spawn {
            command: process::show(&command),
            source,
        })?;
        let mut server = Self {
            name,
            url: format!("http://{address}"),
            log,
            child,
        };
        server.wait(address, ready)?;
        Ok(server)
    }

    fn wait(&mut self, address: SocketAddr, ready: &str) -> Result<(), Error> {
        let started = Instant::now();
        while !answers(address, ready) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Error::Ended {
                    name: self.name,
                    status,
                    tail: tail(&self.log),
                    log: self.log.clone(),
                });
            }
            if started.elapsed() > START_TIMEOUT {
                let (url, tail) = (format!("{}{ready}", self.url), tail(&self.log));
                return Err(Error::NotReady {
                    name: self.name,
                    url,
                    waited: START_TIMEOUT,
                    tail,
                    log: self.log.clone(),
                });
            }
            // There is no event for a port that starts to listen.
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if the server has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a free port below those that the kernel gives to outgoing connections: a client of
/// another step could take such a port before the server does.
fn free_address() -> Result<SocketAddr, Error> {
    // The keys of its hash are random.
    let drawn = RandomState::new().hash_one("port") % u64::from(PORTS.end - PORTS.start);
    let first = PORTS.start + u16::try_from(drawn).unwrap_or_default();
    let bound = (first..PORTS.end)
        .chain(PORTS.start..first)
        .find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    bound
        .ok_or_else(|| std::io::ErrorKind::AddrInUse.into())
        .and_then(|listener| listener.local_addr())
        .map_err(|source| Error::Spawn {
            command: "a listener on 127.0.0.1".to_owned(),
            source,
        })
}

/// Returns whether `GET path` is answered with 200.
fn answers(address: SocketAddr, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        // In one write: a server that answers and closes after the first of several would reset
        // the connection.
        stream.write_all(
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

fn isolate(command: &mut Command) {
    let settings = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("TOKENWIRE_"));
    for name in settings.chain(FOREIGN.iter().map(OsString::from)) {
        command.env_remove(name);
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_is_taken_from_cargo_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"kind":["lib"],"name":"tokenwire"},"executable":null}
            {"reason":"compiler-artifact","target":{"kind":["bin"],"name":"tokenwire"},"executable":"/a place/tokenwire"}
            {"reason":"build-finished","success":true}
        "#;
        assert_eq!(
            executable(messages, "tokenwire"),
            Some(PathBuf::from("/a place/tokenwire"))
        );
        assert_eq!(executable(messages, "other"), None);
    }

    #[test]
    fn only_status_200_counts_as_ready() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
            ("", false),
        ] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 256];
                let count = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8_lossy(&request[..count]).into_owned()
            });
            assert_eq!(answers(address, "/readyz"), expected, "{answer:?}");
            assert!(
                server
                    .join()
                    .unwrap()
                    .starts_with("GET /readyz HTTP/1.1\r\n")
            );
        }
    }

    #[test]
    fn error_quotes_the_end_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(
            &log,
            (0..100).map(|n| format!("line {n}\n")).collect::<String>(),
        )
        .unwrap();
        let tail = tail(&log);
        assert!(
            tail.starts_with("line 70\n") && tail.ends_with("line 99"),
            "{tail}"
        );
    }

    #[test]
    fn server_that_ends_early_is_reported_with_its_log() {
        // A shell refuses the options of a gateway.
        let shell = process::which("sh").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let error = Server::start(folder.path(), "short-lived", &shell, "/readyz", |_| {})
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.starts_with("short-lived ended with exit status: 2 before it was ready"),
            "{error}"
        );
        assert!(error.contains("option"), "the log is missing: {error}");
    }
}
