//! The table of steps of `cargo xtask test`. A new check is a new row here.

use crate::debian::{
    BUILDAH, CADDY, CHROMIUM, CURL, DEBOOTSTRAP, FAKETIME, FONTS, HAPROXY, NCHAN, NGINX, OPENSSL,
    PROMETHEUS, PYTHON, REDIS, REDIS_SENTINEL, SYSTEMD, VALGRIND, VENV,
};
use crate::error::Error;
use crate::need::Need;
use crate::step::{Step, Tier};
use crate::{
    agents, container, deployment, examples, fuzz, micro, monitoring, node, publish, python,
    restarts, rust, telemetry,
};

/// Tiers of the step that is cheap enough for each run.
const ALWAYS: &[Tier] = &[Tier::Quick, Tier::Default, Tier::Ci, Tier::Full];
/// Tiers of the lints, which compile all crates once more: `cargo xtask test` is for the tests.
const LINTS: &[Tier] = &[Tier::Quick, Tier::Ci, Tier::Full];
/// Tiers of the steps that `cargo xtask test` runs.
const DEFAULT: &[Tier] = &[Tier::Default, Tier::Ci, Tier::Full];
/// Tiers of the steps that `.ci/run` adds.
const WIDER: &[Tier] = &[Tier::Ci, Tier::Full];

/// What the tests of the page in Chromium need.
const IN_CHROMIUM: &[Need] = &[
    Need::Debian(CHROMIUM),
    Need::Debian(FONTS),
    Need::BrowserPackages,
];

