//! What a step needs before it can run.

use std::fmt;

use crate::debian::Package;

/// One requirement of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// A component of the Rust toolchain that rustup's minimal profile leaves out: its name for
    /// rustup, and the cargo command that it adds.
    Component(&'static str, &'static str),
    Debian(Package),
    /// The agents, at the versions that their lock files pin.
    Agents,
    /// What checks Kubernetes manifests.
    ManifestValidator,
    /// cargo-fuzz.
    Fuzzer,
    /// The program that runs benchmarks under valgrind.
    MicroRunner,
    /// The model gateways that the benchmarks compare with.
    ModelGateways,
    /// The official protobufs of OTLP.
    TelemetryProtobufs,
    /// The pinned Python packages.
    PythonClients,
    /// Node and the pinned npm packages.
    NodeClients,
    /// The packages that the examples pin.
    Examples,
    /// Node and the pinned npm packages that drive a browser.
    BrowserPackages,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Component(component, _) => return write!(f, "{component} (rustup)"),
            Self::Debian(package) => return write!(f, "{} (apt)", package.name),
            Self::Agents => {
                "the packages of tests/agents/package-lock.json (npm) and requirements.txt (pip)"
            }
            Self::ManifestValidator => {
                "the packages of tests/deployment/requirements.txt (pip)"
            }
            Self::Fuzzer => "cargo-fuzz (cargo install)",
            Self::MicroRunner => {
                "gungraun-runner, at the version of Cargo.lock (cargo install)"
            }
            Self::ModelGateways => "the packages of benches/peers/requirements.txt (pip)",
            Self::TelemetryProtobufs => "the packages of tests/telemetry/requirements.txt (pip)",
            Self::PythonClients => {
                "the packages of clients/python/requirements.txt and litellm.txt (pip)"
            }
            Self::NodeClients => {
                "Node 20 or newer, and the packages of clients/node/package-lock.json (npm)"
            }
            Self::BrowserPackages => {
                "Node 20 or newer, and the packages of tests/browser/package-lock.json (npm)"
            }
            Self::Examples => {
                "the packages of examples/*/requirements.txt (pip) and examples/*/package-lock.json (npm)"
            }
        })
    }
}
