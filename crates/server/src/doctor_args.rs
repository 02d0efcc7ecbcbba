//! The arguments of `tokenwire doctor`.

use clap::Args;

/// Shown below the help of `tokenwire doctor`.
pub const DOCTOR_EXAMPLES: &str = "\
Examples:
  tokenwire doctor                                    before the first start, and whenever something is odd
  tokenwire doctor --config /etc/tokenwire/tokenwire.yaml
  tokenwire doctor --url https://chat.example.com     also asks the gateway that runs, through the proxy in front of it
  tokenwire doctor --url https://chat.example.com --key \"$KEY\"

What is checked:
  configuration   every key; secrets in a file that others can read
  access          whether other machines reach the gateway without a credential
  listener        whether the port is free, or a gateway has it
  descriptors     whether the limit of open files fits limits.connections and limits.streams
  upstreams       name, connection, TLS, api_key, and whether the models are offered: GET <base_url>/models
  store           whether store.path can be written and locked, is on a local disk, and has room
  cluster         whether Redis answers, is recent enough, and keeps what it is given
  proxy           with --url: whether the host is allowed, streams arrive piece by piece and uncompressed, and WebSockets pass.
                  It asks the gateway one short question, which an upstream may bill.

Run it as the user and in the folder of the gateway, with the same environment. Nothing is changed.

Exit status: 0 if the gateway can run (there may be warnings), 1 if something has to be mended.";

/// What to check beside the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct DoctorArgs {
    /// Also ask the gateway at this URL, as clients do: through its proxy.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,

    /// The key for --url, where the gateway needs one.
    #[arg(long, value_name = "KEY", requires = "url")]
    pub key: Option<String>,
}
