//! What a connection is doing, and for how long the host has waited for its client.
//!
//! What counts is how long that is beyond what the client's bytes pay for ([`Transfer`]), whatever else the connection
//! does: pings are no progress.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::budget::{Account, Budget, Charge};
use super::limits::HttpConfig;
use super::request::LastPath;
use crate::metrics::Metrics;

/// How slow a client may be, for ever: it pays with its bytes for the time that the host waits for it.
pub(super) const TRANSFER_BYTES_PER_S_MIN: u64 = 4 * 1024;

/// What a connection is told to do; the later ones hold whatever comes after them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Command {
    /// Go on.
    Run,
    /// Finish the requests that run, then close.
    Drain,
    /// Close at once.
    Close,
}

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
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            opened_ms: clock_ms(),
            account: Account::new(budget),
            requests: AtomicU32::new(0),
            active_at_ms: AtomicU64::new(0),
            header_at_ms: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            command: AtomicU8::new(Command::Run as u8),
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

    pub(super) fn now_ms(&self) -> u64 {
        // Zero means "not yet".
        clock_ms().saturating_sub(self.opened_ms).max(1)
    }

    pub(super) fn act(&self) {
        self.active_at_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    pub(super) fn bytes_written(&self) {
        if !self.is_http2() {
            self.act();
        }
    }

    pub(super) fn bytes_read(&self) {
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
    pub(super) fn request(self: &Arc<Self>, http2: bool) -> RequestGuard {
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
    pub(super) fn transfers(&self) -> Vec<Arc<Transfer>> {
        let transfers = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        transfers.iter().filter_map(Weak::upgrade).collect()
    }

    /// How long the client keeps the host waiting, in milliseconds; 0 if it is the host that has something to do.
    pub(super) fn owed_ms(&self) -> u64 {
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

    pub(super) fn is_expired(&self, config: &HttpConfig) -> bool {
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

    pub(super) fn is_closing(&self) -> bool {
        self.command.load(Ordering::Relaxed) == Command::Close as u8
    }

    /// Tell the connection what to do.
    pub(super) fn command(&self, command: Command) {
        self.command.fetch_max(command as u8, Ordering::Release);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// What the connection is told to do; its task, which asks, is woken when there is more.
    pub(super) fn commanded(&self, context: &Context<'_>) -> Command {
        self.waker.get_or_init(|| context.waker().clone());
        match self.command.load(Ordering::Acquire) {
            command if command == Command::Close as u8 => Command::Close,
            command if command == Command::Drain as u8 => Command::Drain,
            _ => Command::Run,
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

    pub(super) fn settle(&self, bytes: u64) -> u64 {
        let now_ms = self.activity.now_ms();
        let paid_ms = bytes * 1_000 / TRANSFER_BYTES_PER_S_MIN;
        self.owed_ms.store(self.owed_ms(now_ms).saturating_sub(paid_ms), Ordering::Relaxed);
        now_ms
    }

    /// How long the host has waited, without what was paid for.
    pub(super) fn owed_ms(&self, now_ms: u64) -> u64 {
        let waiting_ms = match self.waiting_since_ms.load(Ordering::Relaxed) {
            0 => 0,
            since_ms => now_ms.saturating_sub(since_ms),
        };
        self.owed_ms.load(Ordering::Relaxed) + waiting_ms
    }

    pub(super) fn is_ours(&self) -> bool {
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
    /// Wait until there is a connection.
    pub(super) async fn any(&self) {
        let opened = self.opened.notified();
        if self.with(|(_, open)| open.is_empty()) {
            opened.await;
        }
    }

    /// How many are open, and whether one of them is closing.
    pub(super) fn count(&self) -> (usize, bool) {
        self.with(|(_, open)| (open.len(), open.values().any(|one| one.is_closing())))
    }

    /// Close those that are idle or slow; how many that are.
    pub(super) fn expire(&self, config: &HttpConfig) -> u64 {
        self.with(|(_, open)| {
            let expired = open.values().filter(|activity| activity.is_expired(config));
            expired.map(|activity| activity.command(Command::Close)).count() as u64
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut (u64, HashMap<u64, Arc<Activity>>)) -> T) -> T {
        f(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Those who keep the host waiting for so long, the longest first, of those that are not closing.
    pub(super) fn owing(&self, owed_ms_min: u64) -> Vec<(u64, Arc<Activity>)> {
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

    /// Close each connection as soon as no request of it runs.
    pub(super) fn drain(&self) {
        self.with(|(_, open)| open.values().for_each(|activity| activity.command(Command::Drain)));
    }

    /// Close every connection.
    pub(super) fn close(&self) {
        self.with(|(_, open)| open.values().for_each(|activity| activity.command(Command::Close)));
    }
}

/// Keeps a connection in the list of those that are open.
pub(super) struct OpenGuard<'a> {
    connections: &'a Connections,
    metrics: &'a Metrics,
    id: u64,
}

impl<'a> OpenGuard<'a> {
    pub(super) fn new(connections: &'a Connections, metrics: &'a Metrics, activity: Arc<Activity>) -> Self {
        metrics.connections_open.fetch_add(1, Ordering::Relaxed);
        let id = connections.with(|(next, open)| {
            *next += 1;
            open.insert(*next, activity);
            *next
        });
        connections.opened.notify_one();
        Self { connections, metrics, id }
    }
}

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        self.connections.with(|(_, open)| open.remove(&self.id));
        self.metrics.connections_open.fetch_sub(1, Ordering::Relaxed);
    }
}
