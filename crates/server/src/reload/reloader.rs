//! Applies a configuration that was read again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio::sync::{Mutex, watch};

use super::difference::Difference;
use super::source::ConfigSource;
use crate::auth::needs_key;
use crate::config::ConfigError;
use crate::metrics::Reloads;
use crate::service::{Service, Shared, SharedUpstream};
use crate::telemetry;
use crate::tls::{CertificateError, Certificates};
use crate::upstream_tls;

/// Reads the configuration again and applies it. One per gateway.
#[derive(Debug)]
pub struct Reloader {
    source: OnceLock<ConfigSource>,
    address: SocketAddr,
    shared: watch::Sender<Shared>,
    upstreams: watch::Sender<Arc<[SharedUpstream]>>,
    reloads: Arc<Reloads>,
    certificates: Option<Arc<Certificates>>,
    /// Held by the reload that runs.
    turn: Mutex<()>,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Outcome {
    /// Keys whose new values are in force.
    pub changed: Vec<&'static str>,
    /// Keys whose new values need a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Why a configuration or the certificate was not applied. The running one stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The gateway is part of an application, which has made its configuration.
    #[error("the gateway was started without a source that can be read again")]
    NoSource,
    /// It cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificate of the listener, or its key.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Neither the configuration nor the certificate can be used.
    #[error("{config}; {certificate}")]
    Both {
        /// Why the configuration cannot be used.
        config: Box<Self>,
        /// Why the certificate cannot be used.
        certificate: Box<Self>,
    },
    /// An upstream cannot be set up.
    #[error("an upstream cannot be set up: {0}")]
    Upstream(String),
    /// Other machines would spend the key of an upstream.
    #[error(
        "other machines reach the gateway, which needs no credential, and an upstream would get an api_key; configure auth.keys or auth.anonymous and restart"
    )]
    Open,
    /// Reading it was cut off.
    #[error("the configuration was not read")]
    NotRead,
}

/// Keys whose changes make the upstreams anew.
const UPSTREAM_KEYS: [&str; 2] = ["breaker", "upstreams"];

// === impl Reloader ===

impl Reloader {
    pub(crate) fn new(
        shared: Shared,
        upstreams: watch::Sender<Arc<[SharedUpstream]>>,
        reloads: Arc<Reloads>,
        address: SocketAddr,
    ) -> Self {
        Self {
            source: OnceLock::new(),
            address,
            shared: watch::Sender::new(shared),
            upstreams,
            reloads,
            certificates: None,
            turn: Mutex::default(),
        }
    }

    /// Reads these again, too, with each reload.
    pub(crate) fn with_certificates(self, certificates: Option<Arc<Certificates>>) -> Self {
        Self {
            certificates,
            ..self
        }
    }

    /// Returns the certificate of the listener, if it has one.
    pub(crate) fn certificates(&self) -> Option<&Arc<Certificates>> {
        self.certificates.as_ref()
    }

    /// Reads the configuration from this source in future.
    pub(crate) fn read_from(&self, source: ConfigSource) {
        let _ = self.source.set(source);
    }

    pub(crate) fn source(&self) -> Option<&ConfigSource> {
        self.source.get()
    }

    /// Returns the state that workers share now.
    pub(crate) fn shared(&self) -> Shared {
        self.shared.borrow().clone()
    }

    /// Returns the files that TLS to the upstreams is set up with.
    pub(crate) fn tls_files(&self) -> Vec<PathBuf> {
        upstream_tls::files(&self.shared.borrow().config.upstreams)
    }

    /// Returns what workers build their state from, now and after each reload.
    pub(crate) fn updates(&self) -> watch::Receiver<Shared> {
        self.shared.subscribe()
    }

    /// Returns the upstreams, now and after each reload.
    pub(crate) fn upstreams(&self) -> watch::Receiver<Arc<[SharedUpstream]>> {
        self.upstreams.subscribe()
    }

    /// Reads the configuration again and applies it. `why` is logged. Calls wait for each other.
    ///
    /// # Errors
    /// The configuration or the certificate cannot be used. The other one is in force then, if it can
    /// be used.
    pub async fn reload(&self, why: &str) -> Result<Outcome, ReloadError> {
        let _turn = self.turn.lock().await;
        let result = self.apply_all().await;
        self.reloads.count(result.is_ok());
        match &result {
            Ok(outcome) => {
                tracing::info!(why, changed = ?outcome.changed, "the configuration was read again");
                if !outcome.needs_restart.is_empty() {
                    let keys = &outcome.needs_restart;
                    tracing::warn!(?keys, "changes of these keys need a restart");
                }
            }
            Err(error) => error.log(why),
        }
        result
    }

