//! What is reserved for one answer, until it is settled.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokenwire_core::engine::{GenerationEnd, Metered};
use tokenwire_core::generation::{Generation, OutputMeter};
use tokenwire_core::model::id::random_id;
use tokenwire_core::model::usage::TokenUsage;

use super::client::Client;
use super::cost::cost;
use super::shared_counters::{SettledParty, Settlement};
use super::subject::{Amount, Moment};
use super::usage_records::RunningRecord;
use super::usage_table::{RowKey, Usage};
use crate::config::client_limits::{Overrun, Price};

/// The smallest step in which a long answer is reserved, in tokens.
const MIN_STEP: u64 = 64;

/// The reservation of one answer. Dropped unused, it leaves no trace.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(super) client: Arc<Client>,
    pub(super) row: RowKey,
    pub(super) price: Option<Price>,
    /// The estimated tokens of the request.
    pub(super) input: u64,
    /// The output that is reserved at the start.
    pub(super) output: u64,
    /// What is reserved in the counters of all nodes, if it is.
    pub(super) shared: Option<Amount>,
    pub(super) state: Mutex<State>,
    pub(super) generation: OnceLock<Arc<Generation>>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// What is reserved now, in all.
    reserved: Amount,
    output: u64,
    /// What upstreams have used that broke off without a report.
    unreported: TokenUsage,
    is_settled: bool,
}

// === impl State ===

impl State {
    pub(super) fn new(reserved: Amount, output: u64) -> Self {
        Self {
            reserved,
            output,
            ..Self::default()
        }
    }
}

// === impl Reservation ===

impl Reservation {
    fn cost(&self, usage: TokenUsage) -> u64 {
        self.price.as_ref().map_or(0, |price| cost(price, usage))
    }

    /// Replaces the reservation by what was used.
    fn settle(&self, tokens: TokenUsage, is_estimated: bool) {
        let reserved = {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.is_settled, true) {
                return;
            }
            state.reserved
        };
        let used = Amount {
            tokens: tokens.input.saturating_add(tokens.output),
            cost: self.cost(tokens),
        };
        let at = Moment::present();
        for party in self.client.parties.iter() {
            let mut counters = party.subject.lock();
            counters.settle(&party.limits, reserved, used, at);
        }
        // The day of its end.
        let row = if self.row.day == at.day.0 {
            Cow::Borrowed(&self.row)
        } else {
            Cow::Owned(RowKey {
                day: at.day.0,
                ..self.row.clone()
            })
        };
        let usage = Usage::of(tokens, used.cost, is_estimated);
        self.share(&row, usage, false);
        self.client.limits.used(&row, &usage);
    }

    /// Tells the counters of all nodes what was used.
    fn share(&self, row: &RowKey, usage: Usage, is_cancelled: bool) {
        let parties = self.client.parties.iter().map(|party| SettledParty {
            subject: party.id.clone(),
            limits: party.limits,
            reserved: self.shared,
            is_cancelled,
        });
        let id = self.generation.get();
        let id = id.map(|generation| generation.meta().id.as_str().to_owned());
        self.client.limits.share(|| Settlement {
            id: id.unwrap_or_else(|| random_id("none_")),
            row: row.clone(),
            usage,
            parties: parties.collect(),
        });
    }

    /// Returns the tokens of an answer that has ended, and whether they are estimated.
    fn used(&self, end: &GenerationEnd<'_>) -> (TokenUsage, bool) {
        if !end.asked {
            return (TokenUsage::default(), false);
        }
        let reported = end.token_usage;
        let last = reported.unwrap_or_else(|| TokenUsage {
            input: self.input,
            cached: 0,
            output: self
                .generation
                .get()
                .map_or(0, |generation| generation.estimated_tokens()),
        });
        let unreported = self.state.lock().unreported;
        let tokens = TokenUsage {
            input: last.input.saturating_add(unreported.input),
            cached: last.cached,
            // An estimate of the whole text includes what others have written.
            output: match reported {
                Some(_) => last.output.saturating_add(unreported.output),
                None => last.output,
            },
        };
        let is_estimated = reported.is_none() || unreported != TokenUsage::default();
        (tokens, is_estimated)
    }
}

impl OutputMeter for Reservation {
    fn reserved(&self) -> Option<u64> {
        let has_tokens = self
            .client
            .parties
            .iter()
            .any(|party| party.limits.has_tokens());
        (has_tokens && self.output > 0).then_some(self.output)
    }

    fn extend(&self, output: u64) -> Option<u64> {
        let mut state = self.state.lock();
        let behind = output.saturating_sub(state.output);
        let settings = self.client.limits.settings();
        let step = (state.output / 4).clamp(MIN_STEP, settings.reserve_output.max(MIN_STEP));
        let step = step.saturating_add(behind);
        let more = Amount {
            tokens: step,
            cost: self.cost(TokenUsage {
                output: step,
                ..TokenUsage::default()
            }),
        };
        let at = Moment::present();
        let mut locked = self.client.parties.lock();
        if settings.on_overrun == Overrun::Stop {
            for (party, counters) in locked.iter_mut().flatten() {
                if !counters.has_room(&party.limits, more, at) {
                    return None;
                }
            }
        }
        for (party, counters) in locked.iter_mut().flatten() {
            counters.hold(&party.limits, more, at);
        }
        state.output = state.output.saturating_add(step);
        state.reserved.tokens = state.reserved.tokens.saturating_add(more.tokens);
        state.reserved.cost = state.reserved.cost.saturating_add(more.cost);
        Some(state.output)
    }

    fn continued_without_usage(&self, output: u64) {
        let unreported = &mut self.state.lock().unreported;
        unreported.input = unreported.input.saturating_add(self.input);
        // Each estimate includes the earlier ones.
        unreported.output = unreported.output.max(output);
    }
}

impl Metered for Reservation {
    fn started(&self, generation: &Arc<Generation>) {
        let _ = self.generation.set(generation.clone());
        let id = generation.meta().id.as_str();
        self.client.limits.running(id, || RunningRecord {
            row: self.row.clone(),
            input: self.input,
        });
    }

    fn relayed(&self, usage: Option<&str>) {
        let reported = usage.and_then(TokenUsage::parse);
        let tokens = reported.unwrap_or(TokenUsage {
            input: self.input,
            ..TokenUsage::default()
        });
        self.settle(tokens, reported.is_none() && self.input > 0);
    }

    fn ended(&self, end: &GenerationEnd<'_>) {
        let (tokens, is_estimated) = self.used(end);
        self.settle(tokens, is_estimated);
        self.client.limits.over(end.meta.id.as_str());
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if state.is_settled {
            return;
        }
        let (reserved, at) = (state.reserved, Moment::present());
        for party in self.client.parties.iter() {
            let mut counters = party.subject.lock();
            counters.cancel(&party.limits, reserved, at);
        }
        if self.shared.is_some() {
            self.share(&self.row, Usage::default(), true);
        }
    }
}
