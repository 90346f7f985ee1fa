//! Verbs and options that Docker Swarm and etcd know and quorate does not: the answer is ours.
//!
//! Owns that dictionary. Never does what was asked. Called when the command line cannot be parsed.

/// What to say to a command line that begins with these words.
const VERBS: &[(&[&str], &str)] = &[
    // Docker Swarm.
    (&["swarm", "init"], INIT),
    (&["swarm", "join-token"], TOKEN),
    (&["swarm", "join"], JOIN),
    (&["swarm", "ca"], "quorate ca status, or quorate ca rotate"),
    (&["swarm", "leave"], "quorate leave --data-dir DIR"),
    (&["swarm", "unlock"], "quorate unlock --data-dir DIR"),
    (&["swarm", "unlock-key"], UNLOCK_KEY),
    (&["swarm", "update"], "quorate policy set"),
    (&["swarm"], "quorate init, quorate join, quorate leave, quorate token show, quorate policy show"),
    (&["join-token"], TOKEN),
    (&["node", "ps"], NODES),
    (&["node", "list"], NODES),
    (&["node", "remove"], REMOVE),
    (&["token", "list"], "quorate token ls"),
    (&["token", "delete"], "quorate token revoke ID"),
    (&["promote"], PROMOTE),
    (&["demote"], "quorate node demote NODE"),
    (&["remove"], REMOVE),
    (&["update"], "quorate node update NODE, quorate policy set"),
    (&["service"], NO_WORKLOADS),
    (&["stack"], NO_WORKLOADS),
    (&["task"], NO_WORKLOADS),
    (&["container"], NO_WORKLOADS),
    (&["system", "info"], STATUS),
    (&["info"], STATUS),
    (&["ps"], STATUS),
    // etcd.
    (&["member", "list"], NODES),
    (&["member", "add"], JOIN),
    (&["member", "promote"], PROMOTE),
    (&["member", "remove"], REMOVE),
    (
        &["member", "update"],
        "nothing to do: a manager that comes back at another address announces it; quorate run --manager ADDR adds addresses to try",
    ),
    (&["member"], NODES),
    (&["members"], NODES),
    (&["endpoint"], STATUS),
    (&["move-leader"], TRANSFER),
    (&["get"], "quorate kv get KEY, or quorate kv ls --prefix PREFIX for all that begin so"),
    (&["put"], PUT),
    (&["del"], DEL),
    (&["txn"], TXN),
    (&["watch"], WATCH),
    (&["lease", "timetolive"], "quorate lease show LEASE"),
    (
        &["elect"],
        "the library: client.election(NAME) among your own processes; node.lead() runs your work only while the node leads",
    ),
    (&["snapshot", "save"], BACKUP),
    (&["snapshot", "status"], "quorate backup verify FILE --backup-key KEYFILE"),
    (&["snapshot", "restore"], RESTORE),
    (&["snapshot"], BACKUP),
    (&["make-mirror"], BACKUP),
    (&["compact"], COMPACTS),
    (&["compaction"], COMPACTS),
    (&["defrag"], "nothing to do: RocksDB compacts itself"),
    (&["alarm"], "quorate status says what is wrong and what to do"),
    (&["auth"], IDENTITY),
    (&["user"], IDENTITY),
    (&["role"], IDENTITY),
    (&["benchmark"], "quorate bench put, quorate bench get, quorate bench txn"),
    (&["completion"], "quorate completions bash"),
    // Consul, and others that keep a quorum.
    (&["operator", "raft", "list-peers"], STATUS),
    (&["operator", "raft", "transfer-leader"], TRANSFER),
    (&["operator", "raft", "remove-peer"], REMOVE),
    (&["raft"], STATUS),
    (&["catalog"], STATUS),
    (&["force-leave"], REMOVE),
    (&["monitor"], LOG),
    (&["acl"], IDENTITY),
    (&["tls"], IDENTITY),
    (&["cluster", "init"], INIT),
    (&["cluster", "create"], INIT),
    (&["cluster", "join"], JOIN),
    (&["cluster"], STATUS),
    (&["bootstrap"], INIT),
    (&["create"], "quorate kv cas KEY VALUE --expect-absent, or quorate init for a cluster"),
    (&["health"], STATUS),
    (&["ping"], STATUS),
    (&["metrics"], "quorate run --http 127.0.0.1:4702 serves /metrics; quorate status --json is for scripts"),
    (&["ls"], "quorate kv ls, or quorate status for the managers"),
    (&["list"], "quorate kv ls, or quorate status for the managers"),
    (&["range"], "quorate kv ls --prefix PREFIX"),
    (&["scan"], "quorate kv ls --prefix PREFIX"),
    (&["count"], "quorate kv ls --prefix PREFIX --count"),
    (&["set"], PUT),
    (&["rm"], DEL),
    (&["delete"], DEL),
    (&["cas"], CAS),
    (&["export"], "quorate kv export"),
    (&["import"], "quorate kv import FILE"),
    (&["dump"], "quorate kv export; quorate inspect reads a stopped directory"),
    (&["kv", "set"], PUT),
    (&["kv", "create"], "quorate kv cas KEY VALUE --expect-absent"),
    (&["kv", "update"], CAS),
    (&["kv", "rm"], DEL),
    (&["kv", "delete"], DEL),
    (&["kv", "list"], "quorate kv ls --prefix PREFIX"),
    (&["kv", "range"], "quorate kv ls --prefix PREFIX"),
    (&["kv", "count"], "quorate kv ls --prefix PREFIX --count"),
    (&["kv", "dump"], "quorate kv export"),
    (&["kv", "load"], "quorate kv import FILE"),
    (&["leader", "move"], TRANSFER),
    (&["leader", "show"], STATUS),
    (&["leader", "step-down"], TRANSFER),
    (&["step-down"], TRANSFER),
    (&["stepdown"], TRANSFER),
    (&["transfer"], TRANSFER),
    (&["start"], RUN),
    (&["serve"], RUN),
    (&["server"], RUN),
    (&["agent"], RUN),
    (&["daemon"], RUN),
    (&["restart"], "stop `quorate run` with SIGTERM, which hands leadership over, and run it again"),
    (&["stop"], STOP),
    (&["shutdown"], STOP),
    (&["log"], LOG),
    (&["logs"], LOG),
    (&["version"], "quorate --version"),
    (&["upgrade", "commit"], "quorate upgrade finish"),
    (
        &["downgrade"],
        "possible until `quorate upgrade finish`: stop a manager, and run it with the older binary again; quorate upgrade status",
    ),
    (&["token", "manager"], TOKEN),
    (&["token", "worker"], "quorate token show worker"),
    (&["drain"], DRAIN),
    (&["cordon"], "quorate node update NODE --availability pause"),
    (&["worker"], "quorate join with the token of `quorate token show worker`, then quorate run"),
    (&["repair"], REPLACE),
    (&["replace"], REPLACE),
    (&["rejoin"], REPLACE),
    (&["force-new-cluster"], RECOVER),
    (&["lock-key"], UNLOCK_KEY),
];

