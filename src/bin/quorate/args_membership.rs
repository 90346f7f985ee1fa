//! What can be typed about nodes, tokens and policy.
//!
//! Owns the shape of these verbs, with their help and examples. Never talks to a cluster. Called by `args`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use quorate::membership::Timing;

use crate::args::{SECOND, YEAR, duration, duration_within, whole};

/// A time, or nothing at all.
fn duration_or_none(text: &str) -> Result<Duration, String> {
    if ["0", "0s", "off"].contains(&text) { Ok(Duration::ZERO) } else { duration(text) }
}

fn year(text: &str) -> Result<Duration, String> {
    duration_within(text, SECOND, YEAR)
}

/// `node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List every node; needs no quorum
    #[command(after_help = "\
Answers from the manager asked, also without a quorum; the last line says from which revision and how old it is. STATE of a
manager is whether it answered just now, of a worker what its managers recorded; `unknown`: nobody has said.

Example:
  quorate node ls --data-dir /var/lib/quorate
  quorate node ls --json --connect 10.0.0.1:4701 --identity operator.id")]
    Ls,
    /// Show everything about one node, with what is done with it next
    #[command(after_help = "\
Asked of the leader, which decides about seats: needs a quorum.

Example:
  quorate node inspect n2 --data-dir /var/lib/quorate")]
    Inspect {
        /// Name, node id or a unique beginning of it, or raft id
        node: String,
    },
    /// Make nodes managers
    #[command(after_help = "\
Accepted always but of a node whose program has no manager built in. A manager gets a seat when the number of voters stays odd with it, else it stands by; the answer says which,
and what it waits for. A node that is a manager already is said to be one, and that is no error. One that is to leave stays by it.

Example:
  quorate node promote n4 n5 --data-dir /var/lib/quorate
  quorate node promote n4 --detach --data-dir /var/lib/quorate")]
    Promote {
        /// Name, node id or a unique beginning of it, or raft id
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Make managers workers, also ones that are gone
    #[command(after_help = "\
A standby takes a voter's seat, else two seats go at once, so that their number stays odd. Refused for the last voter, while a
majority is not alive, and where no loss would be survived any more; --force lifts the last of these only. What the cluster bears less
afterwards (fewer voters, no standby) is a warning, with --json in `warnings`.

Example:
  quorate node demote n2 --data-dir /var/lib/quorate")]
    Demote {
        /// Name, node id or a unique beginning of it, or raft id
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        /// Also if no loss is survived any more afterwards
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Change labels, availability, and whether it is replaced
    #[command(after_help = "\
Labels with a meaning: quorate.manager=yes (a worker that may be promoted in place of a lost voter), quorate.leader=preferred,
zone=NAME (standbys of another zone fill a seat first). A drained manager may still lead.

Example:
  quorate node update n4 --label-add zone=b --label-add quorate.manager=yes --data-dir /var/lib/quorate
  quorate node update n2 --availability drain --data-dir /var/lib/quorate
  quorate node update n3 --pause-replacement 15m --data-dir /var/lib/quorate   # it is rebooted")]
    Update(Update),
    /// Remove a node for ever
    #[command(after_help = "\
Its raft id is never used again. A manager is demoted first, with the same refusals as `node demote`. A node that is not known
to be down needs --force. As long as a removal waits for something, `node promote` takes it back.

Example:
  quorate node rm n3 --data-dir /var/lib/quorate
  quorate node rm n3 --force --data-dir /var/lib/quorate
  quorate node rm n3 --compromised --deadline 1d --data-dir /var/lib/quorate   # its keys may be in other hands")]
    Rm {
        /// Name, node id or a unique beginning of it, or raft id
        node: String,
        /// Also if it is there, and if no loss is survived any more afterwards
        #[arg(long)]
        force: bool,
        /// Somebody else may have its keys: cuts it off at once, replaces every join token, the CA and the barrier's key too,
        /// and shows how far that is; never taken back. Where no further rotation of the CA fits into those under way, it
        /// stands in line, and is shown so
        #[arg(long)]
        compromised: bool,
        /// With --compromised: when the old CA ends also for those who have not renewed: 12h, 7d
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = year, requires = "compromised")]
        deadline: Duration,
        #[command(flatten)]
        wait: Wait,
    },
}

