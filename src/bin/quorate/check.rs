//! `check`: one line each, ok or what to do.
//!
//! Owns the bounds and the words; the measures are the library's. Never changes anything. Called by `main`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quorate::Client;
use quorate::check::{DiskCheck, Looked, ManagerCheck, SyncTimes, Way, certificate_ends, disk, look_at};
use quorate::status::{KeyReport, NodeReport, NodeRole, counted, span};
use serde_json::{Value, json};

use crate::args::Global;
use crate::failure::Failure;
use crate::node::look_into;
use crate::output::{Output, Tone};
use crate::target::{self, Target};

/// A sync that takes longer, one in a hundred, makes writes slow and elections likely; etcd asks for the same.
const SYNC_P99_MS: f64 = 10.0;
/// Four times the mark below which a manager takes no writes.
const FREE_BYTES: u64 = 1 << 30;
/// A burst of replication on a fast network.
const UDP_BYTES: u64 = 1 << 20;
/// Far below the two hours from which on certificates are refused.
const CLOCK_MS: u64 = 60_000;
/// They are renewed at half of their 90 days: with less left, that has failed for weeks.
const CERTIFICATE: Duration = Duration::from_secs(14 * 86_400);
/// How long each manager is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// One line.
struct Line {
    about: &'static str,
    what: String,
    /// What to do; none where it is as it should be.
    next: Option<String>,
}

#[derive(Default)]
struct Lines(Vec<Line>);

impl Lines {
    /// What is, and what to do where it is not well.
    fn say(&mut self, about: &'static str, well: bool, what: String, next: &str) {
        self.0.push(Line { about, what, next: (!well).then(|| next.to_owned()) });
    }
}

pub(crate) async fn run(global: &Global, output: Output) -> Result<(), Failure> {
    let mut lines = Lines::default();
    match target::target(global, |name| std::env::var(name).ok())? {
        Target::Local(directory) => here(&mut lines, &directory).await?,
        Target::Remote { managers, identity } => {
            let identity = Arc::new(target::identity(&identity)?);
            let patience = global.timeout().min(PATIENCE);
            let asked = managers.iter().map(|manager| {
                let (manager, identity) = (manager.clone(), Arc::clone(&identity));
                tokio::spawn(async move { look_at(&manager, identity, patience).await })
            });
            let asked: Vec<_> = managers.iter().zip(asked.collect::<Vec<_>>()).collect();
            for (manager, looked) in asked {
                let looked = looked.await.map_err(|error| Failure::local(error.to_string()))?;
                match looked {
                    Ok(looked) => there(&mut lines, &looked),
                    Err(error) => lines.say(
                        "path",
                        false,
                        format!("from here to {manager}: {error}"),
                        "start the manager, and let UDP through to its port and back",
                    ),
                }
            }
        }
    }
    told(&lines.0, output)
}

fn told(lines: &[Line], output: Output) -> Result<(), Failure> {
    let wrong = lines.iter().filter(|line| line.next.is_some()).count();
    let documents: Vec<Value> = lines
        .iter()
        .map(|line| json!({ "about": line.about, "ok": line.next.is_none(), "what": line.what, "next": line.next }))
        .collect();
    let document = json!({ "ok": wrong == 0, "checks": documents });
    if !output.json {
        for line in lines {
            let (tone, word) = if line.next.is_none() { (Tone::Good, "ok   ") } else { (Tone::Warning, "look ") };
            let next = line.next.as_ref().map(|next| format!("; next: {next}")).unwrap_or_default();
            output.line(&format!("{} {:<12} {}{next}", output.tint(tone, word), line.about, line.what))?;
        }
    }
    if wrong > 0 {
        let s = if wrong == 1 { "s" } else { "" };
        let what = format!("{wrong} of {} need{s} attention", counted(lines.len(), "check"));
        return Err(Failure::refused("attention", what).with(document));
    }
    if output.json { output.document(&document) } else { Ok(()) }
}

