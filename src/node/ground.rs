//! What a node stands on: the machine's threads, network and disk, or, in a test cluster, tasks of one runtime with network
//! and disk in memory.
//!
//! Owns how a part of the node begins, on a thread with a runtime of its own or as a task, and how its end is told. What a
//! part does is the same in both: nothing above this file and [`super::facts::Layout`] knows the difference. Called by
//! everything that starts a part.

use std::future::Future;
use std::time::Duration;

use quorate_transport::Network;
use tokio::runtime::{Builder, Handle, Runtime};

#[cfg(feature = "testing")]
use super::memory_disk::MemoryDisk;
use super::stop::StartError;

/// Blocking reads for requests that may run at the same time.
#[cfg(feature = "manager")]
pub(super) const BLOCKING_THREADS: usize = 8;
/// How long a part's runtime waits at its end for work that still has a thread.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// What a node stands on; the default is the machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ground {
    /// What carries its datagrams.
    pub(super) network: Network,
    /// Where its store is; the directory where there is none.
    #[cfg(feature = "testing")]
    pub(super) disk: Option<MemoryDisk>,
    /// Its parts are tasks of the runtime that it is started on, whose clock they share.
    #[cfg(feature = "testing")]
    as_tasks: bool,
}

/// What a part's runtime drives besides its future.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Drives {
    /// Nothing: it waits for its inbox alone.
    #[cfg(feature = "manager")]
    Nothing,
    /// Timers.
    #[cfg(feature = "manager")]
    Time,
    /// Timers and sockets.
    Network,
    /// Timers and sockets, and tasks on a thread beside the part's own.
    #[cfg(feature = "manager")]
    Tasks,
}

impl Drives {
    fn runtime(self) -> std::io::Result<Runtime> {
        match self {
            #[cfg(feature = "manager")]
            Self::Nothing => Builder::new_current_thread().build(),
            #[cfg(feature = "manager")]
            Self::Time => Builder::new_current_thread().enable_time().build(),
            Self::Network => Builder::new_current_thread().enable_all().build(),
            #[cfg(feature = "manager")]
            Self::Tasks => Builder::new_multi_thread()
                .worker_threads(1)
                .max_blocking_threads(BLOCKING_THREADS)
                .thread_name("quorate-net")
                .enable_all()
                .build(),
        }
    }
}

/// A runtime that may be let go anywhere, also where nobody may wait.
struct Owned(Option<Runtime>);

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Ground {
    /// A machine of a test cluster.
    #[cfg(feature = "testing")]
    pub(crate) fn in_memory(host: quorate_transport::MemoryHost, disk: MemoryDisk) -> Self {
        Self { network: host.into(), disk: Some(disk), as_tasks: true }
    }

    /// Starts a part. Once `work` has come to its end, and everything it ran on is given back, `then` is told what it came to;
    /// it is not where the work panics.
    ///
    /// # Errors
    /// The machine gave no thread or no runtime.
    pub(super) fn start<T: Send + 'static>(
        &self,
        name: &'static str,
        drives: Drives,
        work: impl Future<Output = T> + Send + 'static,
        then: impl FnOnce(T) + Send + 'static,
    ) -> Result<Part, StartError> {
        #[cfg(feature = "testing")]
        if self.as_tasks {
            return Ok(Part { name, running: Running::Task(tokio::spawn(async move { then(work.await) })) });
        }
        let failed = |what: &str, error: std::io::Error| StartError::Internal(format!("cannot start {what}: {error}"));
        let mut runtime = Owned(Some(drives.runtime().map_err(|error| failed("a runtime", error))?));
        let run = move || {
            let Some(owned) = runtime.0.take() else { return };
            let outcome = owned.block_on(work);
            owned.shutdown_timeout(SHUTDOWN);
            then(outcome);
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        Ok(Part { name, running: Running::Thread(thread.map_err(|error| failed("a thread", error))?) })
    }

    /// Where the tasks of the part that asks are spawned. They end with what is returned here, at the latest.
    pub(super) fn tasks(&self) -> TasksOfPart {
        TasksOfPart(Tasks {
            handle: Handle::current(),
            #[cfg(feature = "testing")]
            group: self.as_tasks.then(Default::default),
        })
    }
}

/// A part that was started.
pub(super) struct Part {
    name: &'static str,
    running: Running,
}

enum Running {
    Thread(std::thread::JoinHandle<()>),
    #[cfg(feature = "testing")]
    Task(tokio::task::JoinHandle<()>),
}

impl Part {
    /// Whose it is.
    #[cfg(feature = "manager")]
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether its end is behind it.
    #[cfg(feature = "manager")]
    pub(super) fn is_finished(&self) -> bool {
        match &self.running {
            Running::Thread(thread) => thread.is_finished(),
            #[cfg(feature = "testing")]
            Running::Task(task) => task.is_finished(),
        }
    }

    /// Waits for the very end of a part that has told its outcome.
    pub(super) async fn join(self) {
        match self.running {
            Running::Thread(thread) => {
                if thread.join().is_err() {
                    tracing::error!(part = self.name, "a thread failed");
                }
            }
            #[cfg(feature = "testing")]
            Running::Task(task) => {
                if task.await.is_err() {
                    tracing::error!(part = self.name, "a part failed");
                }
            }
        }
    }
}

/// Where tasks of a part are spawned; cheap to clone.
#[derive(Clone)]
pub(crate) struct Tasks {
    handle: Handle,
    #[cfg(feature = "testing")]
    group: Option<std::sync::Arc<group::Group>>,
}

impl Tasks {
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        let task = self.handle.spawn(work);
        #[cfg(feature = "testing")]
        if let Some(group) = &self.group {
            group.take(task.abort_handle());
        }
        task
    }
}

/// The tasks of one part, which end when this is dropped; those on a runtime of the part's own end with that.
pub(super) struct TasksOfPart(Tasks);

impl TasksOfPart {
    pub(super) fn handle(&self) -> Tasks {
        self.0.clone()
    }
}

impl Drop for TasksOfPart {
    fn drop(&mut self) {
        #[cfg(feature = "testing")]
        if let Some(group) = &self.0.group {
            group.end();
        }
    }
}

#[cfg(feature = "testing")]
mod group {
    use std::sync::{Mutex, PoisonError};

    use tokio::task::AbortHandle;

    /// The tasks of a part that has no runtime of its own.
    #[derive(Default)]
    pub(crate) struct Group(Mutex<Known>);

    #[derive(Default)]
    struct Known {
        ended: bool,
        tasks: Vec<AbortHandle>,
        /// Who has ended is forgotten when there are so many.
        sweep_at: usize,
    }

    impl Group {
        pub(super) fn take(&self, task: AbortHandle) {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.ended {
                task.abort();
                return;
            }
            if known.tasks.len() >= known.sweep_at {
                known.tasks.retain(|task| !task.is_finished());
                known.sweep_at = 2 * known.tasks.len() + 64;
            }
            known.tasks.push(task);
        }

        pub(super) fn end(&self) {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.ended = true;
            for task in known.tasks.drain(..) {
                task.abort();
            }
        }
    }
}
