//! The command line. It has flags for frequent settings; all others are keys of the configuration.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::doctor_args::{DOCTOR_EXAMPLES, DoctorArgs};
use crate::key_args::{KEY_EXAMPLES, KeyCommand};

const EXAMPLES: &str = "\
Examples:
  tokenwire                                           the embedded simulator answers: no key, no network
  OPENAI_API_KEY=sk-... tokenwire                     OpenAI answers
  tokenwire --base-url http://localhost:11434/v1 --model llama3.2
                                                      a local Ollama answers
  tokenwire --base-url http://localhost:8000/v1       vLLM, llama.cpp or any other compatible server
  tokenwire --config tokenwire.yaml --check           is this file right?
  tokenwire --print-config                            what is in force, and where it came from
  tokenwire doctor                                    do the upstreams answer, can the store be written, ...?

Then, from another terminal:
  curl -N localhost:3000/v1/streams -d '{\"input\":\"hello\"}'
  curl -N localhost:3000/v1/streams -d '{\"input\":\"hello\"}' -H 'Accept: text/plain'
  curl -N localhost:3000/v1/chat/completions -H 'Content-Type: application/json' \\
       -d '{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}'

Restart: start the new version beside the running one, with the same port and store.path (store.kind: disk). It takes
the port over, and the old process ends its streams and exits. Or let systemd hold the socket (LISTEN_FDS).

Reload: change the file, or send SIGHUP or POST /admin/reload. Mistakes change nothing and are logged.

Configuration, each overriding the next:
  flags
  environment  TOKENWIRE_ and the path of a key, `__` between its parts: TOKENWIRE_SERVER__PORT=8080,
               TOKENWIRE_STREAMS__HEARTBEAT=10s, TOKENWIRE_UPSTREAMS__0__API_KEY=...; RUST_LOG sets log.filter;
               OPENAI_API_KEY and OPENAI_BASE_URL configure the upstream where no other is
  file         --config, else TOKENWIRE_CONFIG, else ./config/tokenwire.yaml if it is there
  defaults     as config/tokenwire.yaml shows them";

/// A streaming gateway for OpenAI-compatible models: one durable, numbered token stream over SSE
/// and WebSocket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Parser)]
#[command(name = "tokenwire", version, after_help = EXAMPLES)]
pub struct Cli {
    /// Read this YAML file instead of ./config/tokenwire.yaml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Listen on this address [default: 127.0.0.1]; 0.0.0.0 lets other machines in.
    #[arg(long)]
    pub host: Option<String>,

    /// Listen on this port [default: 3000]; 0 takes any free one.
    #[arg(long)]
    pub port: Option<u16>,

    /// Start this many worker threads [default: 0, one per core].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,

    /// Let the embedded simulator answer, whatever else is configured.
    #[arg(long, conflicts_with = "base_url")]
    pub simulator: bool,

    /// Ask the model server at this URL, instead of any that are configured; with OPENAI_API_KEY if
    /// that is set.
    #[arg(long, value_name = "URL")]
    pub base_url: Option<String>,

    /// Use this model for requests that name none.
    #[arg(long)]
    pub model: Option<String>,

    /// Log at this level, or by this filter, such as `info,tokenwire=debug` [default: info].
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,

    /// Print the effective configuration as YAML, secrets redacted, and exit.
    #[arg(long, conflicts_with = "check")]
    pub print_config: bool,

    /// Check the configuration and exit: 0 if it can be used, 1 if not.
    #[arg(long)]
    pub check: bool,

    /// Do this instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be done instead of serving.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Make, list and revoke the keys of clients.
    #[command(subcommand, after_help = KEY_EXAMPLES)]
    Key(KeyCommand),
    /// Check that the gateway can run, and say what to do where it cannot.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_shows_examples() {
        let help = Cli::command().render_help().to_string();
        for example in [
            "OPENAI_API_KEY",
            "localhost:11434",
            "--config",
            "TOKENWIRE_SERVER__PORT",
            r#"curl -N localhost:3000/v1/streams -d '{"input":"hello"}'"#,
        ] {
            assert!(help.contains(example), "{example} is missing from:\n{help}");
        }
    }

    #[test]
    fn simulator_and_base_url_are_exclusive() {
        assert!(
            Cli::try_parse_from([
                "tokenwire",
                "--simulator",
                "--base-url",
                "http://localhost:1/v1"
            ])
            .is_err()
        );
    }
}
