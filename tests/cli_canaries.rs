//! Secrets that are planted and looked for: in every file, log, answer, datagram, core dump and process list of a cluster of real
//! processes. Each search is made once more with the canary planted there, and must find it.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cli_support::{Node, PROGRAM, eventually, on, quorate};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
use quorate::SecretBytes;
use quorate::keys::Key;

/// A secret, and the forms in which it could lie somewhere.
struct Canary {
    data: Vec<u8>,
    forms: Vec<(&'static str, Vec<u8>)>,
}

impl Canary {
    fn new(data: Vec<u8>) -> Self {
        let text = String::from_utf8_lossy(&data).into_owned();
        let utf16 = |to_bytes: fn(u16) -> [u8; 2]| data.iter().flat_map(|byte| to_bytes(u16::from(*byte))).collect();
        let listed = format!("{data:?}");
        let mut forms = vec![
            ("as it is", data.clone()),
            ("hex", HEXLOWER.encode(&data).into_bytes()),
            ("upper hex", HEXUPPER.encode(&data).into_bytes()),
            ("utf-16", utf16(u16::to_le_bytes)),
            ("utf-16, the other way", utf16(u16::to_be_bytes)),
            ("listed", listed.trim_matches(['[', ']']).as_bytes().to_vec()),
            ("a list in JSON", listed.trim_matches(['[', ']']).replace(' ', "").into_bytes()),
            ("escaped", data.escape_ascii().to_string().into_bytes()),
        ];
        // As it is cut into groups where it begins, and where it begins inside of one; without the groups that are half of it: what
        // stands beside it in the same text changes them.
        let cuts =
            [("base64", "url base64"), ("base64, 1 on", "url base64, 1 on"), ("base64, 2 on", "url base64, 2 on")];
        for (at, (name, url)) in cuts.into_iter().enumerate() {
            let whole = &data[at..at + (data.len() - at) / 3 * 3];
            forms.push((name, BASE64.encode(whole).into_bytes()));
            forms.push((url, BASE64URL_NOPAD.encode(whole).into_bytes()));
        }
        if String::from_utf8(data.clone()).is_ok() {
            let json = serde_json::to_string(&text).unwrap();
            forms.push(("text in JSON", json.trim_matches('"').as_bytes().to_vec()));
            forms.push(("as Rust prints it", format!("{text:?}").trim_matches('"').as_bytes().to_vec()));
        }
        Self { data, forms }
    }

    /// The forms that a text can have, of those that are one: what a log holds.
    fn only_printable(canaries: &[Self]) -> Vec<Self> {
        let text = |(name, form): &(&'static str, Vec<u8>)| {
            let printable = std::str::from_utf8(form).is_ok_and(|form| !form.contains('\0'));
            printable.then(|| (*name, form.clone()))
        };
        let of =
            |canary: &Self| Self { data: canary.data.clone(), forms: canary.forms.iter().filter_map(text).collect() };
        canaries.iter().map(of).collect()
    }

    /// These, one after the other.
    fn printable(canaries: &[Self]) -> Vec<u8> {
        Self::only_printable(canaries).iter().flat_map(Self::planted).collect()
    }

