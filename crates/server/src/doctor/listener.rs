//! The port, and the descriptors for what comes through it.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::SystemTime;

use rustix::process::{Resource, getrlimit};

use super::report::Report;
use super::requests::{any_certificate, client, get_text};
use crate::config::Config;
use crate::tls::Certificate;

/// Descriptors for files, the store and what else is not a connection.
const OTHERS: u64 = 200;

pub(super) async fn check(config: &Config, report: &mut Report) {
    const SUBJECT: &str = "listener";
    let (host, port) = (config.server.host.as_str(), config.server.port);
    let place = format!("{host} port {port}");
    let error = match TcpListener::bind((host, port)) {
        Ok(_) => return report.fine(SUBJECT, format!("{place} is free")),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::AddrInUse if is_gateway(config).await => {
            report.fine(SUBJECT, format!("a gateway serves {place}"));
        }
        ErrorKind::AddrInUse => report.fail(
            SUBJECT,
            format!("another program uses {place}"),
            "Stop it (`ss -ltnp` names it), or set server.port.",
        ),
        ErrorKind::PermissionDenied => report.fail(
            SUBJECT,
            format!("this user may not listen on {place}"),
            "Use a port above 1023 and a proxy, the socket unit of systemd, or the capability CAP_NET_BIND_SERVICE.",
        ),
        _ => report.fail(
            SUBJECT,
            format!("cannot listen on {place}: {error}"),
            "Set server.host to an address of this machine.",
        ),
    }
}

/// Whether what listens there answers as a gateway does.
async fn is_gateway(config: &Config) -> bool {
    let server = &config.server;
    let host = match server.host.as_str() {
        "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "[::1]".to_owned(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    };
    // The certificate is for the name that clients use, and is checked apart.
    let (scheme, client) = match server.tls.is_on() {
        true => ("https", any_certificate()),
        false => ("http", client()),
    };
    let Ok(client) = client else {
        return false;
    };
    let request = client.get(format!("{scheme}://{host}:{}/healthz", server.port));
    matches!(get_text(request).await, Ok((200, body)) if body.contains("\"status\":\"ok\""))
}

/// Checks the files of the certificate.
pub(super) fn check_certificate(config: &Config, report: &mut Report) {
    const SUBJECT: &str = "certificate";
    let certificate = match Certificate::read(&config.server) {
        Ok(Some(certificate)) => certificate,
        Ok(None) => return,
        Err(error) => return report.fail(SUBJECT, error.problem(), error.remedy()),
    };
    match certificate.warning(SystemTime::now()) {
        Some(warning) => report.warn(
            SUBJECT,
            warning,
            "Renew it. The gateway reads the new files within a second.",
        ),
        None => {
            let until = certificate.ends().map_or_else(String::new, |end| {
                format!(" until {}", humantime::format_rfc3339_seconds(end))
            });
            report.fine(SUBJECT, format!("it fits its key and is valid{until}"));
        }
    }
}

pub(super) fn check_descriptors(config: &Config, report: &mut Report) {
    const SUBJECT: &str = "descriptors";
    let limits = &config.limits;
    // A stream takes one to the client, which is a connection, and one to the upstream.
    let wanted = (limits.connections as u64)
        .saturating_add(limits.streams as u64)
        .saturating_add(OTHERS);
    match getrlimit(Resource::Nofile).maximum {
        Some(maximum) if maximum < wanted => report.warn(
            SUBJECT,
            format!(
                "{maximum} files may be open, but limits.connections and limits.streams need {wanted}"
            ),
            format!(
                "Raise the hard limit (`ulimit -Hn {wanted}`, LimitNOFILE={wanted} in systemd, --ulimit nofile={wanted} in Docker), or lower the limits."
            ),
        ),
        Some(maximum) => report.fine(SUBJECT, format!("{maximum} files may be open")),
        None => report.fine(SUBJECT, "any number of files may be open"),
    }
}
