//! Reads that ask for much: they end with their deadline, and hold up nobody.

use bytes::Bytes;
use prost::Message as _;
use quorate_core::txn::{Range, RangeResult};
use quorate_transport::api;

use crate::support::{BUDGET, Cluster, raw};

const MIB: usize = 1024 * 1024;

/// A range of all keys at a revision, as it goes over the wire.
fn range_at(revision: u64, deadline_ms: u64) -> Bytes {
    let range = Range { key: "k".into(), end: "l".into(), revision, ..Range::default() }.encode_to_vec().into();
    let kind = Some(api::request::Kind::Read(api::Read { range, serializable: true }));
    api::Request { deadline_ms, kind }.encode_to_vec().into()
}

fn answered(body: Bytes) -> Result<RangeResult, api::Error> {
    match api::Response::decode(body).unwrap().kind.unwrap() {
        api::response::Kind::Read(done) => Ok(RangeResult::decode(done.result).unwrap()),
        api::response::Kind::Error(error) => Err(error),
        _ => panic!("an answer of another kind"),
    }
}

/// One manager with much of a past: the revision before it, and that after it.
async fn with_a_past(mebibytes: u8) -> (Cluster, u64, u64) {
    let cluster = Cluster::founded().await;
    let kv = cluster.any().client().kv();
    let first = kv.put("k", "at first").await.unwrap().revision;
    let mut last = first;
    for n in 0..mebibytes {
        last = kv.put("k", vec![n; MIB]).await.unwrap().revision;
    }
    (cluster, first, last)
}

#[tokio::test]
async fn a_read_of_the_past_ends_with_its_deadline_and_one_of_the_present_is_not_held_up() {
    // Given a past that takes several looks at the store
    let (cluster, first, last) = with_a_past(30).await;
    let connection = raw(&cluster, 0).await;
    // when there is no time for it, then what was asked for is refused as not done,
    let asked = connection.request(range_at(first, 0), BUDGET).await.unwrap();
    let error = answered(asked).unwrap_err();
    assert_eq!(error.code, api::Code::Deadline as i32, "{error:?}");
    assert!(error.message.contains("Nothing was done"), "{error:?}");
    // while what takes one look is answered all the same,
    let now = answered(connection.request(range_at(last, 0), BUDGET).await.unwrap()).unwrap();
    assert_eq!(now.entries[0].value.len(), MIB);
    // and with time the past is told as it was.
    let past = answered(connection.request(range_at(first, 60_000), BUDGET).await.unwrap()).unwrap();
    assert_eq!((past.entries.len(), &past.entries[0].value[..]), (1, &b"at first"[..]));
    cluster.stop().await;
}