/// The machine that this runs on, and the node on it.
async fn here(lines: &mut Lines, directory: &Path) -> Result<(), Failure> {
    look_into(directory)?;
    if !directory.is_dir() {
        return Err(Failure::usage(format!(
            "there is no directory {}: give the --data-dir of a node",
            directory.display()
        )));
    }
    let place = directory.to_owned();
    let measured = tokio::task::spawn_blocking(move || disk(&place)).await;
    match measured.map_err(|error| Failure::local(error.to_string()))? {
        Ok(measured) => of_disk(lines, directory, &measured),
        Err(error) => lines.say(
            "disk",
            false,
            format!("cannot be measured in {}: {error}", directory.display()),
            "run this as the user who owns the directory",
        ),
    }
    let client = match Client::local(directory).await {
        Ok(client) => client.with_deadline(PATIENCE * 2),
        Err(_not_running) => {
            stopped(lines, directory);
            return Ok(());
        }
    };
    if let Ok(report) = client.node_report().await {
        if report.role == NodeRole::Worker {
            of_worker(lines, directory, &report);
            return Ok(());
        }
        if let Some(key) = &report.key {
            if report.trouble == "locked" {
                let next = format!("quorate unlock --data-dir {}", directory.display());
                lines.say("node", false, format!("is locked, and waits for the {} {}", key.kind, key.id), &next);
                return Ok(());
            }
            of_key(lines, key);
        }
    }
    match client.check().await {
        Ok(check) => {
            of_manager(lines, &check);
            versions(lines, &check);
        }
        Err(error) => lines.say("node", false, format!("does not answer: {error}"), "look at its log"),
    }
    Ok(())
}

/// A node that does not run: its certificate still tells how long it may stay so.
fn stopped(lines: &mut Lines, directory: &Path) {
    if !directory.join("node.id").exists() {
        let next = "prepare it with `quorate init` or `quorate join`";
        lines.say("node", true, format!("none was prepared here yet; {next}"), next);
        return;
    }
    of_certificate(lines, directory);
    let what = "is not running: buffers, ways and clocks are looked at while it runs".to_owned();
    lines.say("node", false, what, &format!("start it: quorate run --data-dir {}", directory.display()));
    match quorate::keys::status(directory) {
        Ok(Some(key)) => of_key(lines, &key),
        // A worker has no store.
        Ok(None) => {}
        Err(error) => lines.say("key", false, error.to_string(), "quorate inspect says more"),
    }
}

/// What opens the store, and whether it will at the next start.
fn of_key(lines: &mut Lines, key: &KeyReport) {
    let place = if key.place.is_empty() { String::new() } else { format!(" {}", key.place) };
    let trouble = if key.trouble.is_empty() { String::new() } else { format!("; {}", key.trouble) };
    let what = format!("the store is opened by the {}{place} (key {}){trouble}", key.kind, key.id);
    lines.say("key", key.trouble.is_empty(), what, &key.advice);
}

fn of_worker(lines: &mut Lines, directory: &Path, report: &NodeReport) {
    of_certificate(lines, directory);
    let (well, what) = match &report.session {
        Some(session) => (
            true,
            format!("with {} {} for {}", session.manager, session.address, span(Duration::from_millis(session.for_ms))),
        ),
        None => (false, format!("none: {}", report.trouble)),
    };
    lines.say(
        "session",
        well,
        what,
        "start a manager that this worker knows, and let UDP through to its port and back",
    );
}

fn of_certificate(lines: &mut Lines, directory: &Path) {
    match certificate_ends(directory) {
        Ok(until) => {
            let left = until.duration_since(SystemTime::now()).unwrap_or_default();
            let whose = format!("of the node in {}:", directory.display());
            of_life(lines, &whose, left, "start the node: it has it renewed");
        }
        Err(error) => lines.say("certificate", false, error.to_string(), "run this as the user who owns the directory"),
    }
}

fn of_life(lines: &mut Lines, whose: &str, left: Duration, next: &str) {
    lines.say("certificate", left > CERTIFICATE, format!("{whose} {} left", span(whole(left))), next);
}

