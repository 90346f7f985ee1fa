//! Scenarios of managers and workers that come, go and change their seats.

use std::time::Duration;

use quorate::status::ClusterStatus;
use quorate::{Client, Error};

use super::super::nemesis::{CUT, around};
use super::super::world::World;
use super::super::{BUDGET, Done, Effect, Trouble, violation};

/// How long a wish may take in the middle of kills.
const WISH: Duration = Duration::from_secs(60);

impl World {
    /// A wish of a node's role, recorded and waited for; how it ended.
    async fn wish(&mut self, kind: &'static str, member: usize) -> Done<Result<(), Error>> {
        let from = self.now();
        let name = self.fleet.members[member].name.clone();
        let client: Client = self.any().await?.with_deadline(BUDGET);
        let nodes = client.nodes();
        let change = match kind {
            "promote" => nodes.promote(name.clone()),
            "remove" => nodes.remove(name.clone()).forced(),
            _ => nodes.demote(name.clone()).forced(),
        };
        let ended = change.within(WISH).await;
        let effect = match &ended {
            Ok(outcome) if outcome.done => Effect::Installed(format!("{kind} of {name} is done")),
            Ok(outcome) => Effect::Indeterminate(format!("{kind} of {name} waits, with {} voters", outcome.voters)),
            Err(why) => Effect::Indeterminate(format!("{kind} of {name}: {why}")),
        };
        self.timeline.fault(kind, &[member], from, effect);
        if ended.is_ok() {
            self.fleet.members[member].is_worker = kind != "promote";
        }
        Ok(ended.map(|_outcome| ()))
    }
}

fn must(wish: Result<(), Error>, what: &str) -> Done {
    wish.or_else(|why| violation(format!("{what} did not end within {WISH:?}: {why}")))
}

/// 1 to 3 to 5 and back to 3 and 1, with a manager killed on each way.
pub(super) async fn grow_and_shrink(world: &mut World) -> Done {
    // Once the five exist they change roles only; each stays the node that it is.
    while world.fleet.members.len() < 5 {
        world.grow().await?;
        let seats = world.fleet.members.len();
        if !seats.is_multiple_of(2) {
            world.seated(seats).await?;
        }
    }
    while world.goes_on() {
        for target in [3_usize, 5] {
            let pair = if target == 3 { [3, 4] } else { [4, 3] };
            for member in pair {
                let kind = if target == 3 { "demote" } else { "promote" };
                let victim = world.dice.usize(..3);
                world.kill(&[victim]).await?;
                world.restart(victim)?;
                let wish = world.wish(kind, member).await?;
                must(wish, kind)?;
                world.fleet.ready(victim).await?;
            }
            world.seated(target).await?;
        }
        world.gap().await?;
    }
    Ok(())
}

/// Wishes for an even number: parked as standby, or refused in words; voters stay odd.
pub(super) async fn even_refused(world: &mut World) -> Done {
    let fourth = world.grow().await?;
    while world.goes_on() {
        let from = world.now();
        // Of four managers one gets no seat, whichever it is
        let of_four = |status: &ClusterStatus| {
            let count = |seat: &str| status.managers.iter().filter(|manager| manager.seat == seat).count();
            (status.voters, count("voter"), count("standby")) == (3, 3, 1)
        };
        world.eventually("three of four managers vote, and one stands by", of_four).await?;
        // An even number of voters at most is refused
        let client = world.any().await?.with_deadline(BUDGET);
        match client.policy().set().max_voters(4).await {
            Err(Error::Membership { message, .. }) => {
                world.timeline.fault("even-wish", &[], from, Effect::Installed(format!("refused: {message}")));
            }
            other => return violation(format!("at most 4 voters was answered with {other:?}")),
        }
        // One goes and comes while the leader is killed in between
        let leader = world.leader().await?;
        let other = world.others(leader).into_iter().find(|other| *other != fourth).unwrap_or(fourth);
        let other_name = world.fleet.members[other].name.clone();
        let wishes = tokio::spawn(Box::pin({
            let wishes_client = client.clone();
            let name = other_name.clone();
            async move {
                let down = wishes_client.nodes().demote(name.clone()).within(WISH).await;
                let up = wishes_client.nodes().promote(name).within(WISH).await;
                (down, up)
            }
        }));
        world.a_while(0..1_500).await?;
        world.kill(&[leader]).await?;
        world.calm(Duration::from_millis(500)).await?;
        world.back(leader).await?;
        let (down, up) = wishes.await.map_err(|why| Trouble::Harness(why.to_string()))?;
        world.timeline.note(format!("demote and promote of {other_name}: {down:?}, {up:?}"));
        world.eventually("voters are seated and odd", |status| status.voters == 3 && status.leader.is_some()).await?;
        world.gap().await?;
    }
    Ok(())
}

