//! The example of an embedder's controller: it holds, and the race that is planted in it is found.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

#[path = "../examples/claims.rs"]
mod claims;

#[test]
fn a_controller_that_says_what_it_has_read_keeps_its_promise() {
    assert!(claims::find(1..7, true).is_none());
}

#[test]
fn the_planted_race_is_found_and_its_seed_is_named() {
    let found = claims::find(1..201, false).unwrap();
    assert_eq!(found.invariant, "the_controllers_promise");
    assert!(found.replay.is_some());
}
