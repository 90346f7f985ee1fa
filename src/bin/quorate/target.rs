//! Which cluster a command talks to: `--connect` with `--identity`, `--data-dir`, or the environment.
//!
//! Owns that choice and the words for a missing one. Never retries. Called by every verb that needs a cluster.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate::{Client, Error, Identity};

use crate::args::Global;
use crate::failure::Failure;

const CONNECT: &str = "QUORATE_CONNECT";
const IDENTITY: &str = "QUORATE_IDENTITY";
/// How long a prepared node may not listen yet; opening a store takes a fraction of it.
const STARTING: Duration = Duration::from_secs(2);
/// How long a process may take until it shows that it starts a node, where the answer that none does is wanted at once.
const AT_ONCE: Duration = Duration::from_millis(300);

/// Where to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Local(PathBuf),
    Remote { managers: Vec<String>, identity: PathBuf },
}

/// What is on the command line goes before what is in the environment.
pub(crate) fn target(global: &Global, env: impl Fn(&str) -> Option<String>) -> Result<Target, Failure> {
    if let Some(directory) = &global.data_dir {
        return Ok(Target::Local(directory.clone()));
    }
    let given = if global.connect.is_empty() {
        env(CONNECT).unwrap_or_default().split(',').map(str::to_owned).collect()
    } else {
        global.connect.clone()
    };
    let managers: Vec<String> =
        given.iter().map(|manager| manager.trim().to_owned()).filter(|manager| !manager.is_empty()).collect();
    if managers.is_empty() {
        return Err(Failure::usage(
            "which cluster? On a node's own machine give --data-dir DIR; from elsewhere --connect HOST:PORT[,..] \
             --identity FILE (or set QUORATE_CONNECT and QUORATE_IDENTITY)",
        ));
    }
    let identity = global.identity.clone().or_else(|| env(IDENTITY).filter(|path| !path.is_empty()).map(Into::into));
    let Some(identity) = identity else {
        return Err(Failure::usage(
            "--connect needs --identity FILE (or QUORATE_IDENTITY): the operator.id that `quorate init` wrote into the \
             first manager's directory",
        ));
    };
    Ok(Target::Remote { managers, identity })
}

/// A node that was started a moment ago needs a moment until it listens: `quorate run &` and the next line of a script.
/// `unseen`: how long to wait while nobody is seen to run or start it.
async fn local(directory: &Path, timeout: Duration, unseen: Duration) -> Result<Client, Failure> {
    let begun = Instant::now();
    loop {
        let patience = if quorate::runner(directory).is_some() { STARTING } else { unseen };
        let waits = begun.elapsed() < patience.min(timeout) && directory.join("node.id").exists();
        match Client::local(directory).await {
            Err(Error::Unavailable(_)) if waits => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(Error::Unavailable(_)) if quorate::runner(directory).is_some() => {
                return Err(Failure::unavailable(silent(directory, quorate::runner(directory))));
            }
            // To start it would be bad advice, too.
            Err(Error::Unavailable(error)) if quorate::departed(directory).is_some() => {
                let left = quorate::departed(directory).map(|mark| mark.message(directory)).unwrap_or(error);
                return Err(Failure::unavailable(format!("no node is running on {}: {left}", directory.display())));
            }
            // Asked for a directory that was never a node's: that a node is to be started there would be bad advice.
            Err(Error::Unavailable(_)) if !directory.join("node.id").exists() => {
                return Err(Failure::unavailable(format!(
                    "no node is running on {directory}, and none was prepared there: give the --data-dir of a node, or \
                     prepare this one with `quorate init` or `quorate join` and start it with `quorate run`",
                    directory = directory.display()
                )));
            }
            connected => return Ok(connected?),
        }
    }
}

/// A process holds the directory, and its node is not there to be asked.
fn silent(directory: &Path, runner: Option<u32>) -> String {
    let process = runner.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    format!(
        "the node on {}{process} does not answer: it is starting, or is between two roles and waits until the managers have told it what it is. Nothing was sent; try again in a moment, and if it stays so look at its log",
        directory.display()
    )
}

/// A client of the cluster that the options name; every request has the deadline of `--timeout`.
pub(crate) async fn client(global: &Global) -> Result<Client, Failure> {
    connected(global, STARTING).await
}

/// The same, for who wants to know at once that no node runs on a directory.
pub(crate) async fn client_at_once(global: &Global) -> Result<Client, Failure> {
    connected(global, AT_ONCE).await
}

/// An operator's identity.
pub(crate) fn identity(path: &Path) -> Result<Identity, Failure> {
    Identity::load(path).map_err(|error| {
        Failure::usage(format!(
            "{error}. Give --identity the operator.id that `quorate init` wrote, as a user who may read it"
        ))
    })
}

async fn connected(global: &Global, unseen: Duration) -> Result<Client, Failure> {
    let target = target(global, |name| std::env::var(name).ok())?;
    let connected = async {
        match target {
            Target::Local(directory) => {
                if !directory.is_dir() {
                    return Err(Failure::usage(format!(
                        "there is no directory {}: give the --data-dir of a node on this machine, or --connect",
                        directory.display()
                    )));
                }
                local(&directory, global.timeout(), unseen).await
            }
            Target::Remote { managers, identity } => quic(managers, &identity, global).await,
        }
    };
    in_time(connected, global).await
}