/// The leader is killed at drawn moments of a change of the voters: each time it must be completed, or left.
pub(super) async fn crash_in_change(world: &mut World) -> Done {
    let managers = world.setup.managers;
    let (one, other) = (world.grow().await?, world.grow().await?);
    world.seated(managers + 2).await?;
    while world.goes_on() {
        for kind in ["demote", "promote"] {
            for member in [one, other] {
                let name = world.fleet.members[member].name.clone();
                let leader = world.leader().await?;
                let client = world.any().await?.with_deadline(BUDGET);
                let from = world.now();
                let wish = tokio::spawn(async move {
                    let nodes = client.nodes();
                    let change = if kind == "promote" { nodes.promote(name) } else { nodes.demote(name).forced() };
                    change.within(WISH).await
                });
                // A change of voters takes a few rounds: somewhere in it.
                tokio::time::sleep(Duration::from_millis(world.dice.u64(0..700))).await;
                if leader != member {
                    world.kill(&[leader]).await?;
                    world.restart(leader)?;
                }
                let ended = wish.await.map_err(|why| Trouble::Harness(why.to_string()))?;
                if let Err(why) = ended {
                    return violation(format!("a {kind} in which the leader was killed did not end: {why}"));
                }
                if leader != member {
                    let proof = format!("the leader was killed in a {kind}, which ended");
                    world.timeline.fault("kill-in-change", &[leader], from, Effect::Installed(proof));
                    world.fleet.ready(leader).await?;
                }
            }
        }
        world.seated(managers + 2).await?;
        world.gap().await?;
    }
    Ok(())
}

/// Four workers at once, one of them killed.
pub(super) async fn promote_storm(world: &mut World) -> Done {
    let workers: Vec<usize> =
        (0..world.fleet.members.len()).filter(|index| world.fleet.members[*index].is_worker).collect();
    let off = workers.last().copied().unwrap_or_default();
    world.kill(&[off]).await?;
    let from = world.now();
    let mut wishes = tokio::task::JoinSet::new();
    for worker in &workers {
        let (client, name) = (world.any().await?.with_deadline(BUDGET), world.fleet.members[*worker].name.clone());
        wishes.spawn(async move { client.nodes().promote(name).detached().await });
    }
    let mut recorded = 0;
    while let Some(ended) = wishes.join_next().await {
        match ended.map_err(|why| Trouble::Harness(why.to_string()))? {
            Ok(_recorded) => recorded += 1,
            Err(why) => return violation(format!("a promotion is always accepted, and was not: {why}")),
        }
    }
    // Three more can take a seat: five are seated, the sixth waits.
    let status = world.eventually("five voters", |status| status.voters == 5).await?;
    for worker in &workers {
        world.fleet.members[*worker].is_worker = false;
    }
    let name = world.fleet.members[off].name.clone();
    let seat = status.managers.iter().find(|manager| manager.name == name).map(|manager| manager.seat.clone());
    if seat.as_deref() == Some("voter") {
        return violation(format!("{name} is off, and got a seat"));
    }
    let proof = format!("{recorded} wishes at once, five voters; {name}, which is off, is {seat:?}");
    world.timeline.fault("promote-storm", &workers, from, Effect::Installed(proof));
    world.restart(off)?;
    world.fleet.ready(off).await?;
    let all = world.setup.managers + workers.len();
    let whole = move |status: &ClusterStatus| {
        status.managers.iter().filter(|manager| manager.reachable).count() == all && status.voters == 5
    };
    world.eventually("the one that was off stands by", whole).await?;
    while world.goes_on() {
        world.calm(Duration::from_secs(1)).await?;
    }
    Ok(())
}

/// The leader is demoted, asked for at a follower; a standby takes the seat, and the next time it goes the other way.
pub(super) async fn demote_leader(world: &mut World) -> Done {
    world.grow().await?;
    while world.goes_on() {
        let leader = world.leader().await?;
        let name = world.fleet.members[leader].name.clone();
        world.recorder.begin_gap();
        let follower = world.follower().await?;
        let from = world.now();
        let client = world.fleet.client(&[follower]).await?.with_deadline(BUDGET);
        let ended = client.nodes().demote(name.clone()).within(WISH).await;
        world.gaps.push(world.recorder.gap());
        match ended {
            Ok(_done) => {
                let proof = format!("{name} led, and is demoted");
                world.timeline.fault("demote", &[leader], from, Effect::Installed(proof));
                world.fleet.members[leader].is_worker = true;
            }
            Err(why) => return violation(format!("the demotion of the leader was not done: {why}")),
        }
        let wish = world.wish("promote", leader).await?;
        must(wish, "promote")?;
        world.gap().await?;
    }
    Ok(())
}

