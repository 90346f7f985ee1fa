//! The kernel's own filter, for cuts without anything in the way: nftables, one rule a directed link.
//!
//! Owns one table, named after the run. Its rules count what they drop: that is the proof. Never touches another table.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;

use super::machine::{ask, table_of};
use super::{Done, harness};

/// The table of this run.
#[derive(Debug)]
pub(super) struct Firewall {
    table: String,
}

impl Firewall {
    /// Makes the table; or why this machine cannot.
    pub(super) async fn new(root: &Path) -> Done<Result<Self, String>> {
        let wall = Self { table: table_of(root) };
        match ask("nft", ["add", "table", "inet", &wall.table]).await {
            Ok(Ok(_said)) => Ok(Ok(wall)),
            Ok(Err(why)) => Ok(Err(why)),
            Err(why) => Ok(Err(why.to_string())),
        }
    }

    /// Exactly these links are cut from now on, each from the first to the second.
    pub(super) async fn cut(&self, links: &[(SocketAddr, SocketAddr)]) -> Done {
        let table = &self.table;
        let mut text =
            format!("flush table inet {table}\nadd chain inet {table} cut {{ type filter hook input priority 0; }}\n");
        for (from, to) in links {
            let (from, to) = (from.port(), to.port());
            text.push_str(&format!("add rule inet {table} cut udp sport {from} udp dport {to} counter drop\n"));
        }
        let mut child = tokio::process::Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes()).await?;
        }
        let ended = child.wait().await?;
        if ended.success() { Ok(()) } else { harness(format!("nft refused the rules of a cut: {ended}")) }
    }

    /// Datagrams dropped by the rules in force.
    pub(super) async fn dropped(&self) -> Done<u64> {
        let listed = ask("nft", ["list", "table", "inet", &self.table]).await?.unwrap_or_default();
        let counts = listed
            .lines()
            .filter_map(|line| line.split_once("counter packets ")?.1.split(' ').next()?.parse::<u64>().ok());
        Ok(counts.sum())
    }
}
