//! Whether the model servers can be asked.

use std::collections::BTreeSet;

use serde_json::Value;
use url::Url;

use super::report::Report;
use super::requests::{client_with, get_text};
use crate::config::Config;
use crate::config::schema::Upstream;
use crate::upstream_tls;

pub(super) async fn check(config: &Config, report: &mut Report) {
    if config.uses_simulator() {
        report.warn(
            "upstreams",
            "none is configured: the embedded simulator answers",
            "For a model: OPENAI_API_KEY=..., --base-url <URL>, or upstreams in the configuration.",
        );
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        check_one(index, upstream, report).await;
    }
}

async fn check_one(index: usize, upstream: &Upstream, report: &mut Report) {
    let subject = format!("upstream {}", upstream.name);
    let key = format!("upstreams[{index}]");
    let base = upstream.base_url.trim_end_matches('/');
    let Ok(url) = Url::parse(base) else {
        return report.fail(
            subject,
            "base_url is no URL",
            format!("Correct {key}.base_url."),
        );
    };
    let place = url.host_str().unwrap_or_default().to_owned();
    let port = url.port_or_known_default().unwrap_or_default();
    if let Err(error) = tokio::net::lookup_host((place.as_str(), port)).await {
        return report.fail(
            subject,
            format!("the name {place} cannot be resolved: {error}"),
            format!("Correct {key}.base_url, or the DNS of this machine."),
        );
    }
    let tls = match upstream_tls::read(&upstream.tls) {
        Ok(tls) => tls,
        Err(error) => {
            return report.fail(subject, error.to_string(), format!("Correct {key}.tls."));
        }
    };
    let client = match client_with(&tls) {
        Ok(client) => client,
        Err(error) => {
            return report.fail(subject, error, "Check the certificates of this machine.");
        }
    };
    let mut request = client.get(format!("{base}/models"));
    if let Some(secret) = &upstream.api_key {
        request = match upstream.key_header.eq_ignore_ascii_case("authorization") {
            true => request.bearer_auth(secret.expose()),
            false => request.header(&upstream.key_header, secret.expose()),
        };
    }
    for (name, value) in &upstream.headers {
        request = request.header(name, value.expose());
    }
    let (status, body) = match get_text(request).await {
        Ok(answer) => answer,
        Err(why) => {
            let remedy = remedy_of(&why, &url, &key);
            return report.fail(subject, format!("{place}:{port}: {why}"), remedy);
        }
    };
    match status {
        200..=299 => offered(&subject, &key, upstream, &body, report),
        401 | 403 if upstream.accept_client_key && upstream.api_key.is_none() => {
            report.fine(subject, "answers; clients bring their own key");
        }
        401 | 403 if upstream.api_key.is_none() => report.fail(
            subject,
            format!("wants a credential ({status})"),
            format!("Set {key}.api_key, or TOKENWIRE_UPSTREAMS__{index}__API_KEY."),
        ),
        401 | 403 => report.fail(
            subject,
            format!("refuses the api_key ({status})"),
            format!("Correct {key}.api_key: is it of this vendor, and still valid?"),
        ),
        404 | 405 => report.warn(
            subject,
            format!(
                "answers, but has no list of models ({status} for {}/models)",
                url.path().trim_end_matches('/')
            ),
            format!("Check that {key}.base_url ends as the vendor says, mostly with /v1."),
        ),
        429 => report.warn(
            subject,
            "answers, but limits requests now (429)",
            "Wait, or ask the vendor for a higher limit.",
        ),
        300..=399 => report.fail(
            subject,
            format!("redirects ({status}), which the gateway does not follow"),
            format!("Set {key}.base_url to the final address; often it is https instead of http."),
        ),
        _ => report.fail(
            subject,
            format!("answers with {status}"),
            "Look at the log of the model server, or at the vendor's status page.",
        ),
    }
}

/// Compares the models of the configuration with those that the upstream lists.
fn offered(subject: &str, key: &str, upstream: &Upstream, body: &str, report: &mut Report) {
    let parsed: Value = serde_json::from_str(body).unwrap_or_default();
    let Some(list) = parsed["data"].as_array() else {
        return report.warn(
            subject,
            "answers, but not with a list of models",
            format!("Check that {key}.base_url leads to an OpenAI-compatible API."),
        );
    };
    let known: BTreeSet<&str> = list
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    let missing: Vec<&str> = upstream
        .models
        .names()
        .filter_map(|public| upstream.models.upstream_name(public))
        .filter(|name| !known.contains(name))
        .collect();
    if missing.is_empty() || known.is_empty() {
        report.fine(subject, format!("answers, {} models", known.len()));
    } else {
        report.warn(
            subject,
            format!("answers, but does not list: {}", missing.join(", ")),
            format!("Correct {key}.models, or load the models."),
        );
    }
}

/// Returns what to do about a failed request.
fn remedy_of(why: &str, url: &Url, key: &str) -> String {
    let has = |part: &str| why.to_ascii_lowercase().contains(part);
    if has("certificate") {
        if has("alert") {
            // It is the server that refuses a certificate, or misses one.
            format!(
                "The server wants a certificate of the gateway: set {key}.tls.cert and {key}.tls.key to one that its authority has signed, and that has not expired."
            )
        } else if has("expired") || has("notvalidyet") {
            "Renew the certificate of the server, or set the clock of this machine.".to_owned()
        } else if has("name") {
            format!("Use in {key}.base_url the name that the server's certificate is for.")
        } else {
            format!(
                "Its certificate is not signed by an authority that this machine trusts. Name the authority's certificate in {key}.tls.ca, or install it (ca-certificates, update-ca-certificates)."
            )
        }
    } else if url.scheme() == "https"
        && (has("corrupt") || has("record") || has("tls") || has("handshake"))
    {
        format!("The server may not speak TLS: use http:// in {key}.base_url, or another port.")
    } else if has("refused") {
        format!(
            "Start the model server, or correct the host and port of {key}.base_url. In a container localhost is the container itself."
        )
    } else if has("no answer") {
        "A firewall or a wrong address may drop the packets; the server may also be overloaded."
            .to_owned()
    } else {
        format!("Check {key}.base_url: http or https, host and port.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_fit_the_reasons() {
        let https = Url::parse("https://models.example/v1").unwrap();
        for (why, remedy) in [
            ("invalid peer certificate: Expired", "Renew"),
            ("invalid peer certificate: UnknownIssuer", "ca-certificates"),
            (
                "invalid peer certificate: certificate not valid for name \"x\"",
                "the name",
            ),
            (
                "received corrupt message of type InvalidContentType",
                "http://",
            ),
            (
                "Connection refused (os error 111)",
                "Start the model server",
            ),
            ("no answer within 10 s", "firewall"),
        ] {
            let found = remedy_of(why, &https, "upstreams[0]");
            assert!(found.contains(remedy), "{why}: {found}");
        }
    }
}
