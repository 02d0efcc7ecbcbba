//! Limits of clients, and what they have used.
//!
//! ```text
//!   request ──▶ ClientMeter ──admit──▶ Reservation ──▶ generation ──ended──▶ UsageTable
//!                    │                      │                                   │
//!                    └──── Subject ◀────────┘ reserve, settle                   └──▶ records, /v1/usage
//! ```
//!
//! A `Subject` is a key or an owner with its counters. A request reserves in those of its key and its
//! owner: its input as estimated from the body that goes upstream, and the most output that it may
//! have. At the end the reservation is replaced by what was used. The same counters serve the
//! refusals, the `x-ratelimit-*` headers, `/v1/usage` and the metrics.
//!
//! Rates are generic cell rate algorithms (`Rate`): one number for each, no queue of past requests, and
//! what was reserved too much is given back exactly. The crate `governor` has the same algorithm but
//! cannot give back. With several nodes the same is done by scripts in the Redis that they share
//! (`SharedCounters`), and a subject here mirrors what all nodes use. Budgets are whole millionths per
//! calendar day and month, UTC.

mod calendar;
mod client;
mod client_meter;
mod cost;
mod estimate;
mod headers;
mod parties;
mod rate;
mod refusals;
mod reservation;
mod shared_counters;
mod shared_use;
mod subject;
mod table;
mod usage_records;
mod usage_table;

pub(crate) use calendar::{Day, today};
pub use client_meter::ClientMeter;
pub(crate) use client_meter::Reserving;
pub use refusals::LimitKind;
pub(crate) use reservation::Reservation;
pub use table::{Limits, Unsettled};
pub use usage_records::UsageRecords;
pub(crate) use usage_table::{Grouping, UsageRow};
