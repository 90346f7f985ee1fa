//! What a node may be called: something that people can read, and that is not taken for something else that nodes are named by.
//!
//! Owns the rule and its words. Pure. Called where a node is given its name: by the program that prepares it, and by the manager
//! that lets it in.

use crate::id::NodeId;
use crate::limits::NAME_BYTES_MAX;

/// Why a name is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// It is too long.
    #[error("the name has {0} bytes, the limit `NAME_BYTES_MAX` is {NAME_BYTES_MAX}")]
    TooLong(usize),
    /// It cannot be read as it is.
    #[error(
        "the name has control characters, or characters that show nothing or turn the order of others round; none of those are taken"
    )]
    Hides,
    /// It looks like the number of a manager.
    #[error("the name has digits only, and would be taken for a raft id: put a letter to it")]
    Number,
    /// It looks like the id of a node.
    #[error("the name looks like the id of a node, and would be taken for one: choose another")]
    Id,
}

/// Whether a node may be called so; an empty name is none, and the node is called by its id.
///
/// # Errors
/// Why not.
pub fn check_name(name: &str) -> Result<(), BadName> {
    if name.len() > NAME_BYTES_MAX {
        return Err(BadName::TooLong(name.len()));
    }
    if name.chars().any(hides) {
        return Err(BadName::Hides);
    }
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadName::Number);
    }
    if name.parse::<NodeId>().is_ok() { Err(BadName::Id) } else { Ok(()) }
}

/// Whether a terminal takes it for a command, or shows a line in another order than it is in, or nothing at all.
pub fn hides(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_and_taken_for_nothing_else() {
        let longest = "x".repeat(NAME_BYTES_MAX);
        for name in ["", "n1", "1n", "rack 7", "größe", "7.", "-7", longest.as_str()] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let id = NodeId::from_bytes([7; 16]).to_string();
        for (name, why) in [
            ("7", BadName::Number),
            ("0", BadName::Number),
            ("99999999999999999999999", BadName::Number),
            (id.as_str(), BadName::Id),
            ("two\nlines", BadName::Hides),
            ("\u{1b}[2J", BadName::Hides),
            ("\u{202e}n1", BadName::Hides),
            ("n1\u{200b}", BadName::Hides),
        ] {
            assert_eq!(check_name(name), Err(why), "{name:?}");
        }
        assert_eq!(check_name(&format!("{longest}x")), Err(BadName::TooLong(NAME_BYTES_MAX + 1)));
    }
}
