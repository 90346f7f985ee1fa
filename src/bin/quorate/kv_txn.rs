//! `kv txn`.
//!
//! Owns the small language of conditions and operations. Never retries: the client does. Called by `kv`.

use quorate::{TxnOutcome, compare, operation};
use serde_json::{Value, json};

use crate::args::Global;
use crate::args_kv::Txn;
use crate::failure::Failure;
use crate::kv::entry_json;
use crate::output::{Output, escaped};
use crate::target;

/// What a transaction is made of, line by line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lines {
    conditions: Vec<String>,
    then: Vec<String>,
    or_else: Vec<String>,
}

pub(crate) async fn run(asked: Txn, global: &Global, output: Output) -> Result<(), Failure> {
    let lines = match asked.file {
        Some(file) => sections(&text(&file)?)?,
        None => Lines { conditions: asked.conditions, then: asked.then, or_else: asked.or_else },
    };
    let conditions = parsed(&lines.conditions, condition)?;
    let (then, or_else) = (parsed(&lines.then, operate)?, parsed(&lines.or_else, operate)?);
    let has_else = !or_else.is_empty();
    let mut txn = target::client(global).await?.kv().txn();
    txn = conditions.into_iter().fold(txn, quorate::TxnBuilder::when);
    txn = then.into_iter().fold(txn, quorate::TxnBuilder::then);
    txn = or_else.into_iter().fold(txn, quorate::TxnBuilder::or_else);
    let done = txn.await?;
    if done.succeeded {
        return told(&done, output);
    }
    let what = if has_else { "the --else operations were done" } else { "nothing was done" };
    if has_else && !output.json {
        told(&done, output)?;
    }
    let message = format!("the conditions do not hold: {what}. Revision {}", done.revision);
    Err(Failure::mismatch(message, document(&done)))
}

fn told(done: &TxnOutcome, output: Output) -> Result<(), Failure> {
    if output.json {
        return output.document(&document(done));
    }
    for entry in done.results.iter().flatten() {
        output.line(&format!("{} {}", escaped(&entry.key), escaped(&entry.value)))?;
    }
    output.line(&format!("revision {}", done.revision))
}

fn document(done: &TxnOutcome) -> Value {
    let results: Vec<Vec<Value>> = done
        .results
        .iter()
        .map(|entries| entries.iter().map(|entry| Value::Object(entry_json(entry, true))).collect())
        .collect();
    json!({ "succeeded": done.succeeded, "revision": done.revision, "deleted": done.deleted, "results": results })
}

fn text(file: &str) -> Result<String, Failure> {
    let read =
        if file == "-" { std::io::read_to_string(std::io::stdin().lock()) } else { std::fs::read_to_string(file) };
    read.map_err(|error| Failure::usage(format!("cannot read the transaction from {file}: {error}. Nothing was sent")))
}

fn wrong(line: &str, why: &str) -> Failure {
    Failure::usage(format!("`{line}`: {why}; see `quorate kv txn --help`. Nothing was sent"))
}

fn parsed<T>(lines: &[String], one: impl Fn(&str, &[String]) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    lines.iter().map(|line| one(line, &words(line)?)).collect()
}

/// Lines below `if`, `then` and `else`.
fn sections(text: &str) -> Result<Lines, Failure> {
    let mut lines = Lines::default();
    let mut section: Option<&mut Vec<String>> = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line {
            "if" => section = Some(&mut lines.conditions),
            "then" => section = Some(&mut lines.then),
            "else" => section = Some(&mut lines.or_else),
            other => match &mut section {
                Some(section) => section.push(other.to_owned()),
                None => return Err(wrong(other, "it stands before any of the lines `if`, `then` and `else`")),
            },
        }
    }
    Ok(lines)
}

/// The words of a line, as a shell tells them.
fn words(line: &str) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().push(match characters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(other) => other,
                None => return Err(wrong(line, "it ends with a backslash")),
            }),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(wrong(line, "a quote is not closed"));
    }
    words.extend(word);
    Ok(words)
}

