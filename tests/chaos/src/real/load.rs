//! Clients that never stop: writers, registers, counters, readers, watchers.
//!
//! Owns the requests. Each client has connections of its own, asks one thing at a time, and stamps the call before it is sent
//! and the return after it came. Every request has a deadline, and one that overstays it is a violation of its own. Never
//! decides what must hold at the end: the checkers do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate::{Client, Entry, Error, Watched, compare, operation};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::history::{Action, Answer, Operation, Outcome};

use super::fleet::Fleet;
use super::recorder::Recorder;
use super::{Done, Trouble, violation};

/// Common beginning of all keys that are written once.
pub(super) const KEYS: &str = "k/";
/// Registers that clients contend for.
const REGISTERS: &str = "r/";
pub(super) const COUNTER: &str = "counter";
/// What a request may take beyond its deadline before it counts as hung.
const HUNG: Duration = Duration::from_secs(30);
/// Short deadlines give up in the middle of an election: what they were told must be true all the same.
const DEADLINES: [u64; 4] = [10_000, 10_000, 4_000, 800];
/// Registers at a time, and operations before one is retired: the search for an order takes long keys badly.
const AT_A_TIME: u64 = 5;
const RETIRED_AFTER: u64 = 300;

/// Who does what, and how fast.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mix {
    pub(super) writers: usize,
    pub(super) registers: usize,
    pub(super) counters: usize,
    pub(super) readers: usize,
    pub(super) watchers: usize,
    /// Between two requests of one client.
    pub(super) pace: Duration,
    /// Bytes of a value beyond what makes it unique.
    pub(super) padding: usize,
    /// Milliseconds; none is a mixture.
    pub(super) deadline: Option<u64>,
}

impl Mix {
    pub(super) const COMMON: Self = Self {
        writers: 8,
        registers: 6,
        counters: 2,
        readers: 3,
        watchers: 2,
        pace: Duration::from_millis(5),
        padding: 64,
        deadline: None,
    };
}

/// What a watcher was told: the revision of each unique key.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) writes: std::collections::BTreeMap<String, u64>,
    pub(super) newest: u64,
    /// A recovery ended the history that it followed: what was in between is not known to it.
    pub(super) gap: bool,
}

/// Everything that asks.
#[derive(Debug)]
pub(super) struct Load {
    tasks: JoinSet<Done>,
    stop: watch::Sender<bool>,
    watching: JoinSet<()>,
    pub(super) told: Vec<Arc<Mutex<Told>>>,
}

/// One client.
struct Asker {
    client: Client,
    process: u64,
    /// The manager it knows first.
    node: u64,
    recorder: Recorder,
    deadline: Duration,
    dice: fastrand::Rng,
    noise: String,
    padding: usize,
    pace: Duration,
    stop: watch::Receiver<bool>,
}

impl Load {
    /// Starts all of them, spread over these managers.
    pub(super) async fn start(fleet: &Fleet, recorder: &Recorder, mix: Mix, seed: u64) -> Done<Self> {
        let managers = fleet.running();
        let (stop, stopped) = watch::channel(false);
        let mut load = Self { tasks: JoinSet::new(), stop, watching: JoinSet::new(), told: Vec::new() };
        let turns = Arc::new(AtomicU64::new(0));
        let kinds = [(mix.writers, 0), (mix.registers, 1), (mix.counters, 2), (mix.readers, 3)];
        let kinds = kinds.into_iter().flat_map(|(count, kind)| std::iter::repeat_n(kind, count));
        for (process, kind) in (0_u64..).zip(kinds) {
            let turn = usize::try_from(process).unwrap_or(0) % managers.len().max(1);
            let mut known = managers.clone();
            known.rotate_left(turn);
            // A reader asks one manager only: what a deposed or lagging one says must be true, too.
            let known = if kind == 3 { known.first().copied().into_iter().collect() } else { known };
            let node = known.first().map_or(0, |node| *node as u64);
            let drawn = DEADLINES[usize::try_from(process).unwrap_or(0) % DEADLINES.len()];
            let deadline = Duration::from_millis(mix.deadline.unwrap_or(drawn));
            let mut dice = fastrand::Rng::with_seed(seed ^ (process << 32) ^ 0x6c6f_6164);
            let asker = Asker {
                client: fleet.client(&known).await?.with_deadline(deadline),
                process,
                node,
                recorder: recorder.clone(),
                deadline,
                noise: std::iter::repeat_with(|| dice.alphanumeric()).take(mix.padding.clamp(1, 1 << 16)).collect(),
                dice,
                padding: mix.padding,
                pace: mix.pace,
                stop: stopped.clone(),
            };
            let turns = Arc::clone(&turns);
            match kind {
                0 => load.tasks.spawn(asker.write()),
                1 => load.tasks.spawn(asker.contend(turns)),
                2 => load.tasks.spawn(asker.count()),
                _ => load.tasks.spawn(asker.read()),
            };
        }
        for turn in 0..mix.watchers {
            let mut known = managers.clone();
            known.rotate_left(turn % managers.len().max(1));
            let (client, told) = (fleet.client(&known).await?, Arc::<Mutex<Told>>::default());
            load.told.push(Arc::clone(&told));
            load.watching.spawn(follow(client, told, recorder.clone()));
        }
        Ok(load)
    }

