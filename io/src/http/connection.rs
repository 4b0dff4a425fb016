//! One connection, and the watch over all of them: what is idle or slow is closed.
//!
//! There is one timer for all connections, not one for each request, and a connection that nobody tells
//! anything costs three readings of a clock that costs next to nothing.
//!
//! What counts is how long the host has waited for a client beyond what its bytes pay for ([`Transfer`]), whatever else
//! the connection does: pings are no progress.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::budget::{Account, Budget, Charge};
use super::heads::Checked;
use super::request::LastPath;
use super::{HttpConfig, Server, service};

/// How often connections are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// How slow a client may be, for ever: it pays with its bytes for the time that the host waits for it.
pub(super) const TRANSFER_BYTES_PER_S_MIN: u64 = 4 * 1024;

/// Who keeps the host waiting for so long makes room for those who come, if every place is taken.
const PATIENCE_MS: u64 = 250;

/// Who keeps the host waiting for so long goes even beyond that, so that the next ones need not look for room.
const FULL_TIMEOUT_MS: u64 = 1_000;

/// The part of all connections that goes at once in this way.
const ROOM_SHARE: usize = 64;

/// The part of the budget that is made free at once for want of memory.
const FREED_SHARE: usize = 8;

/// How many times 4 KiB are read from a connection that closes.
const LINGER_READS_MAX: usize = 256;

const RUN: u8 = 0;
/// Finish the requests that run, then close.
const DRAIN: u8 = 1;
const CLOSE: u8 = 2;

/// What a connection is doing.
pub(super) struct Activity {
    /// By [`clock_ms`].
    opened_ms: u64,
    /// What its requests and replies hold of the budget.
    account: Arc<Account>,
    /// Requests that run, from their head to their reply.
    requests: AtomicU32,
    /// When the client last did something, in milliseconds after it was opened: bytes on HTTP/1.1, where they all belong
    /// to requests; requests and replies on HTTP/2.
    active_at_ms: AtomicU64,
    /// When the head of a request began to arrive; 0 if none is arriving.
    header_at_ms: AtomicU64,
    http2: AtomicBool,
    command: AtomicU8,
    /// The bodies and replies that are on their way.
    transfers: Mutex<Vec<Weak<Transfer>>>,
    /// Wakes the task of this connection; it never moves to another task.
    waker: OnceLock<Waker>,
    last_path: LastPath,
}

impl Activity {
    fn new(budget: &Arc<Budget>) -> Self {
        Self {
            opened_ms: clock_ms(),
            account: Account::new(budget),
            requests: AtomicU32::new(0),
            active_at_ms: AtomicU64::new(0),
            header_at_ms: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            command: AtomicU8::new(RUN),
            transfers: Mutex::default(),
            waker: OnceLock::new(),
            last_path: LastPath::default(),
        }
    }

    /// The path of the last request.
    pub(super) fn last_path(&self) -> &LastPath {
        &self.last_path
    }