    /// All forms, one after the other: what every search must find.
    fn planted(&self) -> Vec<u8> {
        self.forms.iter().flat_map(|(_, form)| [form.as_slice(), b"\n"].concat()).collect()
    }
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    bytes.windows(needle.len()).any(|window| window[0] == first && window == needle)
}

/// Which forms of which secret are in what.
fn found(canaries: &[Canary], places: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let mut found = Vec::new();
    for (place, bytes) in places {
        for canary in canaries {
            let forms = canary.forms.iter().filter(|(_, form)| holds(bytes, form));
            found.extend(forms.map(|(name, _)| format!("{place}: {name}")));
        }
    }
    found
}

/// Nothing is found there; and once the canaries are planted in each place, each of their forms is, in each.
fn searched(what: &str, canaries: &[Canary], places: &BTreeMap<String, Vec<u8>>, control: &BTreeMap<String, Vec<u8>>) {
    let found_here = found(canaries, places);
    assert!(found_here.is_empty(), "{what}: {found_here:?}");
    assert!(!places.is_empty(), "{what}: nothing was searched");
    let bytes: usize = places.values().map(Vec::len).sum();
    let controls = found(canaries, control);
    for place in control.keys() {
        for canary in canaries {
            for (name, _) in &canary.forms {
                assert!(
                    controls.contains(&format!("{place}: {name}")),
                    "{what}: the control is not found: {place}: {name}"
                );
            }
        }
    }
    println!("{what}: {} places, {bytes} bytes, nothing; {} controls, all found", places.len(), control.len());
}

/// Every file below a directory, the sockets apart.
fn files(directory: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else if let Ok(bytes) = std::fs::read(&path) {
            into.insert(path.display().to_string(), bytes);
        }
    }
}

fn all_files(directories: &[PathBuf]) -> BTreeMap<String, Vec<u8>> {
    let mut places = BTreeMap::new();
    directories.iter().for_each(|directory| files(directory, &mut places));
    places
}

/// A wire: datagrams to a node, and its answers, noted on their way.
struct Tap {
    front: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    over: Arc<AtomicBool>,
}

impl Tap {
    fn new(target: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tap = Self { front: front.local_addr().unwrap(), heard: Arc::default(), over: Arc::default() };
        front.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let (heard, over) = (Arc::clone(&tap.heard), Arc::clone(&tap.over));
        std::thread::spawn(move || {
            let mut ways: BTreeMap<SocketAddr, UdpSocket> = BTreeMap::new();
            let mut datagram = vec![0; 65_535];
            while !over.load(Ordering::Relaxed) {
                let Ok((length, from)) = front.recv_from(&mut datagram) else { continue };
                heard.lock().unwrap().extend_from_slice(&datagram[..length]);
                let way = ways.entry(from).or_insert_with(|| {
                    let way = UdpSocket::bind("127.0.0.1:0").unwrap();
                    way.connect(target).unwrap();
                    way.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                    let (back, front) = (way.try_clone().unwrap(), front.try_clone().unwrap());
                    let (heard, over) = (Arc::clone(&heard), Arc::clone(&over));
                    std::thread::spawn(move || {
                        let mut datagram = vec![0; 65_535];
                        while !over.load(Ordering::Relaxed) {
                            let Ok(length) = back.recv(&mut datagram) else { continue };
                            heard.lock().unwrap().extend_from_slice(&datagram[..length]);
                            let _lost = front.send_to(&datagram[..length], from);
                        }
                    });
                    way
                });
                let _lost = way.send(&datagram[..length]);
            }
        });
        tap
    }

    fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn free_port() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The command line and the environment of a process.
fn shown_of(pid: u32) -> Vec<u8> {
    ["cmdline", "environ"].iter().flat_map(|file| std::fs::read(format!("/proc/{pid}/{file}")).unwrap()).collect()
}

fn page(http: SocketAddr, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(http).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert!(bytes.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&bytes));
    bytes
}

/// A command that is given something on stdin, told to log all it can: what it says on stderr, and that it ends so.
fn told_on_stderr(words: &[&str], input: &[u8], exit: i32) -> Vec<u8> {
    let mut child = Command::new(PROGRAM)
        .args(words)
        .env("QUORATE_LOG", "trace")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let said = child.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(exit), "{words:?}: {}", String::from_utf8_lossy(&said.stderr));
    said.stderr
}

/// Waits until the node in this directory says that it has this item.
fn has_item(node: &Node, item: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    eventually("the node has its item", || {
        let report = runtime.block_on(async { quorate::Client::local(node.dir()).await?.node_report().await });
        report.is_ok_and(|report| report.items.iter().any(|has| has == item)).then_some(())
    });
}

