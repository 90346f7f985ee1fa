//! The faults of the network, in the shapes that clusters die of.
//!
//! Owns the shapes as lists of directed links, and the proof, which is what the links counted. Called by the scenarios.

use std::time::Duration;

use super::Done;
use super::mesh::{Count, Rule};
use super::timeline::Effect;
use super::world::World;

/// A cut, and nothing else.
pub(super) const CUT: Rule = Rule { cut: true, lost: 0, twice: 0, corrupt: 0, delay_ms: (0, 0), largest: 0 };

/// Every link, in both directions, between these and all others.
pub(super) fn around(inside: &[usize], all: &[usize]) -> Vec<(usize, usize)> {
    let outside = all.iter().filter(|index| !inside.contains(index));
    outside.flat_map(|out| inside.iter().flat_map(move |within| [(*within, *out), (*out, *within)])).collect()
}

/// Every link between managers.
pub(super) fn every(all: &[usize]) -> Vec<(usize, usize)> {
    all.iter().flat_map(|from| all.iter().filter(move |to| *to != from).map(move |to| (*from, *to))).collect()
}

/// Each sees its neighbours on a ring, and no one else.
pub(super) fn ring(all: &[usize]) -> Vec<(usize, usize)> {
    let count = all.len();
    let far = |a: usize, b: usize| a != b && (a + 1) % count != b && (b + 1) % count != a;
    let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
    pairs.filter(|(a, b)| far(*a, *b)).map(|(a, b)| (all[a], all[b])).collect()
}

/// One manager is the only bridge between two sides.
pub(super) fn bridge(all: &[usize]) -> Vec<(usize, usize)> {
    let middle = all.len() / 2;
    let (left, right) = (&all[..middle], &all[(middle + 1).min(all.len())..]);
    left.iter().flat_map(|a| right.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect()
}

/// What a count proves of a rule: everything that the rule is to do happened at least once.
fn proven(rule: Rule, count: Count) -> bool {
    let wants = [
        (rule.cut || rule.lost > 0, count.dropped),
        (rule.twice > 0, count.twice),
        (rule.corrupt > 0, count.corrupted),
        (rule.delay_ms.1 > 0, count.delayed),
        (rule.largest > 0, count.oversize),
    ];
    wants.iter().all(|(wanted, counted)| !wanted || *counted > 0)
}

impl World {
    /// These links behave so, until [`World::mend`] is told what comes back.
    pub(super) async fn hurt(&self, links: &[(usize, usize)], rule: Rule) -> Done<Hurt> {
        let rules: Vec<_> = links.iter().map(|(from, to)| (*from, *to, rule)).collect();
        let hurt = Hurt { from: self.now(), before: self.mesh.counts(), links: links.to_vec(), rule };
        self.mesh.set(&rules).await?;
        Ok(hurt)
    }

    /// All links are well again; what was done to the ones that were not is the proof.
    pub(super) async fn mend(&self, name: &str, nodes: &[usize], hurt: Hurt) -> Done {
        let count = self.mesh.since(&hurt.before, &hurt.links).await?;
        self.mesh.set(&[]).await?;
        let Count { passed, dropped, twice, corrupted, delayed, oversize, .. } = count;
        let proof = format!(
            "of {} datagrams: {dropped} dropped, {twice} sent twice, {corrupted} damaged, {delayed} late, {oversize} too large",
            passed + dropped + oversize
        );
        let effect = if proven(hurt.rule, count) { Effect::Installed(proof) } else { Effect::Indeterminate(proof) };
        self.timeline.fault(name, nodes, hurt.from, effect);
        Ok(())
    }

    /// These links behave so, for so long.
    pub(super) async fn network(
        &mut self,
        name: &str,
        nodes: &[usize],
        links: &[(usize, usize)],
        rule: Rule,
        time: Duration,
    ) -> Done {
        if !self.is_proxy() && rule != CUT {
            self.skip(name, nodes, "the kernel's filter only cuts; this needs --net proxy");
            return Ok(());
        }
        let hurt = self.hurt(links, rule).await?;
        let calm = self.calm(time).await;
        self.mend(name, nodes, hurt).await?;
        calm
    }

    /// The way to this manager has another source port from now on.
    pub(super) async fn rebind(&mut self, member: usize) -> Done {
        let from = self.now();
        if !self.is_proxy() {
            self.skip("rebinding", &[member], "there is nothing on the way that could; this needs --net proxy");
            return Ok(());
        }
        let before = self.mesh.counts();
        self.mesh.rebind(member);
        self.calm(Duration::from_secs(1)).await?;
        let links: Vec<_> =
            (0..=self.mesh.outside()).filter(|other| *other != member).map(|other| (other, member)).collect();
        let rebound = self.mesh.since(&before, &links).await?.rebound;
        let proof = format!("{rebound} ways have another source port");
        let effect = if rebound > 0 { Effect::Installed(proof) } else { Effect::Indeterminate(proof) };
        self.timeline.fault("rebinding", &[member], from, effect);
        Ok(())
    }
}

/// Links that are not well.
#[derive(Debug)]
pub(super) struct Hurt {
    from: u64,
    before: Vec<Vec<Count>>,
    links: Vec<(usize, usize)>,
    rule: Rule,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_cut_what_they_say() {
        let five = [0, 1, 2, 3, 4];
        // A ring leaves each manager its two neighbours: with itself a majority of five.
        for one in five {
            assert_eq!(ring(&five).iter().filter(|(from, _)| *from == one).count(), 2);
        }
        assert_eq!(around(&[0], &five).len(), 8);
        assert_eq!(every(&[0, 1, 2]).len(), 6);
        // Over the bridge both sides see one manager, and each other not.
        assert!(bridge(&five).iter().all(|(from, to)| *from != 2 && *to != 2 && (*from < 2) != (*to < 2)));
    }

    #[test]
    fn a_rule_is_proven_only_by_all_that_it_is_to_do() {
        let lossy = Rule { lost: 300, twice: 500, ..Rule::default() };
        assert!(!proven(lossy, Count { passed: 9, dropped: 3, ..Count::default() }));
        assert!(proven(lossy, Count { passed: 9, dropped: 3, twice: 2, ..Count::default() }));
        assert!(!proven(CUT, Count { passed: 9, ..Count::default() }));
    }
}
