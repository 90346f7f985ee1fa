//! The table, as a unit: what it says of commands that are passed on, and the copy of it in the guide.

use bytes::Bytes;
use quorate_core::command::{LeaseOrder, LeaseOrderKind, Request};
use quorate_core::id::NodeId;
use quorate_core::keyring::{Ask, Reseal, Rotate, Share};
use quorate_core::membership::record::{ClusterRecord, NodeRecord};
use quorate_core::txn::{Compare, Delete, Op, Put};

use super::*;

const ID: NodeId = NodeId::from_bytes([7; 16]);

fn asked(who: Who, of: &'static str) -> Asker {
    Asker { who, passed_on: true, of }
}

fn put(key: Bytes) -> Op {
    Put { key, ..Put::default() }.into()
}

fn request(ops: Vec<Op>) -> Command {
    let txn = Some(Txn { then: ops, ..Txn::default() });
    Command::from(CommandKind::Request(Request { txn, ..Request::default() }))
}

fn takes(behalf: Option<Asker>, what: &Command) -> bool {
    command(behalf.as_ref(), what.clone()).is_ok()
}

#[test]
fn the_leader_judges_a_passed_on_write_by_who_asked() {
    let user = request(vec![put(Section::User.key(b"k"))]);
    let read = request(vec![Range { key: Section::User.key(b"k"), ..Range::default() }.into()]);
    assert!(takes(Some(asked(Who::Operator(ID), "write")), &user));
    assert!(takes(Some(asked(Who::Local, "write")), &user));
    assert!(takes(Some(asked(Who::Reader(ID), "write")), &read), "a transaction that only reads");
    for who in [Who::Reader(ID), Who::Node(ID), Who::Manager] {
        assert!(!takes(Some(asked(who, "write")), &user), "{who:?}");
    }
    // A client's request is always somebody's, and a manager's own command nobody's.
    assert!(!takes(None, &user));
    let own = Command::from(CommandKind::System(Txn::of(Put { key: Section::Node.key(b"n"), ..Put::default() })));
    assert!(takes(None, &own));
    assert!(!takes(Some(asked(Who::Operator(ID), "write")), &own));
    assert!(!takes(None, &Command::default()));
}

#[test]
fn a_passed_on_command_stays_within_what_was_asked() {
    let operator = |of| Some(asked(Who::Operator(ID), of));
    let node = || put(NodeRecord::key(ID));
    // Records are reached by the requests for them, and by no write.
    assert!(!takes(operator("write"), &request(vec![node()])));
    assert!(takes(operator("node_role"), &request(vec![node()])));
    assert!(!takes(operator("token_rotate"), &request(vec![node()])));
    assert!(!takes(operator("node_role"), &request(vec![put(Section::User.key(b"k"))])));
    assert!(!takes(operator("node_role"), &request(vec![put(Section::Identity.key(b"ca"))])));
    // One part that is not allowed forbids the whole, also where it would not be done.
    let mixed = Txn {
        compares: vec![Compare::absent(NodeRecord::key(ID))],
        then: vec![put(Section::User.key(b"a"))],
        or_else: vec![
            Delete { key: Section::User.key(b"a"), end: Bytes::from_static(b"\xff"), previous: false }.into(),
        ],
        ..Txn::default()
    };
    let of = |txn: Txn| Command::from(CommandKind::Request(Request { txn: Some(txn), ..Request::default() }));
    assert!(!takes(operator("write"), &of(mixed.clone())), "a range over the border of the user keys");
    assert!(takes(operator("write"), &of(Txn { or_else: Vec::new(), ..mixed })));
    // Settling a wish that has nothing to write looks at the cluster's record.
    let nothing = Txn { compares: vec![Compare::mod_revision(ClusterRecord::key(), u64::MAX)], ..Txn::default() };
    assert!(takes(operator("token_revoke"), &of(nothing)));
    // Leases have a request of their own.
    let lease = Some(LeaseOrder { kind: Some(LeaseOrderKind::Revoke(1)), fence: None });
    let order = Command::from(CommandKind::Request(Request { lease, ..Request::default() }));
    assert!(takes(operator("lease_write"), &order));
    assert!(!takes(operator("write"), &order));
    assert!(!takes(Some(asked(Who::Reader(ID), "lease_write")), &order));
    // What is done on a manager's own machine only comes from no other.
    assert!(!takes(Some(asked(Who::Local, "unlock")), &request(vec![])));
    assert!(!takes(operator("no such request"), &request(vec![])));
}