    /// What its requests and replies hold of the budget.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whether it speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    fn now_ms(&self) -> u64 {
        // Zero means "not yet".
        clock_ms().saturating_sub(self.opened_ms).max(1)
    }

    fn act(&self) {
        self.active_at_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn bytes_written(&self) {
        if !self.is_http2() {
            self.act();
        }
    }

    fn bytes_read(&self) {
        if self.is_http2() {
            return;
        }
        let now_ms = self.now_ms();
        self.active_at_ms.store(now_ms, Ordering::Relaxed);
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

    /// A body or a reply that is on its way, as long as somebody holds it, and what it holds of the budget. Whose turn it
    /// is has yet to be said.
    pub(super) fn transfer(self: &Arc<Self>, kind: TransferKind, charge: Option<Charge>) -> Arc<Transfer> {
        let transfer = Arc::new(Transfer {
            activity: self.clone(),
            kind,
            waiting_since_ms: AtomicU64::new(0),
            owed_ms: AtomicU64::new(0),
            revoked: OnceLock::new(),
            _charge: charge,
        });
        let mut transfers = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        transfers.retain(|transfer| transfer.strong_count() > 0);
        transfers.push(Arc::downgrade(&transfer));
        transfer
    }

    /// What is on its way.
    fn transfers(&self) -> Vec<Arc<Transfer>> {
        let transfers = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        transfers.iter().filter_map(Weak::upgrade).collect()
    }

    /// How long the client keeps the host waiting, in milliseconds; 0 if it is the host that has something to do.
    fn owed_ms(&self) -> u64 {
        let now_ms = self.now_ms();
        let transfers = self.transfers();
        let bodies = transfers.iter().filter(|transfer| transfer.kind == TransferKind::Body).count();
        if self.requests.load(Ordering::Relaxed) as usize > bodies
            || transfers.iter().any(|one| one.is_ours())
        {
            return 0;
        }
        // Of several, the one that gets on best.
        let owed_ms = transfers.iter().map(|transfer| transfer.owed_ms(now_ms)).min();
        owed_ms.unwrap_or_else(|| {
            let since_ms = match self.header_at_ms.load(Ordering::Relaxed) {
                0 => self.active_at_ms.load(Ordering::Relaxed),
                header_at_ms => header_at_ms,
            };
            now_ms.saturating_sub(since_ms)
        })
    }

    fn is_expired(&self, config: &HttpConfig) -> bool {
        let now_ms = self.now_ms();
        let transfers = self.transfers();
        let is_late = |transfer: &Arc<Transfer>| {
            transfer.kind == TransferKind::Reply
                && (transfer.is_revoked() || transfer.owed_ms(now_ms) > config.reply_idle_timeout_ms)
        };
        if transfers.iter().any(is_late) {
            return true;
        }
        // Requests that run have time limits of their own, and so have their bodies.
        if self.requests.load(Ordering::Relaxed) > 0 || !transfers.is_empty() {
            return false;
        }
        let header_at_ms = self.header_at_ms.load(Ordering::Relaxed);
        let is_slow = header_at_ms > 0 && now_ms.saturating_sub(header_at_ms) > config.header_timeout_ms;
        let active_at_ms = self.active_at_ms.load(Ordering::Relaxed);
        is_slow || now_ms.saturating_sub(active_at_ms) > config.idle_timeout_ms
    }

    fn is_closing(&self) -> bool {
        self.command.load(Ordering::Relaxed) == CLOSE
    }

    fn command(&self, command: u8) {
        self.command.fetch_max(command, Ordering::Release);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

/// The monotonic clock, in milliseconds: it is read several times for each request, so it is the one that costs least, and
/// may be late by a tick of the kernel.
fn clock_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000 + now.tv_nsec as u64 / 1_000_000
}

/// What is on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TransferKind {
    /// The body of a request.
    Body,
    /// A reply.
    Reply,
}

/// A body or a reply on its way: how long the host waits for the client, and what the client has paid for with bytes.
pub(super) struct Transfer {
    activity: Arc<Activity>,
    kind: TransferKind,
    /// Since when it is the client's turn, in milliseconds after the connection was opened; 0 if it is ours.
    waiting_since_ms: AtomicU64,
    /// How long the host had waited before, without what was paid for. Only who holds the body or reply changes it.
    owed_ms: AtomicU64,
    /// Tells that what it is read from is not there any more.
    revoked: OnceLock<CancellationToken>,
    _charge: Option<Charge>,
}

impl Transfer {
    /// What it is read from may be taken away.
    pub(super) fn set_revoked(&self, revoked: CancellationToken) {
        let _ = self.revoked.set(revoked);
    }

    /// Whether what it is read from is not there any more: it cannot come to its end.
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.get().is_some_and(CancellationToken::is_cancelled)
    }

    /// It is our turn, after the client has taken or brought so many bytes.
    pub(super) fn wait_for_host(&self, bytes: usize) {
        self.settle(bytes as u64);
        self.waiting_since_ms.store(0, Ordering::Relaxed);
    }

    /// It is the client's turn, after it has taken or brought so many bytes.
    pub(super) fn wait_for_client(&self, bytes: usize) {
        let now_ms = self.settle(bytes as u64);
        self.waiting_since_ms.store(now_ms, Ordering::Relaxed);
    }

    fn settle(&self, bytes: u64) -> u64 {
        let now_ms = self.activity.now_ms();
        let paid_ms = bytes * 1_000 / TRANSFER_BYTES_PER_S_MIN;
        self.owed_ms.store(self.owed_ms(now_ms).saturating_sub(paid_ms), Ordering::Relaxed);
        now_ms
    }

    /// How long the host has waited, without what was paid for.
    fn owed_ms(&self, now_ms: u64) -> u64 {
        let waiting_ms = match self.waiting_since_ms.load(Ordering::Relaxed) {
            0 => 0,
            since_ms => now_ms.saturating_sub(since_ms),
        };
        self.owed_ms.load(Ordering::Relaxed) + waiting_ms
    }

    fn is_ours(&self) -> bool {
        self.waiting_since_ms.load(Ordering::Relaxed) == 0
    }

    /// How long the client may still keep the host waiting, of so much.
    pub(super) fn patience(&self, of: Duration) -> Duration {
        of.saturating_sub(Duration::from_millis(self.owed_ms(self.activity.now_ms())))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.activity.act();
    }
}

