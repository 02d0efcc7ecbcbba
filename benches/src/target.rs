//! The targets: the simulator itself, the gateway, its peers, or any server behind a URL. They are
//! configured, started and stopped here.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use thiserror::Error;

use crate::cores::Cores;
use crate::model_gateway::{self, ModelGateway};
use crate::peer;
use crate::process::{self, ProcessError, ProcessTree, Running};
use crate::request::{Endpoint, Route, UrlError};

/// Which program a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The simulator without a gateway.
    Direct,
    /// The gateway, read by this route.
    Tokenwire(Route),
    Nginx,
    Haproxy,
    /// Read over this transport: a WebSocket, or SSE for every other route.
    Nchan(Route),
    Model(ModelGateway),
    /// A program started by this shell command, with `{port}`, `{upstream}` and `{workers}` filled
    /// in.
    Gateway {
        name: String,
        command: String,
        route: Route,
    },
    /// A server that is already running.
    Url {
        url: String,
        route: Route,
        pid: Option<u32>,
    },
}

/// A running target.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) endpoint: Endpoint,
    /// The processes under test; none for a URL without a pid.
    pub(crate) tree: Option<ProcessTree>,
    running: Option<Running>,
}

/// The paths of the programs and how they are started.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) simulator: PathBuf,
    pub(crate) tokenwire: PathBuf,
    pub(crate) simulator_port: Option<u16>,
    pub(crate) cores: Cores,
    /// Worker threads of the gateway, worker processes of nginx.
    pub(crate) workers: usize,
    /// Threads of the simulator.
    pub(crate) simulator_threads: usize,
    pub(crate) model: String,
    pub(crate) key: Option<String>,
}

/// The simulator, and the folder for the files of the targets.
#[derive(Debug)]
pub(crate) struct Bed {
    programs: Programs,
    simulator: Option<Running>,
    simulator_address: SocketAddr,
    dir: TempDir,
    started: usize,
}

#[derive(Debug, Error)]
pub(crate) enum TargetError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("failed to prepare {what}: {source}")]
    Prepare { what: String, source: io::Error },
}

// === impl Kind ===

impl Kind {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Direct => "direct".to_owned(),
            Self::Tokenwire(route) => format!("tokenwire/{route}"),
            Self::Nginx => "nginx".to_owned(),
            Self::Haproxy => "haproxy".to_owned(),
            Self::Nchan(Route::Ws) => "nchan/ws".to_owned(),
            Self::Nchan(_) => "nchan/sse".to_owned(),
            Self::Model(gateway) => gateway.to_string(),
            Self::Gateway {
                name,
                route: Route::Chat,
                ..
            } => name.clone(),
            Self::Gateway { name, route, .. } => format!("{name}/{route}"),
            Self::Url {
                url,
                route: Route::Chat,
                ..
            } => url.clone(),
            Self::Url { url, route, .. } => format!("{url} ({route})"),
        }
    }

    pub(crate) fn route(&self) -> Route {
        match self {
            Self::Tokenwire(route)
            | Self::Nchan(route)
            | Self::Gateway { route, .. }
            | Self::Url { route, .. } => *route,
            Self::Direct | Self::Nginx | Self::Haproxy | Self::Model(_) => Route::Chat,
        }
    }

    /// Returns whether the target is a program of another project. Its failure is a result and does
    /// not end the measurement.
    pub(crate) fn is_peer(&self) -> bool {
        !matches!(self, Self::Direct | Self::Tokenwire(_))
    }

    /// Returns whether the target can be restarted.
    pub(crate) fn can_restart(&self) -> bool {
        !matches!(self, Self::Url { .. } | Self::Direct)
    }
}

// === impl Bed ===

