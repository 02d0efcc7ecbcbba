//! The credentials that a request carries, wherever they are.

use actix_web::http::header::{self, HeaderMap, HeaderName};
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::inbound::Query;
use crate::auth::not_allowed;

const SEC_WEBSOCKET_PROTOCOL: HeaderName = header::SEC_WEBSOCKET_PROTOCOL;

/// The subprotocol that stands beside a ticket.
const SUBPROTOCOL: &str = "tokenwire.v1";

/// What the subprotocol with a ticket begins with.
const TICKET: &str = "tokenwire-ticket.";

/// The cookie's name. Browsers take one with this prefix over https only, and send it to its host
/// only.
pub(super) const COOKIE: &str = "__Host-tokenwire";

/// Returns the ticket of a request: the query parameter `ticket`, or a subprotocol. The same one may
/// stand in several places.
///
/// # Errors
/// `ambiguous_credential` for two that differ, and `subprotocol_missing` for a ticket as the only
/// subprotocol: browsers fail a connection where none of theirs is echoed.
pub(super) fn ticket(query: &str, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    let offered = offered.filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = offered
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let offered_ticket = offered.iter().filter_map(|name| name.strip_prefix(TICKET));
    let mut found: Option<String> = None;
    for ticket in offered_ticket {
        if !offered.contains(&SUBPROTOCOL) {
            let message =
                "A ticket is offered as a subprotocol, but 'tokenwire.v1' is not. Offer both.";
            return Err(ApiError::new(ErrorCode::SubprotocolMissing, message));
        }
        add(&mut found, ticket.to_owned())?;
    }
    // Most requests have no query.
    if query.contains("ticket=") {
        let query = Query::parse(query);
        for ticket in query.all("ticket") {
            add(&mut found, ticket.to_owned())?;
        }
    }
    Ok(found)
}

fn add(found: &mut Option<String>, ticket: String) -> Result<(), ApiError> {
    match found {
        Some(first) if *first != ticket => {
            let message = "The request carries two different tickets. Send one.";
            Err(ApiError::new(ErrorCode::AmbiguousCredential, message))
        }
        _ => {
            *found = Some(ticket);
            Ok(())
        }
    }
}

/// Whether the client offers the subprotocol of this gateway, and so sees close codes.
pub(super) fn offers_subprotocol(headers: &HeaderMap) -> bool {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|offered| offered.trim() == SUBPROTOCOL)
}

/// Returns the gateway's cookie.
///
/// # Errors
/// `ambiguous_credential` for two that differ.
pub(super) fn cookie(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut found = None;
    for line in headers.get_all(header::COOKIE) {
        let pairs = line.to_str().unwrap_or_default().split(';');
        for (name, value) in pairs.filter_map(|pair| pair.trim().split_once('=')) {
            if name == COOKIE {
                add(&mut found, value.to_owned())?;
            }
        }
    }
    Ok(found)
}

/// Refuses a ticket of one place in another one.
pub(super) fn wrong_place() -> ApiError {
    not_allowed("The ticket of a cookie is good in the cookie only, and other tickets are not.")
}