/// Options that others call otherwise; whether theirs has a value.
const OPTIONS: &[(&str, bool, &str)] = &[
    ("--endpoints", true, CONNECT),
    ("--endpoint", true, CONNECT),
    ("--host", true, CONNECT),
    ("-H", true, CONNECT),
    ("--http-addr", true, CONNECT),
    ("--join", true, "quorate join --manager HOST:PORT[,..]"),
    ("--retry-join", true, "quorate join --manager HOST:PORT[,..]"),
    ("--cacert", true, FILE),
    ("--cert", true, FILE),
    ("--key", true, FILE),
    ("--ca-file", true, FILE),
    ("--cert-file", true, FILE),
    ("--key-file", true, FILE),
    ("--user", true, IDENTITY),
    ("--password", true, IDENTITY),
    ("--listen-addr", true, "--listen ADDR"),
    ("--bind", true, "--listen ADDR"),
    ("--advertise-addr", true, "--advertise ADDR"),
    ("--data-path-addr", true, "--advertise ADDR: one UDP port for everything"),
    ("--listen-client-urls", true, ONE_PORT),
    ("--listen-peer-urls", true, ONE_PORT),
    ("--advertise-client-urls", true, "--advertise ADDR: one UDP port for everything"),
    ("--initial-advertise-peer-urls", true, "--advertise ADDR: one UDP port for everything"),
    ("--initial-cluster", true, MEET),
    ("--initial-cluster-token", true, MEET),
    ("--initial-cluster-state", true, MEET),
    ("--bootstrap-expect", true, MEET),
    ("--data", true, "--data-dir DIR"),
    ("--dir", true, "--data-dir DIR"),
    ("--consistency", true, "--serializable for a read that may be behind; reads are linearizable without it"),
    ("--rev", true, "--revision N"),
    ("--prefix", false, "quorate kv ls --prefix PREFIX, or quorate kv del --prefix PREFIX"),
    ("--from-key", false, "quorate kv ls --after KEY"),
    ("--count-only", false, "quorate kv ls --count"),
    ("--print-value-only", false, "nothing to do: quorate kv get prints the value and nothing else"),
    ("--prev-kv", false, "the library: put(..).previous()"),
    ("--lease", true, "quorate kv put KEY VALUE --lease LEASE"),
    ("--cas", false, CAS),
    ("--modify-index", true, CAS),
    ("--command-timeout", true, "--timeout TIME"),
    ("--dial-timeout", true, "--timeout TIME"),
    ("--write-out", true, "--json"),
    ("-w", true, "--json"),
    ("--output", true, "--json"),
    ("-o", true, "--json"),
    ("--format", true, "--json"),
    ("--verbose", false, LOG),
    ("-v", false, LOG),
    ("--debug", false, LOG),
    ("--log-level", true, LOG),
    ("--force-new-cluster", false, RECOVER),
    ("--autolock", false, "quorate autolock on --data-dir DIR"),
    ("--availability", true, "quorate node update NODE --availability active|pause|drain"),
    ("--max-voters", true, "quorate policy set --max-voters N"),
];

