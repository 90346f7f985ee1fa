//! Nodes, tokens and policy as people see them: the documented JSON of `quorate node`, `token` and `policy`.
//!
//! Owns the one definition that the wire, the library and scripts share. Fields are only ever added, and a word that a
//! newer manager uses is read as "unknown". Never decides anything.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a node is, or is asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Holds the replicated log and state.
    Manager,
    /// Holds a session with the managers, and no log.
    #[default]
    #[serde(other)]
    Worker,
}

impl Role {
    /// The word on the screen.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Worker => "worker",
        }
    }
}

/// Whether a node takes new work. A drained manager may still lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Availability {
    /// Takes work.
    Active,
    /// Keeps what it has, takes nothing new.
    Pause,
    /// What it has is to be moved away.
    Drain,
    /// A word of a newer manager.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Availability {
    /// The word on the screen.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether a node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeState {
    /// A manager that answers, or a worker with a session.
    Ready,
    /// A manager that does not answer, or a worker without a session.
    Down,
    /// A manager that says that it is locked: it waits for its key (`quorate unlock`), and does nothing else.
    Locked,
    /// Left behind by a force-new-cluster: no member any more.
    Lost,
    /// A worker of which no manager has reported yet.
    #[default]
    #[serde(other)]
    Unknown,
}

impl NodeState {
    /// The word on the screen.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Down => "down",
            Self::Locked => "locked",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}

/// What a node is in the Raft configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Seat {
    /// It votes.
    Voter,
    /// It replicates everything and does not vote.
    Standby,
    /// It is to be a manager, and no member yet.
    Joining,
    /// It is no manager.
    #[default]
    #[serde(other)]
    None,
}

impl Seat {
    /// The word on the screen.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Standby => "standby",
            Self::Joining => "joining",
            Self::None => "none",
        }
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeInfo {
    /// The name people gave it; its id when they gave none.
    pub name: String,
    /// Node id, base32.
    pub id: String,
    /// Where it is reached.
    pub address: String,
    /// What people say about it, by key.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes new work.
    pub availability: Availability,
    /// What it is asked to be.
    pub desired_role: Role,
    /// What it is: a manager while it is in the Raft configuration.
    pub observed_role: Role,
    /// What it is in the Raft configuration.
    pub seat: Seat,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it is there.
    pub state: NodeState,
    /// Its number in the Raft configuration; 0 while it is no manager.
    pub raft_id: u64,
    /// The version of its software.
    pub version: String,
    /// It is being removed.
    pub removing: bool,
    /// It was promoted in place of a lost voter.
    pub stands_in: bool,
    /// It is not replaced for so long, however silent; 0 is not held.
    pub replacement_paused_ms: u64,
    /// Nothing is under way for it. Certain only in the answer of the leader, which [`Nodes::inspect`] asks.
    ///
    /// [`Nodes::inspect`]: crate::Nodes::inspect
    pub settled: bool,
    /// What is done with it next, or what that waits for; nothing in an answer that is not the leader's.
    pub outlook: Option<String>,
}

/// Every node, as one manager knows them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeList {
    /// Managers by raft id, then workers by name.
    pub nodes: Vec<NodeInfo>,
    /// The name of the manager that answered.
    pub answered_by: String,
    /// The store's revision there.
    pub revision: u64,
    /// How long that manager has been without word from a leader, milliseconds.
    pub age_ms: u64,
}

/// One node, and what became of a wish about it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeOutcome {
    /// The node, as last seen.
    pub node: NodeInfo,
    /// The wish changed a record; false: it was as wished already.
    pub changed: bool,
    /// It is done; false: it was not waited for, or the node that was asked is gone.
    pub done: bool,
    /// Voters when the wish was recorded.
    pub voters_before: usize,
    /// Voters now.
    pub voters: usize,
    /// Standbys now.
    pub standbys: usize,
    /// What the cluster bears less once the wish is fulfilled, for people.
    pub warnings: Vec<String>,
}

/// A join token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenInfo {
    /// Names it for `revoke`; empty for the standing token of a role.
    pub id: String,
    /// What it lets a node in as.
    pub role: Role,
    /// The one that `token show` shows: valid until it is rotated.
    pub standing: bool,
    /// When it was made, seconds since 1970 by the clock of the manager that made it; 0 for a standing one.
    pub created_unix: u64,
    /// Until when it holds, seconds since 1970 by the clock of the manager that is asked to let somebody in; 0 is for ever.
    pub expires_unix: u64,
    /// Seconds until then by the clock of the manager that answered; nothing when it holds for ever, 0 when that is over.
    pub expires_in_s: Option<u64>,
    /// How many nodes it may let in; 0 is any number.
    pub uses: u64,
    /// How many of them it still may; nothing for any number.
    pub uses_left: Option<u64>,
    /// It lets nodes in.
    pub valid: bool,
}

