//! Which items refer to which secrets and configs, and how many items a node has, kept in step with the items.
//!
//! Owns the index and the counts, which follow every change of an item in the same revision, and the refusals that keep them true: an
//! item refers only to what is there, what is referred to is not removed, and no node has more than [`ITEMS_MAX`]. Never decides who
//! may write. Called by the machine at apply, for every transaction.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;

use crate::id::NodeId;
use crate::keyspace::Section;
use crate::membership::work::{AssignmentRecord, ITEMS_MAX};
use crate::objects::{ObjectKind, Reference};
use crate::ports::{StoreResult, Visit};
use crate::state::contract::Refusal;
use crate::state::execute::{Change, Pending, Present};
use crate::state::layout::{self, Record};

/// Users that a refusal names.
const NAMED: usize = 5;

fn is_of(key: &Bytes, section: Section) -> bool {
    key.first() == Some(&(section as u8))
}

/// What an item refers to. One that cannot be read refers to nothing: it was checked before it was proposed.
fn referred(key: &Bytes, record: Option<&Record>) -> BTreeSet<Reference> {
    let (Some(record), Some((node, item))) = (record, AssignmentRecord::parse(key)) else { return BTreeSet::new() };
    let Ok(record) = AssignmentRecord::decode(record.view().value) else { return BTreeSet::new() };
    let of = |kind: ObjectKind, names: Vec<String>| {
        let item = item.clone();
        names.into_iter().map(move |name| Reference { kind, name, node, item: item.clone() })
    };
    of(ObjectKind::Secret, record.secrets).chain(of(ObjectKind::Config, record.configs)).collect()
}

fn describe(kind: ObjectKind, name: &str) -> String {
    format!("{} `{name}`", kind.word())
}

/// The changes of the index and of the counts that follow from these changes; `Err` inside when they would break them.
pub(crate) fn follow(
    present: Present<'_>,
    changes: &[Change],
    revision: u64,
) -> StoreResult<Result<Vec<Change>, Refusal>> {
    let concerned = |change: &Change| {
        [Section::Assignment, Section::Secret, Section::Config].iter().any(|section| is_of(&change.key, *section))
    };
    if !changes.iter().any(concerned) {
        return Ok(Ok(Vec::new()));
    }
    // By key: whether it is there after the transaction.
    let mut index: BTreeMap<Reference, bool> = BTreeMap::new();
    let mut objects: BTreeMap<&Bytes, bool> = BTreeMap::new();
    // By node: items that come, and items that go.
    let mut items: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
    for Change { key, old, new, .. } in changes {
        if is_of(key, Section::Assignment) {
            let (before, after) = (referred(key, old.as_ref()), referred(key, new.as_ref()));
            index.extend(before.difference(&after).map(|reference| (reference.clone(), false)));
            index.extend(after.difference(&before).map(|reference| (reference.clone(), true)));
            if let Some((node, _)) = AssignmentRecord::parse(key) {
                let (come, go) = items.entry(node).or_default();
                *come += u64::from(old.is_none() && new.is_some());
                *go += u64::from(old.is_some() && new.is_none());
            }
        } else if is_of(key, Section::Secret) || is_of(key, Section::Config) {
            objects.insert(key, new.is_some());
        }
    }
    for reference in index.iter().filter(|(_, there)| **there).map(|(reference, _)| reference) {
        let key = reference.kind.key(&reference.name);
        let there = match objects.get(&key) {
            Some(there) => *there,
            None => present.get(&layout::current_key(&key))?.is_some(),
        };
        if !there {
            let what = describe(reference.kind, &reference.name);
            return Ok(Err(Refusal::NoSuchObject { what }));
        }
    }
    for key in objects.iter().filter(|(_, there)| !**there).map(|(key, _)| *key) {
        let Some((kind, name)) = ObjectKind::parse(key) else { continue };
        if let Some(users) = users(present, &index, kind, &name)? {
            return Ok(Err(Refusal::InUse { what: describe(kind, &name), users }));
        }
    }
    let follow =
        |(reference, there): (Reference, bool)| present.change(reference.key(), there.then_some(&b""[..]), revision);
    let mut followed: Vec<Change> = index.into_iter().map(follow).collect::<StoreResult<_>>()?;
    for (node, (come, go)) in items.into_iter().filter(|(_, (come, go))| come != go) {
        let count = (count(present, node)? + come).saturating_sub(go);
        if come > go && count > ITEMS_MAX {
            let what = format!("the set of items of node {node}");
            return Ok(Err(Refusal::Limit { what, limit: "ITEMS_MAX", max: ITEMS_MAX, actual: count }));
        }
        let value = count.to_be_bytes();
        followed.push(present.change(
            AssignmentRecord::count_key(node),
            (count > 0).then_some(&value[..]),
            revision,
        )?);
    }
    Ok(Ok(followed))
}

/// How many items a node has before the transaction.
fn count(present: Present<'_>, node: NodeId) -> StoreResult<u64> {
    let stored = layout::current_key(&AssignmentRecord::count_key(node));
    if let Some(record) = present.get(&stored)? {
        let count = <[u8; 8]>::try_from(record.view().value).map(u64::from_be_bytes);
        return count.map_err(|_length| layout::corrupt(&stored, "a count that is none"));
    }
    // None, or they were written by a build that did not count: then this one begins.
    let (from, to) = AssignmentRecord::range(node);
    let mut count = 0;
    let (from, to) = (layout::current_key(&from), layout::current_key(&to));
    present.scan(&from, &to, &Pending::new(), &mut |_, _| {
        count += 1;
        Visit::More
    })?;
    Ok(count)
}

/// Who refers to it after the transaction; `None`: nobody.
fn users(
    present: Present<'_>,
    index: &BTreeMap<Reference, bool>,
    kind: ObjectKind,
    name: &str,
) -> StoreResult<Option<String>> {
    let (from, to) = Reference::range(kind, name);
    let mut users = Vec::new();
    present.scan(
        &layout::current_key(&from),
        &layout::current_key(&to),
        &Pending::new(),
        &mut |stored, _nothing| {
            let full = Bytes::copy_from_slice(stored.get(1..).unwrap_or_default());
            if let Some((node, item)) = Reference::user(kind, name, &full) {
                let reference = Reference { kind, name: name.to_owned(), node, item };
                if index.get(&reference) != Some(&false) {
                    users.push(reference);
                }
            }
            if users.len() > NAMED { Visit::Enough } else { Visit::More }
        },
    )?;
    if users.is_empty() {
        return Ok(None);
    }
    let more = users.len() > NAMED;
    let named = users
        .iter()
        .take(NAMED)
        .map(|user| format!("item `{}` of node {}", String::from_utf8_lossy(&user.item).escape_debug(), user.node));
    let named = named.collect::<Vec<_>>().join(", ");
    Ok(Some(if more { format!("{named} and more") } else { named }))
}
