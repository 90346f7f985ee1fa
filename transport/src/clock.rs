//! The wall clock, where certificates are made and checked.
//!
//! Owns nothing but how far it is off: a test gives a node a clock that differs from the others', everybody else has the
//! system's. Never used for anything that orders or decides. Called wherever a certificate's time is looked at.

use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::text::unix_seconds;

/// A node's wall clock; the default is the system's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    ahead_seconds: i64,
}

impl Clock {
    /// One that is ahead of the system's by so many seconds; negative is behind.
    pub const fn ahead(seconds: i64) -> Self {
        Self { ahead_seconds: seconds }
    }

    /// What it says.
    pub fn now(self) -> SystemTime {
        let off = Duration::from_secs(self.ahead_seconds.unsigned_abs());
        let now = SystemTime::now();
        let off_now = if self.ahead_seconds < 0 { now.checked_sub(off) } else { now.checked_add(off) };
        off_now.unwrap_or(now)
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(unix_seconds(self.now()))))
    }
}
