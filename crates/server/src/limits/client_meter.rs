//! Admits what one client starts.

use std::sync::{Arc, OnceLock};

use actix_web::http::header::HeaderMap;
use parking_lot::{Mutex, MutexGuard};
use tokenwire_core::engine::{Admission, Meter, Metered, MeteredStart};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::usage::TokenUsage;

use super::cost::cost;
use super::estimate::input_tokens;
use super::headers::write_headers;
use super::rate;
use super::reservation::{Reservation, State};
use super::subject::{Amount, Counters, Moment, Subject};
use super::table::Limits;
use super::usage_table::RowKey;
use crate::config::client_limits::ClientLimits;

/// A key or an owner whose limits apply to a client.
#[derive(Clone, Debug)]
pub(super) struct Party {
    pub(super) subject: Arc<Subject>,
    pub(super) limits: ClientLimits,
    pub(super) is_owner: bool,
}

/// The key and the owner of a client, where they are limited.
#[derive(Clone, Debug)]
pub(super) struct Parties(pub(super) [Option<Party>; 2]);

/// A party and its counters, which are locked.
pub(super) type Locked<'a> = (&'a Party, MutexGuard<'a, Counters>);

/// Admits what a client starts, within the limits of its key and its owner.
#[derive(Clone, Debug)]
pub struct ClientMeter {
    pub(super) limits: Arc<Limits>,
    pub(super) key: Option<Arc<str>>,
    pub(super) owner: Option<Arc<str>>,
    pub(super) parties: Parties,
}

// === impl Parties ===

impl Parties {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Party> {
        self.0.iter().flatten()
    }

    /// Locks the counters: the key's before the owner's, so that no two requests wait for each other.
    pub(super) fn lock(&self) -> [Option<Locked<'_>>; 2] {
        self.0
            .each_ref()
            .map(|party| party.as_ref().map(|party| (party, party.subject.lock())))
    }
}

// === impl ClientMeter ===

impl ClientMeter {
    /// Whether requests, tokens, streams or costs of the client are limited.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.parties.iter().next().is_some()
    }

    /// Replaces the `x-ratelimit-*` headers of a response by those of the client's limits.
    pub fn write_headers(&self, headers: &mut HeaderMap) {
        let now = rate::now();
        let left = self.parties.iter().map(|party| {
            let counters = party.subject.lock();
            counters.left(&party.limits, now)
        });
        write_headers(left, headers);
    }

    /// Reserves for a request.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) fn reserve(&self, start: &MeteredStart<'_>) -> Result<Arc<Reservation>, ApiError> {
        let limits = &self.limits;
        let price = limits.prices().of(start.model).copied();
        let has_budget = self.parties.iter().any(|party| party.limits.has_budget());
        if has_budget && price.is_none() {
            return Err(limits.refusals().price(start.model));
        }
        let input = input_tokens(start.body);
        let largest = price.and_then(|price| price.max_output);
        let each = start.max_output.or(largest);
        let each = each.unwrap_or_else(|| limits.reserve_output());
        let output = each.saturating_mul(u64::from(start.choices));
        let usage = TokenUsage {
            input,
            cached: 0,
            output,
        };
        let reserved = Amount {
            tokens: input.saturating_add(output),
            cost: price.map_or(0, |price| cost(&price, usage)),
        };
        let at = Moment::present();
        {
            let mut locked = self.parties.lock();
            for (party, counters) in locked.iter_mut().flatten() {
                let refusals = limits.refusals();
                counters.check(&party.limits, reserved, at, party.is_owner, refusals)?;
            }
            for (party, counters) in locked.iter_mut().flatten() {
                counters.begin(&party.limits, reserved, at);
            }
        }
        Ok(Arc::new(Reservation {
            limits: limits.clone(),
            parties: self.parties.clone(),
            row: RowKey {
                day: at.day.0,
                key: self.key.clone(),
                owner: self.owner.clone(),
                model: start.model.into(),
            },
            price,
            input,
            output,
            state: Mutex::new(State::new(reserved, output)),
            generation: OnceLock::new(),
        }))
    }
}

impl Meter for ClientMeter {
    fn needs_usage(&self) -> bool {
        self.parties.iter().any(|party| party.limits.has_tokens())
    }

    fn admit(&self, start: &MeteredStart<'_>) -> Admission {
        let reserved = self.reserve(start);
        Admission::Now(reserved.map(|reserved| reserved as Arc<dyn Metered>))
    }
}
