//! The Unix socket in a node's data directory: how its operator talks to it on the machine itself.
//!
//! Owns the socket file (0600), or the pointer to it where the path would be too long for a socket. Who may talk is decided
//! by the peer's credentials: the same user, or root. Carries the same frames and requests as the client plane. Called
//! by the node (serving) and by `--data-dir` clients.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quorate_core::id::NodeId;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::answers::{ANSWER_BYTES, ANSWER_DEADLINE, Answers, Own, Place};
use crate::ca::CertRole;
use crate::feed::{self, Feed, FeedReceiver};
use crate::frame::{self, FrameKind, HELLO_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::handler::{Answer, Caller, Down, Gate, Handler, Plane};
use crate::hello::{Hello, PROTOCOL_MAX, PROTOCOL_MIN};
use crate::proto;
use crate::request::RequestError;
use crate::text::base32;

/// The socket's name in the data directory.
const SOCKET_NAME: &str = "quorate.sock";
/// The pointer's name, where the socket is elsewhere.
const POINTER_NAME: &str = "quorate.sock.path";
/// What fits into `sun_path` on Linux and macOS, with its final zero and room for the temporary name.
const PATH_BYTES_MAX: usize = 90;
/// Connections at once.
const CONNECTIONS_MAX: usize = 256;
/// Of them and besides, feeds: they last, and must not keep others out.
const FEEDS_MAX: usize = 256;

/// Why there is no connection to, or no socket for, a node on this machine.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Nobody listens there.
    #[error("no node is running on {0}: start it with `quorate run --data-dir {0}`")]
    NotRunning(PathBuf),
    /// Somebody listens there already.
    #[error("a node is already running on {0}; two must not share a directory, nothing was changed")]
    AlreadyRunning(PathBuf),
    /// The socket belongs to somebody else, or is not open to this user.
    #[error("the node on {path} does not belong to this user ({why}); use the node's own user or root")]
    NotAllowed {
        /// The data directory.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The process there speaks another protocol version.
    #[error(
        "the node on {path} speaks local protocol {min} to {max}, this program {PROTOCOL_MIN} to {PROTOCOL_MAX}: use the program that the node was started with"
    )]
    Version {
        /// The data directory.
        path: PathBuf,
        /// Oldest that the node speaks.
        min: u32,
        /// Newest that the node speaks.
        max: u32,
    },
    /// It does not answer, or not in this protocol.
    #[error("the process on {path} gave no proper answer: {why}")]
    NoAnswer {
        /// The data directory.
        path: PathBuf,
        /// What happened.
        why: String,
    },
    /// The file system refused.
    #[error("the local socket of {path} cannot be used: {source}")]
    Io {
        /// The data directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl LocalError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// This process's user, from a socket pair of its own: there is no other safe way in std.
fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

/// Where the socket of a directory goes: into it, or, where that path is too long, into a private directory under
/// the temporary one, whose name follows from the data directory.
fn place(directory: &Path, uid: u32) -> io::Result<(PathBuf, bool)> {
    let inside = directory.join(SOCKET_NAME);
    if inside.as_os_str().len() <= PATH_BYTES_MAX {
        return Ok((inside, false));
    }
    let real = directory.canonicalize()?;
    let digest = blake3::hash(real.as_os_str().as_encoded_bytes());
    let name = base32().encode(digest.as_bytes().first_chunk::<10>().map_or(&[][..], |chunk| chunk.as_slice()));
    for base in [std::env::temp_dir(), PathBuf::from("/tmp")] {
        let private = base.join(format!("quorate-{uid}-{name}"));
        if private.join(SOCKET_NAME).as_os_str().len() <= PATH_BYTES_MAX {
            return Ok((private.join(SOCKET_NAME), true));
        }
    }
    Err(io::Error::other("neither the data directory nor the temporary directory has a path short enough for a socket"))
}

/// Makes a directory that only this user can enter, or checks that an existing one is that.
fn make_private(directory: &Path, uid: u32) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    // Not following links: in a directory that all may write to, a link may be anybody's.
    let found = std::fs::symlink_metadata(directory)?;
    if !found.is_dir() || found.uid() != uid || found.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "{} exists and is not a private directory of this user",
            directory.display()
        )));
    }
    Ok(())
}

