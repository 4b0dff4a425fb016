//! One connection, and the watch over all of them: what is idle or slow is closed.
//!
//! There is one timer for all connections, not one for each request, and a connection that nobody tells
//! anything costs two clock readings for each request.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::request::LastPath;
use super::{HttpConfig, Server, service};

/// How often connections are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// The idle and header timeouts while clients wait for a connection.
const FULL_TIMEOUT_MS: u64 = 1_000;

/// How many times 4 KiB are read from a connection that closes.
const LINGER_READS_MAX: usize = 256;

const RUN: u8 = 0;
/// Finish the requests that run, then close.
const DRAIN: u8 = 1;
const CLOSE: u8 = 2;

/// What a connection is doing.
pub(super) struct Activity {
    opened: Instant,
    /// Requests that run, from their head to their reply.
    requests: AtomicU32,
    /// When bytes were last read or written, in milliseconds after it was opened.
    bytes_at_ms: AtomicU64,
    /// When the head of a request began to arrive; 0 if none is arriving.
    header_at_ms: AtomicU64,
    http2: AtomicBool,
    command: AtomicU8,
    /// The replies that are being sent while they are made.
    streams: Mutex<Vec<Weak<Progress>>>,
    /// Wakes the task of this connection; it never moves to another task.
    waker: OnceLock<Waker>,
    last_path: LastPath,
}

impl Activity {
    fn new() -> Self {
        Self {
            opened: Instant::now(),
            requests: AtomicU32::new(0),
            bytes_at_ms: AtomicU64::new(0),
            header_at_ms: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            command: AtomicU8::new(RUN),
            streams: Mutex::default(),
            waker: OnceLock::new(),
            last_path: LastPath::default(),
        }
    }

    /// The path of the last request.
    pub(super) fn last_path(&self) -> &LastPath {
        &self.last_path
    }

