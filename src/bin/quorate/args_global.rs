//! The options of every verb, and how a time is written.
//!
//! Owns their words and what is taken where one is left out. Called by the parser, and by every verb.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

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
    /// Answer as one JSON document on stdout
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

/// `10`, `2s`, `500ms`, `1m`; a bare number is seconds. A day is more than any request waits.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    duration_up_to(text, Duration::from_secs(86_400), "one day")
}

/// `10`, `2s`, `500ms`, `1m`, `2h`, `7d`; a bare number is seconds.
pub(crate) fn duration_up_to(text: &str, longest: Duration, words: &str) -> Result<Duration, String> {
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
    if !(0.001..=longest.as_secs_f64()).contains(&seconds) {
        return Err(format!("`{text}` is out of range; between 1ms and {words}"));
    }
    Ok(Duration::from_secs_f64(seconds))
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