/// A token that was just made. Its secret is shown once: the managers keep only its hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// The token itself.
    pub token: String,
    /// Everything else about it.
    pub info: TokenInfo,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("info", &self.info).finish_non_exhaustive()
    }
}

/// An operator's identity: who may administer the cluster from outside, or only look.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OperatorInfo {
    /// Base32; in its certificate.
    pub id: String,
    /// The name people gave it.
    pub name: String,
    /// It looks at everything but tokens and secrets, and changes nothing.
    pub read_only: bool,
    /// The first 8 bytes of the SHA-256 of its public key, hexadecimal.
    pub fingerprint: String,
    /// When it was made, seconds since 1970 by the clock of the manager that made it.
    pub created_unix: u64,
    /// When it ends; 0: when it is taken back.
    pub ends_unix: u64,
    /// Until when its newest certificate holds; it is renewed as long as the identity stands.
    pub certificate_ends_unix: u64,
    /// When it was taken back; 0: it was not.
    pub revoked_unix: u64,
    /// It counts.
    pub stands: bool,
}

/// An operator's identity that was just taken back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RevokedOperator {
    /// Which.
    #[serde(flatten)]
    pub operator: OperatorInfo,
    /// It is the very identity that asked: the client that did counts nowhere any more.
    pub own: bool,
    /// Identities that stand and may change things; with none, only a manager's own machine may (its local socket).
    pub left: u64,
}

/// The cluster's CA, and how far its replacement is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CaInfo {
    /// The hash of the root that signs, as in join tokens.
    pub root: String,
    /// How often the root was replaced.
    pub serial: u64,
    /// A rotation is under way.
    pub rotating: bool,
    /// It is the one that this request has begun; false: it only looked, or one was under way already.
    pub begun: bool,
    /// Since when, seconds since 1970 by the clock of the manager that began it; 0: none is.
    pub started_unix: u64,
    /// After how many seconds the older roots are trusted no more, at the latest; `None`: no rotation is under way. Counted while
    /// somebody leads, and up to a minute more than there is.
    pub deadline_in_s: Option<u64>,
    /// Another rotation begins when this one is over: as many were under way within each other as may be when a node was thrown out
    /// that may be in other hands.
    pub another_follows: bool,
    /// The hashes of all roots that are trusted now.
    pub trusted: Vec<String>,
    /// Nodes and operators that count.
    pub all: usize,
    /// Those that have renewed.
    pub renewed: usize,
    /// Those that have not; the first 200.
    pub waits_for: Vec<CaWaits>,
}

/// Somebody whose certificate is of the older root.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CaWaits {
    /// Its name.
    pub name: String,
    /// `manager`, `worker` or `operator`.
    pub kind: String,
}

/// The settings of the whole cluster, in force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyInfo {
    /// Most voters: 3, 5, 7 or 9.
    pub max_voters: u32,
    /// Silence after which a voter is replaced, milliseconds.
    pub lost_after_ms: u64,
    /// Time without a standby after which an eligible worker is promoted, milliseconds.
    pub promote_after_ms: u64,
    /// How long a standby must be connected and caught up before it gets a seat, milliseconds.
    pub stable_ms: u64,
    /// Lost voters are replaced.
    pub auto_replace: bool,
    /// `lan`, `wan`, or `custom`.
    pub timing: String,
    /// The length of a tick, microseconds.
    pub tick_micros: u64,
    /// The base election timeout that follows from it, milliseconds.
    pub election_ms: u64,
    /// What the store may hold, bytes: live records, and history that can still be read.
    pub store_quota_bytes: u64,
    /// Revisions that can still be read when they are no longer the newest.
    pub history_revisions: u64,
    /// For how long they can, milliseconds.
    pub history_ms: u64,
}

/// How long a tick is: heartbeats, elections and leases follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Timing {
    /// Managers in one place: heartbeat 80 ms, election 0.44 to 0.6 s.
    Lan,
    /// Managers far apart: heartbeat 0.6 s, election 3.3 to 4.5 s.
    Wan,
    /// A tick of this length; a heartbeat is 4 of them, an election 22 to 30.
    Tick(Duration),
}

impl Timing {
    /// The length of a tick.
    pub const fn tick(self) -> Duration {
        match self {
            Self::Lan => crate::config::TICK_LAN,
            Self::Wan => crate::config::TICK_WAN,
            Self::Tick(tick) => tick,
        }
    }
}