const INIT: &str = "quorate init --data-dir DIR --listen ADDR, then quorate run --data-dir DIR";
const JOIN: &str = "quorate join --data-dir DIR --listen ADDR --token T --manager ADDR, on the new machine";
const RUN: &str = "quorate run --data-dir DIR";
const STOP: &str = "kill -TERM the process of `quorate run`: it hands leadership over and stops";
const LOG: &str = "quorate run logs to stderr; --log quorate=debug says more";
const STATUS: &str = "quorate status";
const TOKEN: &str = "quorate token show manager";
const TRANSFER: &str = "quorate leader transfer --to MANAGER";
const PUT: &str = "quorate kv put KEY VALUE";
const DEL: &str = "quorate kv del KEY";
const CAS: &str = "quorate kv cas KEY VALUE --expect-revision N";
const TXN: &str = "quorate kv txn --if 'mod KEY = N' --then 'put KEY VALUE'";
const REPLACE: &str = "quorate join --replace --data-dir DIR --manager ADDR gives a manager with a damaged store a \
                       fresh one; a sound one just runs again";
const COMPACTS: &str = "nothing to do: log and history compact themselves";
const IDENTITY: &str = "identities are certificates: --identity operator.id";
const FILE: &str = "--identity FILE: one file holds certificate, key and CA";
const CONNECT: &str = "--connect HOST:PORT[,..]";
const ONE_PORT: &str = "--listen ADDR: one UDP port for everything";
const MEET: &str = "quorate init for the first manager, quorate join --token T --manager ADDR for the others: they find \
                    each other";
const NO_WORKLOADS: &str = "nothing: quorate runs no workloads, it keeps what an orchestrator needs for that";
const NODES: &str = "quorate node ls";
const PROMOTE: &str = "quorate node promote NODE: it gets a seat when the number of voters stays odd with it";
const DRAIN: &str = "quorate node update NODE --availability drain";
const REMOVE: &str = "quorate node rm NODE";
const RECOVER: &str = "quorate recover --dry-run --data-dir DIR, then quorate recover --data-dir DIR";
const WATCH: &str = "quorate kv watch KEY, or quorate kv watch --prefix PREFIX";
const BACKUP: &str = "quorate backup FILE --recipient KEY, sealed; quorate kv export for keys and values in clear";
const RESTORE: &str = "quorate restore FILE --backup-key KEYFILE --data-dir DIR";
const UNLOCK_KEY: &str = "quorate unlock-key show --data-dir DIR, or quorate autolock on --data-dir DIR";

