//! The three pages of a running binary, as a scraper and a load balancer meet them; and the docs and alerts beside them.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use cli_support::{Node, eventually, on, quorate};
use quorate::metrics::{Kind, METRICS, Metric};
use serde_json::Value;

/// A page: its status code and its body.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Starts a node with its pages; where they are.
fn run(node: &mut Node) -> String {
    node.run_with(&["run", "--json", "--http", "127.0.0.1:0"]);
    let ready: Value = serde_json::from_str(&node.ready).unwrap();
    ready["ready"]["http"].as_str().unwrap().to_owned()
}

fn three(place: &Path) -> (Vec<Node>, Vec<String>) {
    let mut nodes = vec![Node::init(place, "n1")];
    let mut pages = vec![run(&mut nodes[0])];
    for name in ["n2", "n3"] {
        let mut node = Node::join(place, name, &nodes[0]);
        pages.push(run(&mut node));
        nodes.push(node);
    }
    eventually("all have their seats", || (nodes[0].status()["voters"] == 3).then_some(()));
    (nodes, pages)
}

/// The metric that a scraped series belongs to: histograms come as three.
fn row_of(series: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == series).or_else(|| {
        let whole = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| series.strip_suffix(suffix))?;
        METRICS.iter().find(|metric| metric.name == whole && metric.kind == Kind::Histogram)
    })
}

#[test]
fn a_scrape_has_every_metric_of_the_table_and_no_other() {
    // Given three managers that have done something of everything
    let place = tempfile::tempdir().unwrap();
    let (nodes, pages) = three(place.path());
    on(&nodes[1], &["kv", "put", "k", "v"]).exits(0);
    on(&nodes[1], &["kv", "get", "k"]).exits(0);
    let names = || METRICS.iter().map(|metric| metric.name.to_owned()).collect::<BTreeSet<String>>();
    let scraped = eventually("every metric is there", || {
        let (code, body) = get(&pages[1], "/metrics");
        assert_eq!(code, 200);
        let typed = body.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let found: BTreeSet<String> = typed.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        assert!(found.is_subset(&names()), "not in the table: {:?}", found.difference(&names()));
        let sampled = body.lines().any(|line| line == "quorate_voters{node=\"n2\"} 3");
        (sampled && found == names()).then_some(body)
    });
    // Then each is of its kind, is explained, has its labels, and is of this node
    for metric in METRICS {
        let Metric { name, kind, labels, help, .. } = metric;
        assert!(scraped.contains(&format!("# TYPE {name} {}\n", kind.word())), "{name}");
        assert!(scraped.contains(&format!("# HELP {name} {help}\n")), "{name}: {help}");
        let mut series = scraped.lines().filter(|line| {
            let series = line.split(['{', ' ']).next().unwrap();
            !line.starts_with('#') && row_of(series) == Some(metric)
        });
        let one = series.next().unwrap_or_else(|| panic!("{name} has no series"));
        assert!(one.contains("node=\"n2\""), "{one}");
        for label in *labels {
            assert!(one.contains(&format!("{label}=\"")), "{one}");
        }
    }
    // And the figures are those of the status
    let value = |series: &str| -> f64 {
        let line = scraped.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no {series}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("quorate_has_leader{"), 1.0);
    assert_eq!(value("quorate_voters{"), 3.0);
    assert_eq!(value("quorate_generation{"), 1.0);
    assert!((89.0..=91.0).contains(&value("quorate_certificate_days_left{")));
    assert_eq!(value("quorate_requests_total{node=\"n2\",kind=\"write\",outcome=\"done\"}"), 1.0);
    assert_eq!(value("quorate_proposals_pending{"), 0.0);
    assert!(value("quorate_disk_log_fsync_duration_seconds_count{") > 0.0);
    assert_eq!(nodes[0].status()["health"], "ok");
}

