//! Every limit with its name (design section 12): what is over one is refused with that name, never a panic.
//!
//! Owns the numbers that all members of a cluster must agree on. Called where a request is checked: in the client
//! before it is sent, at the manager before it is proposed, and at apply, which must not depend on either.

/// Longest user key, bytes.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Longest value, bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Largest encoded transaction, bytes.
pub const TXN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most operations in one transaction, both branches and all comparisons counted.
pub const TXN_OPERATIONS_MAX: usize = 128;
/// Most entries one range answer carries before it pages.
pub const RANGE_LIMIT_MAX: u64 = 10_000;
/// Bytes of keys and values after which one range answer pages.
pub const RANGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Outcomes the replay table keeps for one client above its low-water mark.
pub const REPLAY_PER_CLIENT_MAX: usize = 4_096;
/// Clients in the replay table.
pub const REPLAY_CLIENTS_MAX: usize = 65_536;
/// Bytes one kept outcome may have; a larger one is kept without the operations' answers.
pub const REPLAY_OUTCOME_BYTES_MAX: usize = 1024;
/// Bytes of the whole replay table, outcomes and clients with [`REPLAY_RECORD_BYTES`] each on top.
pub const REPLAY_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// What one record of the replay table is counted with besides its own bytes: its key and its place in memory.
pub const REPLAY_RECORD_BYTES: u64 = 128;
/// What the store may hold where the policy says nothing: live records, and the history that can be read, bytes. Far more
/// than an orchestrator needs, and a snapshot of it still takes minutes, not hours.
pub const STORE_QUOTA_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// The least that the policy may set: room for a few transactions of the largest kind.
pub const STORE_QUOTA_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Most keys that the deletes of one transaction may remove together.
pub const DELETE_KEYS_MAX: u64 = 10_000;
/// Most bytes of keys and values that the deletes of one transaction may remove together: all of it is in memory at apply,
/// and becomes history in one batch.
pub const DELETE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of records that come and go by one entry of the log after which its further writes are refused, and sent again: what
/// an entry does is in memory at once, and a small write may end a large value. One transaction comes on top at most.
pub const ENTRY_BYTES_MAX: u64 = DELETE_BYTES_MAX;
/// Shortest time that a lease may be granted for, milliseconds: above an election on the fastest timing.
pub const LEASE_TTL_MS_MIN: u64 = 1_000;
/// Longest time that a lease may be granted for, milliseconds: 365 days.
pub const LEASE_TTL_MS_MAX: u64 = 365 * 24 * 3_600 * 1_000;
/// Leases held at once in the whole cluster.
pub const LEASES_MAX: u64 = 100_000;
/// Keys attached to one lease: they go in one revision, as those of the largest delete do.
pub const LEASE_KEYS_MAX: u64 = DELETE_KEYS_MAX;
/// Bytes of the keys and values attached to one lease: they go in one revision, as those of the largest delete do.
pub const LEASE_BYTES_MAX: u64 = DELETE_BYTES_MAX;
/// Leases, or keys of one lease, in one answer.
pub const LEASE_PAGE_MAX: usize = 1_000;
/// Digests by revision that a manager keeps in memory to compare with the others.
pub const HASHES_KEPT: usize = 4_096;
/// How often one barrier key seals before the leader replaces it: each use draws 128 random bits, so that even at the limit two
/// alike are as good as impossible.
pub const BARRIER_USES_MAX: u64 = 1 << 32;
/// Longest name of a secret or a config, bytes.
pub const OBJECT_NAME_BYTES_MAX: usize = 128;
/// Largest data of a secret or a config, bytes.
pub const OBJECT_BYTES_MAX: usize = 1024 * 1024;
/// Labels of one secret or config, all keys and values together, bytes.
pub const OBJECT_LABEL_BYTES_MAX: usize = 16 * 1024;
/// Longest value of a record that managers write for themselves, bytes: the largest data of a secret with its labels, its seal and
/// its encoding.
pub const RECORD_BYTES_MAX: usize = OBJECT_BYTES_MAX + 2 * OBJECT_LABEL_BYTES_MAX;
/// Longest node name, bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Watches that one manager serves.
pub const WATCHES_MAX: usize = 65_536;
/// Changed keys that wait for one live watch before it is cut.
pub const WATCH_QUEUE_CHANGES_MAX: usize = 4_096;
/// Bytes that wait for one live watch before it is cut; what several watches wait for counts for each.
pub const WATCH_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes that wait for all watches of a manager; what several wait for counts once.
pub const WATCHES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A revision that changed more bytes is not kept for watches: they read it from the store.
pub const WATCH_UNIT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of what was there before that one revision tells a watch.
pub const WATCH_PREVIOUS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes after which what a watch is told of one revision goes on in another message.
pub const WATCH_PART_BYTES: usize = 256 * 1024;
/// Largest snapshot chunk, bytes.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1024 * 1024;
/// Writes without an outcome at one manager, or reads and renewals without a quorum round, beyond which more are refused: a
/// second's work of a fast cluster, so that who waits longer than that hears it at once.
pub const WAITING_MAX: usize = 16_384;
/// Bytes of the writes that wait for the log of one manager beyond which more are refused.
pub const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Backups that one manager tells at the same time: each reads the whole store.
pub const BACKUPS_MAX: usize = 2;
/// Most revisions of the past that the policy may keep: as far as a recovery lets the revision jump.
pub const HISTORY_REVISIONS_MAX: u64 = 1_000_000_000_000;
/// Most operators kept, those that ended or were taken back among them.
pub const OPERATORS_MAX: usize = 256;
/// Most join tokens kept besides the standing ones, those that let nobody in any more among them.
pub const TOKENS_MAX: usize = 256;
/// Shortest passphrase that is set, for a store or a backup, characters: stretching slows down who tries them, not by enough for words
/// of a few letters. One that was set before opens what it opened.
pub const PASSPHRASE_CHARS_MIN: usize = 12;
/// Shortest deadline of a rotation of the CA, seconds: a manager whose first attempt to renew comes to nothing has time for others. Where
/// renewals are spread over a longer time it is twice that.
pub const ROTATION_S_MIN: u64 = 10;
/// Most labels of one node.
pub const LABELS_MAX: usize = 64;
/// Longest key of a node's label, bytes.
pub const LABEL_KEY_BYTES_MAX: usize = 255;
/// Longest value of a node's label, bytes.
pub const LABEL_VALUE_BYTES_MAX: usize = 1024;
/// Longest id of an item of work, bytes.
pub const ITEM_ID_BYTES_MAX: usize = 255;
/// Most items of one node; refused at apply, so that no two writes exceed it together.
pub const ITEMS_MAX: u64 = 4_096;
/// Largest payload of an item, bytes: what is left of a value beside the names it refers to.
pub const ITEM_BYTES_MAX: usize = 1_000 * 1024;
/// Most secrets and configs that one item may refer to.
pub const ITEM_REFERENCES_MAX: usize = 64;
/// Longest status of an item, bytes.
pub const STATUS_BYTES_MAX: usize = 4 * 1024;
/// All statuses of one node together with the ids of their items, bytes.
pub const REPORT_BYTES_MAX: usize = 512 * 1024;

