//! Configs and secrets as an operator, or an orchestrator, sees them, and the keyring that secrets are sealed with.
//!
//! Owns the builders. The data of a secret goes to a manager over the client's own connection and is sealed there before it is
//! written anywhere; it comes back by [`Secrets::reveal`] only. Never retries and never decides. Called by embedders and the
//! command line.

use std::future::IntoFuture;
use std::pin::Pin;

use bytes::Bytes;
use quorate_core::membership::record::Label;
use quorate_core::objects::{ObjectKind, check_data, check_labels, check_name};
use quorate_transport::api::{self, request, response};

use super::{Client, unexpected};
use crate::error::{Error, Result};
use crate::objects::{KeyringReport, ObjectInfo, ObjectPage, SecretBytes, SecretRotation};

/// Data that people may read, given to the nodes whose items refer to it.
#[derive(Debug, Clone)]
pub struct Configs {
    client: Client,
}

/// Data that only operators, and the nodes whose items refer to it, may read.
#[derive(Debug, Clone)]
pub struct Secrets {
    client: Client,
}

const CONFIG: ObjectKind = ObjectKind::Config;
const SECRET: ObjectKind = ObjectKind::Secret;

impl Configs {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes one. It holds this data for ever: what is to change is made anew beside it.
    pub fn create(&self, name: impl Into<String>, data: impl Into<Vec<u8>>) -> CreateObject {
        CreateObject::new(&self.client, CONFIG, name.into(), data.into().into())
    }

    /// All of them, without their data.
    pub fn list(&self) -> ListObjects {
        ListObjects { client: self.client.clone(), kind: CONFIG, labels: Vec::new() }
    }

    /// One of them, with the items that refer to it.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub async fn inspect(&self, name: &str) -> Result<ObjectInfo> {
        inspect(&self.client, CONFIG, name).await
    }

    /// Its data.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub async fn read(&self, name: &str) -> Result<Bytes> {
        data(self.client.ask(request::Kind::ConfigRead(api::ConfigRead { name: name.to_owned() })).await?)
    }

    /// Changes its labels: all that can change.
    pub fn update(&self, name: impl Into<String>) -> UpdateObject {
        UpdateObject::new(&self.client, CONFIG, name.into())
    }

    /// Removes one that no item refers to.
    ///
    /// Cancel safe: dropped before the answer, it may have been done, once, or not at all.
    ///
    /// # Errors
    /// `Refused` while items refer to it, with their names; `NotFound` when there is none of that name.
    pub async fn remove(&self, name: &str) -> Result<()> {
        remove(&self.client, CONFIG, name).await
    }
}

impl Secrets {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes one. It holds this data for ever: what is to change is made anew beside it ([`rotate`](Self::rotate)).
    pub fn create(&self, name: impl Into<String>, data: impl Into<SecretBytes>) -> CreateObject {
        CreateObject::new(&self.client, SECRET, name.into(), data.into())
    }

    /// All of them, without their data.
    pub fn list(&self) -> ListObjects {
        ListObjects { client: self.client.clone(), kind: SECRET, labels: Vec::new() }
    }

    /// One of them without its data, with the items that refer to it.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub async fn inspect(&self, name: &str) -> Result<ObjectInfo> {
        inspect(&self.client, SECRET, name).await
    }

    /// Its data: the one way in which it comes back.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `Denied` unless the identity is an operator's; `NotFound` when there is none of that name.
    pub async fn reveal(&self, name: &str) -> Result<SecretBytes> {
        let shown = self.client.ask(request::Kind::SecretReveal(api::SecretReveal { name: name.to_owned() })).await?;
        data(shown).map(|data| SecretBytes::from(&data[..]))
    }

    /// Changes its labels: all that can change.
    pub fn update(&self, name: impl Into<String>) -> UpdateObject {
        UpdateObject::new(&self.client, SECRET, name.into())
    }

    /// Removes one that no item refers to.
    ///
    /// Cancel safe: dropped before the answer, it may have been done, once, or not at all.
    ///
    /// # Errors
    /// `Refused` while items refer to it, with their names; `NotFound` when there is none of that name.
    pub async fn remove(&self, name: &str) -> Result<()> {
        remove(&self.client, SECRET, name).await
    }

    /// Makes a successor with other data and the same labels beside `name`, called `successor`, or as `name` with the next number
    /// behind it that is free (`db`, `db.2`, `db.3`). Items that refer to the old one are not touched: the answer says which they are.
    ///
    /// Cancel safe: dropped before the answer, it may have been done, once, or not at all.
    ///
    /// # Errors
    /// `NotFound` when there is no secret `name`; `Refused` when there is one called `successor`.
    pub async fn rotate(
        &self,
        name: &str,
        data: impl Into<SecretBytes>,
        successor: Option<&str>,
    ) -> Result<SecretRotation> {
        let data = data.into();
        let old = self.inspect(name).await?;
        let mut successor = match successor {
            Some(successor) => successor.to_owned(),
            None => self.next_name(name).await?,
        };
        let mut create = self.create(std::mem::take(&mut successor), data);
        create.succeeds = name.to_owned();
        for (key, value) in &old.labels {
            create = create.label(key, value);
        }
        let successor = create.await?;
        // Seen after it: whoever was given the old one meanwhile is told, too.
        Ok(SecretRotation { successor, old: self.inspect(name).await? })
    }

    async fn next_name(&self, name: &str) -> Result<String> {
        let stem = match name.rsplit_once('.') {
            Some((stem, number)) if !stem.is_empty() && number.parse::<u64>().is_ok_and(|number| number > 1) => stem,
            Some(_) | None => name,
        };
        let taken = self.list().await?;
        let number = |other: &ObjectInfo| {
            other.name.strip_prefix(stem)?.strip_prefix('.')?.parse::<u64>().ok().filter(|number| *number > 1)
        };
        let newest = taken.iter().filter_map(number).max().unwrap_or(1);
        Ok(format!("{stem}.{}", newest.saturating_add(1)))
    }
}

