//! Which node is meant: by name, by node id or the beginning of one, by raft id.
//!
//! Owns that order and the words for none and for several. Pure. Called by every request that names a node.

use quorate_core::membership::record::NodeRecord;
use quorate_transport::api;

use crate::membership::Rule;
use crate::node::router::{Failure, fail, refused_by};
use crate::node::service::display_name;

/// The one node that `wanted` names: an exact name goes first, then an exact id, a raft id, and the beginning of an id.
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
    let (mut by_id, mut by_raft_id, mut by_prefix) = (None, None, Vec::new());
    for node in nodes {
        if node.name == wanted {
            return Ok(node);
        }
        let id = node.node_id().unwrap_or_default().to_string();
        if id == wanted {
            by_id = Some(node);
        } else if id.starts_with(wanted) {
            by_prefix.push(node);
        }
        if raft_id == Some(node.raft_id) {
            by_raft_id = Some(node);
        }
    }
    if let Some(node) = by_id.or(by_raft_id) {
        return Ok(node);
    }
    match by_prefix.as_slice() {
        [node] => Ok(node),
        [] => Err(fail(
            api::Code::NotFound,
            format!("there is no node `{wanted}`; `quorate node ls` lists them. Nothing was changed"),
        )),
        several => {
            let names: Vec<String> = several.iter().map(|node| display_name(node)).collect();
            Err(refused_by(
                Rule::Ambiguous,
                format!(
                    "`{wanted}` is the beginning of the ids of {}; give more of it, or the name. Nothing was changed",
                    names.join(", ")
                ),
            ))
        }
    }
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
        assert!(ambiguous.message.contains("n1"), "{}", ambiguous.message);
        assert_eq!(found("nobody").unwrap_err().code(), api::Code::NotFound);
        assert_eq!(found("0").unwrap_err().code(), api::Code::NotFound, "raft id 0 is nobody's");
        assert_eq!(found("").unwrap_err().code(), api::Code::Invalid);
    }
}