/// Two of five are killed, and demoted while they are away.
pub(super) async fn demote_downed(world: &mut World) -> Done {
    while world.goes_on() {
        let leader = world.leader().await?;
        let downed: Vec<usize> = world.others(leader).into_iter().take(2).collect();
        world.kill(&downed).await?;
        world.calm(Duration::from_secs(1)).await?;
        for member in &downed {
            let wish = world.wish("demote", *member).await?;
            must(wish, "demote of a manager that is off")?;
        }
        world.seated(3).await?;
        for member in &downed {
            world.back(*member).await?;
            let wish = world.wish("promote", *member).await?;
            must(wish, "promote")?;
        }
        world.seated(5).await?;
        world.gap().await?;
    }
    Ok(())
}

/// A newcomer is cut off at once; the log goes on without it.
pub(super) async fn dark_learner(world: &mut World) -> Done {
    let newcomer = world.grow().await?;
    while world.goes_on() {
        let all = world.fleet.managers();
        let target = world.recorder.acknowledged() + world.setup.log_window * 4;
        let hurt = world.hurt(&around(&[newcomer], &all), CUT).await?;
        let until = std::time::Instant::now() + BUDGET;
        while world.recorder.acknowledged() < target && std::time::Instant::now() < until {
            world.calm(Duration::from_millis(200)).await?;
        }
        world.calm(Duration::from_secs(2)).await?;
        world.mend("dark-learner", &[newcomer], hurt).await?;
        world.caught_up(newcomer).await?;
        world.gap().await?;
    }
    Ok(())
}

/// Workers are killed, come back, and more join.
pub(super) async fn workers(world: &mut World) -> Done {
    while world.goes_on() {
        let all: Vec<usize> =
            (0..world.fleet.members.len()).filter(|index| world.fleet.members[*index].is_worker).collect();
        let victim = all[world.dice.usize(..all.len().max(1))];
        let name = world.fleet.members[victim].name.clone();
        let from = world.now();
        world.kill(&[victim]).await?;
        let gone = world.eventually("the killed worker is down", |status| {
            status.workers.iter().any(|worker| worker.name == name && worker.state.word() == "down")
        });
        gone.await?;
        world.timeline.fault(
            "worker-kill",
            &[victim],
            from,
            Effect::Installed(format!("{name} is down, say the managers")),
        );
        world.back(victim).await?;
        world
            .eventually("the worker is ready again", |status| {
                status.workers.iter().any(|worker| worker.name == name && worker.state.word() == "ready")
            })
            .await?;
        if all.len() < 12 {
            world.hire().await?;
        }
        world.gap().await?;
    }
    Ok(())
}

/// Managers of the next version, one after the other, and back again.
pub(super) async fn mixed_versions(world: &mut World) -> Done {
    let Some(next) = world.next_program() else {
        return Err(Trouble::NotReached("there is no next version".to_owned()));
    };
    let ours = world.fleet.members[0].program.clone();
    while world.goes_on() {
        for program in [&next, &ours] {
            for member in world.fleet.managers() {
                let from = world.now();
                world.kill(&[member]).await?;
                world.fleet.members[member].program = program.clone();
                world.back(member).await?;
                world.caught_up(member).await?;
                let name = world.fleet.members[member].name.clone();
                let wanted = program == &next;
                let status = world
                    .eventually("the other version is told", |status| {
                        let own = status.managers.iter().find(|manager| manager.name == name);
                        own.is_some_and(|manager| manager.version.contains("next") == wanted)
                    })
                    .await?;
                let versions: std::collections::BTreeSet<_> =
                    status.managers.iter().map(|manager| manager.version.clone()).collect();
                if versions.len() > 1 {
                    world.timeline.fault(
                        "mixed-version",
                        &[member],
                        from,
                        Effect::Installed(format!("{versions:?} side by side")),
                    );
                }
                let now = world.now();
                world.acknowledging(now, "with mixed versions").await?;
            }
        }
        world.gap().await?;
    }
    Ok(())
}
