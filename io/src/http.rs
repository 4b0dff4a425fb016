//! The HTTP server: HTTP/1.1 and HTTP/2 without TLS on one port (protocol page 01 §1, §1.9).

mod body;
pub mod bulk;
mod connection;
mod limits;
mod operator;
mod reply;
mod request;
mod rows;
mod service;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use limits::*;

use crate::gateway::Gateway;
use crate::metrics::Metrics;
use body::Budget;
use connection::Connections;

/// The stack that threads need which decode or drop states: these recurse as deep as documents nest. Builds
/// without optimisation need about 3 MiB, others far less.
pub const THREAD_STACK_BYTES: usize = 8 * 1024 * 1024;

/// How many connections wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;

/// How long to wait after a failure to accept, such as too many open files.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// How many big bodies or replies are decoded or encoded at once: a body of the most values takes about 300 MB
/// while it is decoded.
const BIG_MAX: usize = 2;

/// How many chunks of streamed replies are made at once, each on a thread that may wait for the storage.
const STREAM_CHUNKS_MAX: usize = 8;

/// How many bodies of rows that do not fit in memory are decoded at once; others wait in the kernel.
const ROWS_ARRIVING_MAX: usize = 2;

/// What all connections share.
struct Server {
    gateway: Gateway,
    config: Arc<HttpConfig>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    shutdown: CancellationToken,
    budget: Arc<Budget>,
    big: Semaphore,
    streams: Semaphore,
    rows_arriving: Semaphore,
    connections: Connections,
    builder: auto::Builder<TokioExecutor>,
}

/// Listen on an address. It can be listened on again as soon as the last listener is gone, however that ended
/// (page 04 §1.2, "restart").
///
/// # Errors
/// If the address is in use, not of this machine, or not allowed.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serve until `shutdown` is cancelled: then accept no more, close what is idle, let the requests that run
/// finish within [`HttpConfig::drain_timeout_ms`], and return.
///
/// `ready` is what `GET /readyz` tells.
///
/// # Errors
/// None today: a failure to accept is logged and tried again.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    config: Arc<HttpConfig>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // hyper panics below 8192. A head and its body are one write; `pipeline_flush` would do so too, but takes what a reply
    // gives without end, however slow the client is.
    builder.http1().max_buf_size(config.max_header_bytes.max(8192)).writev(false);
    builder
        .http2()
        .max_concurrent_streams(config.max_streams)
        .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX));
    let server = Arc::new(Server {
        gateway,
        metrics,
        ready,
        shutdown: shutdown.clone(),
        budget: Arc::new(Budget::new(config.max_bodies_bytes)),
        big: Semaphore::new(BIG_MAX),
        streams: Semaphore::new(STREAM_CHUNKS_MAX),
        rows_arriving: Semaphore::new(ROWS_ARRIVING_MAX),
        connections: Connections::default(),
        builder,
        config,
    });
    let tasks = TaskTracker::new();
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accept(&listener, &server, &tasks) => {}
        () = server.connections.watch(&server) => {}
    }
    drop(listener);
    tasks.close();
    server.connections.drain();
    if tokio::time::timeout(server.config.drain_timeout(), tasks.wait()).await.is_err() {
        tracing::warn!("{} connections were closed before they had ended", tasks.len());
        server.connections.close();
        tasks.wait().await;
    }
    Ok(())
}

/// Accept connections for ever, each with a slot; without a free slot, clients wait in the kernel.
async fn accept(listener: &TcpListener, server: &Arc<Server>, tasks: &TaskTracker) {
    let slots = Arc::new(Semaphore::new(server.config.max_connections));
    loop {
        server.connections.set_full(slots.available_permits() == 0);
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                // A reply is one write: nothing is gained by waiting for more.
                let _ = stream.set_nodelay(true);
                server.metrics.connections.fetch_add(1, Relaxed);
                let server = server.clone();
                tasks.spawn(async move {
                    connection::run(stream, server).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}
