//! Why the gateway does not start, or ends.

use tokenwire_store::OpenError;

use crate::auth::KeysFileError;
use crate::tls::CertificateError;

/// Why the gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}; choose another with --host and --port")]
    Listen {
        /// The address.
        address: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// Another process listens on the address and did not give it.
    #[error(
        "cannot listen on {address}: {source}; {why}. Is another program using the port? Choose another with --port"
    )]
    InUse {
        /// The address.
        address: String,
        /// The system's error.
        source: std::io::Error,
        /// Why it was not taken over.
        why: String,
    },
    /// An upstream cannot be set up.
    #[error("{0}")]
    Upstream(String),
    /// The certificate of the listener cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The file of keys cannot be used.
    #[error("auth.keys_file: {0}")]
    Keys(#[from] KeysFileError),
    /// Webhooks cannot be set up.
    #[error("{0}")]
    Webhooks(String),
    /// A watch rule cannot be watched for.
    #[error("watch: {0}")]
    Watch(tokenwire_core::generation::watch::RuleError),
    /// The store cannot be opened.
    #[error("store.path: {0}; set it to a folder on a local disk that the gateway may write")]
    Store(#[from] OpenError),
    /// Other processes on the same store cannot be answered.
    #[error("cannot listen for other processes in store.path: {0}; choose a shorter path")]
    Peers(std::io::Error),
    /// The Redis of the cluster cannot be used.
    #[error("cluster.url: {0}")]
    Cluster(String),
    /// The address for other nodes cannot be bound.
    #[error("cluster.listen: cannot listen on {address}: {source}; choose another port")]
    ClusterListen {
        /// The address.
        address: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The exporter of traces and metrics cannot be set up.
    #[error("telemetry.otlp: {0}")]
    Telemetry(String),
    /// The embedded simulator does not start.
    #[error("the embedded simulator does not start: {0}")]
    Simulator(std::io::Error),
    /// Serving ended with an error.
    #[error("serving ended: {0}")]
    Serve(#[from] std::io::Error),
}
