//! Verbs and options that Docker Swarm and etcd know and quorate does not: the answer is ours.
//!
//! Owns that dictionary. Never does what was asked. Called when the command line cannot be parsed.

/// What to say to a command line that begins with these words.
const VERBS: &[(&[&str], &str)] = &[
    (&["swarm", "init"], "quorate init --data-dir DIR --listen ADDR"),
    (&["swarm", "join-token"], "quorate token show manager"),
    (&["swarm", "join"], "quorate join --data-dir DIR --listen ADDR --token T --manager ADDR"),
    (&["swarm", "ca"], NO_CA),
    (&["swarm", "leave"], "quorate leave --data-dir DIR"),
    (&["swarm", "unlock"], NO_LOCK),
    (&["swarm", "unlock-key"], NO_LOCK),
    (&["swarm", "update"], "quorate policy set"),
    (&["swarm"], "quorate init, quorate join, quorate leave, quorate token show, quorate policy"),
    (&["join-token"], "quorate token show manager"),
    (&["node", "ps"], "quorate node ls"),
    (&["info"], "quorate status"),
    (&["ps"], "quorate status"),
    (&["health"], "quorate status"),
    (&["members"], "quorate node ls"),
    (&["ls"], "quorate kv ls, or quorate node ls"),
    (&["member", "list"], "quorate node ls"),
    (&["member", "add"], "quorate join --data-dir DIR --listen ADDR --token T --manager ADDR, on the new machine"),
    (&["member", "promote"], "quorate node promote NODE: it gets a seat when the number of voters stays odd with it"),
    (&["member", "remove"], "quorate node rm NODE"),
    (
        &["member", "update"],
        "nothing to do: a manager that comes back at another address announces it; quorate run --manager ADDR adds addresses to try",
    ),
    (&["member"], "quorate node ls"),
    (&["endpoint"], "quorate status"),
    (&["move-leader"], "quorate leader transfer --to MANAGER"),
    (&["leader", "move"], "quorate leader transfer --to MANAGER"),
    (&["operator", "raft", "list-peers"], "quorate node ls"),
    (&["update"], "quorate node update NODE, quorate policy set"),
    (&["node", "list"], "quorate node ls"),
    (&["node", "remove"], "quorate node rm NODE"),
    (&["token", "list"], "quorate token ls"),
    (&["token", "delete"], "quorate token revoke ID"),
    (&["operator"], "quorate status, quorate leader transfer"),
    (&["get"], "quorate kv get KEY"),
    (&["put"], "quorate kv put KEY VALUE"),
    (&["set"], "quorate kv put KEY VALUE"),
    (&["del"], "quorate kv del KEY"),
    (&["rm"], "quorate kv del KEY"),
    (&["cas"], "quorate kv cas KEY VALUE --expect-revision N"),
    (&["kv", "set"], "quorate kv put KEY VALUE"),
    (&["kv", "rm"], "quorate kv del KEY"),
    (&["kv", "delete"], "quorate kv del KEY"),
    (&["kv", "list"], "quorate kv ls --prefix PREFIX"),
    (&["txn"], "quorate kv cas KEY VALUE --expect-revision N; the library has whole transactions: client.kv().txn()"),
    (&["start"], "quorate run --data-dir DIR"),
    (&["serve"], "quorate run --data-dir DIR"),
    (&["server"], "quorate run --data-dir DIR"),
    (&["agent"], "quorate run --data-dir DIR"),
    (&["daemon"], "quorate run --data-dir DIR"),
    (&["stop"], "kill -TERM the process of `quorate run`: it hands leadership over and stops"),
    (&["version"], "quorate --version"),
    (&["promote"], "quorate node promote NODE"),
    (&["demote"], "quorate node demote NODE"),
    (&["remove"], "quorate node rm NODE"),
    (&["watch"], "nothing yet: watches come with a later version; read with quorate kv get"),
    (&["lease"], "nothing yet: leases come with a later version"),
    (&["lock"], "quorate kv cas KEY OWNER --expect-absent; the library has leadership: node.lead()"),
    (&["elect"], "the library: node.lead() runs your work only while the node leads"),
    (&["secret"], "nothing yet: secrets come with a later version; until then do not store secrets in quorate"),
    (&["config"], "quorate kv put KEY @FILE; configs as records of their own come with a later version"),
    (&["snapshot"], NO_BACKUP),
    (&["backup"], NO_BACKUP),
    (&["restore"], NO_BACKUP),
    (&["unlock"], NO_LOCK),
    (&["ca"], NO_CA),
    (&["compact"], "nothing to do: the log compacts itself"),
    (&["compaction"], "nothing to do: the log compacts itself"),
    (&["defrag"], "nothing to do: RocksDB compacts itself"),
    (&["alarm"], "quorate status says what is wrong and what to do"),
    (&["auth"], "identities are certificates: --identity operator.id"),
    (&["user"], "identities are certificates: --identity operator.id"),
    (&["role"], "identities are certificates: --identity operator.id"),
];