/// A manager, looked at from here.
fn there(lines: &mut Lines, looked: &Looked) {
    let check = &looked.check;
    of_way(lines, &format!("from here to {} {}", check.name, check.address), Some(&looked.way));
    of_clock(lines, &check.name, "this machine's", looked.clock_offset_ms);
    of_manager(lines, check);
    versions(lines, check);
}

fn of_syncs(lines: &mut Lines, what: &str, times: &SyncTimes) {
    let SyncTimes { syncs, p50_ms, p99_ms, max_ms } = times;
    let what = format!("{syncs} {what}: p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, longest {max_ms:.2} ms");
    let next = "every write waits for it, and 10 ms is what a manager needs: give it a faster disk, or one of its own";
    lines.say("disk", *p99_ms <= SYNC_P99_MS, what, next);
}

fn of_disk(lines: &mut Lines, directory: &Path, disk: &DiskCheck) {
    of_syncs(lines, &format!("syncs of 4 KiB in {}", directory.display()), &disk.times);
    of_space(lines, &directory.display().to_string(), disk.free_bytes);
}

fn of_space(lines: &mut Lines, where_: &str, free: u64) {
    let what = format!("{} free, {where_}", bytes(free));
    lines.say("space", free >= FREE_BYTES, what, "free some, or enlarge the disk: below 256 MiB it takes no writes");
}

fn of_manager(lines: &mut Lines, check: &ManagerCheck) {
    let name = &check.name;
    if let Some(times) = &check.log_syncs {
        of_syncs(lines, &format!("newest syncs of {name}'s log"), times);
    }
    if let Some(free) = check.free_bytes {
        of_space(lines, &format!("beside {name}'s store"), free);
    }
    let got = check.udp_receive_bytes.min(check.udp_send_bytes);
    let what = format!(
        "{name} got {} for receiving and {} for sending, and asked for {}",
        bytes(check.udp_receive_bytes),
        bytes(check.udp_send_bytes),
        bytes(check.udp_wanted_bytes)
    );
    let next = "under load packets may be dropped: sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304, and start it again";
    lines.say("udp buffers", got >= UDP_BYTES, what, next);
    let left = Duration::from_secs(u64::try_from(check.certificate_seconds).unwrap_or(0));
    let next = "its log says why it is not renewed; starting a manager again makes it a new one";
    of_life(lines, &format!("{name}'s has"), left, next);
    for path in &check.paths {
        of_way(lines, &format!("from {name} to {} {}", path.to, path.address), Some(&path.there));
        // One that is not there cannot be asked for the way back.
        if path.there.is_open() {
            of_way(lines, &format!("from {} back to {name} {}", path.to, check.address), path.back.as_ref());
        }
        if let Some(other) = &path.other {
            of_clock(lines, &path.to, &format!("{name}'s"), other.clock_offset_ms);
        }
    }
}

fn of_way(lines: &mut Lines, between: &str, way: Option<&Way>) {
    let next = "start the manager there, and let UDP through to its port and back";
    match way {
        Some(way) if way.is_open() => {
            let what = format!("{between}: {:.1} ms there and back, packets of {} bytes", way.rtt_ms, way.mtu);
            lines.say("path", true, what, next);
        }
        Some(way) => lines.say("path", false, format!("{between}: {}", way.failure), next),
        None => lines.say("path", false, format!("{between}: could not be asked"), next),
    }
}

fn of_clock(lines: &mut Lines, whose: &str, than: &str, offset_ms: i64) {
    let off = offset_ms.unsigned_abs();
    let direction = if offset_ms < 0 { "behind" } else { "ahead of" };
    let what = format!("{whose}'s is {} {direction} {than}", span(Duration::from_millis(off)));
    let next = "set both by NTP: certificates hold by the clock (nothing else does)";
    lines.say("clock", off <= CLOCK_MS, what, next);
}

