//! A go-between on a node's local socket, which cuts what passes at a chosen byte.
//!
//! Owns the socket in a directory of its own. It knows frames by their first byte behind the header's length and looks into
//! nothing else.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quorate_transport::frame::{FrameKind, HEADER_BYTES};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// How much of the next stream of its kind passes before both sides are dropped, and how many were cut so.
struct Cut {
    question: AtomicUsize,
    answer: AtomicUsize,
    cuts: AtomicUsize,
}

pub struct GoBetween {
    cut: Arc<Cut>,
    task: JoinHandle<()>,
}

impl Drop for GoBetween {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl GoBetween {
    /// A socket in `near` that passes everything on to the one in `far`, and cuts streams that begin with `kind`.
    pub fn start(far: &Path, near: &Path, kind: FrameKind) -> Self {
        let whole = || AtomicUsize::new(usize::MAX);
        let cut = Arc::new(Cut { question: whole(), answer: whole(), cuts: AtomicUsize::new(0) });
        let listener = UnixListener::bind(near.join("quorate.sock")).unwrap();
        let (far, cutting) = (far.join("quorate.sock"), Arc::clone(&cut));
        let task = tokio::spawn(async move {
            while let Ok((asker, _)) = listener.accept().await {
                let Ok(node) = UnixStream::connect(&far).await else { continue };
                tokio::spawn(pass(asker, node, kind, Arc::clone(&cutting)));
            }
        });
        Self { cut, task }
    }

    /// Of the next stream of the kind so many bytes of the question pass.
    pub fn cut_question_after(&self, bytes: usize) {
        self.cut.question.store(bytes, Ordering::Relaxed);
    }

    /// Of the next stream of the kind so many bytes of what is answered pass.
    pub fn cut_answer_after(&self, bytes: usize) {
        self.cut.answer.store(bytes, Ordering::Relaxed);
    }

    /// Streams that were cut before they had ended by themselves.
    pub fn cuts(&self) -> usize {
        self.cut.cuts.load(Ordering::Relaxed)
    }
}

async fn pass(asker: UnixStream, node: UnixStream, kind: FrameKind, cut: Arc<Cut>) {
    let (mut from_asker, mut to_asker) = asker.into_split();
    let (from_node, mut to_node) = node.into_split();
    let mut header = [0; HEADER_BYTES];
    if from_asker.read_exact(&mut header).await.is_err() {
        return;
    }
    let next = |bytes: &AtomicUsize| {
        if header[4] == kind as u8 { bytes.swap(usize::MAX, Ordering::Relaxed) } else { usize::MAX }
    };
    let (asks, hears) = (next(&cut.question), next(&cut.answer));
    if to_node.write_all(&header[..asks.min(HEADER_BYTES)]).await.is_err() {
        return;
    }
    if asks <= HEADER_BYTES {
        cut.cuts.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let mut questions = from_asker.take((asks - HEADER_BYTES) as u64);
    let mut answers = from_node.take(hears as u64);
    tokio::select! {
        _ = tokio::io::copy(&mut questions, &mut to_node) => {}
        _ = tokio::io::copy(&mut answers, &mut to_asker) => {}
    }
    if questions.limit() == 0 || answers.limit() == 0 {
        cut.cuts.fetch_add(1, Ordering::Relaxed);
    }
}
