//! The memory log passes the conformance suite.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;

use tokenwire_core::log::{Epoch, LogLimits, MemoryLog, TokenLog};
use tokenwire_core::model::account::Account;
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

tokenwire_testkit::log_conformance!(|limits: LogLimits| Arc::new(MemoryLog::new(
    limits,
    Account::default()
)));

#[test]
fn memory_account_equals_the_size_of_all_logs() {
    let account = Account::default();
    let limits = LogLimits {
        bytes: 1 << 20,
        events: 1 << 20,
    };
    let logs: Vec<MemoryLog> = (0..3)
        .map(|_| MemoryLog::new(limits, account.clone()))
        .collect();
    let mut batch = RecordBatch::default();
    for seq in 0..500 {
        batch.restart(Seq(seq));
        batch.push(1, b"a payload of some length");
        for log in &logs {
            log.append(Epoch(0), &batch).unwrap();
        }
        assert_eq!(
            account.used(),
            logs.iter().map(TokenLog::memory_size).sum::<usize>()
        );
    }
    batch.restart(Seq(500));
    logs[0].seal(Epoch(0), &batch).unwrap();
    logs[1].expire();
    assert_eq!(logs[1].memory_size(), 0);
    assert_eq!(
        account.used(),
        logs.iter().map(TokenLog::memory_size).sum::<usize>()
    );
    drop(logs);
    assert_eq!(account.used(), 0);
}
