//! Admits what one client starts.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::http::header::HeaderMap;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokenwire_core::engine::{Admission, Meter, Metered, MeteredStart};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::Owner;
use tokenwire_core::model::usage::TokenUsage;

use super::client::Client;
use super::cost::cost;
use super::estimate::input_tokens;
use super::headers::write_headers;
use super::parties::Parties;
use super::rate;
use super::reservation::{Reservation, State};
use super::shared_counters::SharedCounters;
use super::subject::{Amount, Moment, SubjectId, check_size};
use super::table::Limits;
use super::usage_table::{RowKey, name_of};
use crate::config::client_limits::{ClientLimits, Price, StoreAway};

/// What a request needs.
struct Planned {
    model: Arc<str>,
    price: Option<Price>,
    input: u64,
    output: u64,
    amount: Amount,
}

/// A reservation, or why there is none.
pub(crate) type Reserved = Result<Reservation, ApiError>;

/// A reservation that is decided, or that the counters of all nodes decide.
#[expect(
    clippy::large_enum_variant,
    reason = "it is moved once; a box would be one more allocation per request"
)]
pub(crate) enum Reserving {
    Now(Reserved),
    Later(BoxFuture<'static, Reserved>),
}

/// Admits what a client starts, within the limits of its key and its owner.
#[derive(Clone, Debug)]
pub struct ClientMeter(Arc<Client>);

// === impl Limits ===

impl Limits {
    /// Returns the meter of a client with this key, which has these limits of its own.
    pub(crate) fn client(
        self: &Arc<Self>,
        key: Option<(Arc<str>, &ClientLimits)>,
        owner: &Owner,
    ) -> ClientMeter {
        let owner = name_of(owner);
        let settings = self.settings();
        let of_key = key.as_ref().and_then(|(id, own)| {
            let limits = settings.per_key.lower(own);
            self.party(limits, false, || SubjectId::Key(id.clone()))
        });
        let of_owner = self.party(settings.per_owner, true, || SubjectId::Owner(owner.clone()));
        ClientMeter(Arc::new(Client {
            limits: self.clone(),
            key: key.map(|(id, _)| id),
            owner,
            parties: Parties([of_key, of_owner]),
        }))
    }

    /// Returns the meter of clients without a credential, where those are counted: if owners are
    /// limited, or models have prices.
    pub(crate) fn anonymous(self: &Arc<Self>) -> Option<ClientMeter> {
        let settings = self.settings();
        let counts = !settings.per_owner.is_empty() || !settings.prices.0.is_empty();
        counts.then(|| self.client(None, &Owner::Anonymous))
    }
}

// === impl ClientMeter ===

impl ClientMeter {
    /// Whether requests, tokens, streams or costs of the client are limited.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.0.parties.iter().next().is_some()
    }