/// What each node has logged since it was started last.
fn logs(nodes: &[Node]) -> BTreeMap<String, Vec<u8>> {
    nodes.iter().map(|node| (format!("log of {}", node.dir()), node.log().into_bytes())).collect()
}

/// A child that is gone when the test ends.
struct Gone(Child);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn planted_secrets_are_found_nowhere_but_where_they_belong() {
    let place = tempfile::tempdir().unwrap();
    let random = Key::generate().unwrap().to_text()[6..54].to_owned();
    let bytes: Vec<u8> =
        (0..64).map(|_| Key::generate().unwrap().id().to_string().bytes().next_back().unwrap()).collect();
    let mixed: Vec<u8> = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| byte.wrapping_mul(37).wrapping_add(u8::try_from(at).unwrap().wrapping_mul(91)))
        .collect();
    let canaries = [Canary::new(mixed), Canary::new(format!("{random}\"\\\n\tä🙂{random}").into_bytes())];
    // Given three managers that log everything, behind wires that are listened to, and two workers
    let trace = ["run", "--log", "trace"];
    let listens = [free_port(), free_port(), free_port()];
    let wires = listens.map(Tap::new);
    let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let directory = |name: &str| place.path().join(name);
    let (n1, fronts) = (directory("n1"), wires.iter().map(|wire| wire.front.to_string()).collect::<Vec<_>>());
    let (listen, first) = (listens[0].to_string(), n1.to_str().unwrap().to_owned());
    quorate(&["init", "--data-dir", &first, "--listen", &listen, "--advertise", &fronts[0], "--name", "n1"]).exits(0);
    let mut nodes = vec![Node::of(n1)];
    nodes[0].run_with(&[&trace[..], &["--http", &http.to_string()]].concat());
    for (at, name) in [(1, "n2"), (2, "n3")] {
        let token = nodes[0].token("manager");
        let (path, listen) = (directory(name).to_str().unwrap().to_owned(), listens[at].to_string());
        let joining = ["join", "--data-dir", &path, "--listen", &listen, "--advertise", &fronts[at], "--name", name];
        quorate(&[&joining[..], &["--token", &token, "--manager", &fronts[0]]].concat()).exits(0);
        nodes.push(Node::of(directory(name)));
        nodes[at].run_with(&trace);
    }
    eventually("three voters", || (nodes[0].status()["voters"] == 3).then_some(()));
    for name in ["w1", "w2"] {
        let token = nodes[0].token("worker");
        let worker = directory(name).to_str().unwrap().to_owned();
        quorate(&["join", "--data-dir", &worker, "--name", name, "--token", &token, "--manager", &fronts[0]]).exits(0);
        nodes.push(Node::of(directory(name)));
        nodes.last_mut().unwrap().run_with(&trace);
    }
    let operator = nodes[0].operator();
    let far = |words: &[&str]| quorate(&[words, &["--connect", &fronts[0], "--identity", &operator]].concat());
    // When secrets are made over the wire, with the making process looked at, given to one worker, and everything is done
    // that could show them
    let mut answers: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut processes = BTreeMap::new();
    for (name, canary) in ["bytes", "text"].iter().zip(&canaries) {
        let words = ["secret", "create", name, "-", "--connect", &fronts[0], "--identity", &operator, "--json"];
        let mut making =
            Command::new(PROGRAM).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        processes.insert(format!("create {name}"), shown_of(making.id()));
        making.stdin.take().unwrap().write_all(&canary.data).unwrap();
        let made = making.wait_with_output().unwrap();
        assert!(made.status.success());
        answers.insert(format!("create {name}"), made.stdout);
        // It is what was made
        let revealed = far(&["secret", "inspect", name, "--reveal", "--json"]).exits(0).json();
        assert_eq!(BASE64.decode(revealed["data_base64"].as_str().unwrap().as_bytes()).unwrap(), canary.data);
    }
    far(&["assign", "set", "w1", "job", "payload", "--secret", "bytes", "--secret", "text"]).exits(0);
    far(&["assign", "set", "w2", "job", "payload"]).exits(0);
    // A manager is to run something, too
    far(&["assign", "set", "n2", "job", "payload", "--secret", "bytes", "--secret", "text"]).exits(0);
    for node in [&nodes[1], &nodes[3], &nodes[4]] {
        has_item(node, "job");
    }
    let watching = ["kv", "watch", "--prefix", "", "--from-revision", "1", "--data-dir", nodes[1].dir()];
    let watched = directory("watched");
    let mut watch = Command::new(PROGRAM);
    watch.args(watching).stdout(std::fs::File::create(&watched).unwrap()).stderr(Stdio::null());
    let _watch = Gone(watch.spawn().unwrap());
    far(&["kv", "put", "seen", "by the watch"]).exits(0);
    for (words, exit) in [
        (&["secret", "ls", "--json"][..], 0),
        (&["secret", "inspect", "text"][..], 0),
        (&["secret", "update", "text", "--label-add", "a=b"][..], 0),
        (&["secret", "rm", "text"][..], 1),
        (&["assign", "ls", "w1", "--json"][..], 0),
        (&["node", "ls", "--json"][..], 0),
        (&["keyring", "rotate"][..], 0),
        (&["keyring", "show", "--json"][..], 0),
        (&["policy", "show", "--json"][..], 0),
        (&["status", "--json"][..], 0),
    ] {
        let said = far(words).exits(exit);
        answers.insert(words.join(" "), [said.stdout.as_bytes(), said.stderr.as_bytes()].concat());
    }
    for (words, exit) in [
        (&["secret", "create", "text", "-"][..], 1),
        (&["secret", "create", "again", "-"][..], 0),
        (&["secret", "rotate", "again", "-"][..], 0),
        (&["secret", "inspect", "again", "--reveal"][..], 0),
    ] {
        let local = [words, &["--data-dir", nodes[1].dir()]].concat();
        answers.insert(format!("stderr of {}", words.join(" ")), told_on_stderr(&local, &canaries[1].data, exit));
    }
    on(&nodes[1], &["key", "rotate"]).exits(0);
    let backup = directory("backup");
    let key = quorate(&["backup", "new-key", "--json"]).exits(0).json();
    let recipient = key["recipient"].as_str().unwrap();
    far(&["backup", backup.to_str().unwrap(), "--recipient", recipient]).exits(0);
    // A manager that was away gets what it missed, and one is killed
    nodes[2].kill();
    // (Its log begins anew with it.)
    let earlier = nodes[2].log().into_bytes();
    for n in 0..20 {
        far(&["kv", "put", "more", &n.to_string()]).exits(0);
    }
    nodes[2].run_with(&trace);
    eventually("the keyring has come to rest", || {
        let keyring = far(&["keyring", "show", "--json"]).exits(0).json();
        (keyring["due"] == false && keyring["keys"].as_array()?.len() == 1).then_some(())
    });
    eventually("the watch has told", || holds(&std::fs::read(&watched).unwrap(), b"by the watch").then_some(()));
    for path in ["/metrics", "/readyz?verbose", "/livez"] {
        answers.insert(path.to_owned(), page(http, path));
    }
    answers.insert("what another node's watch was told".into(), std::fs::read(&watched).unwrap());
    for node in &nodes {
        processes.insert(node.dir().to_owned(), shown_of(node.pid()));
    }
    // What a program that breaks would print
    let secret = SecretBytes::from(canaries[1].data.clone());
    let panicked = std::panic::catch_unwind(|| {
        assert!(secret.expose().is_empty(), "{secret:?}");
    });
    let message = panicked.unwrap_err().downcast_ref::<String>().unwrap().clone();
    answers.insert("a panic".into(), message.into_bytes());

    // (What is no secret is found where it is read in the same ways: a page, the data of a config, a message that prints it, a process
    // that a word was given to.)
    assert!(holds(&page(http, "/metrics"), b"quorate_"));
    let open = directory("in-the-open");
    std::fs::write(&open, &canaries[1].data).unwrap();
    far(&["config", "create", "in-the-open", open.to_str().unwrap()]).exits(0);
    let shown = far(&["config", "inspect", "in-the-open"]).exits(0);
    let shown = BTreeMap::from([("a config".to_owned(), [shown.stdout.as_bytes(), shown.stderr.as_bytes()].concat())]);
    assert!(found(&canaries, &shown).contains(&"a config: as it is".to_owned()), "the control is not found");
    let printed = std::panic::catch_unwind(|| assert!(secret.expose().is_empty(), "{:?}", secret.expose()));
    let printed = printed.unwrap_err().downcast_ref::<String>().unwrap().clone().into_bytes();
    let printed = BTreeMap::from([("a panic".to_owned(), printed)]);
    assert!(found(&canaries, &printed).contains(&"a panic: listed".to_owned()), "the control is not found");
    let word = String::from_utf8(canaries[0].forms[1].1.clone()).unwrap();
    let given = Gone(Command::new("sh").args(["-c", "sleep 600; :"]).env("CANARY", &word).spawn().unwrap());
    let given = eventually("the control runs", || {
        let shown = shown_of(given.0.id());
        holds(&shown, b"CANARY=").then(|| BTreeMap::from([("a process".to_owned(), shown)]))
    });
    assert!(found(&canaries, &given).contains(&"a process: hex".to_owned()), "the control is not found");

    // Then they are in none of it
    let planted: Vec<u8> = canaries.iter().flat_map(Canary::planted).collect();
    let and_planted = |places: &BTreeMap<String, Vec<u8>>| -> BTreeMap<String, Vec<u8>> {
        places.iter().map(|(place, bytes)| (place.clone(), [bytes.as_slice(), &planted].concat())).collect()
    };
    searched("answers", &canaries, &answers, &and_planted(&answers));
    let mut said = logs(&nodes);
    said.insert("the earlier log of n3".into(), earlier);
    for (of, log) in &said {
        assert!(holds(log, b"TRACE"), "{of} traces nothing");
    }
    let heard = |wires: &[Tap]| -> BTreeMap<String, Vec<u8>> {
        wires.iter().map(|wire| (format!("the wire at {}", wire.front), wire.heard())).collect()
    };
    let datagrams = heard(&wires);
    assert!(datagrams.values().all(|heard| heard.len() > 20_000));
    // (What comes to nobody's port is noted all the same.)
    for wire in &wires {
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&planted, wire.front).unwrap();
    }
    eventually("the datagrams are noted", || {
        heard(&wires).values().all(|heard| canaries.iter().all(|canary| holds(heard, &canary.data))).then_some(())
    });
    searched("datagrams", &canaries, &datagrams, &heard(&wires));
    let shell = format!("sleep 600; : {}", String::from_utf8_lossy(&canaries[1].forms[1].1));
    let sleeper = Gone(Command::new("sh").args(["-c", &shell]).env("CANARY", "x").spawn().unwrap());
    eventually("the control is in the process list", || {
        std::fs::read(format!("/proc/{}/cmdline", sleeper.0.id()))
            .is_ok_and(|shown| holds(&shown, &canaries[1].forms[1].1))
            .then_some(())
    });
    searched("process lists and environments", &canaries, &processes, &and_planted(&processes));
    // On the disks while all run, and after they were killed
    let directories: Vec<PathBuf> = nodes.iter().map(|node| PathBuf::from(node.dir())).collect();
    let running = all_files(&directories);
    for node in &mut nodes {
        node.kill();
    }
    // What they say in the end is among it; and what is written into them is read.
    for (of, log) in logs(&nodes) {
        said.insert(format!("{of}, to its end"), log);
    }
    for node in &nodes {
        let mut log = std::fs::OpenOptions::new().append(true).open(node.directory.with_extension("log")).unwrap();
        log.write_all(&Canary::printable(&canaries)).unwrap();
    }
    let printable = Canary::only_printable(&canaries);
    searched("logs at trace", &printable, &said, &logs(&nodes));
    searched("logs at trace, in any form", &canaries, &said, &and_planted(&said));
    let mut stopped = all_files(&directories);
    stopped.insert("the backup".into(), std::fs::read(&backup).unwrap());
    for directory in &directories {
        std::fs::write(directory.join("control"), &planted).unwrap();
    }
    let control = all_files(&directories).into_iter().filter(|(path, _)| path.ends_with("control")).collect();
    searched("files of a running cluster", &canaries, &running, &control);
    searched("files of a killed cluster, and a backup", &canaries, &stopped, &control);
}

