//! What `kv import` reads: an export, plain lines, or what `etcdctl get -w json` prints.
//!
//! Owns how an input is understood, and what of it is refused before anything is written. Never talks to a cluster. Called by
//! `import`.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use data_encoding::BASE64;
use quorate::config::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use quorate::status::counted;
use serde::Deserialize;
use serde_json::Value;

use super::export::FORMAT;
use crate::failure::Failure;
use crate::output::preview;

/// One document of the input: a line of an export, or what etcdctl printed.
#[derive(Deserialize)]
struct Document {
    quorate_export: Option<u32>,
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    end: Option<bool>,
    count: Option<u64>,
    /// Why an export ended before its end.
    error: Option<Value>,
    /// Of etcdctl, as the three below.
    header: Option<Value>,
    #[serde(default)]
    kvs: Vec<EtcdEntry>,
    #[serde(default)]
    more: bool,
}

/// Keys and values are base64; an empty value is left out.
#[derive(Deserialize)]
struct EtcdEntry {
    key: String,
    #[serde(default)]
    value: String,
}

/// What was found in the input.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) keys: u64,
    pub(super) empty: u64,
    /// Documents of etcdctl.
    pub(super) etcd: u64,
    /// One of them said that there is more.
    pub(super) more: bool,
    begun: bool,
    ended: bool,
}

/// Gives every key and value of the input to `take`, in their order.
fn read(input: impl Read, mut take: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), Failure>) -> Result<Found, Failure> {
    let mut found = Found::default();
    let mut since_begin = 0_u64;
    let documents = serde_json::Deserializer::from_reader(BufReader::new(input)).into_iter::<Document>();
    for document in documents {
        let document = document.map_err(|error| {
            if error.is_io() {
                return Failure::usage(format!("the input cannot be read: {error}"));
            }
            wrong(format!("it is not what an export or etcdctl writes: {error}"))
        })?;
        let at = found.keys + 1;
        if let Some(format) = document.quorate_export {
            if format != FORMAT {
                return Err(wrong(format!(
                    "it is of format {format}, and this software knows {FORMAT}; use a newer one"
                )));
            }
            (found.begun, found.ended, since_begin) = (true, false, 0);
        } else if document.header.is_some() {
            found.etcd += 1;
            found.more |= document.more;
            for entry in document.kvs {
                let (key, value) = (base64(&entry.key, at, "key")?, base64(&entry.value, at, "value")?);
                found.keys += 1;
                found.empty += u64::from(value.is_empty());
                take(key, value)?;
            }
        } else if let Some(error) = document.error {
            let why = error.get("message").and_then(Value::as_str).unwrap_or("for no reason that it tells");
            return Err(wrong(format!(
                "the export failed after {}: {}",
                counted(since_begin, "key"),
                preview(why.as_bytes(), 200)
            )));
        } else if document.end == Some(true) {
            if document.count != Some(since_begin) {
                let told = document.count.map_or_else(|| "no count".to_owned(), |count| counted(count, "key"));
                return Err(wrong(format!(
                    "its last line says {told}, and there are {}: lines are missing",
                    counted(since_begin, "key")
                )));
            }
            found.ended = true;
        } else {
            let key = either(document.key, document.key_base64, at, "key")?;
            let value = either(document.value, document.value_base64, at, "value")?;
            since_begin += 1;
            found.keys += 1;
            found.empty += u64::from(value.is_empty());
            take(key, value)?;
        }
    }
    if found.begun && !found.ended {
        return Err(wrong(format!(
            "it ends after {} without its last line: the export was cut off",
            counted(found.keys, "key")
        )));
    }
    Ok(found)
}

pub(super) fn wrong(why: String) -> Failure {
    Failure::refused("invalid", format!("the input cannot be imported: {why}"))
}

fn base64(text: &str, at: u64, what: &str) -> Result<Vec<u8>, Failure> {
    BASE64.decode(text.as_bytes()).map_err(|error| wrong(format!("the {what} of entry {at} is no base64: {error}")))
}

fn either(text: Option<String>, encoded: Option<String>, at: u64, what: &str) -> Result<Vec<u8>, Failure> {
    match (text, encoded) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(encoded)) => base64(&encoded, at, what),
        (None, None) => Err(wrong(format!("entry {at} has neither `{what}` nor `{what}_base64`"))),
        (Some(_), Some(_)) => Err(wrong(format!("entry {at} has both `{what}` and `{what}_base64`"))),
    }
}

/// The key as it is to stand in the store, under the prefix; or what the store would refuse, told by the limit's name before
/// anything is written.
pub(super) fn placed(under: &[u8], key: &[u8], value: &[u8]) -> Result<Vec<u8>, String> {
    if key.is_empty() {
        return Err("a key is empty".to_owned());
    }
    let whole = [under, key].concat();
    let over = |what: &str, is: String, limit: &str, max: usize| {
        Err(format!("the {what} of `{}` has {is}, the limit `{limit}` is {max}", preview(&whole, 60)))
    };
    if whole.len() > KEY_BYTES_MAX {
        let with = if under.is_empty() { String::new() } else { format!(" with the {} of --under", under.len()) };
        over("key", format!("{}{with}", counted(whole.len(), "byte")), "KEY_BYTES_MAX", KEY_BYTES_MAX)
    } else if value.len() > VALUE_BYTES_MAX {
        over("value", counted(value.len(), "byte"), "VALUE_BYTES_MAX", VALUE_BYTES_MAX)
    } else {
        Ok(whole)
    }
}

/// The input, which is read twice: stdin is kept in memory for that.
pub(super) enum Source {
    File(PathBuf),
    Memory(Vec<u8>),
}

