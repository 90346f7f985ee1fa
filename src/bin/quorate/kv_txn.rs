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
    conditions: Vec<Line>,
    then: Vec<Line>,
    or_else: Vec<Line>,
}

/// One condition or operation, and where it stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// `line 3`, `the 2nd --if`.
    at: String,
    text: String,
}

/// A word and the column that it begins in, from 1.
type Word = (usize, String);

impl Line {
    /// From options of the command line.
    fn given(option: &str, texts: Vec<String>) -> Vec<Self> {
        let one = |(number, text)| Self { at: format!("--{option} number {}", number + 1), text };
        texts.into_iter().enumerate().map(one).collect()
    }

    /// What is wrong in a column of it, with the form that would be right.
    fn wrong(&self, column: usize, why: &str) -> Failure {
        let Self { at, text } = self;
        Failure::usage(format!("{at}, column {column}: {why}: `{text}`; see `quorate kv txn --help`. Nothing was sent"))
    }

    /// The column behind its last word.
    fn end(&self) -> usize {
        self.text.trim_end().chars().count() + 1
    }
}

pub(crate) async fn run(asked: Txn, global: &Global, output: Output) -> Result<(), Failure> {
    let lines = match asked.file {
        Some(file) => sections(&text(&file)?)?,
        None => Lines {
            conditions: Line::given("if", asked.conditions),
            then: Line::given("then", asked.then),
            or_else: Line::given("else", asked.or_else),
        },
    };
    let conditions = parsed(&lines.conditions, condition)?;
    let (then, or_else) = (parsed(&lines.then, operate)?, parsed(&lines.or_else, operate)?);
    let otherwise = Otherwise::of(&or_else);
    let mut txn = target::client(global).await?.kv().txn();
    txn = conditions.into_iter().fold(txn, quorate::TxnBuilder::when);
    txn = then.into_iter().map(|step| step.operation).fold(txn, quorate::TxnBuilder::then);
    txn = or_else.into_iter().map(|step| step.operation).fold(txn, quorate::TxnBuilder::or_else);
    let done = txn.await?;
    if done.succeeded {
        return told(&done, output);
    }
    if otherwise != Otherwise::Nothing && !output.json {
        told(&done, output)?;
    }
    Err(otherwise.failure(&done))
}

/// An operation, and whether it writes.
#[derive(Debug)]
struct Step {
    operation: quorate::Operation,
    writes: bool,
}

/// What is done when the conditions do not hold. The exit code says that they did not, whatever that is; the outcome says whether
/// it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Otherwise {
    Nothing,
    Reads,
    Writes,
}

impl Otherwise {
    fn of(or_else: &[Step]) -> Self {
        match or_else {
            [] => Self::Nothing,
            steps if steps.iter().any(|step| step.writes) => Self::Writes,
            _ => Self::Reads,
        }
    }

    fn failure(self, done: &TxnOutcome) -> Failure {
        let what = match self {
            Self::Nothing => "nothing was done",
            Self::Reads => "the --else operations were done, which only read",
            Self::Writes => "the --else operations were done",
        };
        let message = format!("the conditions do not hold: {what}. Revision {}", done.revision);
        Failure::mismatch(message, document(done), self == Self::Writes)
    }
}