/// A rule of membership that refused a wish. Nothing was changed; the message says the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The most voters must be odd.
    EvenMaxVoters,
    /// Without its last voter there is no cluster.
    LastVoter,
    /// No loss would be survived any more; may be forced.
    EndsFaultTolerance,
    /// A majority would not be alive.
    QuorumAtRisk,
    /// A node that is not known to be down is removed only by force.
    NodeReady,
    /// The node is being removed.
    BeingRemoved,
    /// The node was left behind by a force-new-cluster.
    NodeLost,
    /// Several nodes answer to what was given.
    Ambiguous,
    /// The label is quorate's own.
    ReservedLabel,
    /// The node is no manager.
    NotAManager,
    /// A time is too short or too long for the others.
    TimesDoNotFit,
    /// A setting is outside of what it may be.
    OutOfRange,
    /// There are as many tokens as there may be.
    TooManyTokens,
    /// The node's program has no manager in it.
    NotBuiltAsManager,
    /// A manager has not reported that it supports the version that an upgrade is to be finished to.
    UpgradeHeldBack,
    /// An operator that stands has this name.
    OperatorNameTaken,
    /// There are as many operators as there may be.
    TooManyOperators,
    /// Rotations of the CA are under way within each other.
    TooManyRotations,
}

impl Rule {
    const ALL: [Self; 18] = [
        Self::EvenMaxVoters,
        Self::LastVoter,
        Self::EndsFaultTolerance,
        Self::QuorumAtRisk,
        Self::NodeReady,
        Self::BeingRemoved,
        Self::NodeLost,
        Self::Ambiguous,
        Self::ReservedLabel,
        Self::NotAManager,
        Self::TimesDoNotFit,
        Self::OutOfRange,
        Self::TooManyTokens,
        Self::NotBuiltAsManager,
        Self::UpgradeHeldBack,
        Self::OperatorNameTaken,
        Self::TooManyOperators,
        Self::TooManyRotations,
    ];

    /// The word for scripts, and on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::EvenMaxVoters => "even_max_voters",
            Self::LastVoter => "last_voter",
            Self::EndsFaultTolerance => "ends_fault_tolerance",
            Self::QuorumAtRisk => "quorum_at_risk",
            Self::NodeReady => "node_ready",
            Self::BeingRemoved => "being_removed",
            Self::NodeLost => "node_lost",
            Self::Ambiguous => "ambiguous",
            Self::ReservedLabel => "reserved_label",
            Self::NotAManager => "not_a_manager",
            Self::TimesDoNotFit => "times_do_not_fit",
            Self::OutOfRange => "out_of_range",
            Self::TooManyTokens => "too_many_tokens",
            Self::NotBuiltAsManager => "not_built_as_manager",
            Self::UpgradeHeldBack => "upgrade_held_back",
            Self::OperatorNameTaken => "operator_name_taken",
            Self::TooManyOperators => "too_many_operators",
            Self::TooManyRotations => "too_many_rotations",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_newer_manager_is_read_as_unknown() {
        let read: NodeInfo =
            serde_json::from_str(r#"{"name":"n1","state":"asleep","availability":"later","new":1,"seat":"observer"}"#)
                .unwrap();
        assert_eq!(
            (read.name.as_str(), read.state, read.availability),
            ("n1", NodeState::Unknown, Availability::Unknown)
        );
        assert_eq!(read.seat, Seat::None);
    }

    #[test]
    fn documents_and_rules_survive_the_wire() {
        let node = NodeInfo {
            name: "n1".into(),
            state: NodeState::Lost,
            availability: Availability::Drain,
            desired_role: Role::Manager,
            seat: Seat::Standby,
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            outlook: Some("standby".into()),
            ..NodeInfo::default()
        };
        let text = serde_json::to_string(&node).unwrap();
        assert!(text.contains(r#""state":"lost""#) && text.contains(r#""desired_role":"manager""#), "{text}");
        assert_eq!(serde_json::from_str::<NodeInfo>(&text).unwrap(), node);
        for rule in Rule::ALL {
            assert_eq!(Rule::from_word(rule.word()), Some(rule));
        }
        assert_eq!(Rule::from_word("of_thumb"), None);
    }

    #[test]
    fn a_new_token_is_not_in_debug_output() {
        let token =
            NewToken { token: "QRT-1-secret".into(), info: TokenInfo { id: "abc".into(), ..TokenInfo::default() } };
        let shown = format!("{token:?}");
        assert!(shown.contains("abc") && !shown.contains("secret"), "{shown}");
    }
}
