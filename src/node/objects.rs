//! Configs and secrets, as an operator's requests meet them, and the barrier's keyring as it is shown.
//!
//! Owns what these requests mean on a manager. The data of a secret is sealed before it is proposed ([`super::barrier`]) and is
//! opened for the one request that asks to see it; lists, answers and refusals never hold it. What may be removed is decided at
//! apply; it is only said in better words here. Called by the service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message as _;
use quorate_core::consensus::io::Records;
use quorate_core::keyring::{SealedRecord, is_holder, named_key};
use quorate_core::membership::record::Label;
use quorate_core::objects::{ObjectKind, ObjectRecord, Reference, check_data, check_labels, check_name};
use quorate_core::ports::StateRead;
use quorate_core::state::read;
use quorate_core::txn::{Compare, Delete, KeyValue, Operand, Put, Range, Relation, Txn};
use quorate_storage::takes_copies;
use quorate_transport::api::{self, response};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::barrier::Barrier;
use super::gate::Asker;
use super::once::already_settled;
use super::router::{Failure, fail, refused};
use super::service::{Service, blocking, broken, display_name, document};
use crate::objects::{KeyringKey, KeyringReport, ObjectInfo, ObjectPage, ObjectUser};

/// Objects in one answer.
const PAGE: usize = 500;
/// Users of one object that are told.
const USERS_MAX: u64 = 1_000;

