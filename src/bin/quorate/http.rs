//! Three pages over HTTP: `/metrics`, `/livez`, `/readyz`.
//!
//! Owns the listener, the recorder that the node's metrics go to, and how the verdicts look. The verdicts themselves are the
//! library's, for embedders too. Never touches a disk and never asks another node, so that it answers while they hang.
//! Started by `node`, before the node is.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use quorate::Node;
use quorate::status::{Check, Liveness, Readiness};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::failure::Failure;

/// Seconds: from a fast disk's sync to a request's deadline.
const BUCKETS: [f64; 17] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Connections at once: a handful of scrapers and probes; more wait.
const CONNECTIONS_MAX: usize = 64;
/// For so long a connection may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// What histograms have gathered is put together so often, also when nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// What there is to show.
#[derive(Clone)]
enum Shown {
    Starting,
    Running(Node),
    Stopping,
}

/// The pages, for as long as this lives.
pub(crate) struct Pages {
    address: SocketAddr,
    shown: watch::Sender<Shown>,
    serving: JoinHandle<()>,
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Pages {
    /// Listens, and takes the metrics of everything that starts from now on.
    pub(crate) async fn open(address: &str) -> Result<Self, Failure> {
        let cannot = |why: String| Failure::local(format!("--http {address}: {why}. The node was not started"));
        let listener = TcpListener::bind(address).await.map_err(|error| {
            if error.kind() == std::io::ErrorKind::InvalidInput {
                return Failure::usage(format!(
                    "--http {address}: {error}; write HOST:PORT, for example 127.0.0.1:4702. The node was not started"
                ));
            }
            cannot(format!("cannot listen: {error}"))
        })?;
        let address = listener.local_addr().map_err(|error| cannot(error.to_string()))?;
        let recorder = PrometheusBuilder::new()
            .set_buckets(&BUCKETS)
            .map_err(|error| Failure::local(format!("the metrics cannot be set up: {error}")))?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder)
            .map_err(|error| Failure::local(format!("the metrics cannot be set up: {error}")))?;
        let (shown, showing) = watch::channel(Shown::Starting);
        tracing::info!(%address, "metrics and health over HTTP");
        let serving = tokio::spawn(serve(listener, handle, showing));
        Ok(Self { address, shown, serving })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node has started.
    pub(crate) fn show(&self, node: &Node) {
        self.shown.send_replace(Shown::Running(node.clone()));
    }

    /// The node is about to stop: nothing more should be sent to it.
    pub(crate) fn stopping(&self) {
        self.shown.send_replace(Shown::Stopping);
    }
}

async fn serve(listener: TcpListener, metrics: PrometheusHandle, shown: watch::Receiver<Shown>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut upkeep = tokio::time::interval(UPKEEP);
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                _ = upkeep.tick() => metrics.run_upkeep(),
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let (metrics, shown) = (metrics.clone(), shown.clone());
                tokio::spawn(async move {
                    talk(stream, metrics, shown).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Mostly that no file handles are left: the next attempt may find some.
                tracing::debug!(%error, "a connection over HTTP could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn talk(stream: TcpStream, metrics: PrometheusHandle, shown: watch::Receiver<Shown>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &metrics, &shown.borrow());
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Who does not read gives its place to the next.
    match tokio::time::timeout(2 * PATIENCE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection over HTTP ended early"),
        Err(_elapsed) => tracing::debug!("a connection over HTTP took too long"),
    }
}

fn answer(request: &Request<Incoming>, metrics: &PrometheusHandle, shown: &Shown) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let asked = |word: &str| request.uri().query().is_some_and(|query| query.split('&').any(|part| part == word));
    let accepts = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let how = if asked("format=json") || accepts.contains("application/json") {
        How::Json
    } else if asked("verbose") || asked("verbose=") || asked("verbose=true") {
        How::Verbose
    } else {
        How::Short
    };
    match request.uri().path() {
        "/metrics" => {
            // The version of the format that it is in; scrapers choose their parser by it.
            page(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.render())
        }
        "/livez" => liveness(&alive(shown), how),
        "/readyz" => readiness(&ready(shown), how),
        "/" => text(StatusCode::OK, "/metrics\n/livez\n/readyz   (?verbose, ?format=json)\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n".to_owned()),
    }
}

#[derive(Clone, Copy)]
enum How {
    Short,
    Verbose,
    Json,
}

fn alive(shown: &Shown) -> Liveness {
    match shown {
        Shown::Running(node) => node.liveness(),
        Shown::Starting | Shown::Stopping => Liveness { alive: true, detail: String::new() },
    }
}

fn ready(shown: &Shown) -> Readiness {
    let not =
        |detail: &str| Readiness::of(vec![Check { name: "running".to_owned(), ok: false, detail: detail.to_owned() }]);
    match shown {
        Shown::Starting => not("the node is starting"),
        Shown::Running(node) => node.readiness(),
        Shown::Stopping => not("the node is stopping"),
    }
}

const fn code(well: bool) -> StatusCode {
    if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn liveness(verdict: &Liveness, how: How) -> Response<Full<Bytes>> {
    let code = code(verdict.alive);
    match how {
        How::Json => document(code, verdict),
        How::Short | How::Verbose if verdict.alive => text(code, "ok\n".to_owned()),
        How::Short | How::Verbose => text(code, format!("not alive: {}\n", verdict.detail)),
    }
}

fn readiness(verdict: &Readiness, how: How) -> Response<Full<Bytes>> {
    let code = code(verdict.ready);
    match how {
        How::Json => document(code, verdict),
        How::Short if verdict.ready => text(code, "ok\n".to_owned()),
        How::Short => {
            let failed = verdict.checks.iter().filter(|check| !check.ok);
            let why: Vec<String> = failed.map(|check| format!("{}: {}", check.name, check.detail)).collect();
            text(code, format!("not ready: {}\n", why.join("; ")))
        }
        How::Verbose => {
            let mark = |ok| if ok { "[+]" } else { "[-]" };
            let line = |check: &Check| format!("{}{}: {}\n", mark(check.ok), check.name, check.detail);
            let mut lines: String = verdict.checks.iter().map(line).collect();
            lines.push_str(if verdict.ready { "ready\n" } else { "not ready\n" });
            text(code, lines)
        }
    }
}

fn text(code: StatusCode, body: String) -> Response<Full<Bytes>> {
    page(code, "text/plain; charset=utf-8", body)
}

fn document(code: StatusCode, value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(body) => page(code, "application/json", body + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn page(code: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(response: Response<Full<Bytes>>) -> (u16, String) {
        let code = response.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (code, String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// Of one check that does not hold, beside one that does.
    fn verdict(name: &str, detail: &str) -> Readiness {
        let check = |name: &str, ok, detail: &str| Check { name: name.to_owned(), ok, detail: detail.to_owned() };
        Readiness::of(vec![check("leader", true, "n2 leads"), check(name, false, detail)])
    }

    #[tokio::test]
    async fn each_page_says_no_and_why_where_the_disk_hangs_and_where_the_state_lags() {
        for (name, detail) in [
            ("disk", "the disk has not answered for 4s"),
            ("state", "the state is at most 9s old, more than 2s; 7 committed entries are not applied here"),
        ] {
            let verdict = verdict(name, detail);
            let short = body(readiness(&verdict, How::Short)).await;
            assert_eq!(short, (503, format!("not ready: {name}: {detail}\n")));
            let verbose = body(readiness(&verdict, How::Verbose)).await;
            assert_eq!(verbose, (503, format!("[+]leader: n2 leads\n[-]{name}: {detail}\nnot ready\n")));
            let (code, json) = body(readiness(&verdict, How::Json)).await;
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!((code, &read["ready"], &read["checks"][1]["ok"]), (503, &false.into(), &false.into()));
            assert_eq!(read["checks"][1]["detail"], detail);
        }
    }
}
