//! The `quorate` binary: an operator's way to a node and to a cluster.
//!
//! Owns parsing, dispatch and the exit code. Never does anything that the library's public API does not. Called by
//! people, scripts and service managers.

mod admin;
mod answer;
mod args;
mod args_backup;
mod args_bench;
mod args_ca;
mod args_global;
mod args_keys;
mod args_kv;
mod args_lease;
mod args_membership;
mod args_node;
mod args_objects;
mod args_operator;
mod args_upgrade;
mod assign;
mod backup;
mod bench;
mod ca;
mod check;
mod failure;
mod foreign;
mod help;
mod http;
mod keys;
mod kv;
mod kv_txn;
mod kv_watch;
mod lease;
mod lock;
mod manual;
mod node;
mod nodes;
mod objects;
mod operators;
mod output;
mod policy;
mod prompt;
mod recover;
mod status;
mod target;
mod tokens;
mod under_lock;
mod upgrade;

use std::process::ExitCode;

use clap::FromArgMatches as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use answer::Loss;
use args::{Cli, Leader, Verb, When};
use args_node::{Init, Inspect, Join};
use failure::Failure;
use output::Output;

/// A put is many small allocations on three managers (benches/RESULTS.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let (json, color) = (cli.global.json, cli.global.color);
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => {
            output::failed(&failure, json, color);
            ExitCode::from(failure.exit)
        }
    }
}

/// The command line, or the exit code when there is nothing (more) to do.
fn parse(arguments: &[String]) -> Result<Cli, ExitCode> {
    // These two must hold for a command line that cannot be parsed, too. What stands behind `--` is not ours.
    let ours = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let ours = arguments.get(..ours).unwrap_or_default();
    let json = ours.iter().any(|argument| argument == "--json");
    let color = asked_color(ours);
    let parsed = help::command().try_get_matches_from(help::of_help(std::env::args_os().collect()));
    let error = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    if !error.use_stderr() {
        // Asked for help or version. That nobody reads it is no reason to fail.
        help::show(&error, color);
        return Err(ExitCode::SUCCESS);
    }
    if error.kind() == ErrorKind::UnknownArgument && keys::reads_a_secret(arguments) {
        output::failed(&Failure::usage(keys::NO_ARGUMENT), json, color);
        return Err(ExitCode::from(failure::exit::USAGE));
    }
    let unknown_word = matches!(
        error.kind(),
        ErrorKind::InvalidSubcommand
            | ErrorKind::UnknownArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    let unknown = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => Some(argument.as_str()),
        _ => None,
    };
    let ours = if unknown_word { foreign::answer(arguments, unknown) } else { None };
    match ours {
        Some(answer) => output::failed(&Failure::usage(answer), json, color),
        None if json => output::failed(&Failure::usage(first_paragraph(&error.to_string())), json, color),
        None => help::show(&error, color),
    }
    Err(ExitCode::from(failure::exit::USAGE))
}

fn asked_color(arguments: &[String]) -> When {
    let asked = arguments.iter().enumerate().find_map(|(at, argument)| match argument.strip_prefix("--color") {
        Some("") => arguments.get(at + 1).map(String::as_str),
        Some(rest) => rest.strip_prefix('='),
        None => None,
    });
    match asked {
        Some("never") => When::Never,
        Some("always") => When::Always,
        _ => When::Auto,
    }
}

/// What clap says, without its heading and its usage lines.
fn first_paragraph(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let lines: Vec<&str> = text.split("\n\nUsage:").next().unwrap_or(text).split_whitespace().collect();
    lines.join(" ")
}