    /// Lets every client finish what it is at. Watchers go on until they are ended.
    pub(super) async fn stop(&mut self) -> Done {
        // (Nobody listens when all have ended already.)
        let _nobody = self.stop.send(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(|why| Trouble::Harness(format!("a client failed: {why}")))??;
        }
        Ok(())
    }

    pub(super) async fn end_watches(&mut self) {
        self.watching.shutdown().await;
    }
}

/// Digits at the end of a value, by which the rest is known to be whole.
const CHECK: usize = 16;

fn check_of(text: &[u8]) -> String {
    blake3::hash(text).to_hex().chars().take(CHECK).collect()
}

/// The first word of a value, which makes it unique. What comes after it takes room, and ends with the check of all before it: who
/// reads anything else than what was written has found a violation.
pub(super) fn word(value: &[u8]) -> Done<String> {
    let (text, check) = value.split_at(value.len().saturating_sub(CHECK));
    let first = text.split(|byte| *byte == b' ').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first).into_owned();
    if check == check_of(text).as_bytes() {
        return Ok(first);
    }
    violation(format!("a value of {} bytes that begins with `{first}` is not what was written", value.len()))
}

/// The counter's value.
pub(super) fn number_in(entry: &Entry) -> Done<u64> {
    let text = String::from_utf8_lossy(&entry.value).into_owned();
    text.parse().or_else(|_no_number| violation(format!("the counter holds what nobody wrote: {text}")))
}

fn outcome_of(error: &Error) -> Outcome {
    match error.outcome() {
        quorate::Outcome::NotDone => Outcome::Fail,
        quorate::Outcome::Unknown => Outcome::Unknown,
    }
}

impl Asker {
    async fn in_time<T>(
        &self,
        what: &str,
        request: impl IntoFuture<Output = quorate::Result<T>>,
    ) -> Done<quorate::Result<T>> {
        match tokio::time::timeout(self.deadline + HUNG, request).await {
            Ok(answer) => Ok(answer),
            Err(_late) => {
                let why = format!("{what} with a deadline of {:?} hung for {HUNG:?} beyond it", self.deadline);
                let trouble = self.recorder.too_late(why);
                if let Trouble::Violation(why) = &trouble {
                    self.recorder.violation(why.clone());
                }
                Err(trouble)
            }
        }
    }

    fn ended(&self) -> bool {
        *self.stop.borrow()
    }

    /// A value that begins with this word and ends with its check. What lies between cannot be pressed together, and costs little
    /// to make.
    fn value(&mut self, word: &str) -> String {
        let from = self.dice.usize(..self.noise.len());
        let noise = self.noise.chars().cycle().skip(from).take(self.padding);
        let mut value: String = word.chars().chain([' ']).chain(noise).collect();
        let check = check_of(value.as_bytes());
        value.push_str(&check);
        value
    }

    /// The word of what was read. Anything else is told at once: whoever reads it may read it again as it should be.
    fn word_of(&self, entry: &Entry) -> Done<String> {
        let word = word(&entry.value);
        if let Err(Trouble::Violation(why)) = &word {
            self.recorder.violation(why.clone());
        }
        word
    }

    async fn record(&self, action: Action, key: &str, call_ns: u64, done: (Answer, Option<u64>, Outcome)) {
        let (result, revision, outcome) = done;
        let return_ns = Some(self.recorder.clock.now());
        let (process, node, key) = (self.process, Some(self.node), key.to_owned());
        self.recorder
            .record(Operation { process, action, key, result, revision, node, call_ns, return_ns, outcome })
            .await;
    }

