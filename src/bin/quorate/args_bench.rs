//! What can be typed about loads.
//!
//! Owns the shape of `bench`, with its help and examples, and what of it cannot be. Never talks to a cluster. Called by `args`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::args::{SECOND, YEAR, duration, duration_within, given, whole};
use crate::failure::Failure;

/// `bench`.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Write values, each in a request of its own
    #[command(after_help = "\
Example:
  quorate bench put --clients 1000 --conns 100 --total 200000 --connect 10.0.0.1:4701,10.0.0.2:4701 --identity operator.id
  quorate bench put --clients 100 --rate 5000 --duration 30s --json --connect 10.0.0.1:4701 --identity operator.id")]
    Put(Shape),
    /// Read values, one key a request; keys that are not there yet are written before
    #[command(after_help = "\
Example:
  quorate bench get --consistency l --clients 1000 --total 200000 --connect 10.0.0.1:4701 --identity operator.id")]
    Get(Get),
    /// Read and write, by chance, so many reads for each write; keys that are not there yet are written before
    #[command(after_help = "\
A read is a get of one key, a write a transaction of --txn-ops puts. They are told apart in the figures.

Example:
  quorate bench txn --rw-ratio 4 --clients 100 --total 100000 --connect 10.0.0.1:4701 --identity operator.id")]
    Txn(Txn),
    /// Write values that many watches wait for: how long until the last of them has been told
    #[command(after_help = "\
Every watch is of all keys below the prefix. A request is a put, and it ends when the last watch has been told of it.

Example:
  quorate bench watch --watchers 100 --clients 1 --total 2000 --connect 10.0.0.1:4701 --identity operator.id
  quorate bench watch --watchers 10000 --conns 100 --rate 10 --total 100 --connect 10.0.0.1:4701 --identity operator.id")]
    Watch(Watch),
    /// Renew leases, one renewal a request; each client has a lease of its own
    #[command(after_help = "\
A renewal is answered after a round of the managers that began when it arrived; it writes nothing. The leases are revoked
at the end.

Example:
  quorate bench lease --clients 1000 --total 100000 --connect 10.0.0.1:4701 --identity operator.id")]
    Lease(Lease),
}

/// What every load has.
#[derive(Debug, Args)]
pub(crate) struct Shape {
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1_u32, 100_000, "clients"))]
    pub(crate) clients: u32,
    /// Connections that they share in turn [default: one for ten clients]
    #[arg(long, value_name = "N", value_parser = whole(1_u32, 10_000, "connections"))]
    conns: Option<u32>,
    /// Requests that are measured
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = whole(1, u64::MAX, "requests"))]
    pub(crate) total: u64,
    /// Measure for so long instead of a number of requests
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "total")]
    pub(crate) duration: Option<Duration>,
    /// The same load for so long before, without being measured; 0 for none
    #[arg(long, value_name = "TIME", value_parser = warm_up, default_value = "2s")]
    pub(crate) warm_up: Duration,
    /// Requests a second at most; one that is sent late because all clients wait for answers counts from when it was due
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Bytes of a key behind the prefix
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = whole(1_u16, 4_096, "bytes"))]
    pub(crate) key_size: u16,
    /// Bytes of a value, all of them random
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = whole(0_u32, 1_048_576, "bytes"))]
    pub(crate) val_size: u32,
    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = whole(1, u64::MAX, "keys"))]
    pub(crate) key_space_size: u64,
    /// Keys one after the other instead of any
    #[arg(long)]
    pub(crate) sequential_keys: bool,
    /// What all keys begin with
    #[arg(long, value_name = "PREFIX", default_value = "bench/", value_parser = given("a prefix"))]
    pub(crate) prefix: String,
}

/// `bench get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Linearizable, or serializable: the asked manager answers alone and may be behind
    #[arg(long, value_name = "l|s", value_enum, default_value_t = Consistency::L, hide_possible_values = true)]
    pub(crate) consistency: Consistency,
}