/// The server's end. The socket is removed when it is dropped.
#[derive(Debug)]
pub struct LocalListener {
    listener: UnixListener,
    directory: PathBuf,
    socket: PathBuf,
    inode: u64,
    uid: u32,
}

impl LocalListener {
    /// Opens the socket of a data directory; one that a dead process left behind is replaced. To be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`LocalError::AlreadyRunning`], or the file system refused.
    pub fn bind(directory: &Path) -> Result<Self, LocalError> {
        let io = LocalError::io(directory);
        let uid = own_uid().map_err(&io)?;
        let (socket, elsewhere) = place(directory, uid).map_err(&io)?;
        let parent = socket.parent().unwrap_or(directory).to_owned();
        if elsewhere {
            make_private(&parent, uid).map_err(&io)?;
        }
        match std::fs::symlink_metadata(&socket) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io(io::Error::other(format!("{} is no socket", socket.display()))));
            }
            Ok(_) => {
                if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                    return Err(LocalError::AlreadyRunning(directory.to_owned()));
                }
            }
        }
        // Bound under another name, narrowed, then renamed: at no moment is it open to others under its own name.
        let temporary = parent.join(format!("q{}.tmp", std::process::id()));
        let _ = std::fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(&io)?;
        let narrowed = std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&temporary, &socket))
            .and_then(|()| std::fs::symlink_metadata(&socket));
        let inode = match narrowed {
            Ok(metadata) => metadata.ino(),
            Err(error) => {
                let _ = std::fs::remove_file(&temporary);
                return Err(io(error));
            }
        };
        let bound = Self { listener, directory: directory.to_owned(), socket, inode, uid };
        let pointer = directory.join(POINTER_NAME);
        if elsewhere {
            write_pointer(&pointer, &bound.socket).map_err(&io)?;
        } else {
            let _ = std::fs::remove_file(&pointer);
        }
        Ok(bound)
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.socket
    }

    /// Serves until the future is dropped; connections end with it.
    ///
    /// Cancel safe: that is how it is stopped.
    pub async fn serve(self, gate: Arc<dyn Gate>, handler: Arc<dyn Handler>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let feeds = Arc::new(Semaphore::new(FEEDS_MAX));
        // Whoever may connect here is who runs the node: one room for all.
        let answers = Answers::of(ANSWER_BYTES, ANSWER_BYTES, ANSWER_DEADLINE);
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_ended) = tasks.join_next() => continue,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors: not for ever. Anything else would return at once, and again, too.
                    tracing::warn!(%error, "accepting on the local socket failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == self.uid || peer.uid() == 0);
            let slot = slots.clone().try_acquire_owned();
            let (true, Ok(slot)) = (allowed, slot) else {
                tracing::info!("a caller on the local socket was turned away");
                continue;
            };
            let (gate, handler, feeds) = (gate.clone(), handler.clone(), feeds.clone());
            let own = answers.connection();
            tasks.spawn(async move {
                serve_one(stream, &*gate, &*handler, (feeds, own)).await;
                drop(slot);
            });
        }
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        // Only our own: a successor may have replaced it.
        let ours = std::fs::symlink_metadata(&self.socket).is_ok_and(|found| found.ino() == self.inode);
        if ours {
            let _ = std::fs::remove_file(&self.socket);
            let _ = std::fs::remove_file(self.directory.join(POINTER_NAME));
            if self.socket.parent() != Some(&self.directory)
                && let Some(private) = self.socket.parent()
            {
                let _ = std::fs::remove_dir(private);
            }
        }
    }
}

fn write_pointer(pointer: &Path, socket: &Path) -> io::Result<()> {
    let temporary = pointer.with_extension("tmp");
    std::fs::write(&temporary, socket.as_os_str().as_encoded_bytes())?;
    std::fs::rename(&temporary, pointer)
}

