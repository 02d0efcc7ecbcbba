//! A key or an owner, and what it uses.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokenwire_core::model::error::ApiError;

use super::calendar::{Day, today};
use super::rate::{self, Rate};
use super::refusals::{LimitKind, LimitName, Refusals};
use super::shared_use::SharedUse;
use crate::config::client_limits::ClientLimits;

/// How long a key or an owner counts as in use after a request, in nanoseconds.
const ACTIVE: u64 = 30_000_000_000;

/// Who is limited.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum SubjectId {
    /// A key, by the name that lists have for it.
    Key(Arc<str>),
    /// An owner; `None` is the anonymous one.
    Owner(Option<Arc<str>>),
}

/// The counters of a key or an owner.
#[derive(Debug)]
pub(super) struct Subject {
    counters: Mutex<Counters>,
}

/// What a key or an owner uses now, and has used of its budgets.
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: Rate,
    tokens: Rate,
    /// Answers that are being written.
    streams: u64,
    /// The last day that something was spent on.
    day: Day,
    spent_today: u64,
    spent_this_month: u64,
    /// What the answers that are being written may cost.
    held: u64,
    /// The same of other nodes, as known last.
    held_elsewhere: u64,
    /// Until when it counts as in use.
    active_until: u64,
}

/// What is reserved for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) tokens: u64,
    /// Millionths.
    pub(super) cost: u64,
}

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: u64,
    pub(super) day: Day,
}

/// How much is left of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) limit: u64,
    pub(super) remaining: u64,
    pub(super) reset: Duration,
}

// === impl Moment ===

impl Moment {
    pub(super) fn present() -> Self {
        Self {
            now: rate::now(),
            day: today(),
        }
    }
}

// === impl Subject ===