    /// Applies the certificate and the configuration, each if it can be used: keys are revoked while a
    /// certificate cannot be read, and a certificate is renewed while the configuration is wrong.
    async fn apply_all(&self) -> Result<Outcome, ReloadError> {
        let Some(certificates) = &self.certificates else {
            return self.apply().await;
        };
        let renewed = renew(certificates).await;
        let applied = match self.source.get() {
            Some(_) => self.apply().await,
            None => Ok(Outcome::default()),
        };
        match (applied, renewed) {
            (Ok(mut outcome), Ok(is_renewed)) => {
                if is_renewed {
                    outcome.changed.push("server.tls");
                }
                Ok(outcome)
            }
            (Ok(outcome), Err(error)) => {
                if !outcome.changed.is_empty() {
                    tracing::info!(changed = ?outcome.changed, "the configuration is in force, without the certificate");
                }
                Err(error)
            }
            (Err(error), Ok(is_renewed)) => {
                if is_renewed {
                    tracing::info!("the certificate is in force, without the configuration");
                }
                Err(error)
            }
            (Err(config), Err(certificate)) => Err(ReloadError::Both {
                config: Box::new(config),
                certificate: Box::new(certificate),
            }),
        }
    }

    async fn apply(&self) -> Result<Outcome, ReloadError> {
        let source = self.source.get().ok_or(ReloadError::NoSource)?.clone();
        let read = tokio::task::spawn_blocking(move || source.read());
        let wanted = read.await.map_err(|_| ReloadError::NotRead)??;
        let running = self.shared.borrow().clone();
        let Difference {
            config,
            changed,
            needs_restart,
        } = Difference::between(&running.config, wanted);
        let mut outcome = Outcome {
            changed,
            needs_restart,
        };
        let (base, wanted) = (running.clone(), config.clone());
        // Reads files of upstreams, which may have changed under the same names.
        let later = tokio::task::spawn_blocking(move || base.with_config(wanted)).await;
        let later = later.map_err(|_| ReloadError::NotRead)?;
        let later = later.map_err(ReloadError::Upstream)?;
        let has_files = !Arc::ptr_eq(&later.upstreams, &running.upstreams);
        if has_files
            && !outcome
                .changed
                .iter()
                .any(|key| UPSTREAM_KEYS.contains(key))
        {
            outcome.changed.push("upstreams");
        }
        if outcome.changed.is_empty() {
            return Ok(outcome);
        }
        // With values that need a restart it was valid. With the earlier ones it must be, too.
        config.check("the new configuration, with earlier values where a restart is needed")?;
        if running.auth.is_none() && needs_key(&config, self.address) {
            return Err(ReloadError::Open);
        }
        self.put_in_force(&running, later).await?;
        Ok(outcome)
    }

    async fn put_in_force(&self, running: &Shared, later: Shared) -> Result<(), ReloadError> {
        // Built once here, so that an error is reported before the workers change.
        Service::new(&later).map_err(ReloadError::Upstream)?;
        let config = later.config.clone();
        let (auth, filter) = (later.auth.clone(), config.log.filter.clone());
        if filter != running.config.log.filter {
            telemetry::set_filter(&filter);
        }
        later.limits.configure(&config);
        later.metrics.configure(&config);
        if !Arc::ptr_eq(&later.upstreams, &running.upstreams) {
            self.upstreams.send_replace(later.upstreams.clone());
        }
        self.shared.send_replace(later);
        if let Some(auth) = auth
            && config.auth.keys != running.config.auth.keys
        {
            auth.replace_keys(&config.auth.keys).await;
        }
        Ok(())
    }
}

/// Reads the certificate again, and puts it in force. False if it is the same.
async fn renew(certificates: &Arc<Certificates>) -> Result<bool, ReloadError> {
    let reading = certificates.clone();
    let read = tokio::task::spawn_blocking(move || reading.read());
    let Some(renewed) = read.await.map_err(|_| ReloadError::NotRead)?? else {
        return Ok(false);
    };
    certificates.put_in_force(renewed);
    Ok(true)
}

// === impl ReloadError ===

impl ReloadError {
    fn log(&self, why: &str) {
        match self {
            Self::Config(error) => {
                for problem in &error.problems {
                    tracing::error!(why, %problem, "the configuration cannot be used; the earlier one stays in force");
                }
            }
            Self::Certificate(error) => {
                tracing::error!(why, %error, "the certificate cannot be used; the earlier one stays in force");
            }
            Self::Both {
                config,
                certificate,
            } => {
                config.log(why);
                certificate.log(why);
            }
            error => {
                tracing::error!(why, %error, "the configuration cannot be used; the earlier one stays in force");
            }
        }
    }
}