#[test]
fn another_barrier_key_is_asked_for_by_somebody_who_may_and_all_other_orders_are_the_managers_own() {
    let order = |kind| Command::from(CommandKind::Keyring(KeyringOrder { kind: Some(kind) }));
    let ask = order(KeyringOrderKind::Ask(Ask { active: 1 }));
    for (who, may) in [
        (Who::Operator(ID), true),
        (Who::Local, true),
        (Who::Reader(ID), false),
        (Who::Node(ID), false),
        (Who::Manager, false),
    ] {
        assert_eq!(takes(Some(asked(who, "keyring_rotate")), &ask), may, "{who:?}");
    }
    // Not as a part of anything else, and not of nobody.
    for of in ["write", "keyring_show", "node_remove", "no such request"] {
        assert!(!takes(Some(asked(Who::Operator(ID), of)), &ask), "{of}");
    }
    assert!(!takes(None, &ask));
    for own in [
        order(KeyringOrderKind::Share(Share::default())),
        order(KeyringOrderKind::Rotate(Rotate::default())),
        order(KeyringOrderKind::Reseal(Reseal::default())),
    ] {
        assert!(takes(None, &own), "{own:?}");
        assert!(!takes(Some(asked(Who::Operator(ID), "keyring_rotate")), &own), "{own:?}");
    }
}

#[test]
fn the_ways_between_managers_have_a_row_of_their_own() {
    let check = |paths| Kind::Check(api::Check { paths, ..api::Check::default() });
    for who in [Who::Reader(ID), Who::Node(ID), Who::Manager] {
        assert!(super::check(&asked(who, ""), &check(false)).is_ok(), "{who:?}");
        assert!(super::check(&asked(who, ""), &check(true)).is_err(), "{who:?}");
    }
    assert!(super::check(&asked(Who::Operator(ID), ""), &check(true)).is_ok());
}

#[test]
fn whoever_a_manager_speaks_for_survives_the_wire_and_is_never_a_manager() {
    for who in [Who::Operator(ID), Who::Reader(ID), Who::Node(ID), Who::Local] {
        let asker = asked(who, "write");
        assert_eq!(Asker::spoken_for(&asker.behalf()), Some(asker));
    }
    assert_eq!(Asker::spoken_for(&asked(Who::Manager, "write").behalf()), None);
    let behalf = api::Behalf { role: "operator".into(), id: Bytes::from_static(b"short"), of: "write".into() };
    assert_eq!(Asker::spoken_for(&behalf), None);
}

/// As the guide has it.
fn rendered() -> String {
    let cell = |may: May| match may {
        May::No => "–",
        May::Yes => "yes",
        May::Keys => "within its rights",
        May::Own => "of itself",
        May::Here => "on the manager's machine only",
    };
    let mut lines = vec![
        "| request | operator, local socket of a manager | read-only operator | manager | a node's own certificate, local socket of a worker |".to_owned(),
        "|---|---|---|---|---|".to_owned(),
    ];
    for row in TABLE {
        let cells = [row.operator, row.reader, row.manager, row.node].map(cell).join(" | ");
        lines.push(format!("| `{}` | {cells} |", row.word));
    }
    lines.join("\n")
}

#[test]
fn the_guide_has_the_table_as_it_is() {
    let guide = include_str!("../../docs/guide/who-may-what.md");
    let ours = rendered();
    assert!(guide.contains(&ours), "docs/guide/who-may-what.md needs this table:\n{ours}");
}
