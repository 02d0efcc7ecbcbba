//! What every token log must do, one function a promise.
//!
//! A store runs the whole suite with [`log_conformance!`](crate::log_conformance!), which makes a
//! test of each case:
//!
//! ```
//! # mod example {
//! use tokenwire_core::log::{LogLimits, MemoryAccount, MemoryLog};
//!
//! tokenwire_testkit::log_conformance!(|limits: LogLimits| std::sync::Arc::new(MemoryLog::new(limits, MemoryAccount::default())));
//! # }
//! ```
//!
//! The expression is evaluated once a test, and called for each log that the test needs; it may
//! hold what the logs live in (a folder, a runtime). The cases know nothing of the payloads'
//! meaning, and wait for wakers with a generous bound, so that a log whose news come over a network
//! can pass them, too.

#![allow(missing_docs, reason = "a case's name says what it holds the log to")]

mod limits;
mod reading;
mod sealing;
mod support;
mod threads;
mod writing;

pub use limits::*;
pub use reading::*;
pub use sealing::*;
pub use support::{Factory, roomy};
pub use threads::*;
pub use writing::*;

macro_rules! cases {
    ($dollar:tt $($name:ident)*) => {
        /// Makes a test of every case of the [suite](crate::log_conformance). The argument is an
        /// expression for a `Fn(LogLimits) -> Arc<impl TokenLog>`.
        #[macro_export]
        macro_rules! log_conformance {
            ($dollar factory:expr) => {
                $(
                    #[test]
                    fn $name() {
                        let factory = $dollar factory;
                        $crate::log_conformance::$name(&|limits| -> ::std::sync::Arc<dyn $crate::log_conformance::TokenLog> { factory(limits) });
                    }
                )*
            };
        }
    };
}

pub use tokenwire_core::log::TokenLog;

cases! { $
    a_new_log_is_empty_and_open
    records_are_read_in_the_order_of_appending
    payloads_come_back_byte_for_byte
    a_batch_that_leaves_a_gap_is_refused_whole
    a_batch_that_repeats_is_refused_whole
    an_empty_batch_changes_nothing
    a_take_over_fences_the_earlier_writer
    a_fenced_writer_cannot_seal
    each_take_over_raises_the_epoch
    the_new_writer_goes_on_where_the_log_ends
    a_reader_starts_at_any_event
    a_reader_in_the_middle_of_a_record_is_given_the_record
    a_read_takes_whole_records_up_to_its_bound
    cursors_with_and_without_a_hint_agree
    a_reader_at_the_tail_waits
    an_append_wakes_a_waiting_reader
    a_seal_wakes_a_waiting_reader
    an_expiry_wakes_a_waiting_reader
    every_waiting_reader_is_woken
    the_last_waker_counts
    slots_are_used_again
    leaving_disturbs_nobody
    a_refused_append_is_not_read
    a_sealed_log_takes_nothing_more
    readers_of_a_sealed_log_come_to_its_end
    a_log_can_be_sealed_with_nothing_more
    an_empty_log_can_be_sealed
    an_expired_log_takes_nothing_and_gives_nothing
    expiry_in_the_middle_of_reading_is_told
    expiring_twice_is_expiring_once
    an_expired_log_holds_no_records_in_memory
    a_log_over_its_bytes_refuses_the_batch_whole
    a_log_over_its_events_refuses_the_batch_whole
    a_full_log_takes_what_still_fits
    an_ending_always_fits
    many_readers_follow_one_writer
    readers_come_and_go_while_it_is_written
    a_take_over_in_the_middle_of_writing_leaves_no_gap
    expiry_ends_every_waiting_reader
}