    /// Replaces the `x-ratelimit-*` headers of a response by those of the client's limits.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        let now = rate::now();
        let left = self.0.parties.iter().map(|party| {
            let counters = party.subject.lock();
            counters.left(&party.limits, now)
        });
        write_headers(left, headers);
    }

    /// Reserves for a request; with several nodes for all of them.
    pub(crate) fn reserve(&self, start: &MeteredStart<'_>) -> Reserving {
        let planned = match self.plan(start) {
            Ok(planned) => planned,
            Err(error) => return Reserving::Now(Err(error)),
        };
        match self.0.limits.shared() {
            Some(shared) if self.is_limited() => {
                let reserved = self.clone().reserve_shared(shared.clone(), planned);
                // What is reserved is given back also if the client has gone by then.
                let reserved = tokio::spawn(reserved);
                Reserving::Later(Box::pin(async move {
                    let gone = |_| Err(counters_away());
                    reserved.await.unwrap_or_else(gone)
                }))
            }
            _ => Reserving::Now(self.reserve_here(planned)),
        }
    }

    /// Returns what a request needs.
    fn plan(&self, start: &MeteredStart<'_>) -> Result<Planned, ApiError> {
        let limits = &self.0.limits;
        let settings = limits.settings();
        let price = settings.prices.of(start.model).copied();
        let has_budget = self.0.parties.iter().any(|party| party.limits.has_budget());
        if has_budget && price.is_none() {
            return Err(limits.refusals().price(start.model));
        }
        let input = input_tokens(start.body);
        let largest = price.and_then(|price| price.max_output);
        let each = start.max_output.or(largest);
        let each = each.unwrap_or_else(|| settings.reserve_output);
        let output = each.saturating_mul(u64::from(start.choices));
        let usage = TokenUsage {
            input,
            cached: 0,
            output,
        };
        let amount = Amount {
            tokens: input.saturating_add(output),
            cost: price.map_or(0, |price| cost(&price, usage)),
        };
        for party in self.0.parties.iter() {
            check_size(&party.limits, amount, party.is_owner, limits.refusals())?;
        }
        Ok(Planned {
            model: start.model.into(),
            price,
            input,
            output,
            amount,
        })
    }

    /// Reserves in the counters of this node.
    fn reserve_here(&self, planned: Planned) -> Reserved {
        let at = Moment::present();
        {
            let mut locked = self.0.parties.lock();
            for (party, counters) in locked.iter_mut().flatten() {
                let refusals = self.0.limits.refusals();
                counters.check(&party.limits, planned.amount, at, party.is_owner, refusals)?;
            }
            for (party, counters) in locked.iter_mut().flatten() {
                counters.begin(&party.limits, planned.amount, at);
            }
        }
        Ok(self.reservation(planned, at, false))
    }

    /// Reserves in the counters of all nodes.
    async fn reserve_shared(self, shared: Arc<SharedCounters>, planned: Planned) -> Reserved {
        let at = Moment::present();
        let (used, room) = match shared.admit(&self.0.parties, planned.amount, at).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(%error, "the counters of all nodes cannot be reached");
                // Redis may have taken the request, and only the reply is missing.
                for (_, counters) in self.0.parties.lock().iter_mut().flatten() {
                    counters.touch(at);
                }
                return match shared.store_away() {
                    StoreAway::Local => self.reserve_here(planned),
                    StoreAway::Refuse => Err(counters_away()),
                };
            }
        };
        let at = Moment::present();
        for ((_, counters), used) in self.0.parties.lock().iter_mut().flatten().zip(&used) {
            counters.mirror(used, at);
            if room.is_ok() {
                counters.begin_shared(planned.amount);
            }
        }
        if let Err(found) = &room
            && let Some(party) = self.0.parties.iter().nth(found.party)
        {
            let refusals = self.0.limits.refusals();
            return Err(refusals.no_room(&party.limits, party.is_owner, found));
        }
        Ok(self.reservation(planned, at, true))
    }

    fn reservation(&self, planned: Planned, at: Moment, is_shared: bool) -> Reservation {
        Reservation {
            client: self.0.clone(),
            row: RowKey {
                day: at.day.0,
                key: self.0.key.clone(),
                owner: self.0.owner.clone(),
                model: planned.model,
            },
            price: planned.price,
            input: planned.input,
            output: planned.output,
            shared: is_shared.then_some(planned.amount),
            state: Mutex::new(State::new(planned.amount, planned.output)),
            generation: OnceLock::new(),
        }
    }
}

fn counters_away() -> ApiError {
    let message = "The counters of limits, which all nodes share, cannot be reached.";
    ApiError::new(ErrorCode::StoreUnavailable, message).retry_after(Duration::from_secs(1))
}

impl Meter for ClientMeter {
    fn needs_usage(&self) -> bool {
        self.0.parties.iter().any(|party| party.limits.has_tokens())
    }

    fn admit(&self, start: &MeteredStart<'_>) -> Admission {
        match self.reserve(start) {
            Reserving::Now(reserved) => {
                Admission::Now(reserved.map(|reserved| Arc::new(reserved) as Arc<dyn Metered>))
            }
            Reserving::Later(reserved) => Admission::Later(Box::pin(async move {
                let reserved = reserved.await?;
                Ok(Arc::new(reserved) as Arc<dyn Metered>)
            })),
        }
    }
}