impl Source {
    pub(super) fn open(from: &str) -> Result<Self, Failure> {
        if from != "-" {
            return Ok(Self::File(from.into()));
        }
        let mut bytes = Vec::new();
        io::stdin()
            .lock()
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::usage(format!("cannot read from stdin: {error}. Nothing was written")))?;
        Ok(Self::Memory(bytes))
    }

    pub(super) fn read(&self, take: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), Failure>) -> Result<Found, Failure> {
        match self {
            Self::File(path) => {
                let file = File::open(path).map_err(|error| {
                    Failure::usage(format!("cannot read {}: {error}. Nothing was written", path.display()))
                })?;
                read(file, take)
            }
            Self::Memory(bytes) => read(&bytes[..], take),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = Vec<(String, String)>;

    fn taken(input: &str) -> (Result<Found, Failure>, Pairs) {
        let mut pairs = Vec::new();
        let found = read(input.as_bytes(), |key, value| {
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            pairs.push((text(key), text(value)));
            Ok(())
        });
        (found, pairs)
    }

    #[test]
    fn an_export_is_read_and_one_that_was_cut_off_is_noticed() {
        let whole = "{\"quorate_export\":1,\"revision\":9,\"prefix\":\"\"}\n{\"key\":\"a\",\"value\":\"1\"}\n\
                     {\"key_base64\":\"Yg==\",\"value_base64\":\"\"}\n{\"end\":true,\"count\":2}\n";
        let (found, pairs) = taken(whole);
        let found = found.unwrap();
        assert_eq!((found.keys, found.empty, found.ended), (2, 1, true));
        assert_eq!(pairs, [("a".into(), "1".into()), ("b".into(), String::new())]);
        // Cut at every line, and in the middle of one
        let lines: Vec<&str> = whole.lines().collect();
        for cut in 1..lines.len() {
            let failure = taken(&lines[..cut].join("\n")).0.unwrap_err();
            assert!(failure.message().contains("cut off"), "{}", failure.message());
        }
        assert!(taken(&whole[..whole.len() - 20]).0.is_err());
        let missing = whole.replace("{\"key\":\"a\",\"value\":\"1\"}\n", "");
        let failure = taken(&missing).0.unwrap_err();
        assert!(failure.message().contains("lines are missing"), "{}", failure.message());
    }

    #[test]
    fn plain_lines_without_head_and_end_are_taken_too() {
        let (found, pairs) = taken("{\"key\":\"a\",\"value\":\"1\"}");
        assert_eq!((found.unwrap().keys, pairs.len()), (1, 1));
        assert_eq!(taken("").0.unwrap().keys, 0);
    }

    #[test]
    fn what_etcdctl_prints_is_read_on_one_line_or_on_many() {
        let one = "{\"header\":{\"revision\":7},\"kvs\":[{\"key\":\"YQ==\",\"mod_revision\":3,\"value\":\"MQ==\"},{\"key\":\"Yg==\"}],\"count\":2}";
        let many = serde_json::to_string_pretty(&serde_json::from_str::<Value>(one).unwrap()).unwrap();
        for input in [one.to_owned(), many, format!("{one}\n")] {
            let (found, pairs) = taken(&input);
            let found = found.unwrap();
            assert_eq!((found.keys, found.empty, found.etcd, found.more), (2, 1, 1, false));
            assert_eq!(pairs, [("a".into(), "1".into()), ("b".into(), String::new())]);
        }
        assert_eq!(
            taken("{\"header\":{},\"more\":true}").0.unwrap(),
            Found { etcd: 1, more: true, ..Found::default() }
        );
    }

    #[test]
    fn what_is_neither_is_refused_with_where() {
        for (input, words) in [
            ("greeting hello", "neither an export"),
            ("{\"key\":\"a\"}", "entry 1 has neither `value`"),
            ("{\"key\":\"a\",\"value\":\"1\"}\n{\"value\":\"1\"}", "entry 2 has neither `key`"),
            ("{\"key\":\"a\",\"key_base64\":\"YQ==\",\"value\":\"\"}", "both"),
            ("{\"key_base64\":\"*\",\"value\":\"\"}", "no base64"),
            ("{\"quorate_export\":2}", "newer"),
            ("{\"key\":\"a\",\"value\":\"1\"}\n{\"error\":{\"message\":\"gone\"}}", "failed after 1 key: gone"),
        ] {
            let failure = taken(input).0.unwrap_err();
            let words = if words.starts_with("neither an") { "not what an export" } else { words };
            assert!(failure.message().contains(words), "{input}: {}", failure.message());
        }
    }

    #[test]
    fn a_limit_is_told_by_its_name_from_both_sides() {
        let (key, value) = (vec![b'k'; KEY_BYTES_MAX], vec![b'v'; VALUE_BYTES_MAX]);
        assert_eq!(placed(b"", &key, &value), Ok(key.clone()));
        assert!(placed(b"", &[&key[..], b"k"].concat(), b"").unwrap_err().contains("KEY_BYTES_MAX"));
        assert!(placed(b"", b"k", &[&value[..], b"v"].concat()).unwrap_err().contains("VALUE_BYTES_MAX"));
        assert!(placed(b"under/", b"", b"").is_err());
        // The prefix counts
        assert_eq!(placed(b"u/", &key[2..], b"").map(|key| key.len()), Ok(KEY_BYTES_MAX));
        let over = placed(b"u/", &key[1..], b"").unwrap_err();
        assert!(over.contains("4097 bytes with the 2 of --under") && over.contains("KEY_BYTES_MAX"), "{over}");
    }
}