fn kind_of(word: &str) -> Result<ObjectKind, Failure> {
    ObjectKind::named(word)
        .ok_or_else(|| fail(api::Code::Invalid, "there are configs and secrets, and nothing else. Nothing was changed"))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Labels in ascending order, each key once.
fn ordered(labels: impl IntoIterator<Item = (String, String)>) -> Vec<Label> {
    let labels: BTreeMap<String, String> = labels.into_iter().collect();
    labels.into_iter().map(|(key, value)| Label { key, value }).collect()
}

fn not_found(kind: ObjectKind, name: &str) -> Failure {
    let name: String = name.chars().take(150).collect();
    let word = kind.word();
    fail(
        api::Code::NotFound,
        format!("there is no {word} `{name}`; `quorate {word} ls` lists them. Nothing was changed"),
    )
}

/// The live record of one object.
fn found(view: &dyn StateRead, kind: ObjectKind, name: &str) -> Result<(KeyValue, ObjectRecord), Failure> {
    let range = Range { key: kind.key(name), ..Range::default() };
    let entry = match read::range(view, &range) {
        Ok(found) => found.entries.into_iter().next().ok_or_else(|| not_found(kind, name))?,
        Err(read::ReadError::Store(error)) => return Err(broken(&error)),
        Err(read::ReadError::Refused(refusal)) => return Err(refused(&refusal)),
    };
    let record = ObjectRecord::read(kind, &entry.value).map_err(|error| {
        fail(api::Code::Internal, format!("the record of a {} cannot be read: {error}", kind.word()))
    })?;
    Ok((entry, record))
}

/// As people see it, from the record at `full`.
fn info(kind: ObjectKind, name: String, full: &Bytes, entry: &KeyValue, record: ObjectRecord) -> ObjectInfo {
    ObjectInfo {
        name,
        labels: record.labels.into_iter().map(|label| (label.key, label.value)).collect(),
        size: record.size,
        create_revision: entry.create_revision,
        revision: entry.mod_revision,
        created_ms: record.created_ms,
        succeeds: (!record.succeeds.is_empty()).then_some(record.succeeds),
        barrier_key: match kind {
            ObjectKind::Config => None,
            ObjectKind::Secret => named_key(full, &entry.value).ok().flatten(),
        },
        users: Vec::new(),
    }
}

fn users(view: &dyn StateRead, records: &Records, kind: ObjectKind, name: &str) -> Result<Vec<ObjectUser>, Failure> {
    let (key, end) = Reference::range(kind, name);
    let range = Range { key, end, limit: USERS_MAX, keys_only: true, ..Range::default() };
    let page = read::range(view, &range).map_err(|error| match error {
        read::ReadError::Store(error) => broken(&error),
        read::ReadError::Refused(refusal) => refused(&refusal),
    })?;
    let user = |entry: KeyValue| {
        let (node, item) = Reference::user(kind, name, &entry.key)?;
        Some(ObjectUser {
            node: records.nodes.get(node).map_or_else(|| node.to_string(), display_name),
            node_id: node.to_string(),
            item: String::from_utf8_lossy(&item).into_owned(),
        })
    };
    Ok(page.entries.into_iter().filter_map(user).collect())
}

/// The record of a new object: sealed where it is a secret.
fn written(
    view: &dyn StateRead,
    barrier: &Barrier,
    kind: ObjectKind,
    key: &Bytes,
    record: ObjectRecord,
    data: &[u8],
) -> Result<Bytes, Failure> {
    match kind {
        ObjectKind::Config => Ok(ObjectRecord { data: Bytes::copy_from_slice(data), ..record }.encode_to_vec().into()),
        ObjectKind::Secret => {
            let clear = record.encode_to_vec().into();
            barrier.seal(view, key, clear, data).map_err(|error| broken(&error))
        }
    }
}

/// The same record with other labels; what is sealed stays as it is.
fn relabelled(kind: ObjectKind, value: &Bytes, record: ObjectRecord) -> Result<Bytes, Failure> {
    match kind {
        ObjectKind::Config => Ok(record.encode_to_vec().into()),
        ObjectKind::Secret => {
            let sealed = SealedRecord::decode(value.clone())
                .map_err(|error| fail(api::Code::Internal, format!("a secret cannot be read: {error}")))?;
            Ok(SealedRecord { clear: record.encode_to_vec().into(), ..sealed }.encode_to_vec().into())
        }
    }
}

fn matches(info: &ObjectInfo, filters: &[String]) -> bool {
    filters.iter().all(|filter| match filter.split_once('=') {
        Some((key, value)) => info.labels.get(key).is_some_and(|is| is == value),
        None => info.labels.contains_key(filter),
    })
}

impl Service {
    /// Makes a config or a secret; it has this data for ever.
    pub(super) async fn object_create(
        &self,
        asker: &Asker,
        asked: api::ObjectCreate,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let kind = kind_of(&asked.kind)?;
        let api::ObjectCreate { name, data, labels, succeeds, once, .. } = asked;
        // A copy of ours, wiped; the request's own buffer goes with the request.
        let data = Zeroizing::new(data.to_vec());
        let labels = ordered(labels.into_iter().map(|label| (label.key, label.value)));
        check_name(kind, &name).map_err(|refusal| refused(&refusal))?;
        check_data(kind, data.len()).map_err(|refusal| refused(&refusal))?;
        check_labels(&labels).map_err(|refusal| refused(&refusal))?;
        if !succeeds.is_empty() {
            check_name(kind, &succeeds).map_err(|refusal| refused(&refusal))?;
        }
        let record =
            ObjectRecord { labels, size: data.len() as u64, succeeds, created_ms: now_ms(), data: Bytes::new() };
        let (key, made) = (kind.key(&name), name.clone());
        let plan = move |view: &dyn StateRead, barrier: &Barrier| {
            match found(view, kind, &made) {
                Ok(_) => {
                    let word = kind.word();
                    let why = format!(
                        "there is a {word} `{made}` already, and what it holds never changes. Nothing was changed; take another name{}",
                        if kind == ObjectKind::Secret {
                            ", or `quorate secret rotate` makes one beside it"
                        } else {
                            ""
                        }
                    );
                    return Err(fail(api::Code::Refused, why));
                }
                Err(error) if matches!(error.code(), api::Code::NotFound) => {}
                Err(error) => return Err(error),
            }
            let value = written(view, barrier, kind, &key, record.clone(), &data)?;
            let put = Put { key: key.clone(), value, ..Put::default() };
            Ok(Some(Txn { compares: vec![Compare::absent(key.clone())], ..Txn::of(put) }))
        };
        self.once_planned(asker, once, Arc::new(plan), until).await?;
        tracing::info!(by = %asker, kind = kind.word(), name, "made");
        self.object_inspect(kind.word(), &name, until).await.map_err(already_settled)
    }

    /// Configs or secrets without their data, a page at a time.
    pub(super) async fn object_list(&self, asked: api::ObjectList, until: Instant) -> Result<response::Kind, Failure> {
        let kind = kind_of(&asked.kind)?;
        self.router.read_index(until).await?;
        let reader = self.store()?.reader;
        let page = blocking(move || {
            let (view, mut page, mut last) = (reader.view(), ObjectPage::default(), None);
            let mut failed = None;
            let from = if asked.after.is_empty() { None } else { Some(asked.after.as_str()) };
            read::live_records_after(&*view, kind.section(), from.map(str::as_bytes), &mut |entry| {
                if page.objects.len() >= PAGE {
                    page.after = last.take();
                    return false;
                }
                let Some((_, name)) = ObjectKind::parse(&entry.key) else { return true };
                last = Some(name.clone());
                match ObjectRecord::read(kind, &entry.value) {
                    Ok(record) => {
                        let info = info(kind, name, &entry.key, &entry, record);
                        if matches(&info, &asked.labels) {
                            page.objects.push(info);
                        }
                        true
                    }
                    Err(error) => {
                        failed = Some(error);
                        false
                    }
                }
            })
            .map_err(|error| broken(&error))?;
            match failed {
                Some(error) => Err(fail(api::Code::Internal, format!("a record cannot be read: {error}"))),
                None => Ok(page),
            }
        })
        .await?;
        document(&page)
    }

    /// One config or secret without its data, with the items that refer to it.
    pub(super) async fn object_inspect(
        &self,
        kind: &str,
        name: &str,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let kind = kind_of(kind)?;
        self.router.read_index(until).await?;
        let (reader, records, name) = (self.store()?.reader, self.records.borrow().clone(), name.to_owned());
        let seen = blocking(move || {
            let view = reader.view();
            let (entry, record) = found(&*view, kind, &name)?;
            let users = users(&*view, &records, kind, &name)?;
            Ok(ObjectInfo { users, ..info(kind, name.clone(), &kind.key(&name), &entry, record) })
        })
        .await?;
        document(&seen)
    }

    /// Changes the labels of one: all that can change.
    pub(super) async fn object_update(
        &self,
        asker: &Asker,
        asked: api::ObjectUpdate,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let kind = kind_of(&asked.kind)?;
        let api::ObjectUpdate { name, label_add, label_rm, once, .. } = asked;
        let named = name.clone();
        let plan = move |view: &dyn StateRead, _: &Barrier| {
            let (entry, record) = found(view, kind, &named)?;
            let kept = record.labels.iter().filter(|label| !label_rm.contains(&label.key));
            let kept = kept.map(|label| (label.key.clone(), label.value.clone()));
            let labels = ordered(kept.chain(label_add.iter().map(|label| (label.key.clone(), label.value.clone()))));
            check_labels(&labels).map_err(|refusal| refused(&refusal))?;
            if labels == record.labels {
                return Ok(None);
            }
            let key = kind.key(&named);
            let value = relabelled(kind, &entry.value, ObjectRecord { labels, ..record })?;
            let unchanged = Compare::mod_revision(key.clone(), entry.mod_revision);
            Ok(Some(Txn { compares: vec![unchanged], ..Txn::of(Put { key, value, ..Put::default() }) }))
        };
        self.once_planned(asker, once, Arc::new(plan), until).await?;
        tracing::info!(by = %asker, kind = kind.word(), name, "labelled");
        self.object_inspect(kind.word(), &name, until).await.map_err(already_settled)
    }

    /// Removes one that no item refers to.
    pub(super) async fn object_remove(
        &self,
        asker: &Asker,
        asked: api::ObjectRemove,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let kind = kind_of(&asked.kind)?;
        let (name, records) = (asked.name.clone(), self.records.borrow().clone());
        let plan = move |view: &dyn StateRead, _: &Barrier| {
            found(view, kind, &asked.name)?;
            let users = users(view, &records, kind, &asked.name)?;
            if !users.is_empty() {
                return Err(fail(api::Code::Refused, in_use(kind, &asked.name, &users)));
            }
            let key = kind.key(&asked.name);
            let there = Compare::new(key.clone(), Relation::NotEqual, Operand::Version(0));
            Ok(Some(Txn { compares: vec![there], ..Txn::of(Delete { key, ..Delete::default() }) }))
        };
        self.once_planned(asker, asked.once, Arc::new(plan), until).await?;
        tracing::info!(by = %asker, kind = kind.word(), name, "removed");
        document(&())
    }

    /// The data of a secret, for an operator who asks for it by name.
    pub(super) async fn secret_reveal(
        &self,
        asker: &Asker,
        name: &str,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        self.router.read_index(until).await?;
        let (reader, barrier, name) = (self.store()?.reader, Arc::clone(&self.barrier), name.to_owned());
        tracing::info!(by = %asker, name, "a secret is shown to an operator");
        let (data, revision) = blocking(move || {
            let view = reader.view();
            let (entry, _) = found(&*view, ObjectKind::Secret, &name)?;
            let key = ObjectKind::Secret.key(&name);
            let (_, data) = barrier.open(&*view, &key, &entry.value).map_err(|error| broken(&error))?;
            Ok((Bytes::copy_from_slice(&data), entry.create_revision))
        })
        .await?;
        Ok(response::Kind::ObjectData(api::ObjectDataDone { data, revision }))
    }

    /// The data of a config.
    pub(super) async fn config_read(&self, name: &str, until: Instant) -> Result<response::Kind, Failure> {
        self.router.read_index(until).await?;
        let (reader, name) = (self.store()?.reader, name.to_owned());
        let (entry, record) = blocking(move || found(&*reader.view(), ObjectKind::Config, &name)).await?;
        Ok(response::Kind::ObjectData(api::ObjectDataDone { data: record.data, revision: entry.create_revision }))
    }

    /// The barrier's keyring.
    pub(super) async fn keyring_show(&self, until: Instant) -> Result<response::Kind, Failure> {
        self.router.read_index(until).await?;
        let (reader, records) = (self.store()?.reader, self.records.borrow().clone());
        let keyring = blocking(move || read::keyring(&*reader.view()).map_err(|error| broken(&error))).await?;
        let managers = || records.nodes.members().filter(|node| is_holder(node));
        let keys = keyring.keys.iter().map(|key| KeyringKey {
            id: key.id,
            uses: key.uses,
            records: key.records,
            managers: managers().filter(|node| key.is_for(&node.sealing_key)).map(display_name).collect(),
        });
        let lacking = || managers().filter(|node| !keyring.opens(node));
        let mut unusable = Vec::new();
        for node in lacking() {
            if !takes_copies(&node.sealing_key).map_err(|error| broken(&error))? {
                unusable.push(display_name(node));
            }
        }
        document(&KeyringReport {
            active: keyring.active,
            due: keyring.due,
            keys: keys.collect(),
            lacking: lacking().map(display_name).collect(),
            unusable,
        })
    }

    /// Asks for another active key in the place of this one.
    pub(super) async fn keyring_rotate(
        &self,
        asker: &Asker,
        active: u32,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let asked = self.ask_for_rotation(asker, active, until).await?;
        tracing::info!(by = %asker, active, asked, "another barrier key was asked for");
        self.keyring_show(until).await.map_err(already_settled)
    }
}

fn in_use(kind: ObjectKind, name: &str, users: &[ObjectUser]) -> String {
    const NAMED: usize = 10;
    let named: Vec<String> =
        users.iter().take(NAMED).map(|user| format!("item `{}` of {}", user.item, user.node)).collect();
    let more = if users.len() > NAMED { format!(" and {} more", users.len() - NAMED) } else { String::new() };
    format!(
        "{} `{name}` is in use by {}{more}. Nothing was changed; write these items anew without it first",
        kind.word(),
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_label_or_a_label_with_its_value() {
        let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned()), ("team".to_owned(), String::new())]);
        let info = ObjectInfo { labels, ..ObjectInfo::default() };
        let fits = |filters: &[&str]| matches(&info, &filters.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(fits(&[]) && fits(&["env"]) && fits(&["env=prod", "team"]) && fits(&["team="]));
        assert!(!fits(&["env=test"]) && !fits(&["env", "other"]) && !fits(&["team=x"]));
    }

    #[test]
    fn the_refusal_to_remove_names_the_items() {
        let users: Vec<ObjectUser> = (0..12)
            .map(|n| ObjectUser { node: "w1".into(), item: format!("web.{n}"), ..ObjectUser::default() })
            .collect();
        let text = in_use(ObjectKind::Secret, "db", &users);
        assert!(text.starts_with("secret `db` is in use by item `web.0` of w1, "), "{text}");
        assert!(text.contains("item `web.9` of w1 and 2 more. Nothing was changed"), "{text}");
    }
}