fn told(done: &TxnOutcome, output: Output) -> Result<(), Failure> {
    if output.json {
        return output.document(&document(done));
    }
    if done.more {
        output.note("there is more than one answer has room for (4 MiB): read the rest with `quorate kv get` and `quorate kv ls`");
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
    json!({
        "succeeded": done.succeeded, "revision": done.revision, "deleted": done.deleted, "results": results, "more": done.more,
    })
}

fn text(file: &str) -> Result<String, Failure> {
    let read =
        if file == "-" { std::io::read_to_string(std::io::stdin().lock()) } else { std::fs::read_to_string(file) };
    read.map_err(|error| Failure::usage(format!("cannot read the transaction from {file}: {error}. Nothing was sent")))
}

fn parsed<T>(lines: &[Line], one: impl Fn(&Line, &[Word]) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    lines.iter().map(|line| one(line, &words(line)?)).collect()
}

/// Lines below `if`, `then` and `else`.
fn sections(text: &str) -> Result<Lines, Failure> {
    let mut lines = Lines::default();
    let mut section: Option<&mut Vec<Line>> = None;
    for (number, text) in text.lines().enumerate() {
        let line = Line { at: format!("line {}", number + 1), text: text.to_owned() };
        match text.trim() {
            "if" => section = Some(&mut lines.conditions),
            "then" => section = Some(&mut lines.then),
            "else" => section = Some(&mut lines.or_else),
            other if other.is_empty() || other.starts_with('#') => {}
            _ => match &mut section {
                Some(section) => section.push(line),
                None => {
                    let column = text.chars().take_while(|c| c.is_whitespace()).count() + 1;
                    let why =
                        "it stands before any of the lines `if`, `then` and `else`, one of which has to say what it is";
                    return Err(line.wrong(column, why));
                }
            },
        }
    }
    Ok(lines)
}

/// The words of a line, as a shell tells them.
fn words(line: &Line) -> Result<Vec<Word>, Failure> {
    let mut words: Vec<Word> = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut characters = line.text.chars().zip(1..);
    while let Some((c, column)) = characters.next() {
        match (quote, c) {
            (Some((opened, _)), c) if c == opened => quote = None,
            (None, '\'' | '"') => {
                quote = Some((c, column));
                begun(&mut word, column);
            }
            (None | Some(('"', _)), '\\') => begun(&mut word, column).push(match characters.next() {
                Some(('n', _)) => '\n',
                Some(('t', _)) => '\t',
                Some((other, _)) => other,
                None => {
                    let why = "a backslash is the last of it; write \\\\ for one that is meant";
                    return Err(line.wrong(column, why));
                }
            }),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => begun(&mut word, column).push(c),
        }
    }
    if let Some((_, column)) = quote {
        return Err(line.wrong(column, "the quote that begins there is not closed"));
    }
    words.extend(word);
    Ok(words)
}

/// The word that is being read, which begins here unless it has.
fn begun(word: &mut Option<Word>, column: usize) -> &mut String {
    &mut word.get_or_insert_with(|| (column, String::new())).1
}

fn condition(line: &Line, words: &[Word]) -> Result<quorate::Compare, Failure> {
    const FORM: &str = "a condition is `exists KEY`, `absent KEY` or `PROPERTY KEY = OPERAND`";
    let at = |word: usize| words.get(word).map_or_else(|| line.end(), |(column, _)| *column);
    let texts: Vec<&str> = words.iter().map(|(_, text)| text.as_str()).collect();
    let (what, key, relation, operand) = match texts[..] {
        ["exists", key] => return Ok(compare::exists(key.to_owned())),
        ["absent", key] => return Ok(compare::absent(key.to_owned())),
        ["exists" | "absent", ..] => return Err(line.wrong(at(2), FORM)),
        [what, key, relation, operand] => (what, key.to_owned(), relation, operand),
        _ => return Err(line.wrong(at(4), FORM)),
    };
    let compared = if what == "value" {
        compare::value(key, operand.to_owned())
    } else {
        let number = || {
            let why = format!("`{what}` is compared with a number, as in `{what} KEY = 3`");
            operand.parse().map_err(|_no_number| line.wrong(at(3), &why))
        };
        match what {
            "version" => compare::version(key, number()?),
            "mod" => compare::mod_revision(key, number()?),
            "create" => compare::create_revision(key, number()?),
            _ => {
                let why = "a property is `value`, `version`, `mod` or `create`, as in `version KEY > 1`";
                return Err(line.wrong(at(0), why));
            }
        }
    };
    match relation {
        "=" | "==" => Ok(compared),
        "!=" => Ok(compare::not_equal(compared)),
        "<" => Ok(compare::less(compared)),
        ">" => Ok(compare::greater(compared)),
        _ => Err(line.wrong(at(2), "it is compared by =, !=, < or >, as in `mod KEY != 7`")),
    }
}

fn operate(line: &Line, words: &[Word]) -> Result<Step, Failure> {
    let at = |word: usize| words.get(word).map_or_else(|| line.end(), |(column, _)| *column);
    let texts: Vec<&str> = words.iter().map(|(_, text)| text.as_str()).collect();
    let (writes, reads) =
        (|operation| Ok(Step { operation, writes: true }), |operation| Ok(Step { operation, writes: false }));
    let (column, form) = match texts[..] {
        ["put", key, value] => return writes(operation::put(key.to_owned(), value.to_owned())),
        ["del", key] => return writes(operation::delete(key.to_owned())),
        ["del-prefix", prefix] => return writes(operation::delete_prefix(prefix.to_owned())),
        ["get", key] => return reads(operation::get(key.to_owned())),
        ["get-prefix", prefix] => return reads(operation::prefix(prefix.to_owned())),
        ["put", ..] => (at(3), "a put is `put KEY TEXT`, with quotes around a text of several words"),
        ["del", ..] => (at(2), "a delete is `del KEY`"),
        ["del-prefix", ..] => (at(2), "it is `del-prefix PREFIX`"),
        ["get", ..] => (at(2), "a get is `get KEY`"),
        ["get-prefix", ..] => (at(2), "it is `get-prefix PREFIX`"),
        _ => {
            (at(0), "an operation is `put KEY TEXT`, `del KEY`, `del-prefix PREFIX`, `get KEY` or `get-prefix PREFIX`")
        }
    };
    Err(line.wrong(column, form))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { at: "line 3".into(), text: text.into() }
    }

    fn told(text: &str) -> Vec<String> {
        words(&line(text)).unwrap().into_iter().map(|(_, word)| word).collect()
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.trim()).collect()
    }

    #[test]
    fn words_are_told_as_by_a_shell() {
        assert_eq!(told("put a b"), ["put", "a", "b"]);
        assert_eq!(told("  put\t'a b'  \"c \\\" d\" "), ["put", "a b", "c \" d"]);
        assert_eq!(told(r"put a \n\t\\"), ["put", "a", "\n\t\\"]);
        assert_eq!(told(r"put '\n' ''"), ["put", r"\n", ""]);
        assert_eq!(told("a'b'c"), ["abc"]);
        assert_eq!(told(""), Vec::<String>::new());
        for (wrong, column) in [("put 'a", 5), ("put \"a", 5), ("put a\\", 6)] {
            let failure = words(&line(wrong)).unwrap_err();
            assert!(failure.exit == 2 && failure.message().contains("Nothing was sent"), "{}", failure.message());
            let place = format!("line 3, column {column}: ");
            assert!(failure.message().starts_with(&place), "{}", failure.message());
        }
    }

    #[test]
    fn a_file_has_its_lines_below_if_then_and_else() {
        let lines = sections("# comment\nif\nabsent a\n\nthen\n put a b\n put c d\nelse\nget a\n").unwrap();
        assert_eq!(texts(&lines.conditions), ["absent a"]);
        assert_eq!(texts(&lines.then), ["put a b", "put c d"]);
        assert_eq!(texts(&lines.or_else), ["get a"]);
        assert_eq!(lines.then[1].at, "line 7");
        let failure = sections("\n  put a b").unwrap_err();
        assert!(failure.message().starts_with("line 2, column 3: it stands before any of the lines"));
    }

    #[test]
    fn the_outcome_says_whether_what_is_done_otherwise_writes() {
        let otherwise = |texts: &[&str]| {
            let lines: Vec<Line> = texts.iter().map(|text| line(text)).collect();
            let otherwise = Otherwise::of(&parsed(&lines, operate).unwrap());
            let mut done = TxnOutcome::default();
            done.revision = 7;
            let failure = otherwise.failure(&done);
            (failure.exit, failure.json()["error"]["outcome"].as_str().map(str::to_owned), failure.message().to_owned())
        };
        for (texts, outcome, words) in [
            (&[][..], "not_done", "nothing was done"),
            (&["get a", "get-prefix b"], "not_done", "which only read"),
            (&["get a", "put b c"], "done", "operations were done. Revision 7"),
            (&["del a"], "done", "operations were done. Revision 7"),
            (&["del-prefix a/"], "done", "operations were done. Revision 7"),
        ] {
            let (exit, told, message) = otherwise(texts);
            assert_eq!((exit, told.as_deref()), (1, Some(outcome)), "{texts:?}");
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn what_is_no_condition_or_operation_is_usage() {
        let condition = |text: &str| condition(&line(text), &words(&line(text)).unwrap());
        for right in
            ["exists a", "absent a", "value a = x", "version a > 1", "mod a != 7", "create a < 9", "mod a == 0"]
        {
            assert!(condition(right).is_ok(), "{right}");
        }
        // Each with the column that has to be another, and what would be right.
        let wrong = [
            ("", 1, "exists KEY"),
            ("exists", 7, "exists KEY"),
            ("exists a b", 10, "exists KEY"),
            ("value a x", 10, "PROPERTY KEY = OPERAND"),
            ("version a = x", 13, "version KEY = 3"),
            ("mod a ~ 3", 7, "=, !=, < or >"),
            ("  lost a = 3", 3, "`version`"),
            ("mod a = 3 4", 11, "PROPERTY KEY = OPERAND"),
        ];
        let told = |failure: Failure, text: &str, column: usize, form: &str| {
            let message = failure.message();
            assert!(failure.exit == 2 && message.contains(form), "{text}: {message}");
            assert!(message.starts_with(&format!("line 3, column {column}: ")), "{text}: {message}");
        };
        for (text, column, form) in wrong {
            told(condition(text).unwrap_err(), text, column, form);
        }
        let operate = |text: &str| operate(&line(text), &words(&line(text)).unwrap());
        for right in ["put a b", "del a", "del-prefix a/", "get a", "get-prefix a/"] {
            assert!(operate(right).is_ok(), "{right}");
        }
        let wrong = [
            ("", 1, "an operation is"),
            ("put a", 6, "put KEY TEXT"),
            ("put a b c", 9, "put KEY TEXT"),
            ("del", 4, "del KEY"),
            ("get 'a b' c", 11, "get KEY"),
            ("drop a", 1, "an operation is"),
        ];
        for (text, column, form) in wrong {
            told(operate(text).unwrap_err(), text, column, form);
        }
    }
}