/// Our answer to a command line with these arguments (without the program's name), when there is one. `unknown` is the
/// argument that could not be parsed, when it was one.
pub(crate) fn answer(arguments: &[String], unknown: Option<&str>) -> Option<String> {
    let words = words(arguments);
    let verb = VERBS
        .iter()
        .filter(|(theirs, _)| words.len() >= theirs.len() && theirs.iter().zip(&words).all(|(a, b)| a == b))
        .max_by_key(|(theirs, _)| theirs.len());
    if let Some((theirs, ours)) = verb {
        // Whoever speaks another language speaks it to the end of the line.
        let options: Vec<String> = arguments
            .iter()
            .filter_map(|argument| option(argument))
            .filter(|(theirs, ..)| *theirs != "--prefix")
            .map(|(theirs, _, ours)| format!("; for `{theirs}`: {}", flat(ours)))
            .collect();
        return Some(format!("{}{}", say(&theirs.join(" "), ours), options.concat()));
    }
    let unknown = unknown?;
    if KEPT.contains(&unknown.split('=').next().unwrap_or_default()) {
        return Some(format!(
            "`{unknown}` is said when a directory is prepared, to quorate init or quorate join; the directory keeps it"
        ));
    }
    if matches!(unknown.split('=').next(), Some("--label" | "--labels")) && words.contains(&"update") {
        return Some(LABELS.to_owned());
    }
    option(unknown).map(|(theirs, _, ours)| say(theirs, ours))
}

/// `--label` makes and finds; of what is there labels come and go one by one.
const LABELS: &str = "labels of what is there are set with --label-add KEY=VALUE, which also gives one another value, and taken off with \
                      --label-rm KEY; both may be given several times";

/// Options of ours that only `init` and `join` take.
const KEPT: &[&str] = &["--listen", "--advertise", "--name", "--token"];

fn option(argument: &str) -> Option<&'static (&'static str, bool, &'static str)> {
    let name = argument.split('=').next().unwrap_or_default();
    OPTIONS.iter().find(|(theirs, ..)| *theirs == name)
}