impl Bed {
    /// Starts the simulator if a target needs it.
    pub(crate) fn new(programs: Programs, with_simulator: bool) -> Result<Self, TargetError> {
        let prepare = |what: &str| {
            let what = what.to_owned();
            move |source| TargetError::Prepare { what, source }
        };
        let dir = tempfile::Builder::new()
            .prefix("tokenwire-bench-")
            .tempdir()
            .map_err(prepare("a temporary directory"))?;
        let port = match programs.simulator_port {
            Some(port) => port,
            None => process::free_port().map_err(prepare("a port for the simulator"))?,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut bed = Self {
            programs,
            simulator: None,
            simulator_address: address,
            dir,
            started: 0,
        };
        if with_simulator {
            let mut command = Command::new(&bed.programs.simulator);
            command.arg("--port").arg(port.to_string());
            command
                .arg("--threads")
                .arg(bed.programs.simulator_threads.to_string());
            let log = bed.dir.path().join("simulator.log");
            let remedy = "build it with `cargo build --profile dist -p tokenwire-simulator`, or use --simulator PATH";
            let mut simulator =
                Running::start(command, log, bed.programs.cores.simulator(), remedy)?;
            simulator.wait_until(address, process::accepts)?;
            bed.simulator = Some(simulator);
        }
        Ok(bed)
    }

    pub(crate) fn simulator(&self) -> Option<ProcessTree> {
        self.simulator.as_ref().map(Running::tree)
    }

    /// Returns the endpoint of the simulator itself.
    pub(crate) fn simulator_endpoint(&self) -> Endpoint {
        Endpoint {
            address: self.simulator_address,
            prefix: "/v1".to_owned(),
            route: Route::Chat,
            model: self.programs.model.clone(),
            key: self.programs.key.clone(),
        }
    }

    /// Sets the number of workers of targets that are started from now on.
    pub(crate) fn set_workers(&mut self, workers: usize) {
        self.programs.workers = workers;
    }

    /// Starts a target, or attaches to a running one.
    pub(crate) fn start(&mut self, kind: &Kind) -> Result<Target, TargetError> {
        self.started += 1;
        let prepare = |what: String| move |source| TargetError::Prepare { what, source };
        let endpoint = |address| Endpoint {
            address,
            prefix: "/v1".to_owned(),
            route: kind.route(),
            model: self.programs.model.clone(),
            key: self.programs.key.clone(),
        };
        let target = |address, running: Running| Target {
            name: kind.name(),
            kind: kind.clone(),
            endpoint: endpoint(address),
            tree: Some(running.tree()),
            running: Some(running),
        };
        if let Kind::Url { url, route, pid } = kind {
            let parsed = Endpoint::parse_url(url, *route)?;
            let endpoint = Endpoint {
                address: parsed.address,
                prefix: parsed.prefix,
                ..endpoint(parsed.address)
            };
            return Ok(Target {
                name: kind.name(),
                kind: kind.clone(),
                endpoint,
                tree: pid.map(ProcessTree::of),
                running: None,
            });
        }
        if *kind == Kind::Direct {
            return Ok(Target {
                name: kind.name(),
                kind: kind.clone(),
                endpoint: self.simulator_endpoint(),
                tree: self.simulator(),
                running: None,
            });
        }
        let port = process::free_port().map_err(prepare(format!("a port for {}", kind.name())))?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let place = self.dir.path().join(format!(
            "{}-{}",
            self.started,
            kind.name().replace('/', "-")
        ));
        fs::create_dir_all(&place).map_err(prepare(place.display().to_string()))?;
        let (command, remedy) = self.command(kind, address, &place)?;
        let cores = self.programs.cores.target(self.programs.workers);
        let mut running = Running::start(command, place.join("output.log"), cores, remedy)?;
        match kind {
            Kind::Tokenwire(_) => {
                running.wait_until(address, |address| is_ready(address, "/readyz"))?
            }
            Kind::Model(gateway) => {
                running.wait_until(address, |address| is_ready(address, gateway.health()))?
            }
            _ => running.wait_until(address, process::accepts)?,
        }
        Ok(target(address, running))
    }

    fn command(
        &self,
        kind: &Kind,
        address: SocketAddr,
        place: &Path,
    ) -> Result<(Command, &'static str), TargetError> {
        let write = |name: &str, text: String| {
            let path = place.join(name);
            fs::write(&path, text)
                .map(|()| path.clone())
                .map_err(|source| TargetError::Prepare {
                    what: path.display().to_string(),
                    source,
                })
        };
        let upstream = self.simulator_address;
        let base_url = format!("http://{upstream}/v1");
        Ok(match kind {
            Kind::Nginx => {
                let conf = write(
                    "nginx.conf",
                    peer::nginx(address, upstream, self.programs.workers),
                )?;
                (
                    nginx(place, &conf),
                    "install it with `cargo xtask install bench` or `apt install nginx`",
                )
            }
            Kind::Nchan(_) => {
                let conf = write("nchan.conf", peer::nchan(address, self.programs.workers))?;
                (
                    nginx(place, &conf),
                    "install it with `cargo xtask install bench` or `apt install nginx libnginx-mod-nchan`",
                )
            }
            Kind::Haproxy => {
                let conf = write(
                    "haproxy.cfg",
                    peer::haproxy(address, upstream, self.programs.workers),
                )?;
                let mut command = Command::new(program("haproxy"));
                command.arg("-f").arg(conf);
                (
                    command,
                    "install it with `cargo xtask install bench` or `apt install haproxy`",
                )
            }
            Kind::Model(gateway) => {
                let command = gateway
                    .command(address, upstream, place, &self.programs.model)
                    .map_err(|source| TargetError::Prepare {
                        what: gateway.to_string(),
                        source,
                    })?;
                (command, model_gateway::REMEDY)
            }
            Kind::Gateway { command: line, .. } => {
                let line = line
                    .replace("{port}", &address.port().to_string())
                    .replace("{upstream}", &base_url)
                    .replace("{workers}", &self.programs.workers.to_string());
                let mut command = Command::new("sh");
                command
                    .arg("-c")
                    .arg(format!("exec {line}"))
                    .env("OPENAI_BASE_URL", &base_url)
                    .env("OPENAI_API_KEY", "sk-bench");
                (command, "check the command given with --gateway")
            }
            _ => {
                let mut command = Command::new(&self.programs.tokenwire);
                command
                    .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
                    .args(["--workers", &self.programs.workers.to_string()])
                    .env("OPENAI_BASE_URL", &base_url)
                    .env_remove("OPENAI_API_KEY")
                    .current_dir(place);
                (
                    command,
                    "build it with `cargo build --profile dist -p tokenwire`, or use --tokenwire PATH",
                )
            }
        })
    }
}

// === impl Target ===

impl Target {
    /// Restarts the process, so memory is measured from a clean start.
    pub(crate) fn restart(&mut self, bed: &mut Bed) -> Result<(), TargetError> {
        self.running = None;
        *self = bed.start(&self.kind)?;
        Ok(())
    }
}

fn nginx(place: &Path, conf: &Path) -> Command {
    let mut command = Command::new(program("nginx"));
    command
        .arg("-p")
        .arg(place)
        .arg("-c")
        .arg(conf)
        .args(["-e", "stderr"]);
    command
}

/// Returns the path of a server. Debian installs servers in /usr/sbin, often not on the PATH.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = Path::new("/usr/sbin").join(name);
    if path.exists() {
        path
    } else {
        PathBuf::from(name)
    }
}

/// Returns whether `GET` of this path is answered with 200.
fn is_ready(address: SocketAddr, path: &str) -> bool {
    let ask = || -> io::Result<bool> {
        let mut socket = TcpStream::connect_timeout(&address, Duration::from_millis(200))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.write_all(
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )?;
        let mut status = [0; 12];
        socket.read_exact(&mut status)?;
        Ok(status.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}
