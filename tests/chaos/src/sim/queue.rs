//! What is still to happen, in order.
//!
//! Owns the order of events: their virtual time, and among equals that in which they were scheduled. Only three numbers of each
//! are moved about to find the next one; the events stay where they are. Never looks into one. Called by the world.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::event::Event;

/// Everything that is scheduled.
#[derive(Default)]
pub(super) struct Queue {
    /// When, the how-manieth, and its place.
    order: BinaryHeap<Reverse<(u64, u64, usize)>>,
    places: Vec<Option<Event>>,
    free: Vec<usize>,
    scheduled: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        let place = self.free.pop().unwrap_or(self.places.len());
        match self.places.get_mut(place) {
            Some(free) => *free = Some(event),
            None => self.places.push(Some(event)),
        }
        self.order.push(Reverse((at, self.scheduled, place)));
    }

    /// The next one and its time, if it is due by `end`.
    pub(super) fn pop_due(&mut self, end: u64) -> Option<(u64, Event)> {
        let Reverse((at, _, _)) = *self.order.peek()?;
        if at > end {
            return None;
        }
        let Reverse((at, _, place)) = self.order.pop()?;
        self.free.push(place);
        self.places.get_mut(place)?.take().map(|event| (at, event))
    }
}
