//! Which node is meant: by name, by node id or the beginning of one, by raft id.
//!
//! Owns that order and the words for none and for several. Pure. Called by every request that names a node.

use quorate_core::membership::record::NodeRecord;
use quorate_transport::api;

use crate::membership::Rule;
use crate::node::router::{Failure, fail, refused_by};
use crate::node::service::display_name;

/// The one node that `wanted` names: an exact id goes first, then an exact name or raft id, and the beginning of an id last.
/// What is the name of one and the raft id of another is neither's.
pub(in crate::node) fn find<'a>(
    nodes: impl IntoIterator<Item = &'a NodeRecord>,
    wanted: &str,
) -> Result<&'a NodeRecord, Failure> {
    if wanted.is_empty() {
        return Err(fail(
            api::Code::Invalid,
            "name a node: by its name, its node id or the beginning of it, or its raft id",
        ));
    }
    let raft_id = wanted.parse::<u64>().ok().filter(|id| *id != 0);
    let (mut exact, mut by_prefix) = (Vec::new(), Vec::new());
    for node in nodes {
        let id = node.node_id().unwrap_or_default().to_string();
        if id == wanted {
            return Ok(node);
        }
        if node.name == wanted || raft_id == Some(node.raft_id) {
            exact.push(node);
        } else if id.starts_with(wanted) {
            by_prefix.push(node);
        }
    }
    match exact.as_slice() {
        [] => {}
        [node] => return Ok(node),
        several => return Err(ambiguous(wanted, "name or raft id", several)),
    }
    match by_prefix.as_slice() {
        [node] => Ok(node),
        [] => Err(fail(
            api::Code::NotFound,
            format!("there is no node `{wanted}`; `quorate node ls` lists them. Nothing was changed"),
        )),
        several => Err(ambiguous(wanted, "beginning of the id", several)),
    }
}

fn ambiguous(wanted: &str, what: &str, nodes: &[&NodeRecord]) -> Failure {
    let described = |node: &&NodeRecord| {
        let number = if node.raft_id == 0 { String::new() } else { format!(", raft id {}", node.raft_id) };
        format!("{} (id {}{number})", display_name(node), node.node_id().unwrap_or_default())
    };
    let candidates: Vec<String> = nodes.iter().map(described).collect();
    refused_by(
        Rule::Ambiguous,
        format!(
            "`{wanted}` is the {what} of several nodes: {}. Give the id of the one that is meant. Nothing was changed",
            candidates.join("; ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn node(first: u8, name: &str, raft_id: u64) -> NodeRecord {
        let mut id = [0; 16];
        id[0] = first;
        NodeRecord { id: Bytes::copy_from_slice(&id), name: name.into(), raft_id, ..NodeRecord::default() }
    }

    #[test]
    fn a_node_is_found_by_everything_it_is_called() {
        // Base32: ids that begin with 0x00 are a..., those with 0xff 7....
        let nodes = [node(0x00, "n1", 1), node(0x01, "", 0), node(0xff, "7", 2), node(0xf0, "n4", 77)];
        let found = |wanted: &str| find(&nodes, wanted).map(|node| (node.name.clone(), node.raft_id));
        let id = |at: usize| nodes[at].node_id().unwrap().to_string();
        assert_eq!(found("n1"), Ok(("n1".into(), 1)));
        assert_eq!(found(&id(1)), Ok((String::new(), 0)));
        assert_eq!(found(&id(1)[..3]), Ok((String::new(), 0)));
        assert_eq!(found("2"), Ok(("7".into(), 2)), "a raft id");
        assert_eq!(found("7"), Ok(("7".into(), 2)), "a name goes before the beginning of an id");
        assert_eq!(found("77"), Ok(("n4".into(), 77)), "a raft id goes before the beginning of an id");
        // And refused with what to do.
        let ambiguous = found("a").unwrap_err();
        assert_eq!((ambiguous.code(), ambiguous.rule.as_str()), (api::Code::Refused, "ambiguous"));
        assert!(ambiguous.message.contains("n1 (id a") && ambiguous.message.contains(&id(1)), "{}", ambiguous.message);
        assert_eq!(found("nobody").unwrap_err().code(), api::Code::NotFound);
        assert_eq!(found("0").unwrap_err().code(), api::Code::NotFound, "raft id 0 is nobody's");
        assert_eq!(found("").unwrap_err().code(), api::Code::Invalid);
    }

    #[test]
    fn what_is_one_nodes_name_and_anothers_raft_id_names_neither() {
        // Given a node that is called as another one is numbered, in whatever order they are met
        let mut nodes = vec![node(0x00, "2", 1), node(0x01, "n2", 2), node(0x02, "w", 0)];
        for _ in 0..2 {
            let refused = find(&nodes, "2").unwrap_err();
            assert_eq!((refused.code(), refused.rule.as_str()), (api::Code::Refused, "ambiguous"));
            for words in ["2 (id aaaa", ", raft id 1)", "n2 (id aeaa", ", raft id 2)", "Nothing was changed"] {
                assert!(refused.message.contains(words), "{words}: {}", refused.message);
            }
            // Then each is found by its id, and by what is its own alone
            for one in &nodes {
                assert_eq!(find(&nodes, &one.node_id().unwrap().to_string()).unwrap(), one);
            }
            assert_eq!(find(&nodes, "1").unwrap().name, "2");
            assert_eq!(find(&nodes, "n2").unwrap().raft_id, 2);
            nodes.reverse();
        }
        // A node whose own number is its name is meant either way
        let own = [node(0x00, "1", 1), node(0x01, "n2", 2)];
        assert_eq!(find(&own, "1").unwrap().raft_id, 1);
    }
}