/// How long a wish is waited for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Wait {
    /// Answer as soon as the wish is recorded; it is fulfilled without anybody waiting
    #[arg(long)]
    pub(crate) detach: bool,
    /// How long to wait until it is fulfilled [default: 2m, or --timeout where that is given]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "detach")]
    pub(crate) wait: Option<Duration>,
}

/// `node update`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["label_add", "label_rm", "availability", "pause_replacement"])))]
pub(crate) struct Update {
    /// Name, node id or a unique beginning of it, or raft id
    pub(crate) node: String,
    /// Set a label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) label_add: Vec<(String, String)>,
    /// Take a label off; may be given several times
    #[arg(long, value_name = "KEY")]
    pub(crate) label_rm: Vec<String>,
    /// Whether it takes new work
    #[arg(long, value_enum)]
    pub(crate) availability: Option<AvailabilityWord>,
    /// A manager is not replaced for so long, however silent; 0 ends the pause
    #[arg(long, value_name = "TIME", value_parser = duration_or_none)]
    pub(crate) pause_replacement: Option<Duration>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is no label; write KEY=VALUE")),
    }
}

/// Whether a node takes new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AvailabilityWord {
    /// It takes work.
    Active,
    /// It keeps what it has and takes nothing new.
    Pause,
    /// What it has is to be moved away.
    Drain,
}

/// `leave`.
#[derive(Debug, Args)]
pub(crate) struct Leave {
    /// Also if no loss is survived any more afterwards
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `token`.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Show the standing join token of a role; whoever has it can join
    #[command(after_help = "\
The last line is the bare token, for scripts.

Example:
  quorate token show manager --data-dir /var/lib/quorate | tail -1")]
    Show {
        /// What the token lets in as
        #[arg(value_enum)]
        role: Role,
    },
    /// Give a role another standing token; the old one lets nobody in any more
    #[command(after_help = "\
Who is in stays in. The last line is the bare token, for scripts.

Example:
  quorate token rotate worker --data-dir /var/lib/quorate")]
    Rotate {
        /// What the token lets in as
        #[arg(value_enum)]
        role: Role,
    },
    /// Make a token for a time and a number of nodes; it is shown once
    #[command(after_help = "\
The managers keep only its hash. It ends by the clock of the manager that is asked to let a node in. The last line is the bare
token, for scripts.

Example:
  quorate token create --role worker --ttl 1h --uses 20 --data-dir /var/lib/quorate | tail -1
  quorate token create --role manager --data-dir /var/lib/quorate   # 24 hours, one node")]
    Create(Create),
    /// List the tokens, without their secrets
    #[command(after_help = "\
Example:
  quorate token ls --data-dir /var/lib/quorate")]
    Ls,
    /// Take a token back that was made
    #[command(after_help = "\
Who is in stays in. A role's standing token is not revoked but rotated.

Example:
  quorate token revoke abcdefgh --data-dir /var/lib/quorate")]
    Revoke {
        /// Its id, as `token ls` shows it
        id: String,
    },
}

/// `token create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What the token lets in as
    #[arg(long, value_enum)]
    pub(crate) role: Role,
    /// How long it holds: 30m, 12h, 7d, or `never` to end
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = ttl)]
    pub(crate) ttl: Ttl,
    /// How many nodes it lets in; 0 is any number
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(0, u64::MAX, "nodes, 0 for any number"))]
    pub(crate) uses: u64,
}

/// How long a token holds; `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ttl(pub(crate) Option<Duration>);

fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "never" { Ok(Ttl(None)) } else { year(text).map(|ttl| Ttl(Some(ttl))) }
}

/// What a token lets in as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// A node that holds the replicated log and state.
    Manager,
    /// A node that gets its work from the managers.
    Worker,
}

/// `policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Show the settings in force
    #[command(after_help = "\
Example:
  quorate policy show --data-dir /var/lib/quorate")]
    Show,
    /// Change settings; what is not named stays
    #[command(after_help = "\
One replicated write for the whole cluster, taken up by every manager without an election.

Example:
  quorate policy set --lost-after 10s --data-dir /var/lib/quorate
  quorate policy set --timing wan --lost-after 1m --data-dir /var/lib/quorate
  quorate policy set --store-quota 2GiB --history 30m --data-dir /var/lib/quorate")]
    Set(PolicySet),
}

/// `policy set`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["max_voters", "lost_after", "promote_after", "stable", "auto_replace", "timing", "store_quota", "history_revisions", "history"])))]
pub(crate) struct PolicySet {
    /// Most voters: 3, 5, 7 or 9
    #[arg(long, value_name = "N", value_parser = whole(1_u32, 9, "voters, an odd number of them"))]
    pub(crate) max_voters: Option<u32>,
    /// Silence after which a voter is replaced; at least ten election timeouts
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) lost_after: Option<Duration>,
    /// Time without a standby after which a worker with the label quorate.manager=yes is promoted
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) promote_after: Option<Duration>,
    /// How long a standby must be connected and caught up before it gets a seat
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) stable: Option<Duration>,
    /// Whether lost voters are replaced
    #[arg(long, value_enum)]
    pub(crate) auto_replace: Option<Switch>,
    /// Managers in one place (lan, elections within 0.6 s), far apart (wan, 4.5 s), or the length of a tick
    #[arg(long, value_name = "lan|wan|TICK", value_parser = timing)]
    pub(crate) timing: Option<Timing>,
    /// What the store may hold, with the history that can be read: a number of bytes, or with KiB, MiB, GiB
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub(crate) store_quota: Option<u64>,
    /// How many old revisions can still be read and watched from
    #[arg(long, value_name = "N", value_parser = whole(1, u64::MAX, "revisions"))]
    pub(crate) history_revisions: Option<u64>,
    /// For how long they can
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) history: Option<Duration>,
}

/// `8GiB`, `512MiB`, `16777216`.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size; write a number of bytes, or one with KiB, MiB, GiB or TiB");
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_no_number| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

fn timing(text: &str) -> Result<Timing, String> {
    match text {
        "lan" => Ok(Timing::Lan),
        "wan" => Ok(Timing::Wan),
        tick => duration_within(tick, Duration::from_millis(5), Duration::from_secs(2)).map(Timing::Tick).map_err(
            |_no_time| format!("`{text}` is no timing; write lan, wan, or the length of a tick between 5ms and 2s"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_times_and_timings_are_read() {
        assert_eq!(label("zone=a=b"), Ok(("zone".into(), "a=b".into())));
        assert_eq!(label("flag="), Ok(("flag".into(), String::new())));
        assert!(label("zone").is_err() && label("=a").is_err());
        assert_eq!(ttl("7d"), Ok(Ttl(Some(Duration::from_secs(7 * 86_400)))));
        assert_eq!(ttl("never"), Ok(Ttl(None)));
        assert!(ttl("366d").is_err() && ttl("10ms").is_err());
        assert_eq!((timing("lan"), timing("50ms")), (Ok(Timing::Lan), Ok(Timing::Tick(Duration::from_millis(50)))));
        assert!(timing("fast").unwrap_err().contains("lan, wan"));
        assert_eq!(
            (duration_or_none("0"), duration_or_none("15m")),
            (Ok(Duration::ZERO), Ok(Duration::from_secs(900)))
        );
        assert!(duration("0").is_err());
    }
}
