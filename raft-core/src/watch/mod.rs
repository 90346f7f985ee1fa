//! Watches: what becomes of keys, told in order to whoever asked, from any revision that is not compacted.
//!
//! Owns what a watcher is told and when: who is concerned by a revision, what waits for whom, when a watcher must read
//! from the store instead, when it is cut, and what the other end may conclude. Never reads a clock, sends or waits: the
//! node's tasks do, and the simulator. Called by the applier (once per round), by the task of each watch, and by clients.
//!
//! # What a watcher may rely on
//! - *Ordered, unique*: revisions arrive in ascending order, each at most once, also over a change of manager.
//! - *Reliable*: between two revisions that arrive there is none that it asked for. A watcher that is too slow is cut, with
//!   the revision to go on from; it is never skipped.
//! - *Atomic*: everything that a revision changed and the watcher asked for comes as one.
//! - *Resumable*: from every revision above the compact revision. Below: `Compacted { oldest }`, `oldest` being the first
//!   revision that can still be watched from. Before a recovery: `NewGeneration { kept_revision }`.
//! - *Bookmarked*: a bookmark R says that everything up to and including R was told. It passes through the same queue as the
//!   events, so it can be neither early nor for the future. One follows whatever was read from the store, and one comes now
//!   and then where revisions pass that are not the watcher's.
//!
//! A start above what a manager has applied waits there: nothing below the start is told, and no bookmark comes before the
//! start is applied. A start that no manager has reached is the same thing: a watch from the future. It is not refused, because
//! nobody can tell it from one that other managers have reached already. It skips nothing unseen either: every revision of a
//! generation is below all those of the next, so that a start that only lost managers had reached is told `NewGeneration`.
//!
//! # Its way
//! A watch is *live* when everything applied is in its queue; *behind* when it has to read from the store (it starts in the
//! past, a snapshot was installed, a revision was too large to be kept); *reading* while it does. A reader reads up to
//! a fixed revision while its queue already gathers what comes after that, and so becomes live without a gap. If more came
//! meanwhile than the queue holds, it reads on. Only a live watch is cut.
//!
//! | module | what |
//! |---|---|
//! | `message` | what is asked and told, as encoded |
//! | `unit` | what one revision did, shared by all whom it concerns |
//! | `index` | who is concerned by a key |
//! | `hub` | who is told what, and what waits |
//! | `history` | what the store says of revisions past |
//! | `follow` | what the receiving end makes of it |

mod follow;
mod history;
mod hub;
mod index;
mod message;
mod unit;

pub use follow::{Followed, Follower, OutOfOrder};
pub use history::{Chunk, read};
pub use hub::{End, Full, Hub, HubLimits, Round, Taken, WatchId};
pub use message::{PartKind, WatchChange, WatchPart, WatchStart};
pub(crate) use unit::Changed;
pub use unit::{Encoded, Filter, Told, Unit};
