//! The steps of `cargo xtask test`: what each checks, what it needs and what it runs. A new check
//! is a new row here.

use crate::error::Error;
use crate::need::{
    CADDY, CHROMIUM, CURL, FONTS, HAPROXY, NCHAN, NGINX, Need, PYTHON, VALGRIND, VENV,
};
use crate::workspace::Workspace;
use crate::{examples, micro, node, python, rust};

/// One row of the summary.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// What holds if the step passes.
    pub(crate) about: &'static str,
    pub(crate) needs: &'static [Need],
    pub(crate) run: fn(&Context<'_>) -> Result<Outcome, Error>,
}

/// What a step may know of the run it is part of.
pub(crate) struct Context<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) may_install: bool,
    pub(crate) with_deny: bool,
    /// What the person wrote after `--`.
    pub(crate) rest: &'a [String],
}

/// How a step ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// It was not run, and why.
    Skipped(&'static str),
}

/// In the order they run: what fails fastest comes first.
pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "rustfmt finds nothing to change",
        needs: &[Need::Component("rustfmt", "fmt")],
        run: rust::fmt,
    },
    Step {
        name: "clippy",
        about: "clippy finds nothing to say",
        needs: &[Need::Component("clippy", "clippy")],
        run: rust::clippy,
    },
    Step {
        name: "test",
        about: "the unit and integration tests pass",
        needs: &[],
        run: rust::test,
    },
    Step {
        name: "doctest",
        about: "the examples in the documentation run",
        needs: &[],
        run: rust::doctest,
    },
    Step {
        name: "deny",
        about: "every dependency has a permissive licence and a known source",
        needs: &[],
        run: rust::deny,
    },
    Step {
        name: "micro",
        about: "no micro-benchmark takes over ten per cent more instructions than recorded",
        needs: &[Need::Debian(VALGRIND), Need::MicroRunner],
        run: micro::test,
    },
    Step {
        name: "python",
        about: "openai-python, httpx, websockets and curl get from the gateway what they expect, over LiteLLM, too",
        needs: &[
            Need::Debian(CURL),
            Need::Debian(PYTHON),
            Need::Debian(VENV),
            Need::PythonClients,
        ],
        run: python::test,
    },
    Step {
        name: "node",
        about: "openai-node, the AI SDK, eventsource and ws get from the gateway what they expect, over aimock, too",
        needs: &[Need::NodeClients],
        run: node::test,
    },
    Step {
        name: "client",
        about: "the client module gets every token once, in Node, over good roads and bad",
        needs: &[Need::BrowserPackages],
        run: node::client_module,
    },
    Step {
        name: "browser",
        about: "the chat page and the client module do in Chromium what they should",
        needs: &[
            Need::Debian(CHROMIUM),
            Need::Debian(FONTS),
            Need::BrowserPackages,
        ],
        run: node::browser,
    },
    Step {
        name: "examples",
        about: "every example does what it says, the pages in Chromium, and streams flow through nginx and Caddy",
        needs: &[
            Need::Debian(CADDY),
            Need::Debian(CHROMIUM),
            Need::Debian(CURL),
            Need::Debian(NGINX),
            Need::Debian(PYTHON),
            Need::Debian(VENV),
            Need::Examples,
        ],
        run: examples::test,
    },
    Step {
        name: "soak",
        about: "two minutes of every client over every fault lose no token and leave nothing behind (SOAK_MINUTES, SOAK_SEED)",
        needs: &[],
        run: rust::soak,
    },
];

/// What `cargo xtask install` knows besides the steps: the peers that the benchmarks compare with,
/// where they are.
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

/// The step of that name.
///
/// # Errors
/// There is none; the error lists those there are.
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
    fn every_step_has_a_name_of_its_own() {
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
    fn an_unknown_step_is_answered_with_the_known_ones() {
        let error = named("clipy").err().unwrap().to_string();
        assert_eq!(
            error,
            "there is no step `clipy`; the steps are fmt, clippy, test, doctest, deny, micro, python, node, client, browser, examples, soak"
        );
    }
}
