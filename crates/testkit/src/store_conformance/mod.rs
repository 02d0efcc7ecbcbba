//! The conformance suite of log stores: one function per property.
//!
//! [`store_conformance!`](crate::store_conformance!) makes a test of each case:
//!
//! ```
//! # mod example {
//! use std::sync::Arc;
//! use tokenwire_core::log::MemoryStore;
//!
//! tokenwire_testkit::store_conformance!(|| Arc::new(MemoryStore::new(1 << 24)));
//! # }
//! ```
//!
//! The expression is evaluated once per test, inside the test's Tokio runtime. Its store may hold
//! logs of other tests. The cases do not interpret payloads.

#![allow(missing_docs, reason = "the name of a case states its property")]

mod lifetime;
mod ownership;
mod reading;
mod support;
mod writing;

pub use lifetime::*;
pub use ownership::*;
pub use reading::*;
pub use support::{block, header, log_contents, run};
pub use writing::*;

pub use tokenwire_core::log::LogStore;

macro_rules! cases {
    ($dollar:tt $($name:ident)*) => {
        /// Makes a test of every case of the [suite](mod@crate::store_conformance). The argument is
        /// an expression of type `Fn() -> Arc<impl LogStore>`.
        #[macro_export]
        macro_rules! store_conformance {
            ($dollar factory:expr) => {
                $(
                    #[test]
                    fn $name() {
                        let factory = $dollar factory;
                        $crate::store_conformance::run(
                            || -> ::std::sync::Arc<dyn $crate::store_conformance::LogStore> { factory() },
                            $crate::store_conformance::$name,
                        );
                    }
                )*
            };
        }

        /// Makes one test of all cases, for stores whose server takes seconds to start. The
        /// factory is called for each case and may return stores of one server.
        #[macro_export]
        macro_rules! store_conformance_at_once {
            ($dollar factory:expr) => {
                #[test]
                fn all_cases_of_the_conformance_suite_pass() {
                    let factory = $dollar factory;
                    let mut failed = ::std::vec::Vec::new();
                    $(
                        let passes = ::std::panic::catch_unwind(::std::panic::AssertUnwindSafe(|| {
                            $crate::store_conformance::run(
                                || -> ::std::sync::Arc<dyn $crate::store_conformance::LogStore> { factory() },
                                $crate::store_conformance::$name,
                            );
                        }));
                        if passes.is_err() {
                            failed.push(stringify!($name));
                        }
                    )*
                    assert!(failed.is_empty(), "failed (see above): {failed:?}");
                }
            };
        }
    };
}

cases! { $
    created_log_is_empty_and_open
    header_returns_as_it_was_stored
    create_can_be_repeated
    create_does_not_replace_another_log
    unknown_log_is_not_found
    blocks_are_read_as_they_were_appended
    one_append_holds_blocks_of_many_logs
    failed_block_does_not_affect_the_others
    empty_append_returns_the_buffer
    block_after_a_gap_is_refused
    stored_block_is_acknowledged_again
    overlapping_block_adds_what_is_new
    block_that_splits_a_stored_record_is_refused
    damaged_block_is_refused
    appends_to_many_logs_run_side_by_side
    sealed_log_has_its_last_block_and_object
    log_can_be_sealed_without_a_block
    seal_can_be_repeated
    seal_after_a_gap_is_refused
    sealed_log_takes_nothing_new
    deleted_log_is_gone
    delete_can_be_repeated
    append_after_a_delete_recreates_nothing
    create_after_a_delete_recreates_nothing
    read_starts_with_the_record_of_the_event
    read_stops_at_its_byte_limit
    read_in_steps_returns_each_record_once
    read_at_the_tail_is_empty
    read_past_the_tail_is_empty_and_says_where_it_is
    read_inside_the_hole_of_an_epoch_returns_what_follows
    read_inside_the_hole_of_a_terminal_returns_the_terminal
    adopter_writes_in_the_next_epoch
    adoption_fences_the_earlier_writer
    epoch_without_records_keeps_its_end
    sealed_log_cannot_be_adopted
    adopters_at_once_get_distinct_epochs
    adoption_during_appends_loses_nothing_that_was_acknowledged
}
