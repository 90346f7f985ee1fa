//! Defaults, one place, each with its reason.
//!
//! Owns what design and guide list as defaults, and the one place where the library reads the system's entropy.

use std::time::Duration;

use crate::error::Error;

/// The UDP port: registered for nothing, above the ephemeral traps of common firewalls.
pub const PORT: u16 = 4701;
/// Most voters: five survive two losses; more cost latency and win little.
pub const MAX_VOTERS: u32 = 5;
/// How long a request waits: longer than any election, shorter than a person's patience.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long a standby must be caught up before it gets a seat: one that flaps never does.
pub const STABLE: Duration = Duration::from_secs(2);
/// The length of a tick for managers in one place (`lan`): heartbeat 80 ms, election 0.44 to 0.6 s.
pub const TICK_LAN: Duration = Duration::from_millis(20);
/// The length of a tick for managers far apart (`wan`): heartbeat 0.6 s, election 3.3 to 4.5 s.
pub const TICK_WAN: Duration = Duration::from_millis(150);
/// Validity of a node's certificate: a stolen one does not last, and a holiday is survived.
pub const CERTIFICATE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Entries kept for members that lag: about a minute of busy writing.
pub const LOG_WINDOW_ENTRIES: u64 = 10_000;
/// Bytes kept for members that lag.
pub const LOG_WINDOW_BYTES: u64 = 256 << 20;
/// Revisions that can still be read when they are no longer the newest.
pub const HISTORY_REVISIONS: u64 = 100_000;
/// Silence after which the replay table forgets a client: far beyond any retry.
pub const CLIENT_SILENCE: Duration = Duration::from_secs(3_600);
/// A client attempt tries the next manager after one base election timeout (`lan`).
pub const ATTEMPT: Duration = Duration::from_millis(440);

/// A worker sends its manager something at least so often: what QUIC, and any box between the two, needs to keep the way open.
pub const WORKER_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Without a word from a worker for so long its session is over; without a session for so long it is down: three
/// keep-alives may be lost.
pub const WORKER_IDLE: Duration = Duration::from_secs(15);

/// 128 bits from the system, as an id.
pub(crate) fn random_id<T>(wrap: impl FnOnce([u8; 16]) -> T) -> Result<T, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::Internal(format!("the system gives no random numbers: {error}")))?;
    Ok(wrap(bytes))
}

/// 64 bits from the system.
#[cfg(feature = "manager")]
pub(crate) fn random_u64() -> Result<u64, Error> {
    random_id(|[a, b, c, d, e, f, g, h, ..]| u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}
