//! The RocksDB store passes the suite that every store must pass, power cuts included.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests may fail loudly")]

use std::sync::Arc;

use quorate_core::ports::{OpenStore, StoreResult};
use quorate_core::testing::conformance::StoreUnderTest;
use quorate_storage::{GivenKey, Key, Options};
use tempfile::TempDir;

struct Rocks(TempDir);

impl StoreUnderTest for Rocks {
    fn open(&mut self) -> StoreResult<OpenStore> {
        quorate_storage::open(
            &self.0.path().join("store"),
            Options::new(Arc::new(GivenKey(Key::from_bytes(&[42; 32])))),
        )
    }

    fn lose_unsynced(&mut self) -> bool {
        quorate_storage::testing::lose_unsynced(&self.0.path().join("store")).unwrap();
        true
    }
}

quorate_core::store_conformance!(Rocks(tempfile::tempdir().unwrap()));