/// Ends a request of a connection.
pub(super) struct RequestGuard(Arc<Activity>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.act();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All connections that are open.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<(u64, HashMap<u64, Arc<Activity>>)>,
    opened: Notify,
}

impl Connections {
    fn with<T>(&self, f: impl FnOnce(&mut (u64, HashMap<u64, Arc<Activity>>)) -> T) -> T {
        f(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Close what is idle or slow, for ever.
    pub(super) async fn watch(&self, server: &Server) {
        loop {
            // Without a connection there is nothing to look at, and a host without clients does not wake up.
            let opened = self.opened.notified();
            if self.with(|(_, open)| open.is_empty()) {
                opened.await;
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
            self.with(|(_, open)| {
                for activity in open.values() {
                    if activity.is_expired(&server.config) {
                        server.metrics.connections_expired.fetch_add(1, Ordering::Relaxed);
                        activity.command(CLOSE);
                    }
                }
            });
            if server.budget.was_short() {
                self.free(server);
            }
        }
    }

    /// Those who keep the host waiting for so long, the longest first, of those that are not closing.
    fn owing(&self, owed_ms_min: u64) -> Vec<(u64, Arc<Activity>)> {
        let mut owing: Vec<_> = self.with(|(_, open)| {
            let open = open.values().filter(|activity| !activity.is_closing());
            let owing = open.map(|activity| (activity.owed_ms(), activity));
            owing
                .filter(|(owed_ms, _)| *owed_ms >= owed_ms_min)
                .map(|(ms, activity)| (ms, activity.clone()))
                .collect()
        });
        owing.sort_unstable_by_key(|(owed_ms, _)| std::cmp::Reverse(*owed_ms));
        owing
    }

    /// Make room for a connection: close the one for which the host has waited longest. Whether one is closing.
    pub(super) fn make_room(&self, server: &Server) -> bool {
        let (open, is_closing) =
            self.with(|(_, open)| (open.len(), open.values().any(|one| one.is_closing())));
        if is_closing {
            return true;
        }
        let mut owing = self.owing(PATIENCE_MS);
        let at_once = owing.iter().take_while(|(owed_ms, _)| *owed_ms >= FULL_TIMEOUT_MS).count();
        owing.truncate(at_once.min(open / ROOM_SHARE).max(1));
        for (_, activity) in &owing {
            server.metrics.connections_displaced.fetch_add(1, Ordering::Relaxed);
            activity.command(CLOSE);
        }
        !owing.is_empty()
    }

    /// Make memory free that is held for clients who keep the host waiting.
    fn free(&self, server: &Server) {
        let mut left = server.budget.bytes_max() / FREED_SHARE;
        for (_, activity) in self.owing(FULL_TIMEOUT_MS) {
            let held_bytes = activity.account.held_bytes();
            if held_bytes == 0 {
                continue;
            }
            server.metrics.connections_displaced.fetch_add(1, Ordering::Relaxed);
            activity.command(CLOSE);
            left = left.saturating_sub(held_bytes);
            if left == 0 {
                break;
            }
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
        server.connections.opened.notify_one();
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
    let activity = Arc::new(Activity::new(&server.budget));
    let _open = OpenGuard::new(&server, activity.clone());
    // The server may have begun to drain between the accept and the line above.
    if server.shutdown.is_cancelled() {
        return;
    }
    let io = Watched { stream: TokioIo::new(stream), activity: activity.clone() };
    let io = Checked::new(io, &server.config, server.metrics.clone());
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