async fn serve_one(stream: UnixStream, gate: &dyn Gate, handler: &dyn Handler, (feeds, own): (Arc<Semaphore>, Own)) {
    let (receive, mut send) = stream.into_split();
    let mut receive = BufReader::new(receive);
    let caller = Caller {
        plane: Plane::Local,
        role: CertRole::Operator,
        node_id: NodeId::default(),
        raft_id: None,
        address: None,
        key_digest: [0; 32],
        enrolled: None,
        issuer: [0; 8],
    };
    // Whatever is no frame ends this connection and nothing else.
    while let Ok(Some(frame)) = frame::read(&mut receive, REQUEST_BYTES_MAX).await {
        #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is equally out of place here")]
        let (kind, (body, _place)) = match frame.kind {
            FrameKind::Hello => {
                let reply = proto::HelloReply { hello: Some(gate.hello().to_wire(0)), refused: None };
                (FrameKind::HelloReply, (Bytes::from(reply.encode_to_vec()), Place::default()))
            }
            FrameKind::Feed => {
                // One too many: closing says that there is no answer.
                if let Ok(slot) = feeds.try_acquire_owned() {
                    handler.feed(caller, frame.payload, Feed::local(send, receive, slot));
                }
                return;
            }
            FrameKind::Request => {
                let (sender, receiver) = oneshot::channel();
                handler.request(caller.clone(), frame.payload, Answer::alone(sender, own.place()));
                match receiver.await {
                    Ok((body, place)) if body.len() <= REQUEST_BYTES_MAX => (FrameKind::Response, (body, place)),
                    // No answer: closing says so.
                    _ => return,
                }
            }
            _ => return,
        };
        let Some(header) = frame::header(kind, &body) else { return };
        let writing = async { send.write_all(&header).await.is_ok() && send.write_all(&body).await.is_ok() };
        if own.give(writing).await != Some(true) {
            return;
        }
    }
}

/// The client's end: one directory's node. Clone it freely; each request has a connection of its own.
#[derive(Debug, Clone)]
pub struct LocalConnection {
    directory: PathBuf,
    socket: PathBuf,
    hello: Hello,
}

impl LocalConnection {
    /// Connects to the node that runs on a data directory.
    ///
    /// # Errors
    /// [`LocalError::NotRunning`] and the others.
    pub async fn connect(directory: &Path) -> Result<Self, LocalError> {
        let socket = find(directory)?;
        let mut stream = open(directory, &socket).await?;
        let no_answer = |why: String| LocalError::NoAnswer { path: directory.to_owned(), why };
        let exchange = async {
            let hello = frame::encode(FrameKind::Hello, &[]).unwrap_or_default();
            stream.write_all(&hello).await.map_err(|error| no_answer(error.to_string()))?;
            frame::read_kind(&mut stream, FrameKind::HelloReply, HELLO_BYTES_MAX)
                .await
                .map_err(|error| no_answer(error.to_string()))
        };
        let body = tokio::time::timeout(Duration::from_secs(5), exchange)
            .await
            .map_err(|_elapsed| no_answer("it was silent for 5 s".to_owned()))??;
        let hello = proto::HelloReply::decode(body)
            .ok()
            .and_then(|reply| reply.hello)
            .and_then(Hello::from_wire)
            .ok_or_else(|| no_answer("its hello does not decode".to_owned()))?;
        if hello.protocol_min > PROTOCOL_MAX || hello.protocol_max < PROTOCOL_MIN {
            return Err(LocalError::Version {
                path: directory.to_owned(),
                min: hello.protocol_min,
                max: hello.protocol_max,
            });
        }
        Ok(Self { directory: directory.to_owned(), socket, hello })
    }

    /// What the node said of itself when this was opened.
    pub const fn remote_hello(&self) -> &Hello {
        &self.hello
    }