fn condition(line: &str, words: &[String]) -> Result<quorate::Compare, Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (what, key, relation, operand) = match words[..] {
        ["exists", key] => return Ok(compare::exists(key.to_owned())),
        ["absent", key] => return Ok(compare::absent(key.to_owned())),
        [what, key, relation, operand] => (what, key.to_owned(), relation, operand),
        _ => return Err(wrong(line, "a condition is `exists KEY`, `absent KEY` or `PROPERTY KEY = OPERAND`")),
    };
    let compared = if what == "value" {
        compare::value(key, operand.to_owned())
    } else {
        let number = operand.parse().map_err(|_no_number| wrong(line, "it is compared with a number"))?;
        match what {
            "version" => compare::version(key, number),
            "mod" => compare::mod_revision(key, number),
            "create" => compare::create_revision(key, number),
            _ => return Err(wrong(line, "a property is `value`, `version`, `mod` or `create`")),
        }
    };
    match relation {
        "=" | "==" => Ok(compared),
        "!=" => Ok(compare::not_equal(compared)),
        "<" => Ok(compare::less(compared)),
        ">" => Ok(compare::greater(compared)),
        _ => Err(wrong(line, "it is compared by =, !=, < or >")),
    }
}

fn operate(line: &str, words: &[String]) -> Result<quorate::Operation, Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(match words[..] {
        ["put", key, value] => operation::put(key.to_owned(), value.to_owned()),
        ["del", key] => operation::delete(key.to_owned()),
        ["del-prefix", prefix] => operation::delete_prefix(prefix.to_owned()),
        ["get", key] => operation::get(key.to_owned()),
        ["get-prefix", prefix] => operation::prefix(prefix.to_owned()),
        _ => {
            return Err(wrong(
                line,
                "an operation is `put KEY TEXT`, `del KEY`, `del-prefix PREFIX`, `get KEY` or `get-prefix PREFIX`",
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> Vec<String> {
        words(line).unwrap()
    }

    #[test]
    fn words_are_told_as_by_a_shell() {
        assert_eq!(told("put a b"), ["put", "a", "b"]);
        assert_eq!(told("  put\t'a b'  \"c \\\" d\" "), ["put", "a b", "c \" d"]);
        assert_eq!(told(r"put a \n\t\\"), ["put", "a", "\n\t\\"]);
        assert_eq!(told(r"put '\n' ''"), ["put", r"\n", ""]);
        assert_eq!(told("a'b'c"), ["abc"]);
        assert_eq!(told(""), Vec::<String>::new());
        for wrong in ["put 'a", "put \"a", "put a\\"] {
            let failure = words(wrong).unwrap_err();
            assert!(failure.exit == 2 && failure.message().contains("Nothing was sent"), "{}", failure.message());
        }
    }

    #[test]
    fn a_file_has_its_lines_below_if_then_and_else() {
        let lines = sections("# comment\nif\nabsent a\n\nthen\n put a b\n put c d\nelse\nget a\n").unwrap();
        assert_eq!(lines.conditions, ["absent a"]);
        assert_eq!(lines.then, ["put a b", "put c d"]);
        assert_eq!(lines.or_else, ["get a"]);
        assert!(sections("put a b").unwrap_err().message().contains("before any of the lines"));
    }

    #[test]
    fn what_is_no_condition_or_operation_is_usage() {
        let condition = |line: &str| condition(line, &told(line));
        for right in
            ["exists a", "absent a", "value a = x", "version a > 1", "mod a != 7", "create a < 9", "mod a == 0"]
        {
            assert!(condition(right).is_ok(), "{right}");
        }
        for wrong in ["", "exists", "value a x", "version a = x", "mod a ~ 3", "lost a = 3", "mod a = 3 4"] {
            assert!(condition(wrong).is_err_and(|failure| failure.exit == 2), "{wrong}");
        }
        let operate = |line: &str| operate(line, &told(line));
        for right in ["put a b", "del a", "del-prefix a/", "get a", "get-prefix a/"] {
            assert!(operate(right).is_ok(), "{right}");
        }
        for wrong in ["", "put a", "put a b c", "del", "drop a"] {
            assert!(operate(wrong).is_err_and(|failure| failure.exit == 2), "{wrong}");
        }
    }
}