/// All their names, by which a refusal that was kept is read again.
pub static NAMES: [&str; 54] = [
    "KEY_BYTES_MAX",
    "VALUE_BYTES_MAX",
    "TXN_BYTES_MAX",
    "TXN_OPERATIONS_MAX",
    "RANGE_LIMIT_MAX",
    "RANGE_BYTES_MAX",
    "REPLAY_PER_CLIENT_MAX",
    "REPLAY_CLIENTS_MAX",
    "REPLAY_OUTCOME_BYTES_MAX",
    "REPLAY_BYTES_MAX",
    "REPLAY_RECORD_BYTES",
    "STORE_QUOTA_BYTES",
    "STORE_QUOTA_BYTES_MIN",
    "DELETE_KEYS_MAX",
    "DELETE_BYTES_MAX",
    "ENTRY_BYTES_MAX",
    "LEASE_TTL_MS_MIN",
    "LEASE_TTL_MS_MAX",
    "LEASES_MAX",
    "LEASE_KEYS_MAX",
    "LEASE_BYTES_MAX",
    "LEASE_PAGE_MAX",
    "HASHES_KEPT",
    "BARRIER_USES_MAX",
    "OBJECT_NAME_BYTES_MAX",
    "OBJECT_BYTES_MAX",
    "OBJECT_LABEL_BYTES_MAX",
    "RECORD_BYTES_MAX",
    "NAME_BYTES_MAX",
    "WATCHES_MAX",
    "WATCH_QUEUE_CHANGES_MAX",
    "WATCH_QUEUE_BYTES_MAX",
    "WATCHES_BYTES_MAX",
    "WATCH_UNIT_BYTES_MAX",
    "WATCH_PREVIOUS_BYTES_MAX",
    "WATCH_PART_BYTES",
    "SNAPSHOT_CHUNK_BYTES",
    "WAITING_MAX",
    "WAITING_BYTES_MAX",
    "BACKUPS_MAX",
    "HISTORY_REVISIONS_MAX",
    "OPERATORS_MAX",
    "TOKENS_MAX",
    "PASSPHRASE_CHARS_MIN",
    "ROTATION_S_MIN",
    "LABELS_MAX",
    "LABEL_KEY_BYTES_MAX",
    "LABEL_VALUE_BYTES_MAX",
    "ITEM_ID_BYTES_MAX",
    "ITEMS_MAX",
    "ITEM_BYTES_MAX",
    "ITEM_REFERENCES_MAX",
    "STATUS_BYTES_MAX",
    "REPORT_BYTES_MAX",
];

/// What a limit counts, in words.
pub fn unit(name: &str) -> &'static str {
    match name {
        "TXN_OPERATIONS_MAX" => "operations",
        "DELETE_KEYS_MAX" | "LEASE_KEYS_MAX" => "keys",
        "LEASES_MAX" => "leases",
        "REPLAY_CLIENTS_MAX" => "clients",
        "ITEMS_MAX" => "items",
        "ITEM_REFERENCES_MAX" => "references",
        "LABELS_MAX" => "labels",
        "PASSPHRASE_CHARS_MIN" => "characters",
        "ROTATION_S_MIN" => "seconds",
        _ if name.contains("BYTES") => "bytes",
        _ => "in all",
    }
}

/// A limit that a request met, as whoever refuses it tells it beside the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// Which: the name of a constant of this file.
    pub name: &'static str,
    /// What it is: the most, or the least, that is taken.
    pub bound: u64,
    /// What was given, or what there would be.
    pub actual: u64,
}

const _: () = assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX < TXN_BYTES_MAX);
const _: () = assert!((2 * TXN_BYTES_MAX) as u64 <= DELETE_BYTES_MAX);
const _: () = assert!(RANGE_BYTES_MAX >= VALUE_BYTES_MAX + KEY_BYTES_MAX);