    async fn put(&mut self, key: &str, word: String) -> Done<Outcome> {
        let value = self.value(&word);
        let call = self.recorder.clock.now();
        let answer = self.in_time("a put", self.client.kv().put(key.to_owned(), value)).await?;
        let (revision, outcome) = match &answer {
            Ok(done) => (Some(done.revision), Outcome::Ok),
            Err(error) => (None, outcome_of(error)),
        };
        self.record(Action::Put(word), key, call, (Answer::Value(None), revision, outcome)).await;
        Ok(outcome)
    }

    /// The value, where the read was answered.
    async fn get(&self, key: &str) -> Done<Option<Option<String>>> {
        let call = self.recorder.clock.now();
        let answer = self.in_time("a get", self.client.kv().one(key.to_owned())).await?;
        match answer {
            Ok(page) => {
                let value = page.entries.first().map(|entry| self.word_of(entry)).transpose()?;
                self.record(Action::Get, key, call, (Answer::Value(value.clone()), Some(page.revision), Outcome::Ok))
                    .await;
                Ok(Some(value))
            }
            // A read that was not answered says nothing, whichever way it failed.
            Err(_unanswered) => {
                self.record(Action::Get, key, call, (Answer::Value(None), None, Outcome::Fail)).await;
                Ok(None)
            }
        }
    }

    /// Swaps the value that was read, whole as it is stored.
    async fn cas(&mut self, key: &str, from: Option<(String, u64)>, to: String) -> Done {
        let value = self.value(&to);
        let condition = match &from {
            // By the revision that holds this very value: values are unique, so it is the same question.
            Some((_, revision)) => compare::mod_revision(key.to_owned(), *revision),
            None => compare::absent(key.to_owned()),
        };
        let call = self.recorder.clock.now();
        let swap = self.client.kv().txn().when(condition).then(operation::put(key.to_owned(), value));
        let answer = self.in_time("a compare-and-set", swap).await?;
        let action = Action::Cas(from.map(|(word, _)| word), to);
        let done = match &answer {
            Ok(done) => (Answer::Swapped(done.succeeded), Some(done.revision), Outcome::Ok),
            Err(error) => (Answer::Value(None), None, outcome_of(error)),
        };
        self.record(action, key, call, done).await;
        Ok(())
    }

    /// Keys that nobody else writes, each once; and now and then a look at one that is there.
    async fn write(mut self) -> Done {
        let mut sequence = 0_u64;
        while !self.ended() {
            sequence += 1;
            let key = format!("{KEYS}{:03}/{sequence:07}", self.process);
            if self.put(&key, format!("{}-{sequence}", self.process)).await? == Outcome::Ok {
                self.recorder.key_is_there(key);
            }
            if sequence.is_multiple_of(4)
                && let Some(key) = self.recorder.newest_key()
                && self.get(&key).await? == Some(None)
            {
                let why = format!("stale read: {key} was not there, and was acknowledged before the read began");
                self.recorder.violation(why);
            }
            tokio::time::sleep(self.pace).await;
        }
        Ok(())
    }

    /// Few keys, many who want them: put, get, compare-and-set, delete.
    async fn contend(mut self, turns: Arc<AtomicU64>) -> Done {
        let mut sequence = 0_u64;
        while !self.ended() {
            sequence += 1;
            let turn = turns.fetch_add(1, Ordering::Relaxed);
            let generation = turn / (RETIRED_AFTER * AT_A_TIME);
            let key = format!("{REGISTERS}{generation}/{}", self.dice.u64(0..AT_A_TIME));
            let new = format!("{}-{sequence}", self.process);
            match self.dice.u8(0..100) {
                0..30 => {
                    self.get(&key).await?;
                }
                30..55 => {
                    self.put(&key, new).await?;
                }
                55..60 => self.delete(&key).await?,
                _ => {
                    let page = self.in_time("a get", self.client.kv().one(key.clone())).await?;
                    if let Ok(page) = page {
                        let from = match page.entries.first() {
                            Some(entry) => Some((self.word_of(entry)?, entry.mod_revision)),
                            None => None,
                        };
                        self.cas(&key, from, new).await?;
                    }
                }
            }
            tokio::time::sleep(self.pace).await;
        }
        Ok(())
    }

