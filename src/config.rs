//! Defaults, one place, each with its reason.
//!
//! Owns what design and guide list as defaults, and the one place where the library reads the system's entropy.

use std::time::Duration;

use quorate_core::membership::plan::SeatTimes;

use crate::error::Error;

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = quorate_core::limits::KEY_BYTES_MAX;
/// Longest value, bytes.
pub const VALUE_BYTES_MAX: usize = quorate_core::limits::VALUE_BYTES_MAX;
/// Largest data of a config or a secret, bytes.
pub const OBJECT_BYTES_MAX: usize = quorate_core::limits::OBJECT_BYTES_MAX;
/// The UDP port: registered for nothing, above the ephemeral traps of common firewalls.
pub const PORT: u16 = 4701;
/// Most voters: five survive two losses; more cost latency and win little.
pub const MAX_VOTERS: u32 = 5;
/// How long a request waits: longer than any election, shorter than a person's patience.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long a standby must be caught up before it gets a seat: one that flaps never does.
pub const STABLE: Duration = Duration::from_millis(SeatTimes::DEFAULT.stable_ms);
/// Silence after which a voter is replaced: longer than a process needs to come back, shorter than a second loss is likely.
pub const LOST_AFTER: Duration = Duration::from_secs(30);
/// Time without a standby after which an eligible worker is promoted: longer than a machine needs to come back.
pub const PROMOTE_AFTER: Duration = Duration::from_secs(300);
/// How long a client waits for what it wished of a node: longer than a snapshot of a large state takes.
pub const CHANGE_PATIENCE: Duration = Duration::from_secs(120);
/// Life of a join token that is made without saying one: a working day.
pub const TOKEN_TTL: Duration = Duration::from_secs(24 * 3_600);
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
/// For how long they can: longer than a watcher is away that was restarted or moved.
pub const HISTORY_AGE: Duration = Duration::from_secs(3_600);
/// How long a disk may leave work unanswered before its manager hands leadership on and neither leads nor votes. A working
/// disk stalls for a second or two now and then, and moving leadership then would help nobody; a request waits for 10 s,
/// so that enough is left to be served elsewhere. At least two base election timeouts.
pub const DISK_PATIENCE: Duration = Duration::from_secs(3);
/// A disk that has had nothing to do for so long is given the hard state that it has already, and synced, so that one that hangs is
/// known before somebody's write waits for it: some 200 bytes of journal each time, 10 MB in an idle day, and the log does not grow.
pub const DISK_PROBE: Duration = Duration::from_secs(2);
/// Free bytes below which a manager takes no more entries: room for what is committed already, for 64 MiB of journal and
/// the tables that RocksDB still has to write from memory and to compact, and for the few bytes of a term.
pub const SPACE_LOW: u64 = 256 << 20;
/// Free bytes from which it goes on: half as many again, so that a little cleared away does not send it to and fro.
pub const SPACE_ENOUGH: u64 = 384 << 20;
/// Between two looks at the free space: a disk that fills at 100 MB/s is noticed with four fifths of the room left.
pub const SPACE_EVERY: Duration = Duration::from_millis(500);
/// Silence after which the replay table forgets a client: far beyond any retry.
pub const CLIENT_SILENCE: Duration = Duration::from_secs(3_600);
/// A client attempt tries the next manager after one base election timeout (`lan`).
pub const ATTEMPT: Duration = Duration::from_millis(440);

/// The attempt after one of this length: a cluster that is only slow must not drown in repeats. At most a minute: who waits
/// for long is asked for often, and a length that doubles for ever is none in the end.
pub(crate) fn longer(attempt: Duration) -> Duration {
    attempt.saturating_mul(2).min(Duration::from_secs(60))
}

/// A worker sends its manager something at least so often: what QUIC, and any box between the two, needs to keep the way open.
pub const WORKER_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Without a word from a worker for so long its session is over; without a session for so long it is down: three
/// keep-alives may be lost.
pub const WORKER_IDLE: Duration = Duration::from_secs(15);

/// A manager that has heard from no quorum for so long shows no data to operators over the network any more: whoever was revoked
/// meanwhile still counts there. Long enough for people to get to the machine, where it goes on.
pub const OPERATOR_UNHEARD: Duration = Duration::from_secs(3_600);

