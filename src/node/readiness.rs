//! Whether a node can serve now, and why not.
//!
//! Owns the checks behind [`crate::Node::readiness`] and `/readyz`. Pure but for the clock: they look at what this node knows
//! and ask nobody, so that the answer comes at once, also when the disk hangs and nobody else is there. Called by the node's
//! handle and by what measures it.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quorate_core::consensus::config::ELECTION_TICKS;
use quorate_core::consensus::io::Status;
use quorate_core::id::RaftId;
use quorate_core::membership::quorum::Quorum;
use tokio::time::Instant;

use super::service::Service;
use crate::status::{Check, Liveness, Readiness, ago, at_most, counted};

/// So many base election timeouts old may the state of a manager be that serves: a follower has it confirmed once in each.
const FRESH: u32 = 5;
/// The consensus task ticks 50 times a second or, over long ways, 7 times; one that has not for so long does not come back.
const PULSE: Duration = Duration::from_secs(10);

/// When the consensus task was last seen at work.
pub(super) struct Pulse(Mutex<Instant>);

impl Pulse {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// It is at work now.
    pub(super) fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn since(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// What the checks look at.
struct View<'a> {
    status: &'a Status,
    age: Option<Duration>,
    leaderless: Duration,
    superseded: bool,
    certificate_left: Option<Duration>,
    full: bool,
    leader: String,
    /// Names of managers that say that they are locked.
    locked: Vec<String>,
    /// Names of voters that are not connected.
    missing: Vec<String>,
}

impl Service {
    /// Whether this manager can serve.
    pub(super) fn readiness(&self) -> Readiness {
        let status = self.status.borrow().clone();
        let view = View {
            age: self.age_ms().map(Duration::from_millis),
            leaderless: Duration::from_millis(self.leaderless_ms()),
            superseded: self.incarnations.is_superseded(),
            certificate_left: self.certificate_left(),
            full: self.full.load(Ordering::Relaxed),
            leader: status.leader.map(|leader| self.name_of(leader)).unwrap_or_default(),
            locked: status
                .configuration
                .voters
                .iter()
                .filter(|voter| self.peers.is_locked(**voter))
                .map(|voter| self.name_of(*voter))
                .collect(),
            missing: status.missing().into_iter().map(|voter| self.name_of(voter)).collect(),
            status: &status,
        };
        Readiness::of(checks(&view))
    }