async fn quic(managers: Vec<String>, path: &Path, global: &Global) -> Result<Client, Failure> {
    let identity = identity(path)?;
    let before = (identity.certificate().clone(), identity.trust_id());
    let client = match Client::connect_within(managers, identity, global.timeout()).await {
        Err(Error::Invalid(why)) => return Err(Failure::usage(format!("{why}. Nothing was sent"))),
        connected => connected?,
    };
    let is_new = |current: &Identity| (current.certificate(), current.trust_id()) != (&before.0, before.1);
    if let Some(current) = client.identity().filter(|current| is_new(current))
        && let Err(error) = keep(&current, path)
    {
        // Another one is made as often as it takes, as long as the identity stands.
        crate::output::note(&format!("the certificate was renewed, and could not be kept: {error}"));
    }
    Ok(client)
}

/// Writes a renewed identity where it came from; through a link, and never over what is no file (`--identity /dev/stdin`).
fn keep(identity: &Identity, path: &Path) -> Result<(), String> {
    let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    if !path.is_file() {
        return Err(format!("{} is no file", path.display()));
    }
    identity.write(&path).map_err(|error| error.to_string())
}

async fn in_time(connected: impl Future<Output = Result<Client, Failure>>, global: &Global) -> Result<Client, Failure> {
    // Resolving names has no deadline of its own; a little more than asked, so that the better message comes first.
    let patience = global.timeout() + Duration::from_millis(500);
    match tokio::time::timeout(patience, connected).await {
        Ok(client) => Ok(client?.with_deadline(global.timeout())),
        Err(_elapsed) => Err(Failure::unavailable(format!(
            "no connection within {} ms; nothing was sent",
            global.timeout().as_millis()
        ))),
    }
}

/// The managers and the identity file that the options name, where only a client from elsewhere will do.
pub(crate) fn remote(global: &Global) -> Result<(Vec<String>, PathBuf), Failure> {
    match target(global, |name| std::env::var(name).ok())? {
        Target::Remote { managers, identity } => Ok((managers, identity)),
        Target::Local(_) => Err(Failure::usage(
            "this goes over the network, as programs elsewhere do: give --connect HOST:PORT[,..] and --identity FILE (the \
             operator.id that `quorate init` wrote) instead of --data-dir",
        )),
    }
}

/// A connection of its own to the first of these managers that answers.
pub(crate) async fn dial(managers: Vec<String>, identity: &Path, global: &Global) -> Result<Client, Failure> {
    in_time(quic(managers, identity, global), global).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser as _;

    fn global(arguments: &[&str]) -> Global {
        Cli::parse_from(["quorate", "status"].iter().chain(arguments)).global
    }

    fn environment(name: &str) -> Option<String> {
        match name {
            CONNECT => Some("env1:4701, env2:4701,".into()),
            IDENTITY => Some("env.id".into()),
            _ => None,
        }
    }

    #[test]
    fn the_command_line_goes_before_the_environment() {
        let local = target(&global(&["--data-dir", "d"]), environment).unwrap();
        assert_eq!(local, Target::Local("d".into()));
        let remote = target(&global(&["--connect", "a:1,b:2", "--identity", "my.id"]), environment).unwrap();
        assert_eq!(remote, Target::Remote { managers: vec!["a:1".into(), "b:2".into()], identity: "my.id".into() });
        let from_env = target(&global(&[]), environment).unwrap();
        let managers = vec!["env1:4701".into(), "env2:4701".into()];
        assert_eq!(from_env, Target::Remote { managers, identity: "env.id".into() });
    }

    #[tokio::test]
    async fn a_directory_that_a_process_holds_is_never_said_to_be_free() {
        let place = tempfile::tempdir().unwrap();
        let patience = Duration::from_millis(10);
        std::fs::write(place.path().join("node.id"), "").unwrap();
        let free = local(place.path(), patience, patience).await.unwrap_err();
        assert!(free.message().contains("no node is running"), "{}", free.message());
        // Given the lock of a process that is there
        std::fs::write(place.path().join("node.lock"), std::process::id().to_string()).unwrap();
        let held = local(place.path(), patience, patience).await.unwrap_err();
        assert_eq!(held.exit, 3);
        assert!(held.message().contains("does not answer") && !held.message().contains("quorate run"));
    }

    #[tokio::test]
    async fn a_renewed_identity_goes_where_a_link_points_and_never_over_what_is_no_file() {
        let place = tempfile::tempdir().unwrap();
        let made = quorate::Node::builder(place.path().join("n1")).listen("127.0.0.1:0").init().await.unwrap();
        let identity = Identity::load(&made.operator_identity.unwrap()).unwrap();
        let [file, link, socket] = ["file", "link", "socket"].map(|name| place.path().join(name));
        std::fs::write(&file, "older").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        keep(&identity, &link).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink() && Identity::load(&file).is_ok());
        assert!(keep(&identity, &socket).unwrap_err().contains("is no file"));
        assert!(!socket.symlink_metadata().unwrap().is_file());
        assert!(keep(&identity, &place.path().join("none")).is_err());
    }

    #[test]
    fn nothing_said_is_a_usage_error_that_says_what_to_say() {
        let failure = target(&global(&[]), |_| None).unwrap_err();
        assert_eq!(failure.exit, 2);
        assert!(failure.message().contains("--data-dir") && failure.message().contains("--connect"));
        let failure = target(&global(&["--connect", "a:1"]), |_| None).unwrap_err();
        assert!(failure.message().contains("operator.id"), "{}", failure.message());
    }
}