fn versions(lines: &mut Lines, check: &ManagerCheck) {
    let others = check.paths.iter().filter_map(|path| Some((&path.to, &path.other.as_ref()?.version)));
    let different: Vec<String> = others
        .filter(|(_, version)| **version != check.version)
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let what = if different.is_empty() {
        format!("{} runs {}, and so do the managers that it reaches", check.name, check.version)
    } else {
        format!("{} runs {}, but {}", check.name, check.version, different.join(", "))
    };
    lines.say(
        "version",
        different.is_empty(),
        what,
        "`quorate upgrade status` says what is left to do: the same software on every manager",
    );
}

fn whole(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

fn bytes(count: u64) -> String {
    match count {
        0..1_048_576 => format!("{} KiB", count >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", count >> 20),
        _ => format!("{} GiB", count >> 30),
    }
}

#[cfg(test)]
mod tests {
    use quorate::check::{PathCheck, Seen};
    use quorate::status::SessionReport;

    use super::*;

    /// The one line that comes of it: whether it is well, what it says, and what to do.
    fn said(look: impl FnOnce(&mut Lines)) -> (bool, String, Option<String>) {
        let mut lines = Lines::default();
        look(&mut lines);
        assert_eq!(lines.0.len(), 1);
        let line = lines.0.remove(0);
        (line.next.is_none(), line.what, line.next)
    }

    #[test]
    fn a_clock_may_be_a_minute_off_and_no_more() {
        for (offset, well, words) in [
            (0, true, "ahead of"),
            (60_000, true, "1m ahead of this machine's"),
            (60_001, false, "ahead of"),
            (-60_000, true, "1m behind this machine's"),
            (-60_001, false, "behind"),
            (i64::MIN, false, "behind"),
        ] {
            let (is_well, what, next) = said(|lines| of_clock(lines, "n1", "this machine's", offset));
            assert_eq!(is_well, well, "{offset}: {what}");
            assert!(what.starts_with("n1's is ") && what.contains(words), "{offset}: {what}");
            assert_eq!(next.is_some_and(|next| next.contains("NTP")), !well);
        }
    }

    #[test]
    fn syncs_may_take_ten_milliseconds_one_in_a_hundred_more() {
        for (p99_ms, well) in [(10.0, true), (10.01, false)] {
            let times = SyncTimes { syncs: 300, p50_ms: 1.5, p99_ms, max_ms: 99.0 };
            let (is_well, what, _) = said(|lines| of_syncs(lines, "syncs", &times));
            assert_eq!(is_well, well, "{what}");
            assert_eq!(what, format!("300 syncs: p50 1.50 ms, p99 {p99_ms:.2} ms, longest 99.00 ms"));
        }
    }

    #[test]
    fn a_certificate_with_two_weeks_left_was_not_renewed_for_long() {
        for (left, well) in
            [(CERTIFICATE, false), (CERTIFICATE + Duration::from_millis(1), true), (Duration::ZERO, false)]
        {
            let (is_well, what, next) = said(|lines| of_life(lines, "n1's has", left, "renew it"));
            assert_eq!(is_well, well, "{what}");
            assert_eq!(next.as_deref(), (!well).then_some("renew it"));
        }
    }

    #[test]
    fn a_disk_has_a_gibibyte_free_or_is_to_be_looked_at() {
        for (free, well, words) in [(1 << 30, true, "1 GiB free, here"), ((1 << 30) - 1, false, "1023 MiB free, here")]
        {
            let (is_well, what, next) = said(|lines| of_space(lines, "here", free));
            assert_eq!((is_well, what.as_str()), (well, words));
            assert_eq!(next.is_some_and(|next| next.contains("free some, or enlarge the disk")), !well);
        }
    }

    #[test]
    fn the_smaller_of_two_buffers_has_a_mebibyte_or_it_is_said_how_it_gets_it() {
        let most = 4 << 20;
        for (receive, send, well) in
            [(1 << 20, most, true), (most, 1 << 20, true), ((1 << 20) - 1, most, false), (most, (1 << 20) - 1, false)]
        {
            let check = ManagerCheck {
                name: "n1".into(),
                udp_receive_bytes: receive,
                udp_send_bytes: send,
                udp_wanted_bytes: most,
                ..ManagerCheck::default()
            };
            let mut lines = Lines::default();
            of_manager(&mut lines, &check);
            let line = lines.0.into_iter().find(|line| line.about == "udp buffers").unwrap();
            assert_eq!(line.next.is_none(), well, "{}", line.what);
            assert!(line.what.starts_with("n1 got ") && line.what.ends_with("asked for 4 MiB"), "{}", line.what);
            assert_eq!(line.next.is_some_and(|next| next.contains("net.core.rmem_max")), !well);
        }
    }

    #[test]
    fn a_worker_has_a_session_or_it_is_said_why_not() {
        let place = std::env::temp_dir();
        for (session, trouble, well, words) in [
            (true, "", true, "with n1 10.0.0.1:4701 for 1m"),
            (false, "no manager answers", false, "none: no manager answers"),
        ] {
            let session = session.then(|| SessionReport {
                manager: "n1".into(),
                address: "10.0.0.1:4701".into(),
                for_ms: 60_000,
            });
            let report = NodeReport { session, trouble: trouble.into(), ..NodeReport::default() };
            let mut lines = Lines::default();
            of_worker(&mut lines, &place, &report);
            let line = lines.0.into_iter().find(|line| line.about == "session").unwrap();
            assert!(line.next.is_none() == well && line.what.starts_with(words), "{}", line.what);
            assert_eq!(line.next.is_some_and(|next| next.contains("let UDP through")), !well);
        }
    }

    #[test]
    fn a_key_opens_the_store_at_the_next_start_or_it_is_said_what_to_do() {
        let key = KeyReport { kind: "key file".into(), id: "k1".into(), place: "/k".into(), ..KeyReport::default() };
        let (well, what, _) = said(|lines| of_key(lines, &key));
        assert!(well && what == "the store is opened by the key file /k (key k1)", "{what}");
        let (trouble, advice) = ("it is not there".into(), "bring it back".into());
        let (well, what, next) = said(|lines| of_key(lines, &KeyReport { trouble, advice, ..key }));
        assert!(!well && what.ends_with("(key k1); it is not there"), "{what}");
        assert_eq!(next.as_deref(), Some("bring it back"));
    }

    #[test]
    fn a_way_is_open_or_it_is_said_why_not() {
        let open = Way { failure: String::new(), rtt_ms: 0.26, mtu: 1_452 };
        let (well, what, _) = said(|lines| of_way(lines, "from n1 to n2", Some(&open)));
        assert!(well && what == "from n1 to n2: 0.3 ms there and back, packets of 1452 bytes", "{what}");
        let shut = Way { failure: "nothing listens".into(), ..Way::default() };
        let (well, what, next) = said(|lines| of_way(lines, "from n1 to n2", Some(&shut)));
        assert!(!well && what == "from n1 to n2: nothing listens", "{what}");
        assert!(next.is_some_and(|next| next.contains("let UDP through")));
        let (well, what, _) = said(|lines| of_way(lines, "from n1 to n2", None));
        assert!(!well && what.contains("could not be asked"), "{what}");
    }

    #[test]
    fn managers_run_the_same_software_or_it_is_said_which_do_not() {
        let other = |to: &str, version: Option<&str>| PathCheck {
            to: to.into(),
            other: version.map(|version| Seen { version: version.into(), ..Seen::default() }),
            ..PathCheck::default()
        };
        let check = |paths| ManagerCheck { name: "n1".into(), version: "1.0".into(), paths, ..ManagerCheck::default() };
        // One that could not be asked is of no version.
        let same = check(vec![other("n2", Some("1.0")), other("n3", None)]);
        let (well, what, _) = said(|lines| versions(lines, &same));
        assert!(well && what.contains("n1 runs 1.0, and so do"), "{what}");
        let newer = check(vec![other("n2", Some("1.0")), other("n3", Some("1.1"))]);
        let (well, what, next) = said(|lines| versions(lines, &newer));
        assert!(!well && what == "n1 runs 1.0, but n3 1.1", "{what}");
        assert!(next.is_some_and(|next| next.contains("upgrade status")));
    }
}