    /// Whether its threads are at work.
    pub(super) fn liveness(&self) -> Liveness {
        alive(self.is_closed(), self.pulse.since())
    }
}

fn alive(stopped: bool, silent: Duration) -> Liveness {
    if stopped {
        Liveness { alive: false, detail: "the node has stopped".into() }
    } else if silent > PULSE {
        let detail = format!("the consensus task has not been at work for {}: restart this node", ago(silent));
        Liveness { alive: false, detail }
    } else {
        Liveness { alive: true, detail: String::new() }
    }
}

fn checks(view: &View<'_>) -> Vec<Check> {
    let status = view.status;
    let check = |name: &'static str, trouble: Option<String>, fine: String| match trouble {
        Some(trouble) => Check { name: name.into(), ok: false, detail: trouble },
        None => Check { name: name.into(), ok: true, detail: fine },
    };
    let seen = |id: RaftId| status.hears_from(id);
    let quorum = Quorum::of(&status.configuration);
    let (reachable, needed) = quorum.reach(seen);
    let voters = status.configuration.voters.len();
    let locked = match view.locked.as_slice() {
        [] => String::new(),
        [one] => format!("; {one} is locked: unlock it"),
        several => format!("; {} are locked: unlock them", several.join(", ")),
    };
    let missing = match view.missing.as_slice() {
        [] => String::new(),
        missing => format!("; not heard from: {}", missing.join(", ")),
    };
    let connected = format!("{reachable} of {} connected, {needed} needed{missing}{locked}", counted(voters, "voter"));
    let tick = Duration::from_nanos(status.tick.0);
    let bound = tick * ELECTION_TICKS * FRESH;
    let behind = status.commit.0.saturating_sub(status.applied.0);
    let old = at_most(view.age);
    vec![
        check(
            "generation",
            view.superseded.then(|| "a recovery has left this manager behind: it is fenced".into()),
            "no longer lineage was met".into(),
        ),
        check(
            "member",
            (!status.configuration.contains(status.id))
                .then(|| "not in the cluster's configuration yet: it has just joined, or is being removed".into()),
            if status.configuration.voters.contains(&status.id) { "voter".into() } else { "standby".into() },
        ),
        check(
            "leader",
            status.leader.is_none().then(|| format!("no leader for {}", ago(view.leaderless))),
            format!("{} leads", view.leader),
        ),
        check("quorum", (!quorum.is_alive(seen)).then(|| connected.clone()), connected),
        check(
            "state",
            view.age.is_none_or(|age| age > bound).then(|| {
                format!("the state is {old}, more than {}; {behind} committed entries are not applied here", ago(bound))
            }),
            format!("the state is {old}"),
        ),
        check(
            "disk",
            (status.disk_silent_ticks > 0).then(|| {
                let silent = tick * u32::try_from(status.disk_silent_ticks).unwrap_or(u32::MAX);
                format!("the disk has not answered for {}", ago(silent))
            }),
            "the disk answers".into(),
        ),
        check(
            "space",
            match status.low_space {
                Some(free) => Some(format!("low on disk space, {} MiB free: it takes no writes", free >> 20)),
                None if status.read_only => Some("too many voters are low on disk space: no writes".into()),
                None => None,
            },
            "enough disk space".into(),
        ),
        check(
            "store",
            view.full.then(|| {
                "full: writes are refused until something is deleted or the quota is raised; reads and deletes go on".into()
            }),
            "there is room in the store".into(),
        ),
        check(
            "certificate",
            view.certificate_left.is_none().then(|| "the node's certificate has run out".into()),
            view.certificate_left.map_or_else(String::new, |left| format!("holds for {}", ago(left))),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use quorate_core::consensus::io::Nanos;
    use quorate_core::id::LogIndex;
    use quorate_core::log::Configuration;

    use super::*;

    fn status() -> Status {
        let voters = vec![RaftId(1), RaftId(2), RaftId(3)];
        Status {
            id: RaftId(1),
            leader: Some(RaftId(2)),
            configuration: Configuration { voters, ..Configuration::default() },
            connected: vec![RaftId(2)],
            tick: Nanos(20_000_000),
            commit: LogIndex(9),
            applied: LogIndex(9),
            ..Status::default()
        }
    }

    fn view(status: &Status) -> View<'_> {
        View {
            status,
            age: Some(Duration::from_millis(300)),
            leaderless: Duration::ZERO,
            superseded: false,
            certificate_left: Some(Duration::from_secs(86_400)),
            full: false,
            leader: "n2".into(),
            locked: Vec::new(),
            missing: Vec::new(),
        }
    }

    #[test]
    fn who_is_not_heard_from_is_named_beside_the_quorum() {
        let well = status();
        assert_eq!(well.missing(), [RaftId(3)]);
        let told = |missing: &[&str]| {
            let view = View { missing: missing.iter().map(ToString::to_string).collect(), ..view(&well) };
            checks(&view).into_iter().find(|check| check.name == "quorum").unwrap().detail
        };
        assert_eq!(told(&["n2", "n3"]), "2 of 3 voters connected, 2 needed; not heard from: n2, n3");
    }

    #[test]
    fn a_manager_that_is_locked_is_told_of_beside_the_quorum() {
        let well = status();
        let told = |locked: &[&str]| {
            let view = View { locked: locked.iter().map(ToString::to_string).collect(), ..view(&well) };
            checks(&view).into_iter().find(|check| check.name == "quorum").unwrap()
        };
        assert_eq!(told(&[]).detail, "2 of 3 voters connected, 2 needed");
        // It is no reason for this one not to be ready.
        assert!(told(&["n3"]).ok);
        assert_eq!(told(&["n3"]).detail, "2 of 3 voters connected, 2 needed; n3 is locked: unlock it");
    }

    fn failing(view: &View<'_>) -> Vec<String> {
        checks(view).into_iter().filter(|check| !check.ok).map(|check| check.name).collect()
    }

    #[test]
    fn each_trouble_fails_its_own_check_and_no_other() {
        let well = status();
        assert_eq!(failing(&view(&well)), Vec::<String>::new());
        type Hurt = fn(&mut Status);
        let hurt: [(&str, Hurt); 6] = [
            ("leader", |status| status.leader = None),
            ("quorum", |status| status.connected.clear()),
            ("disk", |status| status.disk_silent_ticks = 200),
            ("space", |status| status.low_space = Some(7 << 20)),
            ("space", |status| status.read_only = true),
            ("member", |status| status.id = RaftId(4)),
        ];
        for (name, hurt) in hurt {
            let mut ill = status();
            ill.connected = vec![RaftId(2), RaftId(3)];
            hurt(&mut ill);
            assert_eq!(failing(&view(&ill)), [name]);
        }
        assert_eq!(failing(&View { superseded: true, ..view(&well) }), ["generation"]);
        assert_eq!(failing(&View { certificate_left: None, ..view(&well) }), ["certificate"]);
        assert_eq!(failing(&View { full: true, ..view(&well) }), ["store"]);
    }

    #[test]
    fn only_a_node_that_has_stopped_or_does_not_move_is_not_alive() {
        assert!(alive(false, PULSE).alive);
        let stuck = alive(false, PULSE + Duration::from_secs(1));
        assert!(!stuck.alive && stuck.detail.contains("11s: restart"), "{stuck:?}");
        assert!(!alive(true, Duration::ZERO).alive);
    }

    #[test]
    fn a_state_is_fresh_for_five_election_timeouts_and_never_when_its_age_is_not_known() {
        let well = status();
        let aged = |age| failing(&View { age, ..view(&well) });
        assert_eq!(aged(Some(Duration::from_millis(2_000))), Vec::<String>::new());
        assert_eq!(aged(Some(Duration::from_millis(2_001))), ["state"]);
        assert_eq!(aged(None), ["state"]);
    }
}