fn data(answer: response::Kind) -> Result<Bytes> {
    let response::Kind::ObjectData(done) = answer else { return Err(unexpected()) };
    Ok(done.data)
}

async fn inspect(client: &Client, kind: ObjectKind, name: &str) -> Result<ObjectInfo> {
    let inspect = api::ObjectInspect { kind: kind.word().to_owned(), name: name.to_owned() };
    client.document(request::Kind::ObjectInspect(inspect)).await
}

async fn remove(client: &Client, kind: ObjectKind, name: &str) -> Result<()> {
    let wrap = |once| {
        request::Kind::ObjectRemove(api::ObjectRemove { kind: kind.word().to_owned(), name: name.to_owned(), once })
    };
    client.wished(wrap).await
}

/// A config or a secret being put together; await it to make it.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until it is awaited"]
pub struct CreateObject {
    client: Client,
    kind: ObjectKind,
    name: String,
    data: SecretBytes,
    labels: Vec<(String, String)>,
    succeeds: String,
}

impl CreateObject {
    fn new(client: &Client, kind: ObjectKind, name: String, data: SecretBytes) -> Self {
        Self { client: client.clone(), kind, name, data, labels: Vec::new(), succeeds: String::new() }
    }

    /// One more label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    fn check(&self) -> Result<()> {
        let invalid = |refusal: quorate_core::state::contract::Refusal| Error::before_sending(&refusal);
        check_name(self.kind, &self.name).map_err(invalid)?;
        check_data(self.kind, self.data.len()).map_err(invalid)?;
        let labels: Vec<Label> =
            self.labels.iter().map(|(key, value)| Label { key: key.clone(), value: value.clone() }).collect();
        check_labels(&labels).map_err(invalid)
    }
}

fn to_wire(labels: &[(String, String)]) -> Vec<api::Label> {
    labels.iter().map(|(key, value)| api::Label { key: key.clone(), value: value.clone() }).collect()
}

impl IntoFuture for CreateObject {
    type Output = Result<ObjectInfo>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.check()?;
            let wrap = |once| {
                request::Kind::ObjectCreate(api::ObjectCreate {
                    kind: self.kind.word().to_owned(),
                    name: self.name.clone(),
                    data: Bytes::copy_from_slice(self.data.expose()),
                    labels: to_wire(&self.labels),
                    succeeds: self.succeeds.clone(),
                    once,
                })
            };
            self.client.wished(wrap).await
        })
    }
}

/// A change of labels being put together; await it to send it.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until it is awaited"]
pub struct UpdateObject {
    client: Client,
    kind: ObjectKind,
    name: String,
    add: Vec<(String, String)>,
    rm: Vec<String>,
}

impl UpdateObject {
    fn new(client: &Client, kind: ObjectKind, name: String) -> Self {
        Self { client: client.clone(), kind, name, add: Vec::new(), rm: Vec::new() }
    }

    /// Adds a label, or gives it another value.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.add.push((key.into(), value.into()));
        self
    }

    /// Takes a label off; one that is not there is no error.
    pub fn without(mut self, key: impl Into<String>) -> Self {
        self.rm.push(key.into());
        self
    }
}

impl IntoFuture for UpdateObject {
    type Output = Result<ObjectInfo>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let wrap = |once| {
                request::Kind::ObjectUpdate(api::ObjectUpdate {
                    kind: self.kind.word().to_owned(),
                    name: self.name.clone(),
                    label_add: to_wire(&self.add),
                    label_rm: self.rm.clone(),
                    once,
                })
            };
            self.client.wished(wrap).await
        })
    }
}

/// A list being asked for; await it to get all of it, ascending by name.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until it is awaited"]
pub struct ListObjects {
    client: Client,
    kind: ObjectKind,
    labels: Vec<String>,
}

impl ListObjects {
    /// Only those with this label: `key`, or `key=value`. Said several times, all must hold.
    pub fn label(mut self, filter: impl Into<String>) -> Self {
        self.labels.push(filter.into());
        self
    }
}

impl IntoFuture for ListObjects {
    type Output = Result<Vec<ObjectInfo>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (mut all, mut after) = (Vec::new(), String::new());
            loop {
                let (kind, labels) = (self.kind.word().to_owned(), self.labels.clone());
                let list = api::ObjectList { kind, labels, after };
                let page: ObjectPage = self.client.document(request::Kind::ObjectList(list)).await?;
                all.extend(page.objects);
                match page.after {
                    Some(next) => after = next,
                    None => return Ok(all),
                }
            }
        })
    }
}

/// The barrier's keyring: with which keys secrets are sealed in the log, and who can open them.
#[derive(Debug, Clone)]
pub struct Keyring {
    client: Client,
}

impl Keyring {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// As it is; no secret in it.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `Denied` unless the identity is an operator's.
    pub async fn show(&self) -> Result<KeyringReport> {
        self.client.document(request::Kind::KeyringShow(api::KeyringShow {})).await
    }

    /// Asks for another key: the leader makes it, gives it to every manager, and seals everything anew, in the background.
    /// [`show`](Self::show) says how far that is: it is over when the active key is another one, and the only one.
    ///
    /// Cancel safe: dropped before the answer, it may have been done, once, or not at all.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rotate(&self) -> Result<KeyringReport> {
        let active = self.show().await?.active;
        self.client.document(request::Kind::KeyringRotate(api::KeyringRotate { active })).await
    }
}