/// On one line: the constants above are broken by the width of this file.
fn flat(ours: &str) -> String {
    ours.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn say(theirs: &str, ours: &str) -> String {
    format!("`{theirs}` is not a word of quorate. Here it is: {}", flat(ours))
}

/// The arguments that are verbs: no options, and no values of global options or of others' options.
fn words(arguments: &[String]) -> Vec<&str> {
    const WITH_VALUE: &[&str] = &["--connect", "--identity", "--data-dir", "--timeout", "--color"];
    let mut words = Vec::new();
    let mut arguments = arguments.iter().peekable();
    while let Some(argument) = arguments.next() {
        let theirs = || option(argument).is_some_and(|(_, with_value, _)| *with_value && !argument.contains('='));
        if WITH_VALUE.contains(&argument.as_str()) || theirs() {
            arguments.next_if(|value| !value.starts_with('-'));
        } else if !argument.starts_with('-') {
            words.push(argument.as_str());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Option<String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let unknown = arguments.iter().find(|argument| option(argument).is_some());
        answer(&arguments, unknown.map(String::as_str))
    }

    #[test]
    fn what_swarm_and_etcd_call_otherwise_is_answered_with_our_word() {
        for (theirs, ours) in [
            ("swarm init", "quorate init"),
            ("swarm join-token manager", "quorate token show manager"),
            ("join-token worker", "quorate token show"),
            ("member list --json", "quorate node ls"),
            ("--data-dir d member list", "quorate node ls"),
            ("get foo", "quorate kv get"),
            ("put foo bar", "quorate kv put"),
            ("endpoint health --endpoints=a:1", "quorate status"),
            ("swarm leave", "quorate leave"),
            ("move-leader 8e9e05c52164694d", "quorate leader transfer"),
            ("status --endpoints=a:1", "--connect"),
            ("--endpoints a:1,b:1 member list -w table", "quorate node ls; for `--endpoints`: --connect"),
            ("--endpoints=a:1 put foo bar --lease=1", "quorate kv put KEY VALUE; for `--endpoints`"),
            ("get foo --prefix", "quorate kv ls --prefix PREFIX"),
            ("kv get foo --prefix", "quorate kv ls --prefix PREFIX"),
            ("kv get foo --rev 3", "--revision"),
            ("del foo --prefix", "quorate kv del"),
            ("endpoint status -w table", "quorate status"),
            ("member add n4 --peer-urls=http://a:1", "quorate join"),
            ("snapshot save file.db", "quorate backup FILE"),
            ("snapshot restore file.db", "quorate restore FILE"),
            ("lease timetolive 17 --keys", "quorate lease show"),
            ("alarm list", "quorate status"),
            ("compaction 5", "nothing to do"),
            ("auth enable", "--identity"),
            ("swarm join --token T 10.0.0.1:2377", "quorate join"),
            ("swarm update --autolock", "quorate policy set"),
            ("swarm leave --force", "quorate leave"),
            ("service ls", "runs no workloads"),
            ("stack deploy -c f app", "runs no workloads"),
            ("drain n2", "quorate node update"),
            ("token manager", "quorate token show manager"),
            ("token delete abc", "quorate token revoke"),
            ("operator raft transfer-leader", "quorate leader transfer"),
            ("cluster init", "quorate init"),
            ("agent -server -bootstrap-expect 3", "quorate run"),
            ("logs -f", "--log quorate=debug"),
            ("leader step-down", "quorate leader transfer"),
            ("kv create a b", "--expect-absent"),
            ("init --initial-cluster n1=http://a:1", "find each other"),
            ("repair", "quorate join --replace"),
        ] {
            let said = asked(theirs).unwrap();
            assert!(said.contains(ours), "{theirs}: {said}");
        }
    }

    #[test]
    fn who_sets_labels_of_what_is_there_as_they_are_made_is_led_to_the_option_that_does() {
        let said = |line: &str, unknown| {
            let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            answer(&arguments, Some(unknown))
        };
        for line in
            ["secret update db --label a=b", "config update c --label=a=b", "--json node update n1 --labels a=b"]
        {
            let unknown = line.split_whitespace().find(|word| word.starts_with("--label")).unwrap();
            let said = said(line, unknown).unwrap();
            assert!(said.contains("--label-add KEY=VALUE") && said.contains("--label-rm KEY"), "{line}: {said}");
        }
        assert_eq!(said("secret rm db --label a=b", "--label"), None);
    }

    #[test]
    fn the_longest_match_answers_and_nonsense_has_none() {
        assert!(asked("swarm leave --force").unwrap().contains("quorate leave"));
        assert_eq!(asked("frobnicate"), None);
        assert_eq!(asked(""), None);
    }

    #[test]
    fn every_entry_is_reached_and_names_only_verbs_that_there_are() {
        use clap::CommandFactory as _;
        let ours = crate::args::Cli::command();
        let known = |said: &str| {
            let mut words = said.split([' ', ',', ';', ':', '`']);
            let mut command = &ours;
            while let Some(next) = words.next().and_then(|word| command.find_subcommand(word)) {
                command = next;
            }
            !std::ptr::eq(command, &raw const ours) && !command.is_subcommand_required_set()
        };
        let options = OPTIONS.iter().map(|(theirs, _, said)| ((*theirs).to_owned(), *said));
        for (theirs, said) in VERBS.iter().map(|(theirs, said)| (theirs.join(" "), *said)).chain(options) {
            assert!(asked(&theirs).is_some_and(|answer| answer.contains(&flat(said))), "{theirs}");
            for (at, _) in said.match_indices("quorate ") {
                let rest = &said[at + "quorate ".len()..];
                let command = rest.starts_with("--version") || known(rest);
                let prose = ["runs no workloads", "in "].iter().any(|words| rest.starts_with(words));
                assert!(command || prose, "`{theirs}`: there is no `quorate {rest}`");
            }
        }
    }

    #[test]
    fn no_word_of_ours_is_in_the_dictionary() {
        use clap::CommandFactory as _;
        fn check(command: &clap::Command, path: &mut Vec<String>) {
            let here: Vec<&str> = path.iter().map(String::as_str).collect();
            assert!(!VERBS.iter().any(|(theirs, _)| *theirs == here), "{here:?} is ours");
            for verb in command.get_subcommands() {
                path.push(verb.get_name().to_owned());
                check(verb, path);
                path.pop();
            }
        }
        check(&crate::args::Cli::command(), &mut Vec::new());
    }
}
