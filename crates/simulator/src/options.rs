//! The options of a simulator.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Address, access, models and pace of a simulator.
///
/// ```
/// use tokenwire_simulator::{Options, Pace};
///
/// let options = Options { required_key: Some("sk-test".into()), pace: Pace::INSTANT, ..Options::default() };
/// assert!(options.any_model);
/// ```
#[derive(Clone)]
pub struct Options {
    /// Address and port to bind; port 0 takes a free one. Default `127.0.0.1:0`.
    pub address: SocketAddr,
    /// Whether other simulators may bind the same address, so the kernel spreads connections over
    /// them (`SO_REUSEPORT`). Default false.
    pub reuse_port: bool,
    /// The key that `/v1` requires as `Authorization: Bearer …`. Default none: any request is
    /// accepted.
    pub required_key: Option<String>,
    /// The models that `GET /v1/models` lists. Default `simulator` and `simulator-reasoning`.
    pub models: Vec<String>,
    /// Whether models that are not listed are served as well. Names that begin with `unknown` or
    /// `missing` always get the error. Default true.
    pub any_model: bool,
    /// The pace of an unsteered request. Default [`Pace::READING`].
    pub pace: Pace,
    /// The largest request body in bytes; a larger one is answered with 413. Default 32 MiB.
    pub body_limit: usize,
    /// The most bytes of request bodies that are kept for [`Simulator::requests`]. Default 64 MiB.
    ///
    /// [`Simulator::requests`]: crate::Simulator::requests
    pub recorded_bytes: usize,
    /// The most connections held at a time; further ones wait in the listen backlog. Default
    /// 16,384.
    pub connection_limit: usize,
    /// The address of the gateway that uses this simulator, for the examples in its answers.
    /// Default none: the examples name the simulator's own address.
    pub gateway: Option<SocketAddr>,
}

/// The pace of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Time from the request's arrival to the first token.
    pub first_token: Duration,
    /// Time between tokens; zero is as fast as the socket allows.
    pub between_tokens: Duration,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            reuse_port: false,
            required_key: None,
            models: vec!["simulator".to_owned(), "simulator-reasoning".to_owned()],
            any_model: true,
            pace: Pace::READING,
            body_limit: 32 * 1024 * 1024,
            recorded_bytes: 64 * 1024 * 1024,
            connection_limit: 16_384,
            gateway: None,
        }
    }
}

/// The key stays out of logs.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("address", &self.address)
            .field("reuse_port", &self.reuse_port)
            .field(
                "required_key",
                &self.required_key.as_ref().map(|_| "[redacted]"),
            )
            .field("models", &self.models)
            .field("any_model", &self.any_model)
            .field("pace", &self.pace)
            .field("body_limit", &self.body_limit)
            .field("recorded_bytes", &self.recorded_bytes)
            .field("connection_limit", &self.connection_limit)
            .field("gateway", &self.gateway)
            .finish()
    }
}

impl Options {
    pub(crate) fn offers(&self, model: &str) -> bool {
        let listed = self.models.iter().any(|offered| offered == model);
        listed || (self.any_model && !model.starts_with("unknown") && !model.starts_with("missing"))
    }
}

// === impl Pace ===

impl Pace {
    /// Slightly above reading speed: the first token after 120 ms, then one every 12 ms.
    pub const READING: Self = Self {
        first_token: Duration::from_millis(120),
        between_tokens: Duration::from_millis(12),
    };
    /// No pauses.
    pub const INSTANT: Self = Self {
        first_token: Duration::ZERO,
        between_tokens: Duration::ZERO,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_model_is_served_except_unknown_and_missing() {
        let options = Options::default();
        for (model, offered) in [
            ("simulator", true),
            ("gpt-5", true),
            ("unknown-model", false),
            ("missing", false),
        ] {
            assert_eq!(options.offers(model), offered, "{model}");
        }
        let strict = Options {
            any_model: false,
            ..Options::default()
        };
        assert!(!strict.offers("gpt-5"));
        assert!(strict.offers("simulator-reasoning"));
    }

    #[test]
    fn debug_output_hides_the_key() {
        let options = Options {
            required_key: Some("sk-secret".into()),
            ..Options::default()
        };
        assert!(!format!("{options:?}").contains("sk-secret"));
    }
}
