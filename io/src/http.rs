//! The HTTP server: HTTP/1.1 and HTTP/2 without TLS on one port (protocol page 01 §1, §1.9).

mod activity;
mod body;
mod budget;
pub mod bulk;
mod connection;
mod heads;
pub mod limits;
mod media;
mod operator;
mod reply;
mod request;
mod rows;
mod server;
mod service;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::descriptors;
use crate::gateway::Gateway;
use crate::metrics::Metrics;
use limits::HttpConfig;
use server::Server;

/// The stack that threads need which decode or drop states: these recurse as deep as documents nest. Builds
/// without optimisation need about 3 MiB, others far less.
pub const THREAD_STACK_BYTES: usize = 8 * 1024 * 1024;

/// How many connections wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;

/// How much of what is written to a connection may wait in the kernel to be sent, in bytes: so the host sees how fast a client
/// reads, and what it does not read takes no memory there.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// How long to wait after a failure to accept, such as too many open files.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// How long to wait for the connection that makes room for another.
const ROOM_INTERVAL: Duration = Duration::from_millis(20);

/// How long after the time for them the answers of what has not ended in time may take to leave, when the server stops.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_millis(250);

/// How often failures to accept are logged at most.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(60);

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
    let server = Arc::new(Server::new(gateway, config, metrics, ready, shutdown.clone(), builder));
    let tasks = TaskTracker::new();
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accept(&listener, &server, &tasks) => {}
        () = connection::watch(&server) => {}
    }
    drop(listener);
    tasks.close();
    server.connections.drain();
    let drain_timeout = server.config.drain_timeout() + LAST_ANSWERS_TIMEOUT;
    if tokio::time::timeout(drain_timeout, tasks.wait()).await.is_err() {
        tracing::warn!("{} connections were closed before they had ended", tasks.len());
        server.connections.close();
        tasks.wait().await;
    }
    Ok(())
}

/// Accept connections for ever, each with a slot. Without a free slot, the one that keeps the host waiting longest makes
/// room, and if none does, clients wait in the kernel.
async fn accept(listener: &TcpListener, server: &Arc<Server>, tasks: &TaskTracker) {
    let slots = Arc::new(Semaphore::new(server.config.max_connections));
    let mut logged: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let slot = slot(&slots, server).await;
                // A reply is one write: nothing is gained by waiting for more.
                let _ = stream.set_nodelay(true);
                descriptors::limit_unsent(&stream, UNSENT_BYTES_MAX);
                server.metrics.connections.fetch_add(1, Relaxed);
                let server = server.clone();
                tasks.spawn(async move {
                    connection::run(stream, server).await;
                    drop(slot);
                });
            }
            // The client has gone before it was accepted, or similar.
            Err(error) if !descriptors::is_lack(&error) => {
                tracing::debug!("a connection was not accepted: {error}")
            }
            Err(error) => {
                let now = Instant::now();
                if logged.is_none_or(|at| now - at > ACCEPT_LOG_INTERVAL) {
                    tracing::warn!("cannot accept a connection: {error}");
                    logged = Some(now);
                }
                connection::make_room(server);
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

async fn slot(slots: &Arc<Semaphore>, server: &Server) -> OwnedSemaphorePermit {
    loop {
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            return slot;
        }
        connection::make_room(server);
        if let Ok(Ok(slot)) = tokio::time::timeout(ROOM_INTERVAL, slots.clone().acquire_owned()).await {
            return slot;
        }
    }
}