#[test]
fn ready_is_no_without_a_quorum_and_alive_is_yes() {
    let place = tempfile::tempdir().unwrap();
    let (mut nodes, pages) = three(place.path());
    let page = &pages[0];
    // Given a manager that serves
    eventually("ready", || (get(page, "/readyz") == (200, "ok\n".into())).then_some(()));
    eventually("all three are connected", || {
        let (code, verbose) = get(page, "/readyz?verbose");
        let all = verbose.contains("[+]quorum: 3 of 3 voters connected") && verbose.ends_with("\nready\n");
        (code == 200 && all).then_some(())
    });
    // When the others are gone
    nodes[1].kill();
    nodes[2].kill();
    // Then it is not ready, says why in every form, and is alive
    let (_, short) = eventually("not ready", || {
        let page = get(page, "/readyz");
        (page.0 == 503 && page.1.contains("leader: no leader for") && page.1.contains("1 of 3 voters")).then_some(page)
    });
    assert!(short.starts_with("not ready: "), "{short}");
    let (code, verbose) = get(page, "/readyz?verbose");
    assert!(code == 503 && verbose.contains("[-]leader: no leader for") && verbose.contains("[+]disk"), "{verbose}");
    let (code, json) = get(page, "/readyz?format=json");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, json["ready"].as_bool()), (503, Some(false)));
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["name"] == "leader" && check["ok"] == false && check["detail"] != ""));
    assert_eq!(get(page, "/livez"), (200, "ok\n".into()));
    assert_eq!(get(page, "/livez?format=json"), (200, "{\"alive\":true,\"detail\":\"\"}\n".into()));
    let (code, scraped) = get(page, "/metrics");
    assert_eq!(code, 200);
    eventually("the scrape says it, too", || {
        let scraped = get(page, "/metrics").1;
        let says = |line: &str| scraped.lines().any(|scraped| scraped == line);
        (says("quorate_ready{node=\"n1\"} 0") && says("quorate_quorum_margin{node=\"n1\"} -1")).then_some(())
    });
    assert!(scraped.contains("quorate_ready_check{node=\"n1\",check=\"leader\"}"), "{scraped}");
    // When one comes back, it is ready again
    nodes[1].run();
    eventually("ready", || (get(page, "/readyz").0 == 200).then_some(()));
    // And nothing but reading is answered
    assert_eq!(get(page, "/nothing").0, 404);
    let mut stream = TcpStream::connect(page).unwrap();
    write!(stream, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

#[test]
fn an_address_that_cannot_be_listened_on_stops_the_node_before_it_starts() {
    let place = tempfile::tempdir().unwrap();
    let node = Node::init(place.path(), "n1");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = quorate(&["run", "--http", &address, "--data-dir", node.dir()]).exits(1);
    said.complains(&["--http", &address, "was not started"]);
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_docs_have_the_table_as_it_is() {
    // `QUORATE_BLESS=1` writes it.
    let (begin, end) = ("<!-- table: begin -->\n", "<!-- table: end -->");
    let rows = METRICS.iter().map(|Metric { name, kind, unit, labels, help }| {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {} | {} | {} | {help} |\n", kind.word(), unit.word(), labels.join(", "))
    });
    let table: String = std::iter::once(
        "| name | kind | unit | labels beside `node` | what it says |\n|---|---|---|---|---|\n".to_owned(),
    )
    .chain(rows)
    .collect();
    let docs = read("docs/metrics.md");
    let (before, rest) = docs.split_once(begin).unwrap();
    let (found, after) = rest.split_once(end).unwrap();
    if std::env::var_os("QUORATE_BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        std::fs::write(path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(
            found, table,
            "docs/metrics.md is not the table of src/metrics.rs: run this test with QUORATE_BLESS=1"
        );
    }
    // What the prose around it names is in it, too.
    for name in named(before).chain(named(after)) {
        assert!(row_of(&name).is_some(), "docs/metrics.md speaks of {name}, which is no metric");
    }
}

/// Every word that looks like a metric's name.
fn named(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("quorate_") && *word != "quorate_")
        .map(str::to_owned)
}

#[test]
fn every_alert_names_a_metric_that_there_is_and_says_what_to_do() {
    let rules = read("contrib/alerts.yml");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 15, "{}", alerts.len());
    for alert in alerts {
        let title = alert.lines().next().unwrap();
        for part in ["expr: ", "severity: ", "summary: ", "description: ", "next: "] {
            assert!(alert.contains(part), "{title} has no {part}");
        }
        let rule = alert.lines().find_map(|line| line.trim().strip_prefix("expr: ")).unwrap();
        let metrics: Vec<String> = named(rule).collect();
        assert!(!metrics.is_empty(), "{title} looks at no metric");
        for name in named(alert) {
            assert!(row_of(&name).is_some(), "{title}: there is no metric {name}");
        }
        for name in metrics {
            let row = row_of(&name).unwrap();
            // A histogram is asked for its parts, and a counter for its rate.
            assert!(row.kind != Kind::Histogram || name != row.name, "{title}: {name} is a histogram");
            let rated = rule.contains(&format!("rate({name}")) || rule.contains(&format!("increase({name}"));
            assert_eq!(row.kind != Kind::Gauge, rated, "{title}: {name} is a {}", row.kind.word());
        }
    }
}
