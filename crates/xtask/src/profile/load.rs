//! The loads under which a gateway is recorded: those of the benchmarks, small.

use std::path::Path;

use serde_json::json;

use crate::error::Error;
use crate::process;

/// A load of `tokenwire-bench`.
pub(super) struct Load {
    pub(super) name: &'static str,
    /// Arguments of `tokenwire-bench`.
    arguments: &'static str,
    /// Tokens, or requests, of the load.
    pub(super) units: u64,
    pub(super) of: Part,
    keyed: bool,
}

/// How often a function runs, most often first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Token,
    Request,
    Other,
}

pub(super) const LOADS: &[Load] = &[
    tokens("chat", "paced -r chat -n 20 --tokens 100", 2_000),
    tokens("ws", "paced -r ws -n 20 --tokens 100", 2_000),
    tokens("lanes", "paced -r lanes -n 20 --tokens 100", 2_000),
    tokens("saturated", "saturated -r chat -n 4 --tokens 500", 2_000),
    tokens("ws-saturated", "saturated -r ws -n 4 --tokens 500", 2_000),
    tokens("readers", "fanout -r streams -n 20 --tokens 60", 1_200),
    tokens("ws-readers", "fanout -r ws -n 20 --tokens 60", 1_200),
    requests("requests", "short -r chat -n 8 --requests 400", 400),
    requests("responses", "short -r responses -n 8 --requests 400", 400),
    requests("connections", "short-new -r chat -n 8 --requests 400", 400),
    Load {
        keyed: true,
        ..requests("keys", "short -r chat -n 8 --requests 400", 400)
    },
];

const fn tokens(name: &'static str, arguments: &'static str, units: u64) -> Load {
    Load {
        name,
        arguments,
        units,
        of: Part::Token,
        keyed: false,
    }
}

const fn requests(name: &'static str, arguments: &'static str, units: u64) -> Load {
    Load {
        of: Part::Request,
        ..tokens(name, arguments, units)
    }
}

/// A key of the configuration below, of no use elsewhere.
const KEY: &str = "sk-tw-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

// === impl Load ===

impl Load {
    /// Runs the load against `gateway`, a program with the words before it that start it.
    ///
    /// # Errors
    /// The configuration cannot be written, or a program of the load fails.
    pub(super) fn run(&self, programs: &Path, folder: &Path, gateway: &str) -> Result<(), Error> {
        let config = folder.join("config.json");
        let mut text = json!({"log": {"filter": "error"}, "default_model": "simulator"});
        if self.keyed {
            // No load reaches these limits, which are counted all the same.
            let limits = json!({"requests_per_minute": 100_000_000,
                "tokens_per_minute": 1_000_000_000_000_u64, "streams": 1_000_000});
            text["auth"] = json!({"keys": [{"owner": "bench", "key": KEY, "limits": limits}]});
        }
        std::fs::write(&config, text.to_string()).map_err(Error::file("write", &config))?;
        let gateway = format!(
            "gateway=env -C {} {gateway} --workers {{workers}} --port {{port}} --config {}",
            process::quoted(folder.as_os_str()),
            process::quoted(config.as_os_str()),
        );
        let mut bench = process::command(programs.join("tokenwire-bench"), folder);
        bench
            .args(self.arguments.split(' '))
            .args(["--alone", "--no-build", "--no-pin", "--rounds", "1"])
            .args(["--key", KEY, "--gateway", &gateway]);
        process::run(&mut bench)
    }
}
