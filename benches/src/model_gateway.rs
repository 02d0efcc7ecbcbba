//! The model gateways to compare with: their packages from PyPI, configured for speed as their
//! documentation recommends.
//!
//! They run without a key, as all targets here, and with one upstream, so the figures contain no
//! choice of a server.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::free_port;

/// A gateway for OpenAI's chat completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelGateway {
    /// LiteLLM's proxy, in Python.
    Litellm,
    /// Shepherd Model Gateway, native.
    Smg,
    /// vLLM's router, native.
    VllmRouter,
}

/// How to install the gateways.
pub(crate) const REMEDY: &str = "install it with `cargo xtask install bench`";

// === impl ModelGateway ===

impl fmt::Display for ModelGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ModelGateway {
    pub(crate) const ALL: [Self; 3] = [Self::Litellm, Self::Smg, Self::VllmRouter];

    /// The name of the program and of the package.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Litellm => "litellm",
            Self::Smg => "smg",
            Self::VllmRouter => "vllm-router",
        }
    }

    /// The path that is answered with 200 once the gateway is ready.
    pub(crate) fn health(self) -> &'static str {
        match self {
            Self::Litellm => "/health/liveliness",
            Self::Smg | Self::VllmRouter => "/readiness",
        }
    }

    /// Describes how the gateway is started, for the page of results.
    pub(crate) fn configuration(self) -> &'static str {
        match self {
            Self::Litellm => {
                "one uvicorn worker (one a core is what its documentation asks for) on uvloop and httptools, `LITELLM_MODE=PRODUCTION`, \
                 `LITELLM_LOG=ERROR`, its aiohttp transport, no database, no callbacks, no retries, no key"
            }
            Self::Smg => {
                "`smg launch --backend openai --policy round_robin`, without health checks, load monitoring, history and the bound on \
                 requests; log level error"
            }
            Self::VllmRouter => "`vllm-router --policy round_robin`; log level error",
        }
    }

    /// Returns the command that starts the gateway on `listen` with `upstream`, and its files in
    /// `place`.
    pub(crate) fn command(
        self,
        listen: SocketAddr,
        upstream: SocketAddr,
        place: &Path,
        model: &str,
    ) -> io::Result<Command> {
        let mut command = Command::new(self.program());
        command.current_dir(place);
        let port = listen.port().to_string();
        if self == Self::Smg {
            command.arg("launch");
        }
        command.args(["--host", "127.0.0.1", "--port", &port]);
        match self {
            Self::Litellm => {
                let config = place.join("litellm.yaml");
                fs::write(&config, litellm(upstream, model))?;
                command
                    .arg("--config")
                    .arg(config)
                    .args(["--num_workers", "1", "--telemetry", "False"])
                    .env("LITELLM_MODE", "PRODUCTION")
                    .env("LITELLM_LOG", "ERROR")
                    // Prices come from the package, not from the network.
                    .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
                    // It does not start without a key unless two options allow it;
                    // checking a key would cost time.
                    .env(
                        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY",
                        "true",
                    );
            }
            Self::Smg => {
                command
                    .args([
                        "--worker-urls",
                        &format!("http://{upstream}"),
                        "--backend",
                        "openai",
                        "--policy",
                        "round_robin",
                    ])
                    .args([
                        "--disable-health-check",
                        "--disable-load-monitoring",
                        "--history-backend",
                        "none",
                        "--log-level",
                        "error",
                    ])
                    .args([
                        "--max-concurrent-requests",
                        "0",
                        "--shutdown-grace-period-secs",
                        "1",
                    ])
                    .args([
                        "--prometheus-host",
                        "127.0.0.1",
                        "--prometheus-port",
                        &free_port()?.to_string(),
                    ]);
            }
            Self::VllmRouter => {
                command
                    .args([
                        "--worker-urls",
                        &format!("http://{upstream}"),
                        "--policy",
                        "round_robin",
                        "--log-level",
                        "error",
                    ])
                    .args(["--worker-startup-check-interval", "1"])
                    .args([
                        "--prometheus-host",
                        "127.0.0.1",
                        "--prometheus-port",
                        &free_port()?.to_string(),
                    ]);
            }
        }
        Ok(command)
    }

    /// Returns the Python of the package's environment, which knows its version.
    pub(crate) fn python(self) -> PathBuf {
        self.program().with_file_name("python")
    }

    /// Returns the program that `cargo xtask install bench` installs, or else its name for the
    /// PATH.
    fn program(self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap_or_else(|| Path::new("."));
        let installed = root.join(".tools/peers/bin").join(self.name());
        if installed.exists() {
            installed
        } else {
            PathBuf::from(self.name())
        }
    }
}

/// LiteLLM's production settings that concern a relay.
fn litellm(upstream: SocketAddr, model: &str) -> String {
    let model = serde_json::Value::from(model);
    let upstream_model =
        serde_json::Value::from(format!("openai/{}", model.as_str().unwrap_or_default()));
    format!(
        "model_list:
  - model_name: {model}
    litellm_params: {{model: {upstream_model}, api_base: \"http://{upstream}/v1\", api_key: none}}
litellm_settings: {{telemetry: false, set_verbose: false, num_retries: 0, request_timeout: 600}}
router_settings: {{num_retries: 0, disable_cooldowns: true}}
"
    )
}
