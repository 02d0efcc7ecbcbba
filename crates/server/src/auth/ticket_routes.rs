//! Which requests a ticket is for.

use actix_web::http::Method;
use tokenwire_core::model::error::ApiError;

use super::ticket::{Right, Ticket, TicketKind, not_allowed};
use super::ticket_request::only_with_a_key;

/// What a route does, as far as tickets are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// Opens a WebSocket.
    Socket,
    /// Reads one stream or its response object.
    Read,
    /// Starts a generation.
    Start,
    /// Cancels one generation.
    Cancel,
    /// Reads what belongs to the owner.
    List,
    /// Makes a ticket.
    Ticket,
    /// Needs a key.
    Other,
}

/// A request, as far as tickets are concerned. The path is the one that is routed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    /// Whether it asks for an upgrade.
    pub(crate) upgrades: bool,
    /// Whether it has a `Last-Event-ID`, and so starts nothing.
    pub(crate) resumes: bool,
}

impl Deed {
    fn of(asked: Asked<'_>) -> Self {
        let reads = matches!(*asked.method, Method::GET | Method::HEAD);
        let posts = *asked.method == Method::POST;
        match asked.path {
            "/v1/ws" | "/v1/responses" if reads && asked.upgrades => return Self::Socket,
            "/v1/streams" if (reads || posts) && asked.resumes => return Self::Read,
            "/v1/streams" if reads || posts => return Self::Start,
            "/v1/responses" | "/v1/chat/completions" if posts => return Self::Start,
            "/v1/tickets" => return Self::Ticket,
            "/v1/models" | "/v1/activity" if reads => return Self::List,
            _ => {}
        }
        let below = |folder: &str| asked.path.strip_prefix(folder);
        if below("/v1/models/").is_some() && reads {
            return Self::List;
        }
        let of_stream = below("/v1/streams/").or_else(|| below("/v1/responses/"));
        match of_stream.map(|rest| rest.split_once('/')) {
            Some(None) if reads => Self::Read,
            Some(Some((_, "cancel"))) if posts => Self::Cancel,
            Some(Some((_, "input_items"))) if reads => Self::List,
            _ => Self::Other,
        }
    }
}

/// Checks that a ticket is for this request. Which stream it may read is checked where that is known.
///
/// # Errors
/// `ticket_not_allowed`.
pub(crate) fn check_route(ticket: &Ticket, asked: Asked<'_>) -> Result<(), ApiError> {
    use TicketKind::{Cookie, Owner, Start, Stream};

    let deed = Deed::of(asked);
    let lacks = |right: &str, what: &str| {
        Err(not_allowed(format!(
            "The ticket may not {what}: 'may' does not have '{right}'."
        )))
    };
    match (ticket.kind, deed) {
        (_, Deed::Ticket) => Err(only_with_a_key()),
        (_, Deed::Other) => Err(not_allowed(
            "A ticket is not enough for this request. Send a key.",
        )),
        (_, Deed::Socket) => Ok(()),
        (Owner, _) => Err(not_allowed(
            "The ticket opens one WebSocket. For other requests get a ticket with 'stream', or one with 'may': [\"start\"].",
        )),
        (Stream, Deed::Start) => Err(not_allowed(
            "The ticket is for one stream and starts nothing. Get one with 'may': [\"start\"].",
        )),
        (Stream | Start, Deed::List) => Err(not_allowed(
            "The ticket is for one stream only. Send a key for this request.",
        )),
        // It reads what it has started.
        (Start, Deed::Read) => Ok(()),
        (_, Deed::Read | Deed::List) if !ticket.may(Right::Read) => lacks("read", "read"),
        (_, Deed::Start) if !ticket.may(Right::Start) => lacks("start", "start"),
        (_, Deed::Cancel) if !ticket.may(Right::Cancel) => lacks("cancel", "cancel"),
        (Stream | Start | Cookie, _) => Ok(()),
    }
}