/// Time to live of the lease of a lock or a candidate: outlasts an election of the managers on the slowest preset by three.
pub const LOCK_TTL: Duration = Duration::from_secs(15);

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

/// A number from 0 to 1.
pub(crate) fn chance() -> f64 {
    let mut bytes = [0; 4];
    let drawn = getrandom::fill(&mut bytes).map(|()| u32::from_be_bytes(bytes));
    f64::from(drawn.unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

/// Whether this is `host:port` with a port; says what is wrong with it otherwise. Nothing is resolved.
pub(crate) fn check_address(text: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("`{text}` is no HOST:PORT: {why}; write for example 10.0.0.1:{PORT}"));
    if text.contains("//") || text.contains(char::is_whitespace) {
        return wrong("it must have no scheme, path or blank");
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return wrong("an IPv6 address stands in brackets before its port, as in [::1]:4701");
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return wrong("the port is missing");
    };
    if host.is_empty() || host == "[]" {
        return wrong("the host is missing");
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return wrong("an IPv6 address stands in brackets before its port, as in [::1]:4701");
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => wrong("the port is a number from 1 to 65535"),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_longer_and_not_endless() {
        let lengths: Vec<_> =
            std::iter::successors(Some(ATTEMPT), |attempt| Some(longer(*attempt))).take(200).collect();
        assert_eq!(lengths.get(1), Some(&(ATTEMPT * 2)));
        assert_eq!(lengths.last(), Some(&Duration::from_secs(60)));
    }

    fn bytes(bytes: u64) -> String {
        match (bytes >> 30, bytes >> 20, bytes >> 10) {
            (gib, ..) if gib << 30 == bytes && gib > 0 => format!("{gib} GiB"),
            (_, mib, _) if mib << 20 == bytes && mib > 0 => format!("{mib} MiB"),
            (_, _, kib) if kib << 10 == bytes && kib > 0 => format!("{kib} KiB"),
            _ => count(bytes),
        }
    }

    fn count(count: u64) -> String {
        if count < 1_000 { count.to_string() } else { format!("{},{:03}", self::count(count / 1_000), count % 1_000) }
    }

    fn time(time: Duration) -> String {
        let seconds = time.as_secs();
        match seconds {
            0 => format!("{} ms", time.as_millis()),
            _ if seconds.is_multiple_of(86_400) && seconds > 86_400 => format!("{} d", seconds / 86_400),
            _ if seconds.is_multiple_of(3_600) => format!("{} h", seconds / 3_600),
            _ => format!("{seconds} s"),
        }
    }

    /// The rows of a chapter's tables: name and value.
    fn rows(guide: &str) -> Vec<(String, String)> {
        let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let row = |cells: &[String]| {
            let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
            Some((name.to_owned(), cells.get(2)?.clone()))
        };
        guide.lines().filter_map(|line| row(&cells(line))).collect()
    }

    fn constants(source: &str) -> impl Iterator<Item = &str> {
        source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next())
    }

    #[test]
    fn the_guide_has_every_default_and_every_limit_as_it_is() {
        let guide = rows(include_str!("../docs/guide/limits-and-defaults.md"));
        let told: Vec<&str> = guide.iter().map(|(name, _)| name.as_str()).collect();
        let defaults = constants(include_str!("config.rs"));
        let limits: Vec<_> = constants(include_str!("../raft-core/src/limits.rs")).collect();
        let names = limits.clone();
        // What a default takes over from a limit is told once, as a limit.
        let defaults = defaults.filter(|name| !limits.contains(name));
        let mut all: Vec<&str> = defaults.chain(limits.iter().copied()).collect();
        let mut listed = told.clone();
        all.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, all, "docs/guide/limits-and-defaults.md has each of them once");

        use quorate_core::limits;
        assert_eq!(names, limits::NAMES, "a refusal that was kept finds its limit's name again");
        let size = |size: usize| u64::try_from(size).unwrap();
        let values = [
            ("PORT", count(u64::from(PORT))),
            ("MAX_VOTERS", count(u64::from(MAX_VOTERS))),
            ("REQUEST_DEADLINE", time(REQUEST_DEADLINE)),
            ("ATTEMPT", time(ATTEMPT)),
            ("TICK_LAN", time(TICK_LAN)),
            ("TICK_WAN", time(TICK_WAN)),
            ("STABLE", time(STABLE)),
            ("LOST_AFTER", time(LOST_AFTER)),
            ("PROMOTE_AFTER", time(PROMOTE_AFTER)),
            ("CHANGE_PATIENCE", time(CHANGE_PATIENCE)),
            ("TOKEN_TTL", time(TOKEN_TTL)),
            ("CERTIFICATE", time(CERTIFICATE)),
            ("LOG_WINDOW_ENTRIES", count(LOG_WINDOW_ENTRIES)),
            ("LOG_WINDOW_BYTES", bytes(LOG_WINDOW_BYTES)),
            ("HISTORY_REVISIONS", count(HISTORY_REVISIONS)),
            ("HISTORY_AGE", time(HISTORY_AGE)),
            ("CLIENT_SILENCE", time(CLIENT_SILENCE)),
            ("DISK_PATIENCE", time(DISK_PATIENCE)),
            ("DISK_PROBE", time(DISK_PROBE)),
            ("SPACE_LOW", bytes(SPACE_LOW)),
            ("SPACE_ENOUGH", bytes(SPACE_ENOUGH)),
            ("SPACE_EVERY", time(SPACE_EVERY)),
            ("WORKER_KEEP_ALIVE", time(WORKER_KEEP_ALIVE)),
            ("OPERATOR_UNHEARD", time(OPERATOR_UNHEARD)),
            ("WORKER_IDLE", time(WORKER_IDLE)),
            ("LOCK_TTL", time(LOCK_TTL)),
            ("KEY_BYTES_MAX", bytes(size(limits::KEY_BYTES_MAX))),
            ("VALUE_BYTES_MAX", bytes(size(limits::VALUE_BYTES_MAX))),
            ("TXN_BYTES_MAX", bytes(size(limits::TXN_BYTES_MAX))),
            ("TXN_OPERATIONS_MAX", count(size(limits::TXN_OPERATIONS_MAX))),
            ("RANGE_LIMIT_MAX", count(limits::RANGE_LIMIT_MAX)),
            ("RANGE_BYTES_MAX", bytes(size(limits::RANGE_BYTES_MAX))),
            ("DELETE_KEYS_MAX", count(limits::DELETE_KEYS_MAX)),
            ("DELETE_BYTES_MAX", bytes(limits::DELETE_BYTES_MAX)),
            ("ENTRY_BYTES_MAX", bytes(limits::ENTRY_BYTES_MAX)),
            ("NAME_BYTES_MAX", count(size(limits::NAME_BYTES_MAX))),
            ("OBJECT_NAME_BYTES_MAX", count(size(limits::OBJECT_NAME_BYTES_MAX))),
            ("OBJECT_BYTES_MAX", bytes(size(limits::OBJECT_BYTES_MAX))),
            ("OBJECT_LABEL_BYTES_MAX", bytes(size(limits::OBJECT_LABEL_BYTES_MAX))),
            ("RECORD_BYTES_MAX", bytes(size(limits::RECORD_BYTES_MAX))),
            ("BARRIER_USES_MAX", count(limits::BARRIER_USES_MAX)),
            ("STORE_QUOTA_BYTES", bytes(limits::STORE_QUOTA_BYTES)),
            ("STORE_QUOTA_BYTES_MIN", bytes(limits::STORE_QUOTA_BYTES_MIN)),
            ("LEASE_TTL_MS_MIN", time(Duration::from_millis(limits::LEASE_TTL_MS_MIN))),
            ("LEASE_TTL_MS_MAX", time(Duration::from_millis(limits::LEASE_TTL_MS_MAX))),
            ("LEASES_MAX", count(limits::LEASES_MAX)),
            ("LEASE_KEYS_MAX", count(limits::LEASE_KEYS_MAX)),
            ("LEASE_BYTES_MAX", bytes(limits::LEASE_BYTES_MAX)),
            ("LEASE_PAGE_MAX", count(size(limits::LEASE_PAGE_MAX))),
            ("WATCHES_MAX", count(size(limits::WATCHES_MAX))),
            ("WATCH_QUEUE_CHANGES_MAX", count(size(limits::WATCH_QUEUE_CHANGES_MAX))),
            ("WATCH_QUEUE_BYTES_MAX", bytes(size(limits::WATCH_QUEUE_BYTES_MAX))),
            ("WATCHES_BYTES_MAX", bytes(size(limits::WATCHES_BYTES_MAX))),
            ("WATCH_UNIT_BYTES_MAX", bytes(size(limits::WATCH_UNIT_BYTES_MAX))),
            ("WATCH_PREVIOUS_BYTES_MAX", bytes(size(limits::WATCH_PREVIOUS_BYTES_MAX))),
            ("WATCH_PART_BYTES", bytes(size(limits::WATCH_PART_BYTES))),
            ("REPLAY_PER_CLIENT_MAX", count(size(limits::REPLAY_PER_CLIENT_MAX))),
            ("REPLAY_CLIENTS_MAX", count(size(limits::REPLAY_CLIENTS_MAX))),
            ("REPLAY_OUTCOME_BYTES_MAX", bytes(size(limits::REPLAY_OUTCOME_BYTES_MAX))),
            ("REPLAY_BYTES_MAX", bytes(limits::REPLAY_BYTES_MAX)),
            ("REPLAY_RECORD_BYTES", count(limits::REPLAY_RECORD_BYTES)),
            ("HASHES_KEPT", count(size(limits::HASHES_KEPT))),
            ("SNAPSHOT_CHUNK_BYTES", bytes(size(limits::SNAPSHOT_CHUNK_BYTES))),
            ("WAITING_MAX", count(size(limits::WAITING_MAX))),
            ("WAITING_BYTES_MAX", bytes(size(limits::WAITING_BYTES_MAX))),
            ("BACKUPS_MAX", count(size(limits::BACKUPS_MAX))),
            ("HISTORY_REVISIONS_MAX", count(limits::HISTORY_REVISIONS_MAX)),
            ("OPERATORS_MAX", count(size(limits::OPERATORS_MAX))),
            ("TOKENS_MAX", count(size(limits::TOKENS_MAX))),
            ("PASSPHRASE_CHARS_MIN", count(size(limits::PASSPHRASE_CHARS_MIN))),
            ("ROTATION_S_MIN", time(Duration::from_secs(limits::ROTATION_S_MIN))),
            ("LABELS_MAX", count(size(limits::LABELS_MAX))),
            ("LABEL_KEY_BYTES_MAX", count(size(limits::LABEL_KEY_BYTES_MAX))),
            ("LABEL_VALUE_BYTES_MAX", bytes(size(limits::LABEL_VALUE_BYTES_MAX))),
            ("ITEM_ID_BYTES_MAX", count(size(limits::ITEM_ID_BYTES_MAX))),
            ("ITEMS_MAX", count(limits::ITEMS_MAX)),
            ("ITEM_BYTES_MAX", bytes(size(limits::ITEM_BYTES_MAX))),
            ("ITEM_REFERENCES_MAX", count(size(limits::ITEM_REFERENCES_MAX))),
            ("STATUS_BYTES_MAX", bytes(size(limits::STATUS_BYTES_MAX))),
            ("REPORT_BYTES_MAX", bytes(size(limits::REPORT_BYTES_MAX))),
        ];
        assert_eq!(values.len(), all.len(), "each of them is compared");
        for (name, value) in values {
            let row = guide.iter().find(|(row, _)| row == name);
            assert_eq!(row.map(|(_, told)| told), Some(&value), "{name}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["10.0.0.1:4701", "n1:4701", "n1.example.org:1", "[::1]:4701", "[fe80::1%eth0]:4701"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for (wrong, why) in [
            ("n1", "port is missing"),
            ("", "port is missing"),
            (":4701", "host is missing"),
            ("n1:", "from 1 to 65535"),
            ("n1:0", "from 1 to 65535"),
            ("n1:65536", "from 1 to 65535"),
            ("n1:http", "from 1 to 65535"),
            ("::1", "brackets"),
            ("fe80::1:4701", "brackets"),
            ("https://n1:4701", "scheme"),
            ("n1 :4701", "blank"),
        ] {
            let said = check_address(wrong).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }
}
