//! Values that lie in files of their own: whoever writes them dies while they are written, thrown away and moved together.
//!
//! Owns the rounds, and the proof that such files were there when it struck. That a value is whole, and the one that was written at
//! this place, the clients see: each carries its own checksum. Called by `play`.

use std::path::Path;

use super::super::disk::Kind;
use super::super::world::World;
use super::super::{Done, Effect};

/// Rounds until the time is over: the leader, all at once, a follower, by turns; killed, or without power where there is a disk for
/// that.
pub(super) async fn all(world: &mut World) -> Done {
    let mut round = 0_u64;
    while world.goes_on() {
        round += 1;
        let now = world.now();
        world.acknowledging(now, "before managers with large values were to die").await?;
        let victims = match round % 3 {
            1 => vec![world.leader().await?],
            2 => world.fleet.running(),
            _ => vec![world.follower().await?],
        };
        let from = world.now();
        let mut files = 0;
        for victim in &victims {
            files += blobs(&world.fleet.members[*victim].directory())?;
        }
        let proof = format!("{files} files of large values lay in the stores that it struck");
        let effect = if files > 0 { Effect::Installed(proof) } else { Effect::Indeterminate(proof) };
        world.timeline.fault("large-values", &victims, from, effect);
        if world.setup.disk == Kind::Ext4 && world.dice.bool() {
            world.power_cut(&victims).await?;
        } else {
            world.kill(&victims).await?;
        }
        for victim in &victims {
            if !world.fleet.members[*victim].runs() {
                world.restart(*victim)?;
            }
        }
        for victim in &victims {
            world.fleet.ready(*victim).await?;
        }
        world.acknowledging(from, "after managers with large values had died").await?;
        world.gap().await?;
    }
    Ok(())
}

/// How many files of large values there are below this directory.
fn blobs(directory: &Path) -> Done<u64> {
    let mut count = 0;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        // (Files may go while they are counted.)
        if path.is_dir() {
            count += blobs(&path)?;
        } else {
            count += u64::from(path.extension().is_some_and(|extension| extension == "blob"));
        }
    }
    Ok(count)
}