    fn now_ms(&self) -> u64 {
        // Zero means "not yet".
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn bytes_written(&self) {
        self.bytes_at_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn bytes_read(&self) {
        let now_ms = self.now_ms();
        self.bytes_at_ms.store(now_ms, Ordering::Relaxed);
        if self.requests.load(Ordering::Relaxed) == 0 && self.header_at_ms.load(Ordering::Relaxed) == 0 {
            self.header_at_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Note that a request has begun; it ends when the guard is dropped.
    fn request(self: &Arc<Self>, http2: bool) -> RequestGuard {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.header_at_ms.store(0, Ordering::Relaxed);
        if http2 {
            self.http2.store(true, Ordering::Relaxed);
        }
        RequestGuard(self.clone())
    }

    /// Note that the client waits for us, whatever else it does.
    pub(super) fn busy(self: &Arc<Self>) -> RequestGuard {
        self.requests.fetch_add(1, Ordering::Relaxed);
        RequestGuard(self.clone())
    }

    /// Note that a reply is sent while it is made.
    pub(super) fn stream(&self) -> Arc<Progress> {
        let progress = Arc::new(Progress { opened: self.opened, taken_at_ms: AtomicU64::new(0) });
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&progress));
        progress
    }

    /// Whether the client has stopped to read some reply that is being made for it.
    fn is_stalled(&self, reply_idle_timeout_ms: u64) -> bool {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.now_ms();
        // On HTTP/1.1 every byte that is written belongs to the one reply.
        let written_at_ms = match self.http2.load(Ordering::Relaxed) {
            true => 0,
            false => self.bytes_at_ms.load(Ordering::Relaxed),
        };
        streams.iter().filter_map(Weak::upgrade).any(|stream| {
            let taken_at_ms = stream.taken_at_ms.load(Ordering::Relaxed);
            taken_at_ms > 0 && now_ms.saturating_sub(taken_at_ms.max(written_at_ms)) > reply_idle_timeout_ms
        })
    }

    fn is_expired(&self, header_timeout_ms: u64, idle_timeout_ms: u64) -> bool {
        // Requests that run have time limits of their own.
        if self.requests.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let now_ms = self.now_ms();
        let header_at_ms = self.header_at_ms.load(Ordering::Relaxed);
        // What arrives on HTTP/2 between requests need not be the head of one.
        let is_slow = header_at_ms > 0
            && !self.http2.load(Ordering::Relaxed)
            && now_ms.saturating_sub(header_at_ms) > header_timeout_ms;
        is_slow || now_ms.saturating_sub(self.bytes_at_ms.load(Ordering::Relaxed)) > idle_timeout_ms
    }

    fn command(&self, command: u8) {
        self.command.fetch_max(command, Ordering::Release);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

/// How a reply that is sent while it is made gets on.
pub(super) struct Progress {
    opened: Instant,
    /// When the client took the last chunk, in milliseconds after the connection was opened; 0 while it waits for us.
    taken_at_ms: AtomicU64,
}

impl Progress {
    /// There is nothing to take.
    pub(super) fn wait_for_host(&self) {
        self.taken_at_ms.store(0, Ordering::Relaxed);
    }

    /// A chunk was taken, and the next one is being made.
    pub(super) fn wait_for_client(&self) {
        let now_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        self.taken_at_ms.store(now_ms, Ordering::Relaxed);
    }
}

/// Ends a request of a connection.
pub(super) struct RequestGuard(Arc<Activity>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.bytes_written();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All connections that are open.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<(u64, HashMap<u64, Arc<Activity>>)>,
    full: AtomicBool,
}

impl Connections {
    fn with<T>(&self, f: impl FnOnce(&mut (u64, HashMap<u64, Arc<Activity>>)) -> T) -> T {
        f(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether every slot is taken: then the idle ones make place sooner.
    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// Close what is idle or slow, for ever.
    pub(super) async fn watch(&self, server: &Server) {
        let HttpConfig { header_timeout_ms, idle_timeout_ms, reply_idle_timeout_ms, .. } = *server.config;
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            let longest_ms = if self.full.load(Ordering::Relaxed) { FULL_TIMEOUT_MS } else { u64::MAX };
            self.with(|(_, open)| {
                for activity in open.values() {
                    let (header_ms, idle_ms) =
                        (header_timeout_ms.min(longest_ms), idle_timeout_ms.min(longest_ms));
                    if activity.is_expired(header_ms, idle_ms) || activity.is_stalled(reply_idle_timeout_ms) {
                        server.metrics.connections_expired.fetch_add(1, Ordering::Relaxed);
                        activity.command(CLOSE);
                    }
                }
            });
        }
    }

    /// Close each connection as soon as no request of it runs.
    pub(super) fn drain(&self) {
        self.with(|(_, open)| open.values().for_each(|activity| activity.command(DRAIN)));
    }

    /// Close every connection.
    pub(super) fn close(&self) {
        self.with(|(_, open)| open.values().for_each(|activity| activity.command(CLOSE)));
    }
}

/// Keeps a connection in the list of those that are open.
struct OpenGuard<'a> {
    server: &'a Server,
    id: u64,
}

impl<'a> OpenGuard<'a> {
    fn new(server: &'a Server, activity: Arc<Activity>) -> Self {
        server.metrics.connections_open.fetch_add(1, Ordering::Relaxed);
        let id = server.connections.with(|(next, open)| {
            *next += 1;
            open.insert(*next, activity);
            *next
        });
        Self { server, id }
    }
}

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        self.server.connections.with(|(_, open)| open.remove(&self.id));
        self.server.metrics.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serve one connection to its end.
pub(super) async fn run(stream: TcpStream, server: Arc<Server>) {
    let activity = Arc::new(Activity::new());
    let _open = OpenGuard::new(&server, activity.clone());
    // The server may have begun to drain between the accept and the line above.
    if server.shutdown.is_cancelled() {
        return;
    }
    let io = Watched { stream: TokioIo::new(stream), activity: activity.clone() };
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let guard = activity.request(request.version() == hyper::Version::HTTP_2);
        let (server, activity) = (server.clone(), activity.clone());
        async move {
            let reply = service::respond(&server, &activity, request).await;
            drop(guard);
            Ok::<_, Infallible>(reply)
        }
    });
    let mut connection = pin!(server.builder.serve_connection(io, service));
    let mut is_draining = false;
    let ended = poll_fn(|context| {
        activity.waker.get_or_init(|| context.waker().clone());
        match activity.command.load(Ordering::Acquire) {
            CLOSE => return Poll::Ready(Ok(())),
            DRAIN if !is_draining => {
                is_draining = true;
                connection.as_mut().graceful_shutdown();
            }
            _ => {}
        }
        connection.as_mut().poll(context)
    });
    if let Err(error) = ended.await {
        tracing::debug!("a connection ended: {error}");
    }
}

/// A socket whose activity is watched.
struct Watched {
    stream: TokioIo<TcpStream>,
    activity: Arc<Activity>,
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.activity.bytes_read();
        }
        read
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_ready() {
            self.activity.bytes_written();
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        if written.is_ready() {
            self.activity.bytes_written();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        // Closing a socket that holds unread bytes resets it, and the client may lose the answer that tells it
        // why: so read what has come, without waiting for more.
        let mut buffer = [MaybeUninit::uninit(); 4096];
        for _ in 0..LINGER_READS_MAX {
            let mut buffer = ReadBuf::uninit(&mut buffer);
            match Pin::new(&mut self.stream).poll_read(context, buffer.unfilled()) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