#[test]
fn a_process_that_breaks_leaves_no_core_dump() {
    let place = tempfile::tempdir().unwrap();
    let node = Node::init(place.path(), "n1");
    // Given processes that may write cores of any size, as far as the system lets them
    let raised = |program: &str, words: &[&str], directory: &Path| {
        let shell = "ulimit -c \"$(ulimit -H -c)\"; exec \"$0\" \"$@\"";
        let mut command = Command::new("sh");
        command.args([&["-c", shell, program], words].concat()).current_dir(directory).stdin(Stdio::null());
        Gone(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    };
    let canary = Canary::new(Key::generate().unwrap().to_text()[6..54].as_bytes().to_vec());
    let word = String::from_utf8(canary.data.clone()).unwrap();
    let (control, cores) = (place.path().join("control"), place.path().join("cores"));
    for directory in [&control, &cores] {
        std::fs::create_dir(directory).unwrap();
    }
    // One of which holds a word, and the other has it as a secret
    let assigned = format!("CANARY={word}");
    let mut sleeper = raised("env", &[&assigned[..], "sleep", "600"], &control);
    let mut running = raised(PROGRAM, &["run", "--data-dir", node.dir()], &cores);
    let mut ready = [0; 6];
    running.0.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready:");
    let words = ["secret", "create", "db", "-", "--data-dir", node.dir()];
    told_on_stderr(&words, &canary.data, 0);
    assert_eq!(on(&node, &["secret", "inspect", "db", "--reveal"]).exits(0).stdout, word);
    let limits = |pid: u32| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        line.split_whitespace().skip(4).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limits(running.0.id()), ["0", "0"]);
    let abort = |child: &mut Child| {
        let sent = Command::new("sh").args(["-c", &format!("kill -ABRT {}", child.id())]).status().unwrap();
        assert!(sent.success());
        child.wait().unwrap()
    };
    eventually("the control is what it is to be", || {
        std::fs::read_to_string(format!("/proc/{}/comm", sleeper.0.id()))
            .is_ok_and(|name| name.trim() == "sleep")
            .then_some(())
    });
    // When both are told to break
    let (broken, control_broken) = (abort(&mut running.0), abort(&mut sleeper.0));
    assert_eq!((broken.signal(), control_broken.signal()), (Some(6), Some(6)));
    // Then the manager has dumped nothing,
    assert!(!broken.core_dumped());
    assert_eq!(std::fs::read_dir(&cores).unwrap().count(), 0);
    // where the control did, and its core holds the word: where this system lets anybody dump into its directory.
    let dumped = all_files(&[control]);
    if dumped.is_empty() {
        println!("SKIP the control: this system writes no core there (dumped: {})", control_broken.core_dumped());
        return;
    }
    let held = found(&[canary], &dumped);
    assert!(
        held.iter().any(|held| held.ends_with(": as it is")),
        "the control's core does not hold its word: {held:?}"
    );
    println!("the control dumped its core, which holds its word");
}
