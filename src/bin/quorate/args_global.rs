//! The options of every verb, and how a time is written.
//!
//! Owns their words and what is taken where one is left out. Called by the parser, and by every verb.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use quorate::status::span;

/// Options of every verb, before or after it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Managers to talk to, comma separated [env: QUORATE_CONNECT]
    #[arg(long, global = true, value_name = "HOST:PORT[,..]", value_delimiter = ',', conflicts_with = "data_dir")]
    pub(crate) connect: Vec<String>,
    /// Who we are towards them: the operator.id that `init` wrote [env: QUORATE_IDENTITY]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// The directory of a node on this machine
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How long to wait for an answer: 10, 2s, 500ms, 1m [default: 10s]
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Answer as JSON on stdout, one document a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "auto|never|always", value_enum, default_value_t = When::Auto, hide_possible_values = true)]
    pub(crate) color: When,
}

impl Global {
    /// How long to wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(quorate::config::REQUEST_DEADLINE)
    }

    /// How long to wait until a wish is fulfilled: as that wish says, else as for anything, where that is said.
    pub(crate) fn patience(&self, wait: Option<Duration>) -> Duration {
        wait.or(self.timeout).unwrap_or(quorate::config::CHANGE_PATIENCE)
    }
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Never.
    Never,
    /// Always.
    Always,
}

/// The shortest time that can be said.
pub(crate) const MOMENT: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// `10`, `2s`, `500ms`, `1m`; a bare number is seconds. A day is more than any request waits.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    duration_within(text, MOMENT, DAY)
}

/// `10`, `2s`, `500ms`, `1m`, `2h`, `7d`; a bare number is seconds.
pub(crate) fn duration_within(text: &str, shortest: Duration, longest: Duration) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time; write 10 or 10s (seconds), 500ms, 1m, 2h or 7d");
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().map_err(|_not_a_number| wrong())?;
    let seconds = match unit {
        "" | "s" => number,
        "ms" => number / 1000.0,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        "d" => number * 86_400.0,
        _ => return Err(wrong()),
    };
    // The bound also keeps the conversion from failing.
    if !(shortest.as_secs_f64()..=longest.as_secs_f64()).contains(&seconds) {
        return Err(format!("`{text}` is out of range: a time from {} to {}", span(shortest), span(longest)));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Anything but nothing, for clap.
pub(crate) fn given(what: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |text| {
        if text.is_empty() {
            Err(format!("what is given is no {}: it is empty", bare(what)))
        } else {
            Ok(text.to_owned())
        }
    }
}

/// Without its article.
fn bare(what: &str) -> &str {
    what.trim_start_matches("the ").trim_start_matches("a ")
}

/// A whole number from `least` to `most` of what `unit` says, for clap, whose own words name neither.
pub(crate) fn whole<T>(
    least: T,
    most: T,
    unit: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: Copy + Into<u64> + TryFrom<u64> + Send + Sync + 'static,
{
    move |text| {
        let (first, last): (u64, u64) = (least.into(), most.into());
        let range = if last == u64::MAX { format!("from {first} on") } else { format!("from {first} to {last}") };
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("`{text}` is no whole number: {unit}, {range}"));
        }
        let number = text.parse::<u64>().ok().filter(|number| (first..=last).contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("`{text}` is out of range: {unit}, {range}"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn a_time_is_read_with_and_without_unit() {
        for (text, ms) in
            [("10", 10_000), ("2s", 2_000), ("500ms", 500), ("1m", 60_000), ("0.5", 500), ("2h", 7_200_000)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "s", "-1", "10x", "25h", "2d", "0", "1e9", "99999999999999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_whole_number_is_refused_with_its_range_and_its_unit() {
        let clients = whole(1_u32, 100_000, "clients");
        assert_eq!((clients("1"), clients("100000")), (Ok(1), Ok(100_000)));
        for text in ["0", "100001", "-1", "99999999999999999999999"] {
            assert_eq!(clients(text), Err(format!("`{text}` is out of range: clients, from 1 to 100000")));
        }
        for text in ["", "-", "x", "1.5", "1k"] {
            assert_eq!(clients(text), Err(format!("`{text}` is no whole number: clients, from 1 to 100000")));
        }
        assert_eq!(whole(1, u64::MAX, "a revision")("0"), Err("`0` is out of range: a revision, from 1 on".into()));
        let wrong = duration_within("0.5", SECOND, YEAR).unwrap_err();
        assert_eq!(wrong, "`0.5` is out of range: a time from 1s to 365d");
    }

    /// Every option and argument of every verb, with the words that lead to it.
    fn arguments(of: &clap::Command, path: &[String]) -> Vec<(Vec<String>, clap::Arg)> {
        let mut all: Vec<_> = of.get_arguments().map(|argument| (path.to_vec(), argument.clone())).collect();
        for verb in of.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            all.extend(arguments(verb, &[path, &[verb.get_name().to_owned()]].concat()));
        }
        all
    }

    #[test]
    fn every_value_that_is_refused_is_refused_with_its_flag_its_range_and_its_unit() {
        use clap::CommandFactory as _;
        let mut refused = std::collections::BTreeSet::new();
        for (path, argument) in arguments(&Cli::command(), &["quorate".to_owned()]) {
            if argument.is_hide_set() || !argument.get_action().takes_values() {
                continue;
            }
            for value in ["0", "-1", "1.5", "x", "99999999999999999999999", "1e99d", "0.5ms"] {
                let given = match argument.get_long() {
                    Some(long) => vec![format!("--{long}={value}")],
                    None => vec![value.to_owned()],
                };
                let line = path.iter().cloned().chain(given);
                let Err(error) = Cli::command().try_get_matches_from(line) else { continue };
                if error.kind() != clap::error::ErrorKind::ValueValidation {
                    continue;
                }
                let said = error.to_string();
                let name = argument.get_long().map_or_else(|| "<".to_owned(), |long| format!("--{long}"));
                assert!(said.contains(&name), "{path:?}: {said}");
                // What clap or the standard library would say, without a range, or without what is counted.
                for bare in ["is not in ", "invalid digit", "number too", "invalid float", "empty string"] {
                    assert!(!said.contains(bare), "{path:?}: {said}");
                }
                let told = [" from ", " is no ", "possible values"].iter().any(|words| said.contains(words));
                assert!(told, "{path:?}: {said}");
                refused.insert((path.clone(), argument.get_id().clone()));
            }
        }
        assert!(refused.len() > 50, "{}", refused.len());
    }

    #[test]
    fn a_wish_is_waited_for_as_said_and_else_as_for_any_answer() {
        let patience = |arguments: &[&str], wait| {
            let global = Cli::parse_from(["quorate", "status"].iter().chain(arguments)).global;
            (global.timeout().as_secs(), global.patience(wait).as_secs())
        };
        let minute = Some(Duration::from_secs(60));
        assert_eq!(patience(&[], None), (10, 120));
        assert_eq!(patience(&["--timeout", "5s"], None), (5, 5));
        assert_eq!(patience(&["--timeout", "5s"], minute), (5, 60));
    }
}
