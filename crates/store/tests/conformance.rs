//! The store on disk passes the conformance suite, also behind faults that no caller can see.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::Arc;

use tokenwire_store::{DiskOptions, DiskStore};

fn disk() -> Arc<DiskStore> {
    let options = DiskOptions::new(support::folder());
    Arc::new(DiskStore::open(options).unwrap())
}

mod bare {
    tokenwire_testkit::store_conformance!(super::disk);
}

/// Every journal file holds a frame or two, and two files at most may be there.
mod small_files {
    use super::*;

    tokenwire_testkit::store_conformance!(|| {
        let options = DiskOptions {
            file_bytes: 200,
            journal_files: 2,
            ..DiskOptions::new(support::folder())
        };
        Arc::new(DiskStore::open(options).unwrap())
    });
}

/// Every change happens twice.
mod repeating {
    use super::*;

    tokenwire_testkit::store_conformance!(|| { support::repeating(disk()) });
}
