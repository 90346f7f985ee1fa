//! Who is concerned by a key.
//!
//! Owns a tree of key ranges in which every node knows the furthest end below it (a treap: the order of its heap is drawn from
//! the range's number, so that it is balanced and yet the same on every run). Watches of one range share one node. Finding
//! those of a key takes the logarithm of the number of ranges, and what is found. Called by the hub.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bytes::Bytes;

type Link = Option<Box<Node>>;

/// Watches by the ranges of keys that they are for.
#[derive(Default)]
pub(crate) struct RangeIndex {
    root: Link,
    inserted: u64,
}

struct Node {
    from: Bytes,
    to: Bytes,
    /// The furthest `to` in this node and below it.
    furthest: Bytes,
    priority: u64,
    watches: BTreeSet<u64>,
    left: Link,
    right: Link,
}

impl Node {
    fn place(&self, from: &Bytes, to: &Bytes) -> Ordering {
        from.cmp(&self.from).then_with(|| to.cmp(&self.to))
    }

    fn refresh(mut self: Box<Self>) -> Box<Self> {
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| &node.furthest);
        self.furthest = below.chain([&self.to]).max().cloned().unwrap_or_default();
        self
    }
}

/// Spreads a count over all 64 bits (SplitMix64's finish): what makes the heap's order independent of the keys'.
const fn spread(count: u64) -> u64 {
    let z = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl RangeIndex {
    /// `watch` is for the keys `from..to`.
    pub(crate) fn insert(&mut self, from: &Bytes, to: &Bytes, watch: u64) {
        self.inserted += 1;
        let fresh = Box::new(Node {
            from: from.clone(),
            to: to.clone(),
            furthest: to.clone(),
            priority: spread(self.inserted),
            watches: BTreeSet::from([watch]),
            left: None,
            right: None,
        });
        self.root = Some(insert(self.root.take(), fresh));
    }

    /// `watch` is for these keys no more.
    pub(crate) fn remove(&mut self, from: &Bytes, to: &Bytes, watch: u64) {
        self.root = remove(self.root.take(), from, to, watch);
    }

    /// Every watch whose range holds `key`; answers how many ranges were looked at for it.
    pub(crate) fn find(&self, key: &[u8], found: &mut dyn FnMut(u64)) -> usize {
        find(&self.root, key, found)
    }

    #[cfg(test)]
    fn depth(&self) -> usize {
        fn of(link: &Link) -> usize {
            link.as_ref().map_or(0, |node| 1 + of(&node.left).max(of(&node.right)))
        }
        of(&self.root)
    }
}

fn insert(link: Link, fresh: Box<Node>) -> Box<Node> {
    let Some(mut node) = link else { return fresh };
    match node.place(&fresh.from, &fresh.to) {
        Ordering::Equal => {
            node.watches.extend(fresh.watches);
            node
        }
        Ordering::Less => {
            let mut left = insert(node.left.take(), fresh);
            if left.priority <= node.priority {
                node.left = Some(left);
                return node.refresh();
            }
            node.left = left.right.take();
            left.right = Some(node.refresh());
            left.refresh()
        }
        Ordering::Greater => {
            let mut right = insert(node.right.take(), fresh);
            if right.priority <= node.priority {
                node.right = Some(right);
                return node.refresh();
            }
            node.right = right.left.take();
            right.left = Some(node.refresh());
            right.refresh()
        }
    }
}

fn remove(link: Link, from: &Bytes, to: &Bytes, watch: u64) -> Link {
    let mut node = link?;
    match node.place(from, to) {
        Ordering::Equal => {
            node.watches.remove(&watch);
            if node.watches.is_empty() { merge(node.left, node.right) } else { Some(node) }
        }
        Ordering::Less => {
            node.left = remove(node.left.take(), from, to, watch);
            Some(node.refresh())
        }
        Ordering::Greater => {
            node.right = remove(node.right.take(), from, to, watch);
            Some(node.refresh())
        }
    }
}

/// Two trees, all of the first before all of the second.
fn merge(left: Link, right: Link) -> Link {
    match (left, right) {
        (None, only) | (only, None) => only,
        (Some(mut left), Some(mut right)) => Some(if left.priority > right.priority {
            left.right = merge(left.right.take(), Some(right));
            left.refresh()
        } else {
            right.left = merge(Some(left), right.left.take());
            right.refresh()
        }),
    }
}

fn find(link: &Link, key: &[u8], found: &mut dyn FnMut(u64)) -> usize {
    let Some(node) = link else { return 0 };
    if node.furthest[..] <= *key {
        return 1;
    }
    let before = find(&node.left, key, found);
    if node.from[..] > *key {
        return 1 + before;
    }
    if *key < node.to[..] {
        node.watches.iter().for_each(|watch| found(*watch));
    }
    1 + before + find(&node.right, key, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Few letters, so that ranges meet, nest and repeat.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(0xff)], 0..4)
    }

    proptest! {
        #[test]
        fn it_finds_what_looking_at_every_range_finds(
            ranges in proptest::collection::vec((key(), key(), any::<bool>()), 1..60),
            asked in proptest::collection::vec(key(), 1..20),
        ) {
            let mut index = RangeIndex::default();
            let mut kept: Vec<(Bytes, Bytes, u64)> = Vec::new();
            for (watch, (from, to, one_goes)) in ranges.into_iter().enumerate() {
                let (watch, from, to) = (watch as u64, Bytes::from(from), Bytes::from(to));
                index.insert(&from, &to, watch);
                kept.push((from, to, watch));
                if one_goes {
                    let (from, to, watch) = kept.swap_remove(kept.len() / 2);
                    index.remove(&from, &to, watch);
                }
            }
            for key in asked {
                let mut found = BTreeSet::new();
                index.find(&key, &mut |watch| { assert!(found.insert(watch), "found twice"); });
                let expected: BTreeSet<u64> = kept.iter()
                    .filter(|(from, to, _)| from[..] <= key[..] && key[..] < to[..])
                    .map(|(_, _, watch)| *watch)
                    .collect();
                prop_assert_eq!(&found, &expected);
            }
        }
    }

    #[test]
    fn ranges_in_order_do_not_make_a_list_of_it() {
        let mut index = RangeIndex::default();
        let bound = |n: u32| Bytes::copy_from_slice(&n.to_be_bytes());
        for n in 0..10_000 {
            index.insert(&bound(n), &bound(n + 1), u64::from(n));
        }
        assert!(index.depth() < 60, "{} deep", index.depth());
        // Whatever the key, only a few of the ten thousand are looked at.
        let looked_at = |key: &[u8]| index.find(key, &mut |_| {});
        let keys = (0..10_000).map(|n| bound(n).to_vec()).chain([vec![], vec![0xff], vec![0, 0, 7, 1, 9]]);
        let most = keys.map(|key| looked_at(&key)).max();
        assert!(most < Some(100), "{most:?}");
        for n in 0..9_999 {
            index.remove(&bound(n), &bound(n + 1), u64::from(n));
        }
        assert_eq!(index.depth(), 1);
    }

    #[test]
    fn watches_of_one_range_share_a_place() {
        let mut index = RangeIndex::default();
        let (from, to) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        for watch in 0..1_000 {
            index.insert(&from, &to, watch);
        }
        assert_eq!(index.depth(), 1);
        let mut count = 0;
        index.find(b"a", &mut |_| count += 1);
        index.find(b"b", &mut |_| count += 1);
        assert_eq!(count, 1_000);
    }
}