/// All steps in the order in which they begin: what fails most often first. Those in a row that may run
/// beside another run two at a time, so the long ones among them are not the last.
pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "rustfmt finds nothing to change",
        tiers: ALWAYS,
        needs: &[Need::Component("rustfmt", "fmt")],
        beside: false,
        run: rust::fmt,
    },
    Step {
        name: "clippy",
        about: "clippy has no warnings, in any target",
        tiers: LINTS,
        needs: &[Need::Component("clippy", "clippy")],
        beside: false,
        run: rust::clippy,
    },
    Step {
        name: "unit",
        about: "the unit tests pass, and the tests of the layers and of the words",
        tiers: &[Tier::Quick],
        needs: &[],
        beside: false,
        run: rust::unit,
    },
    Step {
        name: "test",
        about: "the unit and integration tests pass",
        tiers: DEFAULT,
        needs: &[
            Need::Debian(CURL),
            Need::Debian(FAKETIME),
            Need::Debian(NGINX),
            Need::Debian(OPENSSL),
            Need::Debian(REDIS),
            Need::Debian(REDIS_SENTINEL),
            Need::Debian(SYSTEMD),
        ],
        beside: false,
        run: rust::test,
    },
    Step {
        name: "doctest",
        about: "the examples in the documentation run",
        tiers: DEFAULT,
        needs: &[],
        beside: true,
        run: rust::doctest,
    },
    Step {
        name: "deny",
        about: "every dependency has a permissive licence and a known source",
        tiers: DEFAULT,
        needs: &[],
        beside: true,
        run: rust::deny,
    },
    Step {
        name: "docs",
        about: "the documentation of all crates builds without warnings",
        tiers: WIDER,
        needs: &[],
        beside: true,
        run: publish::docs,
    },
    Step {
        name: "features",
        about: "each library crate compiles alone, core with and without its features",
        tiers: WIDER,
        needs: &[],
        beside: true,
        run: publish::features,
    },
    Step {
        name: "package",
        about: "the library crates can be packaged for a registry",
        tiers: WIDER,
        needs: &[],
        beside: true,
        run: publish::package,
    },
    Step {
        name: "micro",
        about: "no micro-benchmark takes over 10 % more instructions than recorded",
        tiers: WIDER,
        needs: &[Need::Debian(VALGRIND), Need::MicroRunner],
        beside: true,
        run: micro::test,
    },
    Step {
        name: "python",
        about: "openai-python, httpx, websockets and curl work with the gateway, also with LiteLLM as upstream",
        tiers: DEFAULT,
        needs: &[
            Need::Debian(CURL),
            Need::Debian(PYTHON),
            Need::Debian(VENV),
            Need::PythonClients,
        ],
        beside: true,
        run: python::test,
    },
    Step {
        name: "browser",
        about: "the chat page and the client module work in Chromium: answers, cuts, reloads, stops, more than one reader",
        tiers: DEFAULT,
        needs: IN_CHROMIUM,
        beside: true,
        run: node::browser,
    },
    Step {
        name: "browser-features",
        about: "conversations, keys, activity, pictures and languages of the chat page work in Chromium",
        tiers: WIDER,
        needs: IN_CHROMIUM,
        beside: true,
        run: node::browser_features,
    },
    Step {
        name: "browser-restarts",
        about: "the chat page goes on after a kill, a rolling restart, with and without TLS, and a laptop that slept",
        tiers: WIDER,
        needs: IN_CHROMIUM,
        beside: true,
        run: node::browser_restarts,
    },
    Step {
        name: "node",
        about: "openai-node, the AI SDK, eventsource and ws work with the gateway, also with aimock as upstream",
        tiers: DEFAULT,
        needs: &[Need::NodeClients],
        beside: true,
        run: node::test,
    },
    Step {
        name: "agents",
        about: "Codex CLI, the AI SDK, OpenAI Agents, LangChain, pydantic-ai and LiteLLM's bridge hold a conversation with a tool",
        tiers: WIDER,
        needs: &[Need::Debian(PYTHON), Need::Debian(VENV), Need::Agents],
        beside: true,
        run: agents::test,
    },
    Step {
        name: "client",
        about: "the client module gets each token once in Node, also over failing connections",
        tiers: DEFAULT,
        needs: &[Need::BrowserPackages],
        beside: true,
        run: node::client_module,
    },
    Step {
        name: "examples",
        about: "each example works, the pages in Chromium, and streams pass through nginx and Caddy",
        tiers: WIDER,
        needs: &[
            Need::Debian(CADDY),
            Need::Debian(CHROMIUM),
            Need::Debian(CURL),
            Need::Debian(NGINX),
            Need::Debian(PYTHON),
            Need::Debian(VENV),
            Need::Examples,
        ],
        beside: true,
        run: examples::test,
    },
    Step {
        name: "deployment",
        about: "the Kubernetes manifests are valid",
        tiers: WIDER,
        needs: &[
            Need::Debian(PYTHON),
            Need::Debian(VENV),
            Need::ManifestValidator,
        ],
        beside: true,
        run: deployment::test,
    },
    Step {
        name: "container",
        about: "the image of deploy/Dockerfile serves with a key, as an ordinary user, and keeps streams on its volume; needs root",
        tiers: WIDER,
        needs: &[
            Need::Debian(BUILDAH),
            Need::Debian(CURL),
            Need::Debian(DEBOOTSTRAP),
        ],
        beside: true,
        run: container::test,
    },
    Step {
        name: "telemetry",
        about: "the official protobufs of OTLP read the spans and metrics that the gateway sends",
        tiers: WIDER,
        needs: &[
            Need::Debian(PYTHON),
            Need::Debian(VENV),
            Need::TelemetryProtobufs,
        ],
        beside: true,
        run: telemetry::test,
    },
    Step {
        name: "monitoring",
        about: "Debian's Prometheus takes the alerts, and every query of the dashboard returns data",
        tiers: WIDER,
        needs: &[Need::Debian(PROMETHEUS)],
        beside: true,
        run: monitoring::test,
    },
    Step {
        name: "restarts",
        about: "300 streams over every transport and in the official SDKs survive five restarts in a row (RESTART_STREAMS)",
        tiers: WIDER,
        needs: &[
            Need::Debian(PYTHON),
            Need::Debian(VENV),
            Need::PythonClients,
            Need::NodeClients,
        ],
        beside: true,
        run: restarts::test,
    },
    Step {
        name: "soak",
        about: "clients of all kinds with all faults lose no token and leave nothing behind: 2 minutes, 30 with --full (SOAK_MINUTES, SOAK_SEED)",
        tiers: WIDER,
        needs: &[],
        beside: true,
        run: rust::soak,
    },
    Step {
        name: "simulation",
        about: "1,000 simulations over a store in memory, as many over a disk and as many of several nodes, or what fits in a minute each, find nothing (SIMULATION_SEEDS, SIMULATION_SEED)",
        tiers: WIDER,
        needs: &[],
        beside: true,
        run: rust::simulation,
    },
    Step {
        name: "fuzz",
        about: "each fuzz target runs for a minute without a finding (FUZZ_SECONDS)",
        tiers: &[Tier::Full],
        needs: &[Need::Fuzzer],
        beside: false,
        run: fuzz::test,
    },
];

/// The peers of the benchmarks, which `cargo xtask install` knows beside the steps.
pub(crate) const BENCH: (&str, &[Need]) = (
    "bench",
    &[
        Need::Debian(NGINX),
        Need::Debian(NCHAN),
        Need::Debian(HAPROXY),
        Need::Debian(PYTHON),
        Need::Debian(VENV),
        Need::ModelGateways,
    ],
);

/// Returns the step of that name.
///
/// # Errors
/// There is no such step; the error lists all names.
pub(crate) fn named(name: &str) -> Result<&'static Step, Error> {
    STEPS
        .iter()
        .find(|step| step.name == name)
        .ok_or_else(|| Error::UnknownStep {
            name: name.to_owned(),
            known: STEPS
                .iter()
                .map(|step| step.name)
                .collect::<Vec<_>>()
                .join(", "),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_names_are_unique() {
        let mut names: Vec<_> = STEPS
            .iter()
            .map(|step| step.name)
            .chain([BENCH.0])
            .collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn unknown_step_error_lists_all_steps() {
        let error = named("clipy").err().unwrap().to_string();
        assert_eq!(
            error,
            "there is no step `clipy`; the steps are fmt, clippy, unit, test, doctest, deny, docs, features, package, micro, python, browser, browser-features, browser-restarts, node, agents, client, examples, deployment, container, telemetry, monitoring, restarts, soak, simulation, fuzz"
        );
    }
}