/// `bench txn`.
#[derive(Debug, Args)]
pub(crate) struct Txn {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// How the reads are made: linearizable or serializable
    #[arg(long, value_name = "l|s", value_enum, default_value_t = Consistency::L, hide_possible_values = true)]
    pub(crate) consistency: Consistency,
    /// Reads for each write
    #[arg(long, value_name = "N", default_value_t = 4.0, value_parser = ratio)]
    pub(crate) rw_ratio: f64,
    /// Puts in each write
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1_u16, 128, "puts"))]
    pub(crate) txn_ops: u16,
}

/// `bench watch`.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Watches, over the connections in turn
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = whole(1_u32, 100_000, "watches"))]
    pub(crate) watchers: u32,
}

/// `bench lease`.
#[derive(Debug, Args)]
pub(crate) struct Lease {
    #[command(flatten)]
    pub(crate) shape: Shape,
    /// Time to live of the leases
    #[arg(long, value_name = "TIME", value_parser = ttl, default_value = "60s")]
    pub(crate) ttl: Duration,
}

/// What a read promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// Linearizable.
    L,
    /// Serializable.
    S,
}

impl Shape {
    /// Connections: as asked, or one for ten clients.
    pub(crate) fn conns(&self) -> u32 {
        self.conns.unwrap_or_else(|| self.clients.div_ceil(10))
    }

    /// Whether it can be done as it is said.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.conns() > self.clients {
            return Err(Failure::usage(format!(
                "{} connections for {} clients leave some without use: give at most as many --conns as --clients",
                self.conns(),
                self.clients
            )));
        }
        let digits = (self.key_space_size - 1).checked_ilog10().unwrap_or(0) + 1;
        if digits > u32::from(self.key_size) {
            return Err(Failure::usage(format!(
                "{} different keys have numbers of {digits} digits: give --key-size {digits} or more",
                self.key_space_size
            )));
        }
        Ok(())
    }
}

/// As of any lease.
fn ttl(text: &str) -> Result<Duration, String> {
    duration_within(text, SECOND, YEAR)
}

fn warm_up(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") { Ok(Duration::ZERO) } else { duration(text) }
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, 0.001..=1e9, "a rate", "requests a second")
}

fn ratio(text: &str) -> Result<f64, String> {
    number(text, 0.0..=1e6, "a ratio", "reads for each write")
}

fn number(text: &str, range: std::ops::RangeInclusive<f64>, what: &str, unit: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "`{text}` is no {}: {unit}, from {} to {}",
            what.trim_start_matches("a "),
            range.start(),
            range.end()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser as _;

    fn shape(arguments: &[&str]) -> Shape {
        let cli = Cli::parse_from(["quorate", "bench", "put"].iter().chain(arguments));
        let Verb::Bench(Bench::Put(shape)) = cli.verb else { panic!("no put") };
        shape
    }

    #[test]
    fn ten_clients_share_a_connection_unless_it_is_said() {
        for (arguments, conns) in [
            (&[][..], 1),
            (&["--clients", "1000"], 100),
            (&["--clients", "11"], 2),
            (&["--clients", "9", "--conns", "9"], 9),
        ] {
            assert_eq!(shape(arguments).conns(), conns, "{arguments:?}");
        }
        let said = shape(&["--clients", "2", "--conns", "3"]).check().unwrap_err();
        assert!(said.exit == 2 && said.message().contains("--conns"), "{}", said.message());
    }

    #[test]
    fn a_key_has_room_for_the_number_of_the_last_key() {
        for (size, space, fits) in [
            ("1", "10", true),
            ("1", "11", false),
            ("8", "100000000", true),
            ("8", "100000001", false),
            ("1", "1", true),
        ] {
            assert_eq!(shape(&["--key-size", size, "--key-space-size", space]).check().is_ok(), fits, "{size} {space}");
        }
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for arguments in [["--rate", "0"], ["--rate", "x"], ["--clients", "0"], ["--total", "0"], ["--duration", "0"]] {
            let parsed = Cli::try_parse_from(["quorate", "bench", "put"].iter().chain(&arguments));
            assert!(parsed.is_err(), "{arguments:?}");
        }
        assert_eq!(shape(&["--warm-up", "0"]).warm_up, Duration::ZERO);
        assert!(Cli::try_parse_from(["quorate", "bench", "put", "--total", "5", "--duration", "1s"]).is_err());
    }
}