    async fn delete(&self, key: &str) -> Done {
        let call = self.recorder.clock.now();
        let answer = self.in_time("a delete", self.client.kv().delete(key.to_owned())).await?;
        let (revision, outcome) = match &answer {
            // One that found nothing changed nothing, and has no revision of its own.
            Ok(done) => ((done.deleted > 0).then_some(done.revision), Outcome::Ok),
            Err(error) => (None, outcome_of(error)),
        };
        self.record(Action::Delete, key, call, (Answer::Value(None), revision, outcome)).await;
        Ok(())
    }

    /// Reads the counter and sets it one higher, if it is still what was read.
    async fn count(self) -> Done {
        let kv = self.client.kv();
        while !self.ended() {
            if let Ok(found) = self.in_time("a get", kv.get(COUNTER)).await? {
                let (old, revision) = match &found {
                    Some(entry) => (number_in(entry)?, entry.mod_revision),
                    None => (0, 0),
                };
                let set = kv.compare_and_set(COUNTER, revision, (old + 1).to_string());
                match self.in_time("a compare-and-set", set).await? {
                    Ok(done) if done.succeeded => self.recorder.counted(old + 1),
                    Ok(_beaten) => {}
                    Err(error) if error.outcome() == quorate::Outcome::Unknown => self.recorder.count_unknown(),
                    Err(_not_done) => {}
                }
            }
            tokio::time::sleep(self.pace).await;
        }
        Ok(())
    }

    /// Linearizable reads of the counter at one manager, never below what was known when the read began.
    async fn read(self) -> Done {
        let kv = self.client.kv();
        let stale = super::run::is_broken("reads");
        while !self.ended() {
            let floor = self.recorder.floor();
            let asked = async {
                if stale {
                    Ok(kv.prefix(COUNTER).serializable().await?.entries.into_iter().next())
                } else {
                    kv.get(COUNTER).await
                }
            };
            if let Ok(found) = self.in_time("a linearizable get", asked).await? {
                let value = found.as_ref().map_or(Ok(0), number_in)?;
                if value < floor {
                    let why = format!(
                        "stale read at manager {}: the counter was {value}, and {floor} was known before",
                        self.node
                    );
                    self.recorder.violation(why);
                }
                self.recorder.told(value);
            }
            tokio::time::sleep(self.pace).await;
        }
        Ok(())
    }
}

/// Follows all unique keys from the beginning, over every fault: in order, each once, none missing.
async fn follow(client: Client, told: Arc<Mutex<Told>>, recorder: Recorder) {
    let mut from = 1;
    loop {
        let watch = client.kv().watch(KEYS).prefix().from_revision(from).await;
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(Error::NewGeneration { kept_revision, .. }) => {
                told.lock().unwrap_or_else(PoisonError::into_inner).gap = true;
                from = from.max(kept_revision + 1);
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            Err(_unavailable) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        loop {
            match watch.next().await {
                Ok(Watched::Changes(changes)) => {
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    if changes.revision <= told.newest {
                        recorder.violation(format!("a watch told revision {} after {}", changes.revision, told.newest));
                    }
                    told.newest = changes.revision;
                    from = changes.revision + 1;
                    for change in changes.changes {
                        let key = String::from_utf8_lossy(&change.key).into_owned();
                        if let Some(before) = told.writes.insert(key.clone(), changes.revision) {
                            let why =
                                format!("a watch told {key} at revision {before} and again at {}", changes.revision);
                            recorder.violation(why);
                        }
                    }
                }
                Ok(Watched::Bookmark(revision)) => from = from.max(revision + 1),
                Ok(_newer_kind) => {}
                Err(Error::NewGeneration { kept_revision, .. }) => {
                    told.lock().unwrap_or_else(PoisonError::into_inner).gap = true;
                    from = from.max(kept_revision + 1);
                    break;
                }
                Err(Error::Compacted { .. }) => {
                    recorder.violation("a watch that follows was told that its revision is compacted");
                    return;
                }
                Err(_cut) => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_whole_is_no_value() {
        let mut value = "7-1 noise".to_owned();
        value.push_str(&check_of(value.as_bytes()));
        assert_eq!(word(value.as_bytes()).ok().as_deref(), Some("7-1"));
        // One bit, an end that is missing, the end of another one, nothing at all
        let mut turned = value.clone().into_bytes();
        turned[5] ^= 1;
        let other = "7-2 noise";
        let mixed = [other.as_bytes(), check_of(b"7-1 noise").as_bytes()].concat();
        for broken in [&turned[..], &value.as_bytes()[..value.len() - 1], &mixed, b""] {
            assert!(matches!(word(broken), Err(Trouble::Violation(_))), "{}", broken.escape_ascii());
        }
    }
}