/// What is in memory, keys among it, is not written to a file when the process breaks; nor is it shown to another process of the
/// same user. Not of `lock`: what it runs is not ours.
fn keep_memory_to_ourselves() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        output::note(&format!("warning: core dumps cannot be turned off: {error}"));
    }
    // A kernel that hands core dumps to a program does not ask for that limit.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        output::note(&format!("warning: core dumps cannot be turned off: {error}"));
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let global = cli.global;
    if !matches!(cli.verb, Verb::Lock(_) | Verb::UnderLock(_)) {
        keep_memory_to_ourselves();
    }
    let loss = answer::loss(&cli.verb);
    let output = Output::new(global.json, global.color, loss);
    if let Loss::OnlyCopy(what) = loss
        && output::nowhere()
    {
        return Err(Failure::nowhere(what));
    }
    // What is left of a node that was told twice to stop is not waited for: it is as safe as a kill.
    let runs =
        matches!(&cli.verb, Verb::Run(_) | Verb::Init(Init { run: true, .. }) | Verb::Join(Join { run: true, .. }));
    // A node works on threads of its own; what remains for this runtime are signals and one client. A load is all there is.
    let all = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = if matches!(cli.verb, Verb::Bench(_)) { all } else { 2 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| Failure::local(format!("the system gives no threads: {error}")))?;
    let ended = runtime.block_on(async {
        let done = match cli.verb {
            Verb::Lock(lock) => return Box::pin(lock::run(lock, &global)).await,
            Verb::UnderLock(command) => return Box::pin(under_lock::supervise(command)).await,
            Verb::Lease(verb) => Box::pin(lease::run(verb, &global, output)).await,
            Verb::Init(init) => Box::pin(node::init(init, &global, output)).await,
            Verb::Join(join) => Box::pin(node::join(join, &global, output)).await,
            Verb::Run(run) => Box::pin(node::run(run, &global, output)).await,
            Verb::Status => status::run(&global, output).await,
            Verb::Kv(verb) => Box::pin(kv::run(verb, &global, output)).await,
            Verb::Assign(verb) => Box::pin(assign::run(verb, &global, output)).await,
            Verb::Node(verb) => Box::pin(nodes::run(verb, &global, output)).await,
            Verb::Leave(leave) => Box::pin(nodes::leave(leave, &global, output)).await,
            Verb::Ca(verb) => Box::pin(ca::run(verb, &global, output)).await,
            Verb::Operator(verb) => Box::pin(operators::run(verb, &global, output)).await,
            Verb::Token(verb) => Box::pin(tokens::run(verb, &global, output)).await,
            Verb::Config(verb) => Box::pin(objects::config(verb, &global, output)).await,
            Verb::Secret(verb) => Box::pin(objects::secret(verb, &global, output)).await,
            Verb::Keyring(verb) => Box::pin(objects::keyring(verb, &global, output)).await,
            Verb::Policy(verb) => Box::pin(policy::run(verb, &global, output)).await,
            Verb::Upgrade(verb) => Box::pin(upgrade::run(verb, &global, output)).await,
            Verb::Leader(Leader::Transfer { to }) => admin::transfer(to.as_deref(), &global, output).await,
            Verb::Inspect(Inspect { configurations: true, keys, .. }) => {
                recover::configurations(&keys, &global, output)
            }
            Verb::Inspect(Inspect { dump: true, keys, .. }) => node::dump(&keys, &global, output),
            Verb::Inspect(Inspect { keys, .. }) => node::inspect(&keys, &global, output),
            Verb::Bench(verb) => Box::pin(bench::run(verb, &global, output)).await,
            Verb::Backup(backup) => Box::pin(backup::run(backup, &global, output)).await,
            Verb::Restore(restore) => Box::pin(backup::restore(restore, &global, output)).await,
            Verb::Recover(recover) => Box::pin(recover::run(recover, &global, output)).await,
            Verb::Key(verb) => Box::pin(keys::key(verb, &global, output)).await,
            Verb::Autolock(verb) => Box::pin(keys::autolock(verb, &global, output)).await,
            Verb::Unlock => Box::pin(keys::unlock(&global, output)).await,
            Verb::UnlockKey(verb) => Box::pin(keys::unlock_key(verb, &global, output)).await,
            Verb::Check => Box::pin(check::run(&global, output)).await,
            Verb::Completions { shell } => manual::completions(shell, output),
            Verb::Man { directory } => manual::pages(&directory, output),
        };
        done.map(|()| ExitCode::SUCCESS)
    });
    if runs {
        runtime.shutdown_background();
    }
    ended
}
