//! The model gateways that are compared with: what PyPI has of them, each at what its documentation
//! says is best for speed.
//!
//! They are read without a key, as everything else here is, and told of one upstream only, so that
//! what counts is the way of a token and not the choice of a server.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::free_port;

/// A gateway that understands OpenAI's chat completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelGateway {
    /// LiteLLM's proxy, in Python.
    Litellm,
    /// Shepherd Model Gateway, native.
    Smg,
    /// vLLM's router, native.
    VllmRouter,
}

/// What a person does who does not have them.
pub(crate) const REMEDY: &str = "install it with `cargo xtask install bench`";

// === impl ModelGateway ===

impl fmt::Display for ModelGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ModelGateway {
    pub(crate) const ALL: [Self; 3] = [Self::Litellm, Self::Smg, Self::VllmRouter];

    /// Of the program, and of the package.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Litellm => "litellm",
            Self::Smg => "smg",
            Self::VllmRouter => "vllm-router",
        }
    }

    /// Answered with 200 once requests are taken.
    pub(crate) fn health(self) -> &'static str {
        match self {
            Self::Litellm => "/health/liveliness",
            Self::Smg | Self::VllmRouter => "/readiness",
        }
    }

    /// How it is started, for the page of results.
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

    /// How it is started to listen on `listen` and ask `upstream`, with its files in `place`.
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
                    // Prices come from the package and not from the network.
                    .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
                    // It does not start without a key unless it is told twice that this is meant;
                    // checking one would cost it time.
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

    /// The Python that has the package, to be asked for its version.
    pub(crate) fn python(self) -> PathBuf {
        self.program().with_file_name("python")
    }

    /// Where `cargo xtask install bench` puts it; else what the PATH has.
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

/// LiteLLM's production settings, as far as they bear on a relay.
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
