//! The first part of an orderly stop: leadership goes to somebody who takes it.
//!
//! Owns how often and for how long that is tried. Never chooses a successor: the machine does, which asks whoever let
//! leadership pass after all others. Called by the shutdown.

use std::sync::Arc;
use std::time::Duration;

use quorate_core::consensus::config::ELECTION_TICKS;
use quorate_core::consensus::io::{Answer, RaftRole, Rejection, Status};
use tokio::sync::{mpsc, oneshot, watch};

use super::tasks::{Call, Reply};

/// How long it is tried, in ticks of the cluster's timing: each voter that lets it pass takes one election timeout.
const PATIENCE_TICKS: u32 = 4 * ELECTION_TICKS;

/// Gives leadership away, if this manager leads, within the patience that the cluster's timing asks for.
pub(super) async fn hand_over(inbox: &mpsc::Sender<Call>, status: &watch::Receiver<Arc<Status>>) {
    let tick = Duration::from_nanos(status.borrow().tick.0);
    let _ = tokio::time::timeout(tick * PATIENCE_TICKS, until_somebody_takes_it(inbox, status, tick)).await;
}

async fn until_somebody_takes_it(inbox: &mpsc::Sender<Call>, status: &watch::Receiver<Arc<Status>>, tick: Duration) {
    let mut tried = false;
    loop {
        let (reply, handed) = oneshot::channel();
        if inbox.send(Call::Transfer { to: None, reply }).await.is_err() {
            return;
        }
        match handed.await {
            Ok(Reply::Answer(Answer::Refused(Rejection::Transfer(_)) | Answer::Unknown)) => tried = true,
            // Whoever was called upon may win yet, and so may this manager once more.
            Ok(Reply::Answer(Answer::Refused(Rejection::NotLeader { leader: None }))) if tried => {}
            // It went, or it never was here.
            Ok(_) | Err(_) => return,
        }
        if nobody_could_take_it(&status.borrow()) {
            return;
        }
        tokio::time::sleep(tick).await;
    }
}

/// Whether this leader hears of no other voter.
fn nobody_could_take_it(status: &Status) -> bool {
    let mut others = status.progress.iter().filter(|other| status.configuration.voters.contains(&other.id));
    status.role == Some(RaftRole::Leader) && !others.any(|other| other.heard)
}

#[cfg(test)]
mod tests {
    use quorate_core::consensus::io::{Nanos, Progress};
    use quorate_core::id::{LogIndex, RaftId};
    use quorate_core::log::Configuration;

    use super::*;

    /// A leader of three; the machine answers these one after the other. Says how often it was asked.
    async fn asked(tick: Duration, heard: bool, answers: Vec<Answer>) -> usize {
        let other = Progress {
            id: RaftId(2),
            matched: LogIndex(0),
            heard,
            caught_up: true,
            silent_ticks: 0,
            stable_ticks: 0,
            waiting_ticks: 0,
        };
        let voters = vec![RaftId(1), RaftId(2), RaftId(3)];
        let status = Status {
            role: Some(RaftRole::Leader),
            tick: Nanos(u64::try_from(tick.as_nanos()).unwrap()),
            configuration: Configuration { voters, ..Configuration::default() },
            progress: vec![other],
            ..Status::default()
        };
        let (_told, status) = watch::channel(Arc::new(status));
        let (inbox, mut calls) = mpsc::channel(1);
        let machine = tokio::spawn(async move {
            let mut asked = 0;
            let mut unanswered = Vec::new();
            let mut answers = answers.into_iter();
            while let Some(call) = calls.recv().await {
                let Call::Transfer { to: None, reply } = call else { panic!("only that is asked") };
                asked += 1;
                match answers.next() {
                    Some(answer) => drop(reply.send(Reply::Answer(answer))),
                    None => unanswered.push(reply),
                }
            }
            asked
        });
        hand_over(&inbox, &status).await;
        drop(inbox);
        machine.await.unwrap()
    }

    fn let_pass() -> Answer {
        Answer::Refused(Rejection::Transfer("manager 2 did not take over within one election timeout".into()))
    }

    fn does_not_lead(leader: Option<u64>) -> Answer {
        Answer::Refused(Rejection::NotLeader { leader: leader.map(RaftId) })
    }

    #[tokio::test]
    async fn it_is_tried_until_somebody_takes_it() {
        // Long enough that no patience ends here.
        let tick = Duration::from_millis(50);
        let taken = || Answer::Transferred(RaftId(3));
        assert_eq!(asked(tick, true, vec![taken()]).await, 1);
        assert_eq!(asked(tick, true, vec![let_pass(), taken()]).await, 2);
        // Called upon, a voter may have won, or nobody, or this manager once more.
        assert_eq!(asked(tick, true, vec![Answer::Unknown, does_not_lead(None), does_not_lead(Some(2))]).await, 3);
        assert_eq!(asked(tick, true, vec![Answer::Unknown, does_not_lead(None), taken()]).await, 3);
    }

    #[tokio::test]
    async fn who_does_not_lead_or_hears_nobody_waits_for_nothing() {
        let long = Duration::from_secs(3_600);
        assert_eq!(asked(long, true, vec![does_not_lead(None)]).await, 1);
        assert_eq!(asked(long, true, vec![does_not_lead(Some(2))]).await, 1);
        assert_eq!(asked(long, false, vec![let_pass()]).await, 1);
    }

    #[tokio::test]
    async fn the_patience_goes_by_the_clusters_timing() {
        for tick in [Duration::from_millis(1), Duration::from_millis(8)] {
            // Given a machine that does not answer
            let began = std::time::Instant::now();
            assert_eq!(asked(tick, true, Vec::new()).await, 1);
            // Then there was time for three voters to let it pass, and an end
            assert!(began.elapsed() >= tick * 3 * ELECTION_TICKS);
        }
    }
}
