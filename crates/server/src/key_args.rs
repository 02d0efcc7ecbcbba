//! The arguments of `tokenwire key`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Shown below the help of `tokenwire key`.
pub const KEY_EXAMPLES: &str = "\
Examples:
  tokenwire key new --owner alice                     a key that expires never
  tokenwire key new --owner ci --models 'gpt-*' --expires 30d
  tokenwire key new --owner ops --role operator       a key that may read /metrics
  tokenwire key list
  tokenwire key revoke 3f9c0a12be47                   the id is the one that `list` shows

The keys are in the file that auth.keys_file (or --keys-file) names, as hashes. A running gateway reads it again within a second.";

/// What to do with the keys.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum KeyCommand {
    /// Make a key, and print it once. Only its hash is kept.
    New(NewKey),
    /// List the keys, without showing them.
    List {
        /// Read this file instead of auth.keys_file.
        #[arg(long, value_name = "FILE")]
        keys_file: Option<PathBuf>,
    },
    /// Revoke keys: what they run is cancelled, and their connections are closed.
    Revoke {
        /// The id of the key, or the key itself.
        #[arg(required_unless_present = "owner")]
        key: Option<String>,
        /// Revoke all keys of this owner.
        #[arg(long, conflicts_with = "key")]
        owner: Option<String>,
        /// Change this file instead of auth.keys_file.
        #[arg(long, value_name = "FILE")]
        keys_file: Option<PathBuf>,
    },
}

/// What a new key may do.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct NewKey {
    /// Owner of the key. Keys of one owner see the same streams.
    #[arg(long)]
    pub owner: String,
    /// What the key may do.
    #[arg(long, value_enum, default_value = "user")]
    pub role: RoleName,
    /// Models that it may use, separated by commas: names or patterns such as gpt-* [default: all].
    #[arg(long, value_delimiter = ',')]
    pub models: Vec<String>,
    /// Upstreams that it may use, separated by commas [default: all].
    #[arg(long, value_delimiter = ',')]
    pub upstreams: Vec<String>,
    /// Refuse it after this time: 30d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z [default: never].
    #[arg(long)]
    pub expires: Option<String>,
    /// Add it to this file instead of auth.keys_file.
    #[arg(long, value_name = "FILE")]
    pub keys_file: Option<PathBuf>,
}

/// A role by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Uses the models, and sees its owner's streams.
    User,
    /// Also reads metrics and the state of the upstreams.
    Operator,
}