impl Subject {
    /// A subject that has spent this much on this day, and in its month.
    pub(super) fn new(day: Day, spent_today: u64, spent_this_month: u64) -> Self {
        Self {
            counters: Mutex::new(Counters {
                day,
                spent_today,
                spent_this_month,
                ..Counters::default()
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock()
    }
}

/// Checks that a request can fit at all.
///
/// # Errors
/// It needs more than a limit ever allows.
pub(super) fn check_size(
    limits: &ClientLimits,
    amount: Amount,
    of_owner: bool,
    refusals: &Refusals,
) -> Result<(), ApiError> {
    let of = |name| LimitName { of_owner, name };
    if let Some(limit) = limits.tokens_per_minute
        && amount.tokens > limit
    {
        return Err(refusals.tokens(amount.tokens, limit, &of("tokens_per_minute")));
    }
    let budgets = [
        (limits.budget_per_day, "budget_per_day"),
        (limits.budget_per_month, "budget_per_month"),
    ];
    for (budget, name) in budgets {
        if budget.is_some_and(|budget| amount.cost > budget.micros()) {
            return Err(refusals.cost(&of(name)));
        }
    }
    Ok(())
}

// === impl Counters ===

impl Counters {
    /// Checks that one more request of this amount fits.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn check(
        &mut self,
        limits: &ClientLimits,
        amount: Amount,
        at: Moment,
        of_owner: bool,
        refusals: &Refusals,
    ) -> Result<(), ApiError> {
        let of = |name| LimitName { of_owner, name };
        self.roll(at.day);
        for (budget, spent, name) in self.budgets(limits) {
            let held = self.held.saturating_add(self.held_elsewhere);
            let needed = spent.saturating_add(held).saturating_add(amount.cost);
            if needed > budget || spent >= budget {
                return Err(refusals.budget(&of(name)));
            }
        }
        if let Some(limit) = limits.streams
            && self.streams >= limit
        {
            return Err(refusals.streams(limit, &of("streams")));
        }
        if let Some(limit) = limits.requests_per_minute {
            let check = self.requests.check(limit, at.now, 1);
            let of = of("requests_per_minute");
            check.map_err(|wait| refusals.rate(LimitKind::Requests, limit, &of, wait))?;
        }
        if let Some(limit) = limits.tokens_per_minute {
            let check = self.tokens.check(limit, at.now, amount.tokens);
            let of = of("tokens_per_minute");
            check.map_err(|wait| refusals.rate(LimitKind::Tokens, limit, &of, wait))?;
        }
        Ok(())
    }

    /// Returns each budget with what is spent of it, and its name.
    fn budgets(&self, limits: &ClientLimits) -> impl Iterator<Item = (u64, u64, &'static str)> {
        let today = limits
            .budget_per_day
            .map(|budget| (budget.micros(), self.spent_today, "budget_per_day"));
        let month = limits
            .budget_per_month
            .map(|budget| (budget.micros(), self.spent_this_month, "budget_per_month"));
        today.into_iter().chain(month)
    }

    /// Takes over what all nodes use together. What this one has running is not changed.
    pub(super) fn mirror(&mut self, shared: &SharedUse, at: Moment) {
        self.requests = Rate::used_for(shared.requests, at.now);
        self.tokens = Rate::used_for(shared.tokens, at.now);
        self.day = self.day.max(at.day);
        self.spent_today = shared.spent_today;
        self.spent_this_month = shared.spent_this_month;
        self.held_elsewhere = shared.held_elsewhere;
        self.touch(at);
    }

    /// Notes that it is in use: what all nodes have of it is compared with what this one has.
    pub(super) fn touch(&mut self, at: Moment) {
        self.active_until = at.now.saturating_add(ACTIVE);
    }

    /// Counts an answer that all nodes together have room for.
    pub(super) fn begin_shared(&mut self, amount: Amount) {
        self.streams += 1;
        self.held = self.held.saturating_add(amount.cost);
    }

    /// Returns how many answers are being written, and what is held for them; `None` if it was not in
    /// use for some time.
    pub(super) fn running(&self, now: u64) -> Option<(u64, u64)> {
        let is_active = self.streams > 0 || now < self.active_until;
        is_active.then_some((self.streams, self.held))
    }

    /// Reserves for one more request.
    pub(super) fn begin(&mut self, limits: &ClientLimits, amount: Amount, at: Moment) {
        self.streams += 1;
        if let Some(limit) = limits.requests_per_minute {
            self.requests.take(limit, at.now, 1);
        }
        self.hold(limits, amount, at);
    }

    /// Whether this much more may be reserved for an answer that is being written.
    pub(super) fn has_room(&mut self, limits: &ClientLimits, more: Amount, at: Moment) -> bool {
        self.roll(at.day);
        let in_budgets = self.budgets(limits).all(|(budget, spent, _)| {
            let held = self.held.saturating_add(self.held_elsewhere);
            spent.saturating_add(held).saturating_add(more.cost) <= budget
        });
        let in_rate = limits.tokens_per_minute.is_none_or(|limit| {
            let check = self.tokens.check(limit, at.now, more.tokens);
            check.is_ok()
        });
        in_budgets && in_rate
    }

    /// Reserves more, whether or not it fits.
    pub(super) fn hold(&mut self, limits: &ClientLimits, amount: Amount, at: Moment) {
        if let Some(limit) = limits.tokens_per_minute {
            self.tokens.take(limit, at.now, amount.tokens);
        }
        self.held = self.held.saturating_add(amount.cost);
    }

    /// Replaces what was reserved for an answer by what it has used. Its slot is free again.
    pub(super) fn settle(
        &mut self,
        limits: &ClientLimits,
        reserved: Amount,
        used: Amount,
        at: Moment,
    ) {
        self.streams = self.streams.saturating_sub(1);
        if let Some(limit) = limits.tokens_per_minute {
            self.tokens.give_back(limit, reserved.tokens);
            self.tokens.take(limit, at.now, used.tokens);
        }
        self.held = self.held.saturating_sub(reserved.cost);
        self.spend(at.day, used.cost, true);
    }

    /// Takes a request back that has started nothing.
    pub(super) fn cancel(&mut self, limits: &ClientLimits, reserved: Amount, at: Moment) {
        self.settle(limits, reserved, Amount::default(), at);
        if let Some(limit) = limits.requests_per_minute {
            self.requests.give_back(limit, 1);
        }
    }

    /// Adds what was spent, on this day or on an earlier one of its month.
    pub(super) fn spend(&mut self, today: Day, cost: u64, on_this_day: bool) {
        self.roll(today);
        if on_this_day {
            self.spent_today = self.spent_today.saturating_add(cost);
        }
        self.spent_this_month = self.spent_this_month.saturating_add(cost);
    }

    /// Begins the budgets anew on a new day, and in a new month. A clock that goes back changes
    /// nothing.
    fn roll(&mut self, today: Day) {
        if today <= self.day {
            return;
        }
        if today.first_of_month() > self.day {
            self.spent_this_month = 0;
        }
        self.spent_today = 0;
        self.day = today;
    }

    /// Returns what is left of requests and tokens per minute, where they are limited.
    pub(super) fn left(&self, limits: &ClientLimits, now: u64) -> [Option<Left>; 2] {
        let left = |rate: Rate, limit: Option<u64>| {
            let limit = limit?;
            Some(Left {
                limit,
                remaining: rate.remaining(limit, now),
                reset: rate.reset(now),
            })
        };
        [
            left(self.requests, limits.requests_per_minute),
            left(self.tokens, limits.tokens_per_minute),
        ]
    }

    /// Whether it can be forgotten: what it has spent is in the table of usage.
    pub(super) fn is_idle(&self, now: u64) -> bool {
        self.streams == 0 && self.requests.reset(now).is_zero() && self.tokens.reset(now).is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::money::Money;

    fn at(day: &str) -> Moment {
        Moment {
            now: 0,
            day: Day::parse(day).unwrap(),
        }
    }

    #[test]
    fn budgets_begin_anew_with_day_and_month() {
        let limits = ClientLimits {
            budget_per_day: Some(Money::from_micros(100)),
            budget_per_month: Some(Money::from_micros(250)),
            ..ClientLimits::default()
        };
        let refusals = Refusals::default();
        let mut counters = Counters::default();
        let mut spend = |cost: u64, day: &str| {
            let amount = Amount { tokens: 0, cost };
            let at = at(day);
            check_size(&limits, amount, false, &refusals)?;
            counters.check(&limits, amount, at, false, &refusals)?;
            counters.begin(&limits, amount, at);
            counters.settle(&limits, amount, amount, at);
            Ok::<_, ApiError>(())
        };
        let code = |result: Result<(), ApiError>| {
            let error = result.err();
            error.and_then(|error| error.code).unwrap_or_default()
        };
        assert_eq!(
            code(spend(101, "2026-11-29")),
            "request_too_large_for_limit"
        );
        assert_eq!(code(spend(60, "2026-11-29")), "");
        assert_eq!(code(spend(60, "2026-11-29")), "budget_exceeded");
        assert_eq!(code(spend(40, "2026-11-29")), "");
        assert_eq!(code(spend(100, "2026-11-30")), "");
        // A clock that goes back gives no second budget.
        assert_eq!(code(spend(1, "2026-11-29")), "budget_exceeded");
        assert_eq!(code(spend(100, "2026-12-01")), "");
        assert_eq!(code(spend(100, "2026-12-02")), "");
        assert_eq!(
            code(spend(100, "2026-12-03")),
            "budget_exceeded",
            "the month's"
        );
        assert_eq!(code(spend(50, "2026-12-03")), "");
        assert_eq!(code(spend(1, "2026-12-31")), "budget_exceeded");
        assert_eq!(code(spend(100, "2027-01-01")), "");
        assert_eq!(refusals.count(LimitKind::Budget), 4);
        assert_eq!(refusals.count(LimitKind::Size), 1);
    }

    #[test]
    fn reservations_count_until_they_are_settled_or_cancelled() {
        let limits = ClientLimits {
            requests_per_minute: Some(10),
            tokens_per_minute: Some(1000),
            streams: Some(2),
            budget_per_day: Some(Money::from_micros(1000)),
            ..ClientLimits::default()
        };
        let refusals = Refusals::default();
        let (mut counters, at) = (Counters::default(), at("2026-11-29"));
        let amount = Amount {
            tokens: 400,
            cost: 400,
        };
        for _ in 0..2 {
            counters
                .check(&limits, amount, at, true, &refusals)
                .unwrap();
            counters.begin(&limits, amount, at);
        }
        let error = counters.check(&limits, Amount::default(), at, true, &refusals);
        let error = error.unwrap_err();
        assert_eq!((error.status, error.retryable), (429, true));
        assert!(error.message.contains("this owner (streams)"), "{error}");
        let used = Amount {
            tokens: 10,
            cost: 20,
        };
        counters.settle(&limits, amount, used, at);
        counters.cancel(&limits, amount, at);
        let [requests, tokens] = counters.left(&limits, at.now);
        assert_eq!(requests.unwrap().remaining, 9);
        assert_eq!(tokens.unwrap().remaining, 990);
        assert_eq!((counters.spent_today, counters.held), (20, 0));
        assert!(counters.has_room(
            &limits,
            Amount {
                tokens: 990,
                cost: 980
            },
            at
        ));
        assert!(!counters.has_room(
            &limits,
            Amount {
                tokens: 991,
                cost: 0
            },
            at
        ));
        assert!(!counters.has_room(
            &limits,
            Amount {
                tokens: 0,
                cost: 981
            },
            at
        ));
        assert!(!counters.is_idle(at.now));
        assert!(counters.is_idle(at.now + 60_000_000_000));
    }
}
