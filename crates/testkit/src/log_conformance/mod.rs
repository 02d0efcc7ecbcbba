//! The conformance suite of the log: one function per property.
//!
//! [`log_conformance!`](crate::log_conformance!) makes a test of each case:
//!
//! ```
//! # mod example {
//! use tokenwire_core::log::{LogLimits, LogTail};
//! use tokenwire_core::model::account::Account;
//!
//! tokenwire_testkit::log_conformance!(|limits: LogLimits| {
//!     let log = LogTail::new(limits, Account::default());
//!     log.begin_epoch();
//!     std::sync::Arc::new(log)
//! });
//! # }
//! ```
//!
//! The expression is evaluated once per test and called for each log that the test needs. The cases
//! do not interpret payloads. They wait for wakers for up to 20 s.

#![allow(missing_docs, reason = "the name of a case states its property")]

mod epochs;
mod limits;
mod reading;
mod sealing;
mod storing;
mod support;
mod threads;
mod writing;

pub use epochs::*;
pub use limits::*;
pub use reading::*;
pub use sealing::*;
pub use storing::*;
pub use support::{Factory, roomy};
pub use threads::*;
pub use writing::*;

macro_rules! cases {
    ($dollar:tt $($name:ident)*) => {
        /// Makes a test of every case of the [suite](mod@crate::log_conformance). The argument is an
        /// expression of type `Fn(LogLimits) -> Arc<LogTail>`, whose logs are in their first epoch.
        #[macro_export]
        macro_rules! log_conformance {
            ($dollar factory:expr) => {
                $(
                    #[test]
                    fn $name() {
                        let factory = $dollar factory;
                        $crate::log_conformance::$name(&|limits| -> ::std::sync::Arc<$crate::log_conformance::LogTail> { factory(limits) });
                    }
                )*
            };
        }
    };
}

pub use tokenwire_core::log::LogTail;

cases! { $
    new_log_is_empty_and_open
    records_are_read_in_append_order
    payloads_are_read_byte_for_byte
    batch_after_a_gap_is_refused
    batch_with_repeated_numbers_is_refused
    empty_batch_changes_nothing
    new_epoch_fences_the_earlier_writer
    fenced_writer_cannot_seal
    new_epoch_is_the_next_one
    new_epoch_starts_at_its_first_number
    reader_starts_at_any_event
    reader_inside_a_record_gets_the_record
    read_stops_at_its_byte_limit
    cursor_hint_does_not_change_the_result
    reader_at_the_tail_waits
    append_wakes_a_waiting_reader
    seal_wakes_a_waiting_reader
    expiry_wakes_a_waiting_reader
    append_wakes_every_waiting_reader
    latest_waker_is_woken
    slots_are_reused
    leaving_does_not_affect_other_readers
    refused_append_is_not_read
    sealed_log_refuses_appends
    readers_of_a_sealed_log_reach_its_end
    log_can_be_sealed_with_an_empty_batch
    empty_log_can_be_sealed
    expired_log_refuses_appends_and_reads
    expiry_fails_later_reads
    second_expiry_has_no_effect
    expired_log_releases_memory
    batch_over_the_byte_limit_is_refused
    batch_over_the_event_limit_is_refused
    smaller_batch_fits_after_a_refusal
    limits_do_not_apply_to_the_seal
    readers_on_threads_receive_every_record
    readers_resume_without_loss_while_writing
    new_epoch_while_writing_loses_no_record
    expiry_ends_every_waiting_reader
    writer_that_does_not_skip_to_its_epoch_is_refused
    reader_in_the_hole_before_an_epoch_gets_the_epoch
    positions_are_told_apart
    blocks_hold_the_records_as_they_were_appended
    block_after_the_end_is_refused
    commit_moves_forward_only
    large_record_is_read_alone
}