/// Options that others call otherwise.
const OPTIONS: &[(&str, &str)] = &[
    ("--endpoints", "--connect HOST:PORT[,..]"),
    ("--endpoint", "--connect HOST:PORT[,..]"),
    ("--cacert", "--identity FILE: one file holds certificate, key and CA"),
    ("--cert", "--identity FILE: one file holds certificate, key and CA"),
    ("--key", "--identity FILE: one file holds certificate, key and CA"),
    ("--listen-addr", "--listen ADDR"),
    ("--advertise-addr", "--advertise ADDR"),
    ("--listen-client-urls", "--listen ADDR: one UDP port for everything"),
    ("--listen-peer-urls", "--listen ADDR: one UDP port for everything"),
    ("--initial-cluster", "quorate join --token T --manager ADDR: members find each other"),
    ("--data", "--data-dir DIR"),
    ("--dir", "--data-dir DIR"),
    ("--consistency", "--serializable for a read that may be behind; reads are linearizable without it"),
    ("--command-timeout", "--timeout TIME"),
    ("--dial-timeout", "--timeout TIME"),
    ("--write-out", "--json"),
    ("--force-new-cluster", "quorate recover --dry-run --data-dir DIR, then quorate recover --data-dir DIR"),
    ("--autolock", NO_LOCK),
];

const NO_BACKUP: &str = "nothing yet: backups come with a later version; quorate inspect reads a stopped directory";
const NO_LOCK: &str = "nothing yet: stores are not sealed in this version, so there is no key to unlock them";
const NO_CA: &str = "nothing to do: the cluster's CA is made by quorate init and cannot be rotated in this version";

/// Our answer to a command line with these arguments (without the program's name), when there is one.
pub(crate) fn answer(arguments: &[String]) -> Option<String> {
    let words = words(arguments);
    let verb = VERBS
        .iter()
        .filter(|(theirs, _)| words.len() >= theirs.len() && theirs.iter().zip(&words).all(|(a, b)| a == b))
        .max_by_key(|(theirs, _)| theirs.len());
    if let Some((theirs, ours)) = verb {
        return Some(say(&theirs.join(" "), ours));
    }
    let name = |argument: &str| argument.split('=').next().unwrap_or_default().to_owned();
    arguments
        .iter()
        .find_map(|argument| OPTIONS.iter().find(|(theirs, _)| *theirs == name(argument)))
        .map(|(theirs, ours)| say(theirs, ours))
}

fn say(theirs: &str, ours: &str) -> String {
    let ours = ours.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("`{theirs}` is not a word of quorate. Here it is: {ours}")
}

/// The arguments that are verbs: no options, and no values of global options.
fn words(arguments: &[String]) -> Vec<&str> {
    const WITH_VALUE: &[&str] = &["--connect", "--identity", "--data-dir", "--timeout", "--color"];
    let mut words = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if WITH_VALUE.contains(&argument.as_str()) {
            arguments.next();
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
        answer(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
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
        ] {
            let said = asked(theirs).unwrap();
            assert!(said.contains(ours), "{theirs}: {said}");
        }
    }

    #[test]
    fn the_longest_match_answers_and_nonsense_has_none() {
        assert!(asked("swarm leave --force").unwrap().contains("quorate leave"));
        assert_eq!(asked("frobnicate"), None);
        assert_eq!(asked(""), None);
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