    /// Asks and waits for the answer, at most until the deadline.
    ///
    /// Cancel safe for this side; the outcome of a cancelled request is unknown.
    ///
    /// # Errors
    /// [`RequestError::NotSent`]: not executed. [`RequestError::Unknown`]: may have been.
    pub async fn request(&self, body: Bytes, deadline: Duration) -> Result<Bytes, RequestError> {
        let until = tokio::time::Instant::now() + deadline;
        let late = || format!("no answer within {} ms", deadline.as_millis());
        if body.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::NotSent(format!(
                "it has {} bytes, at most {REQUEST_BYTES_MAX} are taken",
                body.len()
            )));
        }
        let mut stream = tokio::time::timeout_at(until, open(&self.directory, &self.socket))
            .await
            .map_err(|_elapsed| RequestError::NotSent(late()))?
            .map_err(|error| RequestError::NotSent(error.to_string()))?;
        let header = frame::header(FrameKind::Request, &body)
            .ok_or_else(|| RequestError::NotSent("it is too long".to_owned()))?;
        let sending = async {
            stream.write_all(&header).await?;
            stream.write_all(&body).await
        };
        // Only a whole frame is a request: an error before the last byte means that none arrived.
        tokio::time::timeout_at(until, sending)
            .await
            .map_err(|_elapsed| RequestError::NotSent(late()))?
            .map_err(|error| RequestError::NotSent(error.to_string()))?;
        tokio::time::timeout_at(until, frame::read_kind(&mut stream, FrameKind::Response, REQUEST_BYTES_MAX))
            .await
            .map_err(|_elapsed| RequestError::Unknown(late()))?
            .map_err(|error| RequestError::Unknown(error.to_string()))
    }

    /// Asks what is answered for as long as the receiver lives.
    ///
    /// Cancel safe for this side: dropped half-way, the node sees no question.
    ///
    /// # Errors
    /// The node does not run, or does not take the question.
    pub async fn feed(&self, body: Bytes) -> Result<FeedReceiver, Down> {
        let broken = |error: &dyn std::fmt::Display| Down::Broken(error.to_string());
        let stream = open(&self.directory, &self.socket).await.map_err(|error| broken(&error))?;
        let header = frame::header(FrameKind::Feed, &body).ok_or_else(|| broken(&"the question is too long"))?;
        let (receive, mut wanted) = stream.into_split();
        wanted.write_all(&header).await.map_err(|error| broken(&error))?;
        wanted.write_all(&body).await.map_err(|error| broken(&error))?;
        Ok(feed::opened(receive, wanted))
    }
}

fn find(directory: &Path) -> Result<PathBuf, LocalError> {
    use std::os::unix::ffi::OsStrExt;
    let pointer = directory.join(POINTER_NAME);
    match std::fs::read(&pointer) {
        Ok(path) => Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&path))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(directory.join(SOCKET_NAME)),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(LocalError::NotAllowed { path: directory.to_owned(), why: source.to_string() })
        }
        Err(source) => Err(LocalError::Io { path: directory.to_owned(), source }),
    }
}

async fn open(directory: &Path, socket: &Path) -> Result<UnixStream, LocalError> {
    if socket.as_os_str().len() > PATH_BYTES_MAX {
        // Too long for a socket, and no pointer: nobody has served here.
        return Err(LocalError::NotRunning(directory.to_owned()));
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "io's kinds are open-ended")]
    let stream = UnixStream::connect(socket).await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => LocalError::NotRunning(directory.to_owned()),
        io::ErrorKind::PermissionDenied => {
            LocalError::NotAllowed { path: directory.to_owned(), why: source.to_string() }
        }
        _ => LocalError::Io { path: directory.to_owned(), source },
    })?;
    let io = LocalError::io(directory);
    let (server, own) = (stream.peer_cred().map_err(&io)?.uid(), own_uid().map_err(&io)?);
    // Root may talk to anybody's node; anybody else only to its own or root's.
    if own != 0 && server != own && server != 0 {
        return Err(LocalError::NotAllowed {
            path: directory.to_owned(),
            why: format!("user {server} serves it, this is user {own}"),
        });
    }
    Ok(stream)
}
